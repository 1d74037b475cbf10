"""The operator's own file of variables (NAME=value, mode 0600), where a new value is kept.

Vercel tells no value again. While a rotation is under way the old value stays in the file too, as
NAME__RETIRING: the last step shows with it that the old key works no more.
"""

from pathlib import Path

from dev.keys import write_private

RETIRING = "__RETIRING"
NEW = "__NEW"


class KeyFile:
    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        lines = self._path.read_text(encoding="utf-8").splitlines()
        pairs = (line.partition("=") for line in lines if not line.startswith("#"))
        return {name.strip(): value.strip() for name, sign, value in pairs if sign}

    def keep(self, changes: dict[str, str | None]) -> None:
        """Set these, or take them out (None), at once; every other line stays as it is."""
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        kept = [line for line in text.splitlines() if line.partition("=")[0].strip() not in changes]
        kept += [f"{name}={value}" for name, value in changes.items() if value is not None]
        write_private(self._path, "\n".join(kept) + "\n")
