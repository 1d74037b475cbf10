"""Finds a CPython 3.12, the version Vercel runs, among the places it is usually kept."""

import os
import subprocess
import sys
from pathlib import Path

VERSION = "3.12"

_PROBE = (
    "import sys, platform, importlib.util as u;"
    "print(platform.python_implementation(), '%d.%d' % sys.version_info[:2],"
    " u.find_spec('venv') is not None and u.find_spec('ensurepip') is not None)"
)

ADVICE = """Python 3.12 is needed (Vercel runs the functions with it) and none was found.
Install it in one of these ways, then run `python3 -m dev` again:
  Ubuntu 24.04:       apt-get install python3.12 python3.12-venv
  any, with uv:       uv python install 3.12
  any, with pyenv:    pyenv install 3.12
  macOS, Homebrew:    brew install python@3.12
  or from https://www.python.org/downloads/"""


def find() -> "tuple[str, bool] | None":
    """(path, whether it can make virtual environments); the first that can, if any does."""
    fallback = None
    checked = set()  # type: set[str]
    for candidate in _candidates():
        real = os.path.realpath(candidate)
        if real in checked or not os.access(candidate, os.X_OK):
            continue
        answer = _probe(candidate)
        # A pyenv shim answers for whatever version is chosen today: it is no identity.
        if ".pyenv/shims" not in candidate:
            checked.add(real)
        if answer is None:
            continue
        if answer:
            return candidate, True
        fallback = fallback or (candidate, False)
    return fallback


def _candidates() -> "list[str]":
    name = f"python{VERSION}"
    home = Path.home()
    share = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or share / "uv" / "python")
    pyenv = Path(os.environ.get("PYENV_ROOT") or home / ".pyenv")
    candidates = [sys.executable] if sys.executable else []
    candidates += [str(Path(folder) / name) for folder in os.get_exec_path() if folder]
    candidates += _matching(pyenv, "versions/3.12*/bin/" + name)
    candidates += _matching(uv, "cpython-3.12*/bin/" + name)
    for folder in ("/usr/local/bin", "/usr/bin", "/opt/homebrew/bin"):
        candidates.append(folder + "/" + name)
    candidates += ["/usr/local/opt/python@3.12/bin/" + name, "/opt/python/3.12/bin/" + name]
    return candidates


def _matching(folder: Path, pattern: str) -> "list[str]":
    try:
        return [str(path) for path in sorted(folder.glob(pattern))]
    except OSError:
        # Named by somebody else's environment, and closed to us.
        return []


def _probe(path: str) -> "bool | None":
    """None when it is no CPython 3.12; otherwise whether it has venv and ensurepip."""
    try:
        output = subprocess.check_output(
            [path, "-c", _PROBE], stderr=subprocess.DEVNULL, timeout=20, cwd="/"
        )
    except (OSError, subprocess.SubprocessError):
        return None
    words = output.decode(errors="replace").split()
    if words[:2] != ["CPython", VERSION]:
        return None
    return words[2:] == ["True"]
