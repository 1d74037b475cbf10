"""The files that the handbook's requirements name exist; the command fails on a missing drill."""

import json
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from ops import cli
from ops.compliance import REQUIREMENTS
from tests.conftest import ROOT

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]


def test_every_requirement_names_existing_code_and_tests() -> None:
    for requirement in REQUIREMENTS:
        assert requirement.code, requirement.text
        assert requirement.tests, requirement.text
        assert not any(file.startswith("tests/") for file in requirement.code)
        assert all("/test_" in file and file.startswith("tests/") for file in requirement.tests)
        for file in (*requirement.code, *requirement.tests):
            assert (ROOT / file).is_file(), file


def test_every_section_of_the_handbook_is_there_in_its_order() -> None:
    sections = list(dict.fromkeys(requirement.section for requirement in REQUIREMENTS))
    assert [section[0] for section in sections] == ["1", "2", "3", "4"]


def ops(platform: Platform, *arguments: str, **changed: str) -> int:
    return cli.main(list(arguments), {**platform.environment, **changed})


def insert_drill(database: Rows, kind: str | None, verdict: str, ago: str = "0 days") -> None:
    database.execute(
        "insert into drills (kind, at, verdict) values (%s, now() - %s::interval, %s)",
        [kind, ago, verdict],
    )


def test_the_command_shows_the_last_drill_of_each_kind(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    insert_drill(database, "restore", "PASS", "9 days")
    insert_drill(database, "restore", "FAIL", "1 day")
    assert ops(platform, "evidence") == 1
    output = capsys.readouterr().out
    assert "restore: FAIL" in output
    assert "alert: NEVER" in output
    for requirement in REQUIREMENTS:
        assert requirement.text in output
    assert ops(platform, "evidence", "--json") == 1
    verdicts = {
        row["last_drill"]["verdict"]
        for row in json.loads(capsys.readouterr().out)
        if row["drill"] == "restore"
    }
    assert verdicts == {"FAIL"}


def test_the_command_succeeds_when_the_last_drill_of_every_kind_passed(
    platform: Platform, database: Rows, capsys: Printed, tmp_path: Path
) -> None:
    for kind in {requirement.drill for requirement in REQUIREMENTS} - {None}:
        insert_drill(database, kind, "PASS")
    file = tmp_path / "test-results.json"
    assert ops(platform, "evidence", "--results", str(file)) == 0
    capsys.readouterr()
    test, commit = REQUIREMENTS[0].tests[0], "0123456789abcdef0123456789abcdef01234567"
    results = {"finished_at": "2026-11-28T20:30:00+00:00", "commit": f"{commit}+",
               "passed": [f"{test}::test_x"], "failed": []}  # fmt: skip
    file.write_text(json.dumps(results))
    assert ops(platform, "evidence", "--results", str(file)) == 0
    first_line = capsys.readouterr().out.splitlines()[0]
    assert first_line.endswith(f"03:30 WIB, commit {commit}, with uncommitted changes")
    file.write_text(json.dumps(results | {"failed": [f"{test}::test_y"]}))
    assert ops(platform, "evidence", "--results", str(file), "--json") == 1, "a test failed"
    shown = json.loads(capsys.readouterr().out)[0]["last_tests"][test]
    assert shown == {
        "outcome": "failed",
        "at": "2026-11-28T20:30:00+00:00",
        "commit": f"{commit}+",
    }


def test_with_the_database_down_the_files_are_shown_and_the_command_fails(
    platform: Platform, capsys: Printed
) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/alfa"
    assert ops(platform, "evidence", DATABASE_URL=nowhere) == 1
    printed = capsys.readouterr()
    assert "unknown" in printed.err
    assert "restore: unknown" in printed.out
    assert "lib/leads/service.py" in printed.out
