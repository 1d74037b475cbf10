"""What is said to show the handbook's lines is there, and the command says what is not."""

import ast
import json
import re

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from ops import cli, compliance
from tests.conftest import ROOT

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

PLACES = sorted({place for line in compliance.REQUIREMENTS for place in (*line.code, *line.tests)})


def names_in(file: str) -> set[str]:
    """What stands at the top of a Python file."""
    found: set[str] = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        named = [name for target in targets if target is not None for name in ast.walk(target)]
        found |= {name.id for name in named if isinstance(name, ast.Name)}
    return found


@pytest.mark.parametrize("place", PLACES)
def test_every_place_that_is_named_is_there(place: str) -> None:
    file, _, name = place.partition("::")
    assert (ROOT / file).is_file(), f"{place}: no such file"
    assert not name or name in names_in(file), f"{place}: no such name"


def test_tests_are_tests_and_code_is_none() -> None:
    for line in compliance.REQUIREMENTS:
        assert all(
            re.match(r"tests/(\w+/)*test_\w+\.py(::test_\w+)?$", place) for place in line.tests
        )
        assert not any(place.startswith("tests/") for place in line.code)
        assert bool(line.code) == bool(line.tests), f"{line.text}: half shown"


def test_every_section_of_the_handbook_is_there_in_its_order() -> None:
    sections = list(dict.fromkeys(line.section for line in compliance.REQUIREMENTS))
    assert [section[0] for section in sections] == ["1", "2", "3", "4"]


def ops(platform: Platform, *arguments: str, **changed: str) -> int:
    return cli.main(list(arguments), {**platform.environment, **changed})


def test_the_command_shows_the_last_drill_of_each_kind(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    for verdict, ago in (("PASS", "9 days"), ("FAIL", "1 day")):
        database.execute(
            "insert into drills (kind, at, verdict) values ('restore', now() - %s::interval, %s)",
            [ago, verdict],
        )
    assert ops(platform, "evidence") == 1
    said = capsys.readouterr().out
    assert "restore: FAIL" in said
    assert "alert: NEVER" in said
    for line in compliance.REQUIREMENTS:
        assert line.text in said
    assert ops(platform, "evidence", "--json") == 1
    [last] = {
        row["last_drill"]["verdict"]
        for row in json.loads(capsys.readouterr().out)
        if row["drill"] == "restore"
    }
    assert last == "FAIL"


def test_it_ends_well_only_when_every_line_is_shown_and_every_drill_passed(
    platform: Platform, database: Rows
) -> None:
    for kind in {line.drill for line in compliance.REQUIREMENTS} - {None}:
        database.execute(
            "insert into drills (kind, at, verdict) values (%s, now(), 'PASS')", [kind]
        )
    open_lines = [line for line in compliance.REQUIREMENTS if not line.has_evidence]
    assert ops(platform, "evidence") == (1 if open_lines else 0)


def test_with_the_database_down_the_places_are_shown_and_it_is_no_success(
    platform: Platform, capsys: Printed
) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/alfa"
    assert ops(platform, "evidence", DATABASE_URL=nowhere) == 1
    said = capsys.readouterr()
    assert "unknown" in said.err
    assert "restore: unknown" in said.out
    assert "lib/leads/service.py::persist" in said.out
