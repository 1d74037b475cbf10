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

_SERVER_USER = "nobody"
_OUTSIDE = Path("/var/tmp")
_PREFIX = "alfa-beauty-"
_ORIGIN = "origin"  # names the folder whose server this is


@dataclass(frozen=True, slots=True)
class ServerPaths:
    """package: the folder of the binaries; data: the data folder (its parent exists).

    uid is None when the server runs as we do.
    """

    package: Path
    data: Path
    uid: int | None = None

    def chown(self, path: Path) -> None:
        """Make the server's user the owner of `path`."""
        if self.uid is not None:
            os.chown(path, self.uid, -1)


def prepare(package: Path, data: Path) -> ServerPaths:
    """The given paths, or copies under /var/tmp where root's folders are closed to others."""
    if os.geteuid() != 0:
        data.mkdir(parents=True, exist_ok=True)
        return ServerPaths(package, _make_private(data) / "data")
    uid = pwd.getpwnam(_SERVER_USER).pw_uid
    _remove_stale()
    if not _is_reachable(package / "bin" / "postgres", uid):
        package = _copy_binaries(package, _shared_folder(package))
    data.parent.mkdir(parents=True, exist_ok=True)
    # A folder of the server's own, since it also writes beside its data.
    home = data if _is_reachable(data.parent, uid) else _shared_folder(data) / data.name
    home.mkdir(exist_ok=True)
    os.chown(home, uid, -1)
    return ServerPaths(package, _make_private(home) / "data", uid)


def _shared_folder(path: Path) -> Path:
    """/var/tmp/alfa-beauty-<hash of the path>, ours alone to write; it goes when its parent does.

    One for the binaries, which every server shares, and one for each folder of data.
    """
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    folder = _OUTSIDE / f"{_PREFIX}{digest}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o755)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to somebody else: remove it")
    folder.chmod(0o755)
    (folder / _ORIGIN).write_text(str(path.resolve().parent))
    return folder


def _remove_stale() -> None:
    """Remove what was kept outside for clones and test runs that are gone."""
    for folder in _OUTSIDE.glob(f"{_PREFIX}*"):
        origin = folder / _ORIGIN
        # Another run may be removing it at this moment.
        with contextlib.suppress(FileNotFoundError):
            if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
                continue
            if not Path(origin.read_text()).exists():
                shutil.rmtree(folder, ignore_errors=True)


def _make_private(home: Path) -> Path:
    # The server's log quotes statements, and so what people wrote.
    home.chmod(0o700)
    return home


def _copy_binaries(package: Path, outside: Path) -> Path:
    """A copy of the binaries; the folder's name is their version."""
    target = outside / f"binaries-{package.name}"
    if not target.exists():
        partial = target.with_name(f"{target.name}.{os.getpid()}")
        shutil.copytree(package, partial, symlinks=True)
        partial.chmod(0o755)
        try:
            partial.rename(target)
        except OSError:  # another run was first
            shutil.rmtree(partial, ignore_errors=True)
            if not target.exists():
                raise
    return target


def _is_reachable(path: Path, uid: int) -> bool:
    """Whether that user gets to `path`: asked of the system, as it, since modes are not all."""
    answer = subprocess.run(
        ["test", "-x", str(path)], user=uid, group=uid, extra_groups=[], cwd="/", check=False
    )
    return answer.returncode == 0
