"""The operator's own file of variables (NAME=value, mode 0600), where a new value is kept.

Vercel tells no value again. While a rotation is under way the old value stays in the file too, as
NAME__RETIRING: the last step shows with it that the old key works no more. What is written is for
a shell too (`set -a; . FILE`): see ops/keys/env_file.py.
"""

import os
import secrets
from pathlib import Path

from ops.keys import env_file

RETIRING_SUFFIX = "__RETIRING"
NEW_SUFFIX = "__NEW"


class KeyFile:
    """Every method raises command.Failed for a line, or a value, that cannot be kept so."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __str__(self) -> str:
        return str(self._path)

    def read(self) -> dict[str, str]:
        return env_file.read_values(self._text(), str(self._path))

    def update(self, changes: dict[str, str | None]) -> None:
        """Set these, or take them out (None), at once; comments and other values stay."""
        write_private(self._path, env_file.with_changes(self._text(), str(self._path), changes))

    def _text(self) -> str:
        return self._path.read_text(encoding="utf-8") if self._path.exists() else ""


def write_private(file: Path, text: str) -> None:
    """Replace `file` atomically, readable by its owner alone."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(file)
