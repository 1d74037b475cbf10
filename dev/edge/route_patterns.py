"""`source` patterns of vercel.json as regular expressions, after path-to-regexp 6.

Understood: literals, `:name`, `:name(regex)`, `(regex)`, each with `*`, `+` or `?`. A destination
takes them back as `:name` and `$1`.
"""

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlencode

_TOKEN = re.compile(
    r"(?P<prefix>/?)(?P<colon>:(?P<name>\w+))(?P<pattern>\((?:[^()\\]|\\.|\([^()]*\))+\))?"
    r"(?P<modifier>[*+?]?)"
    r"|(?P<prefix2>/?)(?P<pattern2>\((?:[^()\\]|\\.|\([^()]*\))+\))(?P<modifier2>[*+?]?)"
    r"|(?P<escaped>\\.)"
    r"|(?P<literal>[^:(\\])"
)


class Unsupported(ValueError):
    """vercel.json asks for something this router does not do; the text names it."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled source; `names` are its parameters in order ("0", "1" … where unnamed)."""

    source: str
    regex: re.Pattern[str]
    names: tuple[str, ...]

    def match(self, path: str) -> dict[str, str] | None:
        match = self.regex.match(path)
        if match is None:
            return None
        return {name: value or "" for name, value in zip(self.names, match.groups(), strict=False)}


def compile_source(source: str) -> Pattern:
    """Unsupported when `source` holds anything but what the module's text lists."""
    if not source.startswith("/"):
        raise Unsupported(f"source {source!r} does not start with a slash")
    position, parts, names, unnamed = 0, [], list[str](), 0
    while position < len(source):
        token = _TOKEN.match(source, position)
        if token is None or source[position] in "{}*+?":
            raise Unsupported(f"source {source!r} at character {position}")
        position = token.end()
        if token["literal"] or token["escaped"]:
            parts.append(re.escape((token["literal"] or token["escaped"])[-1]))
            continue
        if token["name"]:
            names.append(token["name"])
        else:
            names.append(str(unnamed))
            unnamed += 1
        parts.append(_parameter(token))
    return Pattern(source, re.compile("^" + "".join(parts) + "$"), tuple(names))


def _parameter(token: re.Match[str]) -> str:
    prefix = re.escape(token["prefix"] or token["prefix2"] or "")
    pattern = (token["pattern"] or token["pattern2"] or "([^/]+?)")[1:-1]
    modifier = token["modifier"] or token["modifier2"] or ""
    # Groups of its own would shift the numbers of those that follow.
    pattern = re.sub(r"(?<!\\)\((?!\?)", "(?:", pattern)
    if not prefix:
        return f"({pattern}){modifier}"
    if modifier in ("*", "+"):
        optional = "?" if modifier == "*" else ""
        return f"(?:{prefix}((?:{pattern})(?:{prefix}(?:{pattern}))*)){optional}"
    return f"(?:{prefix}({pattern})){modifier}"


def fill(
    destination: str, pattern: Pattern, values: dict[str, str], *, pass_unused: bool = False
) -> str:
    """`destination` with the parameters put in.

    pass_unused: parameters the destination does not name join its query, as in rewrites.
    """
    path, mark, query = destination.partition("?")
    used: set[str] = set()

    def put(match: re.Match[str], *, in_query: bool) -> str:
        name = match["name"] or _numbered(pattern, match["number"])
        if name is None or name not in values:
            return match[0]
        used.add(name)
        # Values are as in the request's path: encoded, but not for a query.
        return quote(unquote(values[name]), safe="") if in_query else values[name]

    reference = re.compile(r"(?<!\w):(?P<name>[A-Za-z_]\w*)[*+?]?|\$(?P<number>\d+)")
    path = reference.sub(lambda match: put(match, in_query=False), path)
    query = reference.sub(lambda match: put(match, in_query=True), query)
    named = {name: unquote(value) for name, value in values.items() if not name.isdigit()}
    if pass_unused and named and not used:
        extra = urlencode(named)
        query, mark = (f"{query}&{extra}" if query else extra), "?"
    return path + mark + query


def _numbered(pattern: Pattern, number: str | None) -> str | None:
    index = int(number or 0) - 1
    return pattern.names[index] if 0 <= index < len(pattern.names) else None
