"""Files of variables (NAME=value), read alike by python-dotenv, by a shell and by us.

Values are quoted so that `set -a; . FILE` and python-dotenv read the same; one that both cannot
read alike is refused. The rule a newcomer would break: dotenv's own `set_key` writes what a shell
reads differently, and its `dotenv_values` drops a line that it cannot parse.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

from dotenv.parser import parse_stream

from ops.command import Failed

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# A line that a shell and python-dotenv read alike as it stands.
_PORTABLE_LINE = re.compile(
    r"""\s*(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_]*=
    (?: [A-Za-z0-9_@%+=:,./^-]*                   # nothing that a shell treats specially
      | '(?:(?!\$\{)[^'\\\r])*'
      | "(?:[^"\\$`\r]|\\\\|\\")*" )
    (?:[ \t]+\#[^\r\n]*)?[ \t]*\n?""",
    re.X,
)


@dataclass(frozen=True, slots=True)
class Line:
    """name: None for a comment or an empty line; text: as it stands in the file."""

    name: str | None
    value: str
    raw: str


def quote(name: str, value: str) -> str:
    """The text after `NAME=`. Failed for a value that no quoting keeps the same for both."""
    if "\r" not in value and "\0" not in value:
        if not any(part in value for part in ("'", "\\", "${")):
            return f"'{value}'"
        if "$" not in value and "`" not in value:
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return f'"{escaped}"'
    raise Failed(
        f"{name}: a file of variables cannot hold this value: a shell and python-dotenv would "
        "read it differently (quotes or backslashes beside $ or `, or a carriage return)"
    )


def parse(text: str, file: str) -> list[Line]:
    """Every line, a value of several lines as one. Raises Failed, naming a line it cannot read."""
    return list(_parse_lines(text, file))


def read_values(text: str, file: str) -> dict[str, str]:
    """Name -> value; of a name that occurs twice, the last. Raises Failed as parse() does."""
    return {line.name: line.value for line in parse(text, file) if line.name is not None}


def with_changes(text: str, file: str, changes: dict[str, str | None]) -> str:
    """The text with these set, or removed (None).

    Comments stay; a line that a shell would read differently is quoted.
    """
    lines = []
    for line in parse(text, file):
        if line.name is None or (line.name not in changes and _PORTABLE_LINE.fullmatch(line.raw)):
            lines.append(line.raw.rstrip("\r\n") + "\n" if line.raw else "")
        elif line.name not in changes:
            lines.append(f"{line.name}={quote(line.name, line.value)}\n")
    for name, value in changes.items():
        if value is not None:
            lines.append(f"{name}={quote(name, value)}\n")
    return "".join(lines)


def _parse_lines(text: str, file: str) -> Iterator[Line]:
    for binding in parse_stream(io.StringIO(text)):
        raw = binding.original.string
        # The parser takes the empty lines before a variable along with it.
        blank = re.match(r"(?:[ \t]*(?:\r\n|\n|\r))*", raw)
        skipped = blank.group() if blank else ""
        place = f"{file}, line {binding.original.line + skipped.count(chr(10))}"
        if binding.error or (binding.key is not None and binding.value is None):
            raise Failed(f"{place}: not NAME=value; quote the value, or make it a comment (#)")
        if binding.key is not None and not NAME.fullmatch(binding.key):
            raise Failed(f"{place}: {binding.key!r} is no name of a variable")
        if "${" in (binding.value or ""):
            raise Failed(f"{place}: ${{…}} is read in different ways: write the value itself")
        yield from (Line(None, "", "\n") for _ in range(skipped.count("\n")))
        yield Line(binding.key, binding.value or "", raw[len(skipped) :])
