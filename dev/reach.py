"""Where an unprivileged server finds its binaries and data when we are root."""

import contextlib
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

_LENT_USER = "nobody"
_OUTSIDE = Path("/var/tmp")


@dataclass(frozen=True, slots=True)
class Place:
    """package: the binaries' package folder; data: the data folder (its parent exists).

    uid is None when the server runs as we do.
    """

    package: Path
    data: Path
    uid: int | None = None

    def give(self, path: Path) -> None:
        """Make the server's user the owner of `path`."""
        if self.uid is not None:
            os.chown(path, self.uid, -1)


def place(package: Path, data: Path) -> Place:
    """The given paths, or copies under /var/tmp where root's folders are closed to others."""
    if os.geteuid() != 0:
        data.parent.mkdir(parents=True, exist_ok=True)
        return Place(package, data)
    uid = pwd.getpwnam(_LENT_USER).pw_uid
    outside = _private_folder(data)
    if not _reachable(package / "pginstall" / "bin" / "postgres", uid):
        package = _copied(package, outside)
    data.parent.mkdir(parents=True, exist_ok=True)
    # A folder of the server's own, since it also writes beside its data.
    home = data if _reachable(data.parent, uid) else outside / data.name
    home.mkdir(exist_ok=True)
    os.chown(home, uid, -1)
    # Its log quotes statements, and so what people wrote.
    home.chmod(0o700)
    return Place(package, home / "data", uid)


def _private_folder(data: Path) -> Path:
    """/var/tmp/alfa-beauty-<hash of the data path>, ours alone to write."""
    digest = hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:12]
    folder = _OUTSIDE / f"alfa-beauty-{digest}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o755)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to somebody else: remove it")
    folder.chmod(0o755)
    return folder


def _copied(package: Path, outside: Path) -> Path:
    """A copy of the binaries with the libraries they expect beside them."""
    version = hashlib.sha256(str((package / "__init__.py").stat().st_mtime_ns).encode())
    target = outside / f"binaries-{version.hexdigest()[:12]}"
    if not target.exists():
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        for name in (package.name, f"{package.name}.libs"):
            if (package.parent / name).exists():
                shutil.copytree(package.parent / name, partial / name, symlinks=True)
        partial.chmod(0o755)
        partial.rename(target)
    return target / package.name


def _reachable(path: Path, uid: int) -> bool:
    """Whether that user gets to `path`: asked of the system, as it, since modes are not all."""
    answer = subprocess.run(
        ["test", "-x", str(path)], user=uid, group=uid, extra_groups=[], cwd="/", check=False
    )
    return answer.returncode == 0
