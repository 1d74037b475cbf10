"""Makes `.venv` with everything the platform needs, and runs dev.cli in it.

No import here may need a package, nor syntax newer than Python 3.6.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from dev import interpreter, package_install

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
DATA = ROOT / ".dev"
_STAMP = VENV / ".installed"
_REQUIREMENTS = ("requirements.txt", "dev/requirements.txt", "tests/requirements.txt")
STEPS = 5


def main() -> None:
    """Prepare what is missing, then become `.venv/bin/python -m dev.cli <arguments>`."""
    try:
        os.chdir(str(ROOT))
        prepare(is_start=not sys.argv[1:] or sys.argv[1].startswith(("up", "-")))
        sys.stdout.flush()
        os.execv(str(PYTHON), [str(PYTHON), "-m", "dev.cli", *sys.argv[1:]])
    except KeyboardInterrupt:
        sys.exit(130)


def prepare(is_start: bool) -> None:
    """Leave an up-to-date `.venv`, or exit saying what is in the way; instant when there is one.

    is_start: a platform starts next, so PostgreSQL is downloaded meanwhile.
    """
    if _fresh():
        return
    with _turn():
        # Another run may have done it all while this one waited.
        if not _fresh():
            _make_environment()
            download = _download_postgres() if is_start else None
            _install(compiles_later=is_start)
            if download is not None:
                download.wait()  # a failure is told by the start, which tries again
            _STAMP.write_text(_fingerprint())


def step(number: int, text: str) -> None:
    print(f"[{number}/{STEPS}] {text}", flush=True)


@contextlib.contextmanager
def heartbeat(title, every_s=5.0):  # type: ignore[no-untyped-def]
    """Say at times that the work goes on; nothing about work that is done before."""
    done = threading.Event()
    started = time.time()

    def tell() -> None:
        while not done.wait(every_s):
            print(f"      {title}: {time.time() - started:.0f} s …", flush=True)

    telling = threading.Thread(target=tell)
    telling.daemon = True
    telling.start()
    try:
        yield
    finally:
        done.set()
        telling.join()


def _fresh() -> bool:
    try:
        return PYTHON.exists() and _STAMP.read_text() == _fingerprint()
    except OSError:
        return False


def _fingerprint() -> str:
    """Changes with any requirement and with the interpreter the environment was made from."""
    digest = hashlib.sha256((VENV / "pyvenv.cfg").read_bytes())
    for file in _requirement_files():
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _requirement_files() -> "list[Path]":
    return [ROOT / name for name in _REQUIREMENTS if (ROOT / name).exists()]


@contextlib.contextmanager
def _turn():  # type: ignore[no-untyped-def]
    """One run at a time prepares; the others wait for it."""
    DATA.mkdir(exist_ok=True)
    with (DATA / "bootstrap.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            print("Another run is preparing .venv; waiting for it …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_environment() -> None:
    place = interpreter.find()
    if place is None:
        sys.exit(interpreter.ADVICE)
    python, able = place
    step(1, "CPython 3.12 at " + python)
    if PYTHON.exists() and _is_wanted() and _runs([str(PYTHON), "-m", "pip", "--version"]):
        step(2, "Keeping .venv")
        return
    step(2, "Making .venv")
    if not able:
        _install_venv_package()
    if VENV.is_symlink():
        VENV.unlink()
    elif VENV.exists():
        shutil.rmtree(str(VENV))
    venv = [python, "-m", "venv", str(VENV)]
    with heartbeat("making .venv"):
        # The interpreter's own pip is quicker than ensurepip.
        is_made = subprocess.call([*venv, "--without-pip"]) == 0
        is_made = is_made and package_install.install_installers(python, PYTHON, _pinned("uv"))
        is_made = is_made or subprocess.call(venv) == 0
    if not is_made:
        sys.exit("Python's venv module failed (see above); on Debian: " + _venv_advice())


def _pinned(name: str) -> str:
    """A requirement as dev/requirements.txt pins it."""
    text = (ROOT / "dev" / "requirements.txt").read_text()
    match = re.search(rf"^{name}==\S+", text, re.M)
    return match.group() if match else name


def _download_postgres() -> "subprocess.Popen[bytes]":
    code = "from dev.platform import postgres_binaries as p; p.ensure(p.MAIN)"
    return subprocess.Popen([str(PYTHON), "-c", code], cwd=str(ROOT))


def _is_wanted() -> bool:
    """Whether the environment is of the wanted version, as it says itself."""
    text = (VENV / "pyvenv.cfg").read_text() if (VENV / "pyvenv.cfg").exists() else ""
    return re.search(rf"^version\S* = {interpreter.VERSION}\.", text, re.M) is not None


def _venv_advice() -> str:
    return f"apt-get install python{interpreter.VERSION}-venv"


def _install_venv_package() -> None:
    """Debian keeps ensurepip in a package of its own."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit("This Python cannot make virtual environments; on Debian: " + _venv_advice())
    package = f"python{interpreter.VERSION}-venv"
    print(f"      installing {package} with apt-get", flush=True)
    with heartbeat("apt-get"):
        subprocess.call(["apt-get", "update", "-qq"])
        status = subprocess.call(["apt-get", "install", "-y", "-qq", package])
    if status != 0:
        sys.exit(f"apt-get could not install {package} (see above)")


def _runs(command: "list[str]") -> bool:
    quiet = subprocess.DEVNULL
    return subprocess.call(command, stdout=quiet, stderr=quiet) == 0


def _install(*, compiles_later: bool) -> None:
    files = _requirement_files()
    names = {name for file in files for name in _names(file.read_text())}
    step(3, f"Installing {len(names)} Python packages …")
    with heartbeat("installing"):
        package_install.install(PYTHON, files, compiles_later=compiles_later)


def _names(requirements: str) -> "set[str]":
    matches = re.findall(r"^([A-Za-z0-9][\w.\-]*)", requirements, re.M)
    return {name.lower().replace("_", "-") for name in matches}
