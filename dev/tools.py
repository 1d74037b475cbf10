"""Tools that only some verbs need: the vendors' CLIs, axe-core, Lighthouse, openapi-typescript and
difficult strings (npm, pinned in node/), Chromium, pgbouncer and LibreOffice; Python programs, each
in an environment of its own."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from dev import package_install
from dev.bootstrap import DATA

_PINNED = Path(__file__).parent / "node"
_NODE = DATA / "node"
# The first has no window to draw for: a test of a page takes 0.4 of the CPU time.
_BROWSERS = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)


class Missing(RuntimeError):
    """A tool that is not here and could not be installed; the text says what to do."""


def ensure_node_packages() -> Path:
    """`node_modules` with what node/package.json pins, installed on first use.

    Missing when it cannot be.
    """
    return _ensure_pinned(_PINNED, _NODE, "the CLIs of Vercel and Supabase", 600)


def ensure_axe() -> Path:
    """axe-core's script, which finds violations of accessibility. Missing as above."""
    packages = _ensure_pinned(_PINNED / "axe", DATA / "node-axe", "axe-core", 3)
    return packages / "axe-core" / "axe.min.js"


def ensure_lighthouse() -> Path:
    """Lighthouse's executable. Missing as above."""
    folder = DATA / "node-lighthouse"
    packages = _ensure_pinned(_PINNED / "lighthouse", folder, "Lighthouse", 190)
    return packages / ".bin" / "lighthouse"


def ensure_client_tools() -> Path:
    """`node_modules` with what makes a TypeScript client of openapi.json. Missing as above."""
    folder = DATA / "node-client"
    return _ensure_pinned(_PINNED / "client", folder, "openapi-typescript", 45)


def ensure_difficult_strings() -> Path:
    """The Big List of Naughty Strings, a JSON array. Missing as above."""
    folder = DATA / "node-strings"
    packages = _ensure_pinned(_PINNED / "strings", folder, "a list of difficult strings", 1)
    return packages / "big-list-of-naughty-strings" / "blns.json"


def _ensure_pinned(pinned: Path, folder: Path, title: str, megabytes: int) -> Path:
    """`node_modules` in `folder` with what `pinned` names, installed once."""
    files = [pinned / "package.json", pinned / "package-lock.json"]
    wanted = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    stamp = folder / ".installed"
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == wanted):
            stamp.unlink(missing_ok=True)
            for file in files:
                shutil.copy2(file, folder / file.name)
            _npm_install(folder, f"{title} with npm (about {megabytes} MB, once)")
            stamp.write_text(wanted)
    return folder / "node_modules"


def ensure_vercel() -> Path:
    """The vercel CLI's executable. Missing when it cannot be installed."""
    return ensure_node_packages() / ".bin" / "vercel"


def ensure_supabase() -> Path:
    """The supabase CLI's executable. Missing when it cannot be installed."""
    return ensure_node_packages() / ".bin" / "supabase"


def ensure_python_tools(pinned: Path, name: str) -> Path:
    """`bin` of the environment `.dev/NAME` with what `pinned` lists, made at its first use.

    Its own: what such a tool stands on is no concern of the project's versions. Missing as above.
    """
    venv = DATA / name
    stamp, wanted = venv / ".installed", pinned.read_text("utf-8")
    DATA.mkdir(exist_ok=True)
    with venv.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text("utf-8") == wanted):
            stamp.unlink(missing_ok=True)
            print(f"Installing {name} (once) …", flush=True)
            _install_python_tools(venv, pinned, name)
            stamp.write_text(wanted, encoding="utf-8")
    return venv / "bin"


def _install_python_tools(venv: Path, pinned: Path, name: str) -> None:
    made = subprocess.call([sys.executable, "-m", "venv", "--clear", str(venv)]) == 0
    try:
        if made:
            package_install.install(venv / "bin" / "python", [pinned], compiles_later=False)
            return
    except SystemExit as failed:
        raise Missing(f"{name} could not be installed: {failed}") from None
    raise Missing(f"{name} could not be installed (see above)")


def _npm_install(folder: Path, label: str) -> None:
    """Says how many packages came, every 50 of them."""
    if shutil.which("npm") is None:
        raise Missing(f"npm is needed for {label}: install Node.js 20+")
    print(f"Installing {label} …", flush=True)
    # `install` keeps to the lock file too; `ci` refuses one without every other system's binary.
    command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", "--loglevel=http"]
    lines, count = [], 0
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as npm:
        assert npm.stdout is not None
        for line in npm.stdout:
            if not line.startswith("npm http"):
                lines.append(line)
            elif ".tgz" in line:
                count += 1
                if count % 50 == 0:
                    print(f"      {count} packages", flush=True)
    if npm.returncode != 0:
        print("".join(lines[-30:]), file=sys.stderr)
        raise Missing(f"npm could not install {label} (see above)")


def find_browser() -> Path | None:
    """A Chromium or Chrome on this machine, playwright's own included."""
    for name in _BROWSERS:
        if path := shutil.which(name):
            return Path(path)
    folder = os.environ.get("PLAYWRIGHT_BROWSERS_PATH")
    caches = [Path(folder)] if folder else []
    caches += [Path.home() / ".cache/ms-playwright", Path.home() / "Library/Caches/ms-playwright"]
    patterns = ("chromium-*/chrome-linux*/chrome", "chromium-*/chrome-mac*/*.app/Contents/MacOS/*")
    found_in = [path for cache in caches for pattern in patterns for path in cache.glob(pattern)]
    mac = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")
    found_in += [mac] if mac.exists() else []
    return sorted(found_in)[-1] if found_in else None


def ensure_browser() -> Path:
    """A Chromium's executable, installed through apt-get when root. Missing when it cannot be."""
    browser = find_browser()
    if browser is not None:
        return browser
    if not may_install():
        raise Missing(
            "a Chromium is needed for the tests of the pages: install one "
            "(Debian: apt-get install chromium-headless-shell) or run "
            f"`{sys.executable} -m playwright install chromium`"
        )
    for package in _BROWSERS[:2]:  # an older Debian has the second alone
        apt_install(package)
        if (browser := find_browser()) is not None:
            return browser
    raise Missing("apt-get could not install chromium (see above)")


def find_pooler() -> Path | None:
    """pgbouncer's executable; Debian keeps it where only root's PATH looks."""
    pooler = shutil.which(
        "pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    )
    return Path(pooler) if pooler else None


def ensure_pooler() -> Path:
    """pgbouncer's executable, installed through apt-get when root. Missing when it cannot be."""
    pooler = find_pooler()
    if pooler is not None:
        return pooler
    if not may_install():
        raise Missing(
            "pgbouncer is needed for the tests behind a pooler: install it "
            "(Debian: apt-get install pgbouncer; its service need not run)"
        )
    apt_install("pgbouncer")
    pooler = find_pooler()
    if pooler is None:
        raise Missing("apt-get could not install pgbouncer (see above)")
    return pooler


def ensure_office() -> Path:
    """LibreOffice's executable, installed through apt-get when root. Missing when it cannot be."""
    office = shutil.which("soffice")
    if office is None:
        if not may_install():
            raise Missing(
                "LibreOffice is needed for the test of the export: install its Calc "
                "(Debian: apt-get install libreoffice-calc-nogui)"
            )
        apt_install("libreoffice-calc-nogui")
        office = shutil.which("soffice")
    if office is None:
        raise Missing("apt-get could not install libreoffice-calc-nogui (see above)")
    return Path(office)


def first_known(packages: tuple[str, ...]) -> str:
    """The first of a package's names, in newer and older Debians, that apt knows here."""
    for package in packages[:-1]:
        command = ["apt-cache", "show", "--no-all-versions", package]
        if (
            shutil.which("apt-cache")
            and subprocess.run(command, capture_output=True, check=False).returncode == 0
        ):
            return package
    return packages[-1]


def may_install() -> bool:
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


def apt_install(*packages: str) -> None:
    # On stderr: a command that needs them may be printing JSON.
    print(f"Installing {', '.join(packages)} with apt-get …", file=sys.stderr)
    subprocess.run(["apt-get", "update", "-qq"], stdout=sys.stderr, check=False)
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    subprocess.run(command, env=environ, stdout=sys.stderr, check=False)
