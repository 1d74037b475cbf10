"""`vercel build` on a clean copy of the tree: what a deployment would hold."""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from dev import tools
from dev.bootstrap import DATA
from dev.build import catalogue_snapshot
from lib.settings import Settings

_PROJECT = {
    "projectId": "prj_local",
    "orgId": "team_local",
    "settings": {"framework": None},
}
_BUILD_ENVIRONMENT = {
    # Bytecode in the bundle: without it every cold start compiles.
    "VERCEL_PYTHON_COMPILEALL": "1",
    # The CLI's own choice is older and stalls on reused connections.
    "VERCEL_RUNTIME_PYTHON": "vercel-runtime==0.24.1",
    "VERCEL_TELEMETRY_DISABLED": "1",
    "CI": "1",
}


class BuildFailed(RuntimeError):
    """`vercel build` failed; the text holds its output."""


def build(root: Path, out: Path) -> Path:
    """Build the tree at `root` inside `out` (emptied first); returns the `.vercel/output` folder.

    BuildFailed, or tools.Missing when the CLI cannot be installed.
    """
    if (fault := Settings().maintenance_mode_error) is not None:
        raise BuildFailed(fault)
    project = out / "project"
    shutil.rmtree(project, ignore_errors=True)
    copy_tree(root, project)
    catalogue_snapshot.write(project)
    return run_builder(project, out / "bin")


def build_once(root: Path, folder: Path = DATA / "built") -> Path:
    """As `build`, kept in `folder` under a name made from all it depends on; nobody may change it.

    Runs at the same time wait for the first of them. Only the newest two are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / _fingerprint(root)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (out / "whole").exists():
            build(root, out)
            (out / "whole").touch()
        out.touch()
        builds = sorted(
            filter(Path.is_dir, folder.iterdir()), key=lambda path: path.stat().st_mtime
        )
        for old in builds[:-2]:
            shutil.rmtree(old, ignore_errors=True)
    return out / "project" / ".vercel" / "output"


def _fingerprint(root: Path) -> str:
    """Changes with any file of the tree, the pinned tools, the interpreter and the variables."""
    digest = hashlib.sha256(f"{sys.version} {_BUILD_ENVIRONMENT} {_PROJECT}".encode())
    for name in _listed(root):
        file = root / name
        if file.is_file():
            digest.update(f"\0{name}\0{file.stat().st_mode & 0o111}\0".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:24]


def run_builder(project: Path, tools_folder: Path) -> Path:
    """`vercel build --prod` in `project`, a copy nobody else needs; its `.vercel/output` folder.

    Without --prod the output's target is preview, and `vercel deploy --prebuilt --prod` refuses it.
    """
    vercel = tools.ensure_vercel()
    (project / ".vercel").mkdir()
    (project / ".vercel" / "project.json").write_text(json.dumps(_PROJECT))
    answer = subprocess.run(
        [str(vercel), "build", "--prod", "--yes", "--token", "dummy"],
        cwd=project,
        env=_environment(tools_folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    output = project / ".vercel" / "output"
    if answer.returncode != 0 or not (output / "config.json").exists():
        raise BuildFailed(f"vercel build failed:\n{answer.stdout}")
    return output


def copy_tree(root: Path, target: Path) -> None:
    """What git knows or would add, as it is in the work tree now: as a deployment uploads it."""
    for name in _listed(root):
        source = root / name
        # Listed but deleted in the work tree: a deployment would not have it either.
        if source.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)


def _listed(root: Path) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout.decode()
    return sorted(filter(None, listed.split("\0")))


def _environment(folder: Path) -> dict[str, str]:
    """The caller's, with uv and a CPython 3.12 of no virtual environment first on PATH."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    for name in ("python3.12", "python3", "python"):
        (folder / name).symlink_to(python)
    (folder / "uv").symlink_to(Path(sys.prefix) / "bin" / "uv")
    environ = {name: text for name, text in os.environ.items() if not name.startswith("VERCEL")}
    # With a prefix, bytecode would be kept there and not in the bundle.
    for name in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "PYTHONPYCACHEPREFIX"):
        environ.pop(name, None)
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**environ, **_index_environment(environ), **_BUILD_ENVIRONMENT, "PATH": path}


def _index_environment(environ: dict[str, str]) -> dict[str, str]:
    """uv does not read pip's configuration: tell it the index the user's pip has, if any."""
    if any(name in environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX")):
        return {}
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        capture_output=True,
        text=True,
        check=False,
    )
    index = environ.get("PIP_INDEX_URL") or answer.stdout.strip()
    return {"UV_DEFAULT_INDEX": index} if index.startswith(("http://", "https://")) else {}
