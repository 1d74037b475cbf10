"""Libraries of others that browsers load from `public/`: pinned, fetched by npm, committed.

The rule a newcomer would break: a vendored file is never edited. Raise the version here (with the
archive's integrity, `npm view web-vitals@VERSION dist.integrity`), run `python3 -m dev vendor`,
and rename what imports it.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("public/assets/vendor")


@dataclass(frozen=True, slots=True)
class Package:
    """files: path in the package -> name under FOLDER."""

    name: str
    version: str
    integrity: str
    files: dict[str, str]


PACKAGES = (
    Package(
        "web-vitals",
        "6.2.3",
        "sha512-Dmy+vdO1UPMqXiAtZSNayhl4f794Bxfd94W4HIj2HlYtczEQfEOon969memlcpcHrTuOKLa5baFjX7WbgmOq+A==",
        {
            "package/dist/web-vitals.js": "web-vitals-6.2.3.js",
            "package/LICENSE": "web-vitals-LICENSE.txt",
        },
    ),
)


class ChecksumMismatch(RuntimeError):
    """The registry's archive is another than the one whose integrity is written here."""


def contents() -> dict[str, bytes]:
    """Name under FOLDER -> bytes, fresh from the registry."""
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES:
            archive = _fetched(package, Path(folder))
            with tarfile.open(archive) as packed:
                for inside, name in package.files.items():
                    member = packed.extractfile(inside)
                    if member is None:
                        raise FileNotFoundError(inside)
                    files[name] = member.read()
    return files


def available() -> bool:
    return shutil.which("npm") is not None


def write(root: Path) -> list[Path]:
    """Put the files where pages load them; which ones."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in contents().items():
        (folder / name).write_bytes(content)
        written.append(FOLDER / name)
    return written


def _fetched(package: Package, folder: Path) -> Path:
    wanted = f"{package.name}@{package.version}"
    command = ["npm", "pack", wanted, "--silent", "--pack-destination", str(folder)]
    named = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    archive = folder / named.splitlines()[-1]
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != package.integrity:
        raise ChecksumMismatch(wanted)
    return archive
