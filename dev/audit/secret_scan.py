"""Keys and passwords in the tree, public/, the built functions and every commit, by detect-secrets.

A line is scanned once, wherever it stands: most of the history is the tree's. What was looked at
and is no secret is listed in allowed_secrets.txt, by its SHA-1 as detect-secrets gives it.
"""

import json
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dev.audit.outcome import Outcome
from dev.audit.source_code import ToolFailed
from dev.edge import runtime

ALLOWED = Path(__file__).with_name("allowed_secrets.txt")
_BINARY_BYTES = 8000
_SHORTEST_TEXT = 8
# Hashes of packages; and bytecode, whose source is beside it and is scanned.
_SKIPPED = re.compile(r"(^|/)(package-lock\.json|uv\.lock)$|\.pyc$")
# By which detect-secrets knows a language. Others it may take for pictures, and look at none.
_SUFFIXES = {
    ".html",
    ".ini",
    ".js",
    ".json",
    ".md",
    ".mjs",
    ".py",
    ".sh",
    ".sql",
    ".toml",
    ".ts",
    ".yml",
}

type Lines = dict[str, dict[str, list[str]]]
"""Suffix of the files -> line -> the places where it stands."""


class Place(NamedTuple):
    """Some files, and what they are called in the report."""

    title: str
    unit: str
    files: Mapping[str, bytes]


def run(programs: Path, places: Iterable[Place], allowed: Path = ALLOWED) -> list[Outcome]:
    """An outcome for each place. ToolFailed."""
    places = list(places)
    lines: Lines = defaultdict(lambda: defaultdict(list))
    for place in places:
        for name, content in place.files.items():
            for line in _text_lines(name, content):
                lines[_suffix(name)][line].append(f"{place.title}: {name}")
    secrets_by_place = _scan(programs, lines)
    known = {hashed for hashed, _ in allowed_hashes(allowed)}
    return [_outcome(place, secrets_by_place, known) for place in places]


def allowed_hashes(file: Path) -> list[tuple[str, str]]:
    """SHA-1 and reason of each allowed value."""
    lines = [line.split("#")[0].split(maxsplit=1) for line in file.read_text("utf-8").splitlines()]
    return [(line[0], line[1].strip()) for line in lines if len(line) > 1]


# ------------------------------------------------------------------ where to look


def tree(root: Path) -> Place:
    """What git knows or would add."""
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z").decode()
    names = [name for name in listed.split("\0") if name and (root / name).is_file()]
    return Place("the tree", "files", {name: (root / name).read_bytes() for name in names})


def folder(title: str, path: Path) -> Place:
    files = {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
    return Place(title, "files", files)


def built_functions(output: Path) -> Place:
    """What a deployment holds but the packages installed from the index: `output` is of a build."""
    project, files = output.parent.parent, {}
    for function in sorted((output / "functions").rglob("*.func")):
        home = output / "functions"
        name = function.relative_to(home).as_posix()
        config = runtime.config_of(function)
        inside = {path.relative_to(function).as_posix(): path for path in function.rglob("*")}
        mapped = {to: project / source for to, source in config.get("filePathMap", {}).items()}
        for path, file in (inside | mapped).items():
            if file.is_file() and not path.startswith("_vendor/"):
                files[f"{name}/{path}"] = file.read_bytes()
    return Place("the built functions", "files", files)


def history(root: Path) -> Place:
    """Every version of every file that a commit of any branch holds, and every commit's message."""
    listed = _git(root, "rev-list", "--objects", "--all").decode("utf-8", "replace")
    objects = [line.partition(" ") for line in listed.splitlines()]
    names = {sha: name for sha, _, name in objects if name}
    contents = _git(root, "cat-file", "--batch", given="\n".join(names).encode())
    files, start = {}, 0
    while start < len(contents):
        head_end = contents.index(b"\n", start)
        sha, kind, size = contents[start:head_end].decode().split()
        start = head_end + 1 + int(size) + 1
        if kind == "blob":
            files[f"{sha[:10]} {names[sha]}"] = contents[head_end + 1 : start - 1]
    files["messages"] = _git(root, "log", "--all", "--format=%an %ae%n%B")
    return Place(f"the history ({_commits(root)})", "versions of files", files)


def _commits(root: Path) -> str:
    count = _git(root, "rev-list", "--count", "--all").decode().strip()
    is_part = _git(root, "rev-parse", "--is-shallow-repository").decode().strip() == "true"
    return f"{count} commits{', a shallow clone' if is_part else ''}"


def _git(root: Path, *arguments: str, given: bytes | None = None) -> bytes:
    answer = subprocess.run(
        ["git", *arguments], cwd=root, input=given, stdout=subprocess.PIPE, check=True
    )
    return answer.stdout


# ------------------------------------------------------------------ scanning


def _text_lines(name: str, content: bytes) -> Iterator[str]:
    """A file's lines; of a binary one the texts in it."""
    if _SKIPPED.search(name):
        return
    if b"\0" not in content[:_BINARY_BYTES]:
        yield from content.decode("utf-8", "replace").splitlines()
        return
    for text in re.findall(rb"[\x20-\x7e]{%d,}" % _SHORTEST_TEXT, content):
        yield f'"{text.decode()}"'  # some detectors look at quoted texts alone


def _suffix(name: str) -> str:
    suffix = Path(name).suffix
    return suffix if suffix in _SUFFIXES else ""


def _scan(programs: Path, lines: Lines) -> dict[str, list[tuple[str, str]]]:
    """Place -> (SHA-1, kind) of what looks like a secret there."""
    secrets_by_place: dict[str, list[tuple[str, str]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="secrets-") as home:
        lines_by_file: dict[str, list[str]] = {}
        for number, (suffix, texts) in enumerate(lines.items()):
            lines_by_file[f"lines{number}{suffix}"] = list(texts)
            Path(home, f"lines{number}{suffix}").write_text("\n".join(texts), encoding="utf-8")
        # -n: no vendor is asked whether a key is valid.
        command = [str(programs / "detect-secrets"), "scan", "-n", "--all-files", "."]
        answer = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise ToolFailed(f"detect-secrets: {answer.stderr[-2000:]}")
        for name, secrets in json.loads(answer.stdout)["results"].items():
            texts = lines["".join(Path(name).suffixes)]
            for secret in secrets:
                line = lines_by_file[name][secret["line_number"] - 1]
                for place in texts[line]:
                    secrets_by_place[place].append((secret["hashed_secret"], secret["type"]))
    return secrets_by_place


def _outcome(
    place: Place, secrets_by_place: Mapping[str, list[tuple[str, str]]], known: set[str]
) -> Outcome:
    names: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in place.files:
        for secret in set(secrets_by_place.get(f"{place.title}: {name}", [])):
            names[secret].append(name)
    findings = [
        f"{where[0]}{f' and {len(where) - 1} more' if len(where) > 1 else ''}: {kind} ({hashed})"
        for (hashed, kind), where in names.items()
        if hashed not in known
    ]
    figures = f"{len(place.files)} {place.unit}, {len(names) - len(findings)} values allowed"
    return Outcome(f"secrets in {place.title}", figures, findings)
