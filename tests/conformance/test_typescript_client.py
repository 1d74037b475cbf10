"""A TypeScript client that a public tool makes of /openapi.json: it compiles and takes a lead."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import DictRow

from dev import tools
from dev.platform.local_platform import Platform
from tests.products.catalogue_data import seeded

pytestmark = pytest.mark.slow

__all__ = ["seeded"]  # a fixture

HERE = Path(__file__).parent


def run(folder: Path, *command: str) -> str:
    """What a program prints; AssertionError with all of it when it fails."""
    answer = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout
    return answer.stdout


@pytest.fixture
def client(platform: Platform, tmp_path: Path) -> Path:
    """The folder of the compiled client; its types are of the document as the site serves it."""
    (tmp_path / "node_modules").symlink_to(tools.ensure_client_tools())
    (tmp_path / "package.json").write_text('{"type": "module"}')
    for name in ("client.ts", "tsconfig.json"):
        shutil.copy2(HERE / name, tmp_path)
    programs = tmp_path / "node_modules" / ".bin"
    document = f"{platform.url}/openapi.json"
    run(tmp_path, str(programs / "openapi-typescript"), document, "-o", "schema.ts")
    run(tmp_path, str(programs / "tsc"))
    return tmp_path


@pytest.mark.usefixtures("seeded")
def test_a_generated_client_type_checks_and_takes_a_lead(
    client: Path, platform: Platform, database: psycopg.Connection[DictRow]
) -> None:
    report = json.loads(run(client, "node", "out/client.js", platform.url))
    assert report["status"] == 200
    assert (report["error"], report["faults"]) == ("validation_error", ["city"])
    assert len(report["products"]) == 1
    rows = database.execute("select ref, business_name, chair_count from leads").fetchall()
    assert rows == [{"ref": report["ref"], "business_name": "Salon Typescript", "chair_count": 4}]
