"""Commands for whoever is on call: what each finds, does, says and exits with."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.incidents import rules
from lib.incidents.postgres_store import PostgresStore
from lib.services import Services
from lib.settings import Settings
from ops import cli, connections
from tests.conftest import eventually

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

pytestmark = pytest.mark.real_now

NOW = datetime.now(UTC)


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    services = Services(Settings(platform.environment))
    yield services
    services.close()


@pytest.fixture
def incident(services: Services) -> str:
    """An open Sev1."""
    findings = [rules.make_finding(rules.BY_NAME["database_down"], "Postgres does not answer", NOW)]
    store = PostgresStore(services.database.run, NOW, "dpl")
    [opened] = store.record_findings(findings, "watch")
    return opened.id


def ops(platform: Platform, *arguments: str) -> int:
    return cli.main(list(arguments), platform.environment)


def printed(capsys: Printed, platform: Platform, *arguments: str) -> tuple[int, Any]:
    capsys.readouterr()
    status = ops(platform, *arguments, "--json")
    return status, json.loads(capsys.readouterr().out)


def test_the_list_exits_1_while_one_is_open(
    platform: Platform, database: Rows, incident: str, capsys: Printed
) -> None:
    assert ops(platform, "incident", "list") == 1
    assert incident in capsys.readouterr().out
    database.execute("update incidents set state = 'resolve', resolved_at = now()")
    status, document = printed(capsys, platform, "incident", "list")
    assert (status, [each["id"] for each in document]) == (0, [incident])


def test_an_acknowledgement_is_shown_in_slack_and_done_once(
    platform: Platform, incident: str, services: Services
) -> None:
    for _ in range(2):
        assert ops(platform, "incident", "ack", "last", "--by", "Sri") == 0
    [message] = platform.slack.vendor.messages()  # type: ignore[attr-defined]
    assert "acknowledged by Sri" in json.dumps(message["fields"])
    store = PostgresStore(services.database.run, NOW, "dpl")
    kinds = [event[2] for event in store.list_events(store.find(incident))]
    assert kinds.count("acknowledged") == 1
    assert "alerted" in kinds


def test_a_second_acknowledgement_names_the_first(
    platform: Platform, incident: str, capsys: Printed
) -> None:
    assert ops(platform, "incident", "ack", "last", "--by", "Sri") == 0
    assert "Sri acknowledged INC" in capsys.readouterr().out.replace(incident, "INC")
    assert ops(platform, "incident", "ack", "last", "--by", "Budi") == 0
    assert "was already acknowledged by Sri at" in capsys.readouterr().out


def test_an_rca_file_that_is_not_json_is_wrong_usage(
    platform: Platform, incident: str, tmp_path: Path, capsys: Printed
) -> None:
    file = tmp_path / "rca.json"
    file.write_text("{cause:")
    assert ops(platform, "incident", "rca", "last", "--file", str(file)) == 2
    assert f"{file} is not JSON" in capsys.readouterr().err


def test_a_state_that_does_not_follow_names_the_next_one(
    platform: Platform, incident: str, capsys: Printed
) -> None:
    assert ops(platform, "incident", "step", "last", "review") == 1
    assert "is in state `classify`; the next state can only be: " in capsys.readouterr().err


def test_with_postgres_down_the_other_store_is_named_with_the_reason(
    platform: Platform, incident: str, capsys: Printed
) -> None:
    nowhere = {**platform.environment, "DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    assert cli.main(["incident", "list"], nowhere) == 0
    error = capsys.readouterr().err
    assert f"Postgres cannot be used ({connections.STOPPED}); using Redis." in error


@pytest.mark.parametrize("which", ["last", "id", "number"])
def test_an_incident_is_named_by_last_id_or_number(
    platform: Platform, database: Rows, incident: str, which: str
) -> None:
    row = database.execute("select number from incidents").fetchone()
    assert row is not None
    name = {"last": "last", "id": incident, "number": str(row["number"])}[which]
    assert ops(platform, "incident", "note", name, "looked", "at", "the", "pooler") == 0
    rows = database.execute("select note from incident_events where kind = 'note'").fetchall()
    assert rows == [{"note": "looked at the pooler"}]


def test_an_unknown_incident_is_an_error(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    assert ops(platform, "incident", "show", "INC-1") == 1
    assert "there is no incident INC-1" in capsys.readouterr().err


def test_a_broken_timeline_is_shown_as_one(
    platform: Platform, database: Rows, incident: str, capsys: Printed
) -> None:
    assert ops(platform, "incident", "show", "last") == 0
    assert "Timeline integrity check passed" in capsys.readouterr().out
    database.execute("alter table incident_events disable trigger chain")
    database.execute("update incident_events set actor = 'nobody' where seq = 1")
    database.execute("alter table incident_events enable trigger chain")
    assert ops(platform, "incident", "show", "last") == 1
    assert "Timeline integrity check FAILED at events 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    "action", ["only what", "what | who", "what | who | soon", "what || 2026-12-01"]
)
def test_an_action_without_owner_or_date_is_refused(
    platform: Platform, incident: str, action: str
) -> None:
    with pytest.raises(SystemExit) as refused:
        ops(platform, "incident", "rca", "last", "--cause", "x", "--action", action)
    assert refused.value.code == 2


def test_a_post_mortem_has_its_figures_in_json_too(
    platform: Platform, incident: str, capsys: Printed
) -> None:
    status, document = printed(capsys, platform, "postmortem", "last")
    assert status == 0
    assert (document["incident_id"], document["leads_lost"]) == (incident, 0)
    assert ops(platform, "postmortem", "last") == 0
    text = capsys.readouterr().out
    for part in ("## Impact", "## Root cause", "## Actions", "## Lessons", "## Timeline"):
        assert part in text


def test_the_alert_drill_goes_to_slack_and_is_written_down(
    platform: Platform, database: Rows
) -> None:
    assert ops(platform, "alert-drill", "--dry-run") == 0
    assert platform.slack.vendor.messages() == []  # type: ignore[attr-defined]
    assert ops(platform, "alert-drill") == 0
    platform.slack.switch("fail")
    assert ops(platform, "alert-drill") == 1
    rows = database.execute("select verdict from drills order by id").fetchall()
    assert [row["verdict"] for row in rows] == ["PASS", "FAIL"]


def test_metrics_are_shown_by_deployment(
    platform: Platform, services: Services, site: httpx.Client, capsys: Printed
) -> None:
    for _ in range(3):
        site.get("/api/health")

    def counted() -> bool:
        """The watch has taken the counts over."""
        platform.cron("watch")
        _, document = printed(capsys, platform, "metrics")
        rows = {(each["service"], each["deployment"]): each["n"] for each in document["services"]}
        return bool(rows.get(("health", "dpl_local"), 0) >= 3)

    eventually(counted, 15)
    assert ops(platform, "metrics") == 0
    assert "burn rate" in capsys.readouterr().out
    _, document = printed(capsys, platform, "metrics")
    [health] = [each for each in document["services"] if each["service"] == "health"]
    assert (health["error_rate"], health["p95_ms"]) == (0.0, None)


def test_a_monitor_run_by_hand_prints_findings_and_exits_1(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    assert ops(platform, "watch", "--dry-run") == 0
    database.execute(
        "insert into backups (source, taken_at, status)"
        " values ('own', now() - interval '30 hours', 'COMPLETED')"
    )
    assert ops(platform, "watch", "--dry-run") == 1
    assert database.execute("select from incidents").fetchone() is None
    status, document = printed(capsys, platform, "watch")
    assert (status, [each["rule"] for each in document]) == (1, ["backup_old"])
    assert database.execute("select area from incidents").fetchone() == {"area": "backup"}
