"""What an error report says of an error of Postgres: its code and names, and nobody's words."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from dev.platform.local_platform import Platform
from lib import log
from lib.problems import DatabaseDown
from lib.services import Services
from lib.settings import Settings

WORDS = "Andi Saputra andi@example.com"


@pytest.fixture
def services(platform: Platform, database: object) -> Iterator[Services]:
    with closing(Services(Settings(platform.environment))) as services:
        yield services


def failing(services: Services, statement: str, **values: object) -> BaseException:
    try:
        services.database.run(lambda c: c.execute(statement, values))
    except psycopg.Error as fault:
        return fault
    raise AssertionError(statement)


STATEMENTS = {
    "check": (
        "insert into outbox (lead_id, kind, sender, recipients, subject, body_text, body_html,"
        " created_at, next_attempt_at) values (gen_random_uuid(), %(text)s, '', '{}', '', '', '',"
        " now(), now())",
        {"sqlstate": "23514", "schema": "public", "table": "outbox",
         "constraint": "outbox_kind_check"},
    ),
    "not null": (
        "insert into synonyms (term, same_as) values (null, %(text)s)",
        {"sqlstate": "23502", "schema": "public", "table": "synonyms", "column": "term"},
    ),
    "no such column": ("select nothing_like_it, %(text)s from leads", {"sqlstate": "42703"}),
    "a trigger's own names": (
        "do $$ begin raise exception 'Andi' using column = 'Andi Saputra', table = 'a@b.co',"
        " detail = 'Andi'; end $$ -- %(text)s",
        {"sqlstate": "P0001"},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The send_default_pii option")
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_report_and_a_log_line_carry_the_code_and_the_names(
    platform: Platform, services: Services, name: str
) -> None:
    statement, expected = STATEMENTS[name]
    if name.startswith("a trigger"):
        fault = failing(services, statement.partition(" --")[0])
    else:
        fault = failing(services, statement, text=WORDS)
    wrapped = DatabaseDown()
    wrapped.__cause__ = fault
    reporter = services.reporter
    assert reporter is not None
    for error in (fault, wrapped):
        named = log.exception_fields(error)
        assert {key: named[key] for key in named if key not in ("fault", "at")} == expected
        platform.sentry.forget()
        reporter.report(error, request_id="r", endpoint="leads")
        sent = json.dumps([record["body"] for record in platform.sentry.received()])
        assert "Andi" not in sent
        assert "andi@" not in sent
        tags = tags_in([record["body"] for record in platform.sentry.received()])
        assert tags["sqlstate"] == expected["sqlstate"]
        for key in ("schema", "table", "column", "constraint"):
            assert tags.get(f"postgres.{key}") == expected.get(key)


def tags_in(value: Any) -> dict[str, str]:
    """The tags of the first event in what the stand-in recorded."""
    if isinstance(value, dict):
        if isinstance(value.get("tags"), dict):
            return dict(value["tags"])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            if tags := tags_in(item):
                return tags
    return {}
