"""Writes docs/settings.md from the settings' own descriptions; a test holds the two in step."""

from collections.abc import Iterator
from pathlib import Path

from lib import settings

FILE = Path("docs/settings.md")
HEAD = """# Settings

Every environment variable, written by `python3 -m dev settings` from
[lib/settings.py](../lib/settings.py). A variable without a default must be set for what needs it;
a missing one stops only that, and the log names it. Secrets are never logged.
[.env.example](../.env.example) is the file to start from.

| variable | meaning | default |
| --- | --- | --- |
"""


def render() -> str:
    """The whole document."""
    return HEAD + "".join(_rows())


def write(root: Path) -> Path:
    file = root / FILE
    file.write_text(render(), encoding="utf-8")
    return file


def _rows() -> Iterator[str]:
    for setting in settings.all_settings():
        meaning = setting.description.replace("|", "\\|")
        secret = " Secret." if setting.secret else ""
        default = "must be set" if setting.default is None else f"`{setting.default}`"
        yield f"| `{setting.name}` | {meaning}{secret} | {'' if default == '``' else default} |\n"
