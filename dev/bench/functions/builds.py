"""Builds what is measured: ours by `vercel build`, of this tree or of a commit; the competitors.

Each is built once and kept in .dev/bench under a name made from its files.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dev.bootstrap import DATA, ROOT
from dev.build import vercel_build
from dev.edge import runtime

COMPETITORS = Path(__file__).parent / "competitors"
_CACHE = DATA / "bench"
_BUILD = "import sys; from pathlib import Path; from dev.build import vercel_build; \
vercel_build.build(Path.cwd(), Path(sys.argv[1]))"
_WATCHED = ("api", "lib", "public", "supabase/seed", "requirements.txt", "vercel.json", "uv.toml",
            "dev/build/vercel_build.py")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Built:
    """A function put together as deployed: how it is started, and where."""

    folder: Path
    command: list[str]
    environment: Mapping[str, str]
    is_python: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """Bytes and files."""
        sizes = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file()]
        return sum(sizes), len(sizes)


def ours() -> Path:
    """The output folder of this tree."""
    files = [file for name in _WATCHED for file in _files(ROOT / name)]
    return _cached_build("ours", _stamp(files), lambda out: vercel_build.build(ROOT, out))


def of_commit(ref: str) -> Path:
    """The output folder of a commit, built as that commit builds."""
    sha = _git("rev-parse", f"{ref}^{{commit}}")
    tree = _CACHE / "commits" / sha[:12]
    if not tree.exists():
        tree.parent.mkdir(parents=True, exist_ok=True)
        _git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(tree))
        subprocess.run(["git", "checkout", "--quiet", sha], cwd=tree, check=True)
        (tree / ".dev").symlink_to(DATA)

    def make(out: Path) -> None:
        command = [sys.executable, "-c", _BUILD, str(out)]
        subprocess.run(command, cwd=tree, check=True, env={**os.environ, "PYTHONPATH": "."})

    return _cached_build("commit", sha[:12], make)


def competitor(name: str) -> Path:
    """The output folder of a competitor under competitors/."""

    def make(out: Path) -> None:
        vercel_build.copy_tree(COMPETITORS / name, out / "project")
        vercel_build.run_builder(out / "project", out / "bin")

    return _cached_build(f"competitor-{name}", _stamp(_files(COMPETITORS / name)), make)


def function(output: Path, name: str) -> Built:
    """One function ("api/health") of an output folder, unpacked."""
    folder = output.parents[2] / "unpacked" / name
    made = output / "functions" / f"{name}.func"
    if not folder.exists():
        runtime.unpack(made, output.parents[1], folder)
    config = runtime.config_of(made)
    return Built(folder, runtime.built_command(config), config.get("environment", {}))


def hono() -> Built:
    """The Node competitor: its packages beside it, as npm lays them out."""

    def make(out: Path) -> None:
        project = out / "project"
        shutil.copytree(COMPETITORS / "hono", project)
        npm = ["npm", "ci", "--omit=dev", "--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run(npm, cwd=project, check=True)
        (project / ".vercel" / "output").mkdir(parents=True)

    folder = _cached_build("competitor-hono", _stamp(_files(COMPETITORS / "hono")), make).parents[1]
    node = shutil.which("node") or "node"
    return Built(folder, [node, "server.mjs"], {"NODE_ENV": "production"}, is_python=False)


def _cached_build(kind: str, stamp: str, make: Callable[[Path], object]) -> Path:
    out = _CACHE / f"{kind}-{stamp}"
    output = out / "project" / ".vercel" / "output"
    done = out / "done"
    if not done.exists():
        print(f"building {out.name} …", file=sys.stderr, flush=True)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        make(out)
        done.touch()
    return output


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    files = (file for file in sorted(path.rglob("*")) if file.is_file())
    return [file for file in files if "__pycache__" not in file.parts]


def _stamp(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _git(*arguments: str) -> str:
    answer = subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return answer.stdout.strip()
