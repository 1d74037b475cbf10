"""Installs Python packages into `.venv`: with uv, which fetches them side by side, else with pip.

The rule a newcomer would break: pip's configuration is obeyed. uv does not read it, so each of its
settings is handed over as an option; where one has no counterpart, pip itself installs.
No import here may need a package, nor syntax newer than Python 3.6.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

_UV_OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}
# Of no meaning to uv, or (cert, no-cache-dir) handed over in the environment.
_IGNORED = {
    "break-system-packages",
    "cache-dir",
    "cert",
    "default-timeout",
    "disable-pip-version-check",
    "no-cache-dir",
    "no-input",
    "progress-bar",
    "retries",
    "root-user-action",
    "timeout",
    "user",
}


def install(python: Path, files: "list[Path]", *, compiles_later: bool) -> None:
    """Install what the requirement files name, or exit with the installer's last lines.

    compiles_later: the modules are compiled by a process of its own that may outlive this one. The
    functions write no bytecode, so without it each of their starts would compile every module.
    """
    if not _install_with_uv(python, files, [] if compiles_later else ["--compile-bytecode"]):
        _install_with_pip(python, files)
    elif compiles_later:
        quiet = subprocess.DEVNULL
        command = ["nice", str(python), "-m", "compileall", "-q", "-j", "2"]
        command.append(str(python.parent.parent / "lib"))
        subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)


def install_installers(base: str, python: Path, uv: str) -> bool:
    """Put pip and uv into an environment that has neither; False when `base`'s pip cannot."""
    command = [base, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-input"]
    return subprocess.call([*command, "pip", uv], stderr=subprocess.DEVNULL, env=_environ()) == 0


def _install_with_uv(python: Path, files: "list[Path]", options: "list[str]") -> bool:
    # Its own, or of the environment that installs into another.
    places = [python.with_name("uv"), Path(sys.executable).with_name("uv")]
    uv = next((place for place in places if place.exists()), None)
    settings = None if uv is None else _pip_settings(python)
    if settings is None:
        return False
    command = [str(uv), "pip", "install", "--python", str(python), *options]
    # Every index counts, as with pip.
    command += ["--index-strategy", "unsafe-best-match"]
    for name, values in settings.items():
        for value in values if name in _UV_OPTIONS else ():
            command += [_UV_OPTIONS[name], value]
    for file in files:
        command += ["-r", str(file)]
    environ = dict(os.environ)
    if settings.get("cert"):
        environ["SSL_CERT_FILE"] = settings["cert"][0]
    if settings.get("no-cache-dir"):
        environ["UV_NO_CACHE"] = "1"
    lines, status = _follow(command, environ, r"(Resolved|Prepared|Installed) .*")
    if status != 0:
        print("".join(lines[-5:]) + "      uv could not install them; trying pip …", flush=True)
    return status == 0


def _pip_settings(python: Path) -> "dict[str, list[str]] | None":
    """pip's settings by name; None when one is unknown here, or they cannot be read."""
    command = [str(python), "-m", "pip", "config", "list"]
    try:
        text = subprocess.check_output(command, stderr=subprocess.DEVNULL).decode()
    except (OSError, subprocess.SubprocessError):
        return None
    settings = {}  # type: dict[str, list[str]]
    for line in text.splitlines():
        section, _, value = line.partition("=")
        name = section.rpartition(".")[2]
        if name not in _UV_OPTIONS and name not in _IGNORED:
            return None
        settings.setdefault(name, []).extend(ast.literal_eval(value).split())
    return settings


def _install_with_pip(python: Path, files: "list[Path]") -> None:
    """pip, with a line for each package it looks at."""
    command = [str(python), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    for file in files:
        command += ["-r", str(file)]
    shown_lines = r"(Collecting|Requirement already satisfied:|Installing|Successfully|ERROR) .*"
    lines, status = _follow(command, _environ(), shown_lines)
    if status != 0:
        sys.exit("".join(lines[-30:]) + "\npip could not install the packages (see above)")


def _environ() -> "dict[str, str]":
    # A configured `user = true` would be refused inside a virtual environment.
    return dict(os.environ, PIP_USER="0", PYTHONUNBUFFERED="1")


def _follow(
    command: "list[str]", environ: "dict[str, str]", shown_lines: str
) -> "tuple[list[str], int]":
    """Run a command and print the lines that match; all its lines, and its exit status."""
    lines = []
    with subprocess.Popen(
        command,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            match = re.match(shown_lines, line)
            if match:
                print("      " + match.group()[:96], flush=True)
    return lines, process.wait()
