"""Maintenance: leads are still taken, products still shown, health still 200, and it ends."""

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.build import vercel_build
from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib import maintenance
from lib.maintenance import MaintenanceWindow, WindowCache
from lib.settings import Settings
from ops import cli, connections
from ops.incidents import maintenance_window
from ops.vendors import redeployment
from tests.conftest import LEAD, ROOT, delivered, eventually
from tests.ops.terminal import Terminal
from tests.products.catalogue_data import PRODUCTS, seeded

__all__ = ["seeded"]

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

BYPASS = "b" * 32


def ops(platform: Platform, *arguments: str) -> int:
    return cli.main(["maintenance", *arguments], platform.environment)


def on(platform: Platform, *more: str) -> None:
    words = ("--for", "30m", "--reason", "moving house", "--yes")
    assert ops(platform, "on", *words, *more) == 0


def post(at: Platform | Function, number: int = 0, **headers: str) -> httpx.Response:
    lead = {**LEAD, "message": f"Nomor {number}", "email": ""}
    return httpx.post(f"{at.url}/api/leads", json=lead, headers=headers, timeout=20)


def deliver(platform: Platform) -> Any:
    body = platform.cron("deliver").body
    assert isinstance(body, bytes)
    return json.loads(body)


def stored(database: Rows) -> int:
    row = database.execute("select count(*)::int as n from leads").fetchone()
    assert row is not None
    return int(row["n"])


# --- Leads.


@pytest.mark.parametrize("mode", maintenance.MODES)
def test_a_lead_is_queued_answered_202_and_stored_when_it_is_over(
    platform: Platform, database: Rows, valkey: redis.Redis, mode: str
) -> None:
    on(platform, "--mode", mode)
    answer = post(platform)
    assert answer.status_code == 202
    assert answer.json()["queued"] is True
    assert (stored(database), valkey.hlen("queue")) == (0, 1)
    assert deliver(platform) == {"maintenance": mode}
    assert stored(database) == 0
    assert delivered(platform) == []
    assert ops(platform, "off") == 0

    def drained() -> bool:
        """The lead is stored and its mail is sent."""
        deliver(platform)
        return stored(database) == 1 and len(delivered(platform)) == 1

    eventually(drained, 12)


def test_the_switch_works_with_the_next_lead_whatever_the_instance_knew(
    platform: Platform, database: Rows
) -> None:
    assert post(platform, 1).status_code == 200
    on(platform)
    assert post(platform, 2).status_code == 202
    ops(platform, "off")
    assert post(platform, 3).status_code == 200


def test_the_same_lead_again_is_answered_as_before(platform: Platform, database: Rows) -> None:
    on(platform)
    first = post(platform)
    eventually(lambda: post(platform).json() == first.json() | {"queued": True})


def test_with_the_queue_down_as_well_sales_get_the_lead_by_mail(
    platform: Platform, database: Rows
) -> None:
    with platform.function("api/leads.py", MAINTENANCE_MODE="on") as function:
        platform.upstash.switch("fail", status=500)
        assert post(function).status_code == 202
    assert stored(database) == 0
    assert len(delivered(platform)) == 1


def test_an_operator_with_the_token_is_served_as_always(platform: Platform, database: Rows) -> None:
    on(platform)
    with platform.function("api/leads.py", MAINTENANCE_BYPASS_TOKEN=BYPASS) as function:
        header = maintenance.BYPASS_HEADER
        assert post(function, 1, **{header: BYPASS}).status_code == 200
        assert post(function, 2, **{header: "x" * 32}).status_code == 202
    assert post(platform, 3, **{header: BYPASS}).status_code == 202, "no token is set there"


# --- Precedence.


@pytest.mark.parametrize(
    ("value", "expected"),
    [("on", 202), ("intake", 202), ("read_only", 202), ("off", 200), ("", 200), ("nonsense", 200)],
)
def test_the_handbooks_variable_switches_a_deployment(
    platform: Platform, database: Rows, value: str, expected: int
) -> None:
    with platform.function("api/leads.py", MAINTENANCE_MODE=value) as function:
        assert post(function).status_code == expected


def test_with_the_variable_off_the_switch_decides(platform: Platform, database: Rows) -> None:
    on(platform)
    with platform.function("api/leads.py", MAINTENANCE_MODE="off") as function:
        assert post(function).status_code == 202


def test_with_redis_unreadable_the_last_known_window_holds_until_its_end() -> None:
    board, now = WindowCache(), datetime.now(UTC)
    store: dict[str, Any] = {}
    switch = MaintenanceWindow("intake", now, now + timedelta(minutes=5), "why", "ops")
    maintenance_window.open_in_redis(lambda *c: store.update(text=c[2]), switch, now)
    board.update(store["text"])
    assert board.current("off", now + timedelta(minutes=4)) == switch
    assert board.current("off", now + timedelta(minutes=6)) is None


@pytest.mark.parametrize("text", [None, "", "{", "[]", '{"mode": "off"}', '{"mode": 1}', 7,
                                  '{"mode": "intake", "since": "x", "until": "y"}'])  # fmt: skip
def test_an_unreadable_switch_counts_as_off(text: object) -> None:
    assert maintenance.parse_window(text, datetime.now(UTC)) is None


def test_a_window_always_ends(platform: Platform, valkey: redis.Redis) -> None:
    on(platform)
    assert 0 < valkey.ttl(maintenance.KEY) <= 30 * 60 + 1
    now = datetime.now(UTC)
    for until in (None, now, now + timedelta(hours=25)):
        with pytest.raises(ValueError, match="within a day"):
            maintenance_window.open_in_redis(
                lambda *_: None, MaintenanceWindow("intake", now, until), now
            )


# --- Health, products, status.


def test_health_says_maintenance_stays_200_and_is_ok_again(
    platform: Platform, site: httpx.Client
) -> None:
    on(platform)

    def says(word: str) -> bool:
        """Health says the word."""
        answer = site.get("/api/health")
        assert answer.status_code == 200
        return answer.text.startswith(f'{{"status":"{word}"')

    def described() -> tuple[str, list[str]]:
        answer = site.get("/api/health", headers={"Accept": "application/health+json"}).json()
        return answer["status"], answer.get("notes", [])

    # An instance may know another test's window for some seconds more.
    eventually(lambda: described() == ("warn", ["maintenance: intake"]))
    assert says("maintenance")
    assert site.head("/api/health").status_code == 200
    ops(platform, "off")
    eventually(lambda: says("ok"))


def test_products_come_from_copies_in_intake_and_from_postgres_in_read_only(
    platform: Platform, seeded: Rows
) -> None:
    on(platform)
    with platform.function("api/products.py") as shop:
        answer = httpx.get(f"{shop.url}/api/products", timeout=20)
        assert (answer.status_code, answer.headers["X-Data-Source"]) == (200, "snapshot")
        assert len(answer.json()) == len(PRODUCTS)
    on(platform, "--mode", "read_only")
    with platform.function("api/products.py") as shop:
        answer = httpx.get(f"{shop.url}/api/products", timeout=20)
        assert answer.headers["X-Data-Source"] == "postgres"


@pytest.mark.parametrize("watched", [False, True])
def test_the_status_page_announces_it(
    platform: Platform, site: httpx.Client, watched: bool
) -> None:
    if watched:  # its document was made before
        platform.cron("watch")
    on(platform)
    document = site.get("/api/status").json()
    assert document["status"]["indicator"] == "maintenance"
    [window] = document["scheduled_maintenances"]
    assert window["mode"] == "intake"
    states = {component["id"]: component["status"] for component in document["components"]}
    assert (states["leads"], states["health"]) == ("under_maintenance", "operational")
    assert "moving house" not in json.dumps(document), "an operator's words are for operators"


# --- The command.


def test_the_command_says_what_it_did_and_dry_runs_do_nothing(
    platform: Platform, valkey: redis.Redis, capsys: Printed
) -> None:
    assert ops(platform, "on", "--for", "1h", "--reason", "x", "--dry-run") == 0
    assert "would be on" in capsys.readouterr().out
    assert valkey.exists(maintenance.KEY) == 0
    assert ops(platform, "status") == 0
    on(platform)
    capsys.readouterr()
    assert ops(platform, "status", "--json") == 1
    assert json.loads(capsys.readouterr().out)["mode"] == "intake"
    assert ops(platform, "off", "--dry-run") == 0
    assert valkey.exists(maintenance.KEY) == 1
    assert ops(platform, "off") == 0
    assert ops(platform, "off") == 0, "twice is once"


@pytest.mark.parametrize("length", ["30", "0m", "25h", "soon"])
def test_a_window_without_an_end_within_a_day_is_refused(
    platform: Platform, database: Rows, length: str
) -> None:
    with pytest.raises(SystemExit):
        ops(platform, "on", "--for", length, "--reason", "x")


def test_an_instance_that_has_just_started_writes_no_lead_to_postgres(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    on(platform)
    with platform.function("api/leads.py") as function:
        platform.upstash.forget()
        assert post(function).status_code == 202
        bodies = [str(record["body"]) for record in platform.upstash.received()]
        assert not [body for body in bodies if body.startswith("['GET', 'maintenance'")]
    assert (stored(database), valkey.hlen("queue")) == (0, 1)


def test_a_window_not_written_to_postgres_holds_from_the_second_lead_on(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    on(platform)
    database.execute("delete from maintenance_window")
    with platform.function("api/leads.py") as function:
        post(function, 1)
        assert function.wait_idle(10)
        assert post(function, 2).status_code == 202


def test_a_window_in_postgres_ends_by_itself_and_with_the_command(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    on(platform)
    database.execute("update maintenance_window set until = now() - interval '1 second'")
    with platform.function("api/leads.py") as function:
        assert post(function).status_code == 200
    assert ops(platform, "off") == 0
    assert database.execute("select 1 from maintenance_window").fetchall() == []


def test_the_command_reports_a_switch_not_written_to_postgres(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    nowhere = {**platform.environment, "DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    words = ["on", "--for", "30m", "--reason", "moving house", "--yes"]
    assert cli.main(["maintenance", *words], nowhere) == 0
    error = capsys.readouterr().err
    assert f"Postgres cannot be used ({connections.STOPPED}): its own switch is unchanged" in error
    assert cli.main(["maintenance", "off"], nowhere) == 1


def test_with_redis_down_the_end_opens_postgres_and_says_what_is_left(
    platform: Platform, database: Rows, valkey: redis.Redis, capsys: Printed
) -> None:
    on(platform)
    capsys.readouterr()
    nowhere = {**platform.environment, "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
    assert cli.main(["maintenance", "off"], nowhere) == 1
    output = capsys.readouterr()
    assert database.execute("select from maintenance_window").fetchall() == []
    assert output.out == "Postgres takes leads again\n"
    assert f"Redis cannot be used: {connections.STOPPED}" in output.err
    assert "Run `ops maintenance off` again when Redis answers" in output.err
    assert valkey.exists(maintenance.KEY) == 1
    assert ops(platform, "off") == 0
    assert valkey.exists(maintenance.KEY) == 0


def test_a_start_is_asked_for_and_refused_without_a_terminal(
    platform: Platform, valkey: redis.Redis, capsys: Printed
) -> None:
    assert ops(platform, "on", "--for", "30m", "--reason", "moving house") == 2
    error = capsys.readouterr().err
    assert "Start maintenance (intake) until" in error
    assert "add --yes" in error
    assert valkey.exists(maintenance.KEY) == 0


def test_a_dry_run_is_marked_in_json(
    platform: Platform, valkey: redis.Redis, capsys: Printed
) -> None:
    words = ("on", "--for", "1h", "--reason", "x", "--json")
    for more, is_dry in (("--dry-run", True), ("--yes", False)):
        assert ops(platform, *words, more) == 0
        assert json.loads(capsys.readouterr().out)["dry_run"] is is_dry
    assert ops(platform, "off", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dry_run"] is True


# --- What production does, whoever switched it.


@pytest.fixture
def deployed(platform: Platform, valkey: redis.Redis) -> Iterator[None]:
    """Whatever was deployed, the first deployment serves again afterwards."""
    yield
    platform.vercel.forget()
    eventually(lambda: redeployment.serving_deployment(platform.url) == "dpl_local", 30)


def status(platform: Platform, capsys: Printed) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = ops(platform, "status", "--json")
    state: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, state


def test_deploying_with_the_variable_is_a_command_and_status_says_what_production_does(
    platform: Platform, deployed: None, capsys: Printed
) -> None:
    assert ops(platform, "deploy", "on", "--dry-run") == 0
    assert status(platform, capsys)[1]["mode"] == "off"
    assert ops(platform, "deploy", "on", "--yes") == 0
    output = capsys.readouterr().out
    for words in ("MAINTENANCE_MODE=intake is set", "is built", "serves"):
        assert words in output
    code, state = status(platform, capsys)
    assert (code, state["mode"], state["site"], state["switch"]) == (1, "intake", "intake", "off")
    assert state["deployment"] != "dpl_local"
    assert state["until"] is None
    assert post(platform).status_code == 202
    assert ops(platform, "status") == 1
    assert "until the next deployment" in capsys.readouterr().out
    # The switch does not end what a deployment was born with, and says so.
    assert ops(platform, "off") == 1
    assert "Production is still in maintenance" in capsys.readouterr().err
    assert ops(platform, "deploy", "off", "--yes") == 0
    code, state = status(platform, capsys)
    assert (code, state["mode"], state["next_deployment"]) == (0, "off", "off")
    assert post(platform, 2).status_code == 200


def test_the_command_asks_before_it_deploys(
    platform: Platform, deployed: None, monkeypatch: pytest.MonkeyPatch, capsys: Printed
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("no\n"))
    assert ops(platform, "deploy", "on") == 1
    assert "nothing was changed" in capsys.readouterr().err
    assert redeployment.serving_deployment(platform.url) == "dpl_local"


@pytest.mark.parametrize("lie", ["build_fails", "env_is_not_kept"])
def test_a_deployment_that_did_not_come_about_is_no_success(
    platform: Platform, deployed: None, lie: str, capsys: Printed
) -> None:
    httpx.post(f"{platform.vercel.url}/_project", json={"lie": lie})
    assert ops(platform, "deploy", "on", "--yes", "--timeout", "20") == 1
    assert capsys.readouterr().err


def test_status_says_until_when_and_who_of_the_switch(
    platform: Platform, valkey: redis.Redis, capsys: Printed
) -> None:
    on(platform)
    code, state = status(platform, capsys)
    assert (code, state["mode"], state["site"]) == (1, "intake", "off")
    assert state["reason"] == "moving house"
    assert state["until"] is not None


@pytest.mark.parametrize("gone", ["SITE_URL", "UPSTASH_REDIS_REST_URL"])
def test_a_store_that_cannot_be_read_is_unknown_and_not_off(
    platform: Platform, valkey: redis.Redis, capsys: Printed, gone: str
) -> None:
    environment = {**platform.environment, gone: "http://127.0.0.1:1"}
    assert cli.main(["maintenance", "status"], environment) == 1
    assert capsys.readouterr().out.startswith("unknown")


# --- A slip in the variable.


def test_a_misspelt_variable_is_reported_by_health_monitor_and_command(
    platform: Platform, valkey: redis.Redis, capsys: Printed
) -> None:
    wrong = {"MAINTENANCE_MODE": "mantenance"}
    with platform.function("api/health.py", **wrong) as function:
        accept = {"Accept": "application/health+json"}
        health = httpx.get(f"{function.url}/api/health", headers=accept).json()
        assert health["status"] == "warn"
        assert "misspelt" in health["notes"][0]
        environment = {**platform.environment, "SITE_URL": function.url}
        assert cli.main(["maintenance", "status"], environment) == 1
        assert "misspelt" in capsys.readouterr().out
    with platform.function("api/cron/watch.py", **wrong) as function:
        token = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
        report = httpx.get(f"{function.url}/api/cron/watch", headers=token, timeout=60).json()
        assert report["findings"] == ["maintenance_misspelt"]
    [alert] = platform.slack.vendor.messages()  # type: ignore[attr-defined]
    assert alert["fields"]["text"] == "SEV1 Production is not in maintenance"
    assert "MAINTENANCE_MODE is misspelt" in json.dumps(alert["fields"])


WORDS = ("", "off", "OFF", "false", "0", "no", "on", "true", "1", "yes", "intake", "read_only",
         "read-only", " on ", "mantenance", "offf", "enabled", "maintenance")  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_vercels_build_takes_the_words_that_the_functions_take(word: str) -> None:
    environment = {"PATH": os.environ["PATH"], "MAINTENANCE_MODE": word}
    answer = subprocess.run(["sh", "ops/build_check.sh"], cwd=ROOT, env=environment, check=False)
    assert (answer.returncode == 0) == (Settings(environment).maintenance_mode_error is None)
    configured = json.loads((ROOT / "vercel.json").read_text())
    assert configured["buildCommand"] == "sh ops/build_check.sh"


def test_our_own_build_refuses_a_misspelt_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAINTENANCE_MODE", "mantenance")
    with pytest.raises(vercel_build.BuildFailed, match="misspelt"):
        vercel_build.build(ROOT, tmp_path)
