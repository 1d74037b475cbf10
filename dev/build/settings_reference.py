"""Writes docs/settings.md from the settings' own descriptions; a test holds the two in step."""

from pathlib import Path

from dev.platform.environment import Variable, read_variables

FILE = Path("docs/settings.md")
HEAD = """# Settings

Every environment variable, written by `python3 -m dev settings` from
[lib/settings.py](../lib/settings.py) and [ops/settings.py](../ops/settings.py). A variable without
a default must be set for what needs it; a missing one stops only that, and the log names it.
Secrets are never logged. [.env.example](../.env.example) is the file to start from.
"""
TABLE = """
## {title}

| variable | meaning | default |
| --- | --- | --- |
"""


def render(root: Path) -> str:
    """The whole document."""
    variables = read_variables(root)
    tables = {"Of the functions": False, "Of operators' commands alone": True}
    return HEAD + "".join(
        TABLE.format(title=title)
        + "".join(_row(variable) for variable in variables if variable.operators_only is only)
        for title, only in tables.items()
    )


def write(root: Path) -> Path:
    file = root / FILE
    file.write_text(render(root), encoding="utf-8")
    return file


def _row(variable: Variable) -> str:
    meaning = variable.meaning.replace("|", "\\|")
    secret = " Secret." if variable.secret else ""
    default = f"`{variable.default}`" if variable.default else ""
    if variable.default is None:
        default = "must be set"
    return f"| `{variable.name}` | {meaning}{secret} | {default} |\n"
