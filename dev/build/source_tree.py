"""A copy of what is deployed, so that a run is not disturbed by edits, or is changed on purpose."""

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_FOLDERS = ("api", "lib", "ops", "dev", "public", "supabase")
_FILES = ("vercel.json", "requirements.txt")


class PatchDoesNotApply(LookupError):
    """A change that no longer fits the source; the text names file and anchor."""


@dataclass(frozen=True, slots=True)
class Patch:
    """In `file` (below the root), `old`, found exactly once, becomes `new`."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """PatchDoesNotApply when `old` is not there, or is there twice."""
        path = root / self.file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if text.count(self.old) != 1:
            raise PatchDoesNotApply(
                f"{self.file} holds this {text.count(self.old)} times, not once: {self.old!r}"
            )
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def copy(root: Path, target: Path, changes: Iterable[Patch] = ()) -> Path:
    """Copy the tree at `root` to `target` (not there yet), changed. PatchDoesNotApply."""
    target.mkdir(parents=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "node_modules")
    for name in _FOLDERS:
        if (root / name).is_dir():
            # Functions write no bytecode: theirs comes along; what is changed has none that fits.
            ignores = None if name in ("api", "lib") else ignored
            shutil.copytree(root / name, target / name, ignore=ignores)
    for name in _FILES:
        if (root / name).is_file():
            shutil.copy2(root / name, target / name)
    for change in changes:
        change.apply(target)
    return target
