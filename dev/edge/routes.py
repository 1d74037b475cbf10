"""vercel.json as routing rules, in the order Vercel applies them.

Clean URLs and trailing slashes, redirects, headers; then files and functions; then rewrites,
each of whose destinations is looked up among the files and functions again.
"""

import fnmatch
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.edge.route_patterns import Pattern, Unsupported, compile_source, fill

_KNOWN = {
    "$schema",
    "build",
    "buildCommand",
    "cleanUrls",
    "crons",
    "framework",
    "functions",
    "git",
    "github",
    "headers",
    "ignoreCommand",
    "installCommand",
    "outputDirectory",
    "public",
    "redirects",
    "regions",
    "rewrites",
    "trailingSlash",
    "fluid",
    "images",
}
_DEFAULT_MAX_DURATION_S = 300.0  # Vercel's with fluid compute (read 2026-11)


@dataclass(frozen=True, slots=True)
class Redirect:
    location: str
    status: int


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: Pattern
    destination: str = ""
    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True)
class Routes:
    """The rules of one vercel.json; Unsupported when it asks for what is not done here."""

    clean_urls: bool = False
    trailing_slash: bool | None = None
    redirects: list[_Rule] = field(default_factory=list)
    headers: list[_Rule] = field(default_factory=list)
    rewrites: list[_Rule] = field(default_factory=list)
    crons: list[dict[str, str]] = field(default_factory=list)
    durations: list[tuple[str, float]] = field(default_factory=list)

    @classmethod
    def load(cls, file: Path) -> "Routes":
        try:
            config = json.loads(file.read_text()) if file.exists() else {}
        except ValueError as fault:
            raise Unsupported(f"{file.name} is no JSON: {fault}") from fault
        _only(config, _KNOWN, file.name)
        return cls(
            clean_urls=bool(config.get("cleanUrls", False)),
            trailing_slash=config.get("trailingSlash"),
            redirects=[_redirect(rule) for rule in config.get("redirects", [])],
            headers=[_headers(rule) for rule in config.get("headers", [])],
            rewrites=[_rewrite(rule) for rule in config.get("rewrites", [])],
            crons=list(config.get("crons", [])),
            durations=[
                (glob, float(options["maxDuration"]))
                for glob, options in config.get("functions", {}).items()
                if "maxDuration" in options
            ],
        )

    def redirect(self, path: str, query: str) -> Redirect | None:
        """Where a request for `path` is sent instead, if anywhere."""
        mark = f"?{query}" if query else ""
        if (tidy := self._tidied(path)) != path:
            return Redirect(tidy + mark, 308)
        for rule in self.redirects:
            values = rule.pattern.match(path)
            if values is not None:
                location = fill(rule.destination, rule.pattern, values)
                return Redirect(_with_query(location, query), rule.status)
        return None

    def _tidied(self, path: str) -> str:
        """The address `vercel build` makes of it: its config.json has the same expressions."""
        if self.clean_urls:
            path = re.sub(r"^/(?:(.+)/)?index(?:\.html)?/?$", r"/\1", path)
            path = re.sub(r"^/(.*)\.html/?$", r"/\1", path)
        if self.trailing_slash is False and path != "/" and path.endswith("/"):
            # Never two slashes in front: that would name another host.
            path = "/" + path.strip("/")
        if self.trailing_slash is True and not path.endswith("/") and "." not in path[1:]:
            path += "/"
        path = re.sub(r"^/(api(?:.+)?)/index(?:\.py)?/?$", r"/\1", path)
        return re.sub(r"^/api/(.+)\.py/?$", r"/api/\1", path)

    def response_headers(self, path: str) -> list[tuple[str, str]]:
        """What vercel.json adds to the answer for `path`, last rule last."""
        headers: list[tuple[str, str]] = []
        for rule in self.headers:
            values = rule.pattern.match(path)
            if values is not None:
                headers += [(key, fill(value, rule.pattern, values)) for key, value in rule.headers]
        return headers

    def rewritten(self, path: str, query: str) -> list[str]:
        """The targets (path and query) that rewrites offer for `path`, in order."""
        targets = []
        for rule in self.rewrites:
            values = rule.pattern.match(path)
            if values is not None:
                target = fill(rule.destination, rule.pattern, values, pass_unused=True)
                targets.append(_with_query(target, query))
        return targets

    def max_duration_s(self, entrypoint: str) -> float:
        for glob, seconds in self.durations:
            if _glob_matches(glob, entrypoint):
                return seconds
        return _DEFAULT_MAX_DURATION_S


def _with_query(target: str, query: str) -> str:
    """The request's own query after the destination's, whose names win."""
    if not query:
        return target
    path, _, own = target.partition("?")
    taken = {part.split("=", 1)[0] for part in own.split("&")} if own else set[str]()
    passed_on = [part for part in query.split("&") if part.split("=", 1)[0] not in taken]
    joined = "&".join(part for part in [own, *passed_on] if part)
    return f"{path}?{joined}" if joined else path


def _glob_matches(glob: str, path: str) -> bool:
    # "**/" also stands for no folder at all, which fnmatch does not know.
    return fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(path, glob.replace("**/", ""))


def _redirect(rule: dict[str, Any]) -> _Rule:
    _only(rule, {"source", "destination", "permanent", "statusCode"}, "a redirect")
    status = int(rule.get("statusCode") or (307 if rule.get("permanent") is False else 308))
    return _Rule(compile_source(rule["source"]), rule["destination"], status)


def _rewrite(rule: dict[str, Any]) -> _Rule:
    _only(rule, {"source", "destination"}, "a rewrite")
    if not rule["destination"].startswith("/"):
        raise Unsupported(f"a rewrite to another host: {rule['destination']}")
    return _Rule(compile_source(rule["source"]), rule["destination"])


def _headers(rule: dict[str, Any]) -> _Rule:
    _only(rule, {"source", "headers"}, "a headers rule")
    listed = tuple((header["key"], header["value"]) for header in rule["headers"])
    return _Rule(compile_source(rule["source"]), headers=listed)


def _only(options: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise Unsupported(f"{where}: {', '.join(unknown)} is not supported by this router")
