"""Vercel's own CLI, with the commands of docs/deploy.md, against a stand-in of the API it calls."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev import tools
from dev.build import vercel_build
from dev.vendors.vercel_deploy import PROJECT, TEAM, DeployApi, Uploaded
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

TOKEN = "tokenOfVercel1"  # the CLI takes no "-" in it

# What somebody's folder may hold beside the tree, and what must never leave it.
PRIVATE = {
    ".env.operators": "CRON_SECRET='very-secret'\n",
    ".env": "CRON_SECRET='very-secret'\n",
    ".env.local": "CRON_SECRET='very-secret'\n",
    ".env.production": "CRON_SECRET='very-secret'\n",
    "production.env": "CRON_SECRET='very-secret'\n",
    "tombstones.jsonl": '{"hash": "very-secret"}',
    "leads-export-2026-11-28.csv": "id,name\n1,very-secret\n",
    ".dev/secrets.json": '{"CRON_SECRET": "very-secret"}',
    "supabase/.temp/project-ref": "very-secret",
}


@pytest.fixture
def api() -> Iterator[DeployApi]:
    serving = DeployApi(TOKEN)
    yield serving
    serving.close()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clone of this tree as somebody works in it."""
    folder = tmp_path / "clone"
    vercel_build.copy_tree(ROOT, folder)
    for name, text in PRIVATE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def vercel(
    api: DeployApi, folder: Path, home: Path, *words: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    variables = {name: text for name, text in os.environ.items() if not name.startswith("VERCEL")}
    return subprocess.run(
        [str(tools.ensure_vercel()), *words, "--token", token, "--api", api.url],
        cwd=folder,
        env={**variables, "HOME": str(home), "CI": "1", "VERCEL_TELEMETRY_DISABLED": "1",
             "VERCEL_ORG_ID": TEAM, "VERCEL_PROJECT_ID": PROJECT},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def only(api: DeployApi) -> Uploaded:
    assert api.unknown == [], "the CLI asked for something the stand-in does not know"
    (deployment,) = api.deployments
    return deployment


def test_output_built_for_preview_is_refused_for_production(
    api: DeployApi, built: Path, tmp_path: Path
) -> None:
    """Why build/vercel_build.py says --prod: what `vercel build` alone leaves cannot be served."""
    folder = tmp_path / "preview"
    shutil.copytree(built / ".vercel", folder / ".vercel", symlinks=True)
    file = folder / ".vercel/output/builds.json"
    assert json.loads(file.read_text())["target"] == "production"
    file.write_text(file.read_text().replace('"target": "production"', '"target": "preview"'))
    answer = vercel(api, folder, tmp_path, "deploy", "--prebuilt", "--prod")
    assert answer.returncode == 1
    assert 'built with target environment "preview"' in answer.stderr
    assert api.deployments == []


@pytest.mark.parametrize(
    ("words", "target"),
    [(["deploy"], None), (["deploy", "--prod"], "production")],
    ids=["preview", "production"],
)
def test_a_plain_deploy_sends_the_tree_and_nothing_that_git_ignores(
    api: DeployApi, tree: Path, tmp_path: Path, words: list[str], target: str | None
) -> None:
    answer = vercel(api, tree, tmp_path, *words)
    assert answer.returncode == 0, answer.stderr
    deployment = only(api)
    assert (deployment.target, deployment.prebuilt) == (target, False)
    needed = ["vercel.json", "requirements.txt", ".python-version"]
    for folder in ("api", "lib", "public"):
        paths = (path for path in (tree / folder).rglob("*") if path.is_file())
        needed += [path.relative_to(tree).as_posix() for path in paths]
    for name in needed:
        assert deployment.files.get(name) == (tree / name).read_bytes(), name
    assert not set(PRIVATE) & set(deployment.files)
    assert not [name for name, content in deployment.files.items()
                if b"very-secret" in content and not name.startswith("tests/")]  # fmt: skip


def test_what_git_ignores_is_not_sent_either() -> None:
    """`vercel deploy` reads .vercelignore and never .gitignore."""
    ignored, unsent = (
        [line for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"]
        for name in (".gitignore", ".vercelignore")
    )
    assert set(ignored) <= set(unsent)


def test_a_token_that_is_refused_leaves_nothing(api: DeployApi, tree: Path, tmp_path: Path) -> None:
    answer = vercel(api, tree, tmp_path, "deploy", "--prod", token="another")
    assert answer.returncode != 0
    assert api.deployments == []
