"""`ops rollback`: which deployments may serve again; it ends when the site itself says so."""

import contextlib
import io
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform import migrations
from dev.platform.local_platform import Platform
from dev.vendors.vercel_project import Deployment, Project
from lib.incidents import alerting, rules
from lib.monitoring import deployments
from lib.monitoring.deployments import Build
from lib.services import Services
from ops import cli
from ops.incidents import rollback_candidates
from ops.settings import OperatorSettings
from ops.vendors import vercel
from tests.conftest import ROOT, eventually
from tests.test_sql import STATEMENTS, numbered

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

NOW = datetime(2026, 11, 24, 7, 0, tzinfo=UTC)
NO_DATABASE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa"}


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    with contextlib.closing(Services(OperatorSettings(platform.environment))) as services:
        yield services


@pytest.fixture
def project(platform: Platform, database: Rows) -> Iterator[Project]:
    yield platform.vercel_api.project
    platform.vercel_api.forget()


def push(platform: Platform, project: Project, commit: str) -> Deployment:
    """A deployment that serves."""
    deployment = project.push(commit)
    eventually(lambda: project.current is deployment)
    return deployment


@pytest.fixture
def history(platform: Platform, project: Project, services: Services) -> list[Deployment]:
    """Three deployments that served and recorded their builds; the last one serves."""
    commits = ("aaaa1111", "bbbb2222", "cccc3333")
    history = [push(platform, project, commit) for commit in commits]
    for deployment in history:
        build = Build(deployment.id, deployment.commit)
        deployments.record_build(services.database.run, build, NOW)
    return history


def answering(platform: Platform) -> str:
    headers = {"Accept": "application/health+json"}
    answer = httpx.get(f"{platform.url}/api/health", headers=headers, timeout=20)
    return str(answer.json()["serviceId"])


def run(platform: Platform, *words: str, **environ: str) -> int:
    return cli.main(["rollback", *words], {**platform.environment, **environ})


def verdicts(platform: Platform, capsys: Printed) -> dict[str, list[str]]:
    capsys.readouterr()
    run(platform, "--dry-run", "--json")
    output = json.loads(capsys.readouterr().out)
    return {row["deployment"]: row["unsafe_because"] for row in output["candidates"]}


# ------------------------------------------------------------------ it rolls back


def test_production_moves_to_the_deployment_before_and_the_output_says_how_to_undo_it(
    platform: Platform, history: list[Deployment], capsys: Printed
) -> None:
    assert answering(platform) == history[2].id
    assert run(platform, "--yes", "--reason", "leads answer 500") == 0
    assert answering(platform) == history[1].id
    output = capsys.readouterr().out
    assert f"vercel rollback {history[1].id}" in output
    assert "it took" in output
    assert "assignment of domains off" in output
    assert (
        f"vercel promote <the fixed deployment>     (to go back to where you were: {history[2].id}"
        in output
    )


def test_a_push_after_a_rollback_is_not_served_as_it_says(
    platform: Platform, project: Project, history: list[Deployment]
) -> None:
    assert run(platform, "--yes") == 0
    deployment = project.push("dddd4444")
    eventually(lambda: deployment.state == "READY")
    assert answering(platform) == history[1].id
    with contextlib.closing(vercel.Vercel(OperatorSettings(platform.environment))) as client:
        client.promote(deployment.id)
    eventually(lambda: answering(platform) == deployment.id)


def test_it_asks_and_without_a_yes_changes_nothing(
    platform: Platform, history: list[Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("no\n"))
    assert run(platform) == 2
    assert answering(platform) == history[2].id


def test_a_dry_run_names_the_choice_and_changes_nothing(
    platform: Platform, history: list[Deployment], capsys: Printed
) -> None:
    assert run(platform, "--dry-run") == 0
    assert f">  {history[1].id}" in capsys.readouterr().out
    assert answering(platform) == history[2].id


def test_it_is_noted_on_the_open_incident_with_its_time(
    platform: Platform, services: Services, history: list[Deployment], database: Rows
) -> None:
    findings = [rules.make_finding(rules.BY_NAME["leads_failing"], "leads answer 500", NOW)]
    alerting.record_findings(services, findings, NOW, "test")
    assert run(platform, "--yes", "--reason", "leads answer 500") == 0
    rows = database.execute("select kind, facts, note from incident_events order by seq").fetchall()
    requested, done = rows[-2:]
    assert (requested["kind"], requested["note"]) == ("rollback_asked", "leads answer 500")
    assert done["kind"] == "rolled_back"
    assert done["facts"]["to"] == history[1].id
    assert done["facts"]["took_s"] > 0
    assert database.execute("select * from broken_timelines()").fetchall() == []


# ------------------------------------------------------------------ what makes one unsafe


def test_a_build_in_maintenance_mode_or_with_a_failing_canary_is_unsafe(
    platform: Platform,
    services: Services,
    history: list[Deployment],
    database: Rows,
    capsys: Printed,
) -> None:
    first, second, _ = history
    database.execute(
        "update deployments set maintenance_mode = 'intake' where deployment = %s", [second.id]
    )
    deployments.record_canary(services.database.run, first.id, False, NOW)
    faults = verdicts(platform, capsys)
    assert faults[second.id] == ["built in maintenance mode (intake)"]
    assert faults[first.id] == ["its last canary failed"]
    deployments.record_canary(services.database.run, first.id, True, NOW + timedelta(minutes=1))
    assert verdicts(platform, capsys)[first.id] == []


def test_a_late_canary_result_does_not_replace_a_newer_one(
    services: Services, history: list[Deployment], database: Rows
) -> None:
    for passed, at in ((False, NOW), (True, NOW - timedelta(minutes=5))):
        deployments.record_canary(services.database.run, history[0].id, passed, at)
    row = database.execute(
        "select canary_passed from deployments where deployment = %s", [history[0].id]
    ).fetchone()
    assert row == {"canary_passed": False}


def test_a_deployment_without_a_recorded_build_is_unsafe(
    platform: Platform, history: list[Deployment], capsys: Printed
) -> None:
    (fault,) = verdicts(platform, capsys)["dpl_local"]
    assert "not recorded" in fault


def rotation(database: Rows, deployed_at: datetime) -> None:
    database.execute(
        "insert into key_rotations (name, reason, step, started_at, old_fingerprint,"
        " new_fingerprint, deployed_at, revoked_at, finished_at)"
        " values ('RESEND_API_KEY', 'scheduled', 'finished', %(at)s, 'aaaaaaaaaaaa',"
        " 'bbbbbbbbbbbb', %(at)s, %(at)s, %(at)s)",
        {"at": deployed_at},
    )


def test_a_deployment_that_used_a_retired_secret_is_unsafe(
    platform: Platform, history: list[Deployment], database: Rows, capsys: Printed
) -> None:
    rotation(database, datetime.now(UTC) - timedelta(days=365))
    for deployment, fingerprint in zip(history, ("aaaaaaaaaaaa", "bbbbbbbbbbbb"), strict=False):
        database.execute(
            "insert into key_sightings values ('RESEND_API_KEY', %s, %s, now(), now())",
            [fingerprint, deployment.id],
        )
    faults = verdicts(platform, capsys)
    assert faults[history[0].id][0].startswith("older than the rotation of RESEND_API_KEY")
    assert faults[history[1].id] == []


def test_a_deployment_without_recorded_secrets_is_judged_by_its_age(
    platform: Platform, history: list[Deployment], database: Rows, capsys: Printed
) -> None:
    rotation(database, datetime.now(UTC) + timedelta(hours=1))
    faults = verdicts(platform, capsys)
    assert all("RESEND_API_KEY" in faults[deployment.id][0] for deployment in history[:2])


def test_a_schema_that_lost_what_a_build_reads_is_too_new_for_it(
    platform: Platform, history: list[Deployment], database: Rows, capsys: Printed
) -> None:
    for version, text in (
        ("20991231000001", "alter table leads add column colour text;"),
        ("20991231000002", "-- as agreed\nalter table leads drop column city;"),
    ):
        database.execute(
            "insert into supabase_migrations.schema_migrations (version, statements)"
            " values (%s, %s)", [version, [text]],
        )  # fmt: skip
    try:
        faults = verdicts(platform, capsys)
    finally:
        database.execute(
            "delete from supabase_migrations.schema_migrations where version like '2099%%'"
        )
    (fault,) = faults[history[0].id]
    assert fault.startswith("schema too old: migration 20991231000002")


def test_a_build_that_needs_more_than_the_schema_has_is_unsafe() -> None:
    applied = {"20260101000000": "create table a ()"}
    assert rollback_candidates.schema_faults("20260101000000", "20260101000000", applied) == []
    assert (
        "needs schema"
        in rollback_candidates.schema_faults("20260201000000", "20260201000000", applied)[0]
    )


def test_an_unsafe_one_is_refused_unless_forced_with_a_reason(
    platform: Platform, history: list[Deployment], database: Rows, capsys: Printed
) -> None:
    database.execute("update deployments set maintenance_mode = 'on'")
    assert run(platform, "--yes") == 1
    assert "no earlier deployment is safe" in capsys.readouterr().err
    assert run(platform, history[0].id, "--yes") == 1
    error = capsys.readouterr().err
    assert "is unsafe (built in maintenance mode" in error
    assert "add --force REASON" in error
    assert answering(platform) == history[2].id
    assert run(platform, history[0].id, "--yes", "--force", "better than nothing") == 0
    assert answering(platform) == history[0].id


def test_with_the_database_down_it_works_when_forced(
    platform: Platform, history: list[Deployment], capsys: Printed
) -> None:
    assert run(platform, "--yes", **NO_DATABASE) == 1
    assert "no earlier deployment is safe" in capsys.readouterr().err
    words = (history[1].id, "--yes", "--force", "the bad build cut the database off")
    assert run(platform, *words, **NO_DATABASE) == 0
    assert answering(platform) == history[1].id


# ------------------------------------------------------------------ Vercel refuses, stalls, lies


def test_a_rollback_that_never_takes_effect_fails(
    platform: Platform, project: Project, history: list[Deployment], capsys: Printed
) -> None:
    project.lie = "rollback_never_arrives"
    assert run(platform, "--yes", "--timeout", "2") == 1
    output = capsys.readouterr().err
    assert "NOT ROLLED BACK" in output
    assert f"{history[2].id} still answers" in output


def test_a_rollback_that_fails_at_vercel_fails_at_once(
    platform: Platform, project: Project, history: list[Deployment], capsys: Printed
) -> None:
    project.lie = "rollback_fails"
    started = time.monotonic()
    assert run(platform, "--yes", "--timeout", "60") == 1
    assert time.monotonic() - started < 20
    assert "Vercel says that the rollback failed" in capsys.readouterr().err


def test_hobby_may_go_back_by_one_only_and_the_refusal_says_so(
    platform: Platform, project: Project, history: list[Deployment], capsys: Printed
) -> None:
    project.plan = "hobby"
    assert run(platform, history[0].id, "--yes") == 1
    assert "Hobby rolls back to the previous deployment alone" in capsys.readouterr().err
    assert run(platform, "--yes") == 0


def test_a_second_rollback_at_the_same_time_is_refused_with_what_to_look_at(
    platform: Platform, project: Project, history: list[Deployment], capsys: Printed
) -> None:
    project.alias_s = 30.0
    project.rollback(history[0].id)
    assert run(platform, "--yes") == 1
    assert "another rollback or promotion is under way" in capsys.readouterr().err


def test_a_wrong_token_is_named(
    platform: Platform, history: list[Deployment], capsys: Printed
) -> None:
    assert run(platform, "--yes", VERCEL_API_TOKEN="wrong") == 1
    assert "VERCEL_API_TOKEN" in capsys.readouterr().err
    assert run(platform, "--yes", VERCEL_API_TOKEN="") == 2


def test_a_lost_response_is_looked_up_and_not_requested_again(
    platform: Platform, history: list[Deployment]
) -> None:
    platform.vercel.switch("lose_reply", match="/rollback/")
    assert run(platform, "--yes") == 0
    platform.vercel.ok()
    requests = [r for r in platform.vercel.received() if "/rollback/" in r["path"]]
    assert len(requests) == 1
    assert answering(platform) == history[1].id


def test_an_outage_of_vercels_api_is_reported_and_reads_are_retried(
    platform: Platform, history: list[Deployment], capsys: Printed
) -> None:
    platform.vercel.switch("fail", times=2)
    assert run(platform, "--dry-run") == 0
    platform.vercel.switch("fail", match="/rollback/")
    assert run(platform, "--yes") == 1
    assert "Vercel refused with 500" in capsys.readouterr().err


def test_vercels_variables_are_written_and_never_read(platform: Platform, project: Project) -> None:
    with contextlib.closing(vercel.Vercel(OperatorSettings(platform.environment))) as client:
        client.set_variable("CRON_SECRET", "a new value of sixteen and more")
        client.set_variable("BRAND_NEW", "another value")
    assert project.variables["CRON_SECRET"].value == "a new value of sixteen and more"
    assert project.variables["BRAND_NEW"].type == "sensitive"
    listed = httpx.get(
        f"{platform.vercel.url}/v10/projects/prj_local/env",
        headers={"Authorization": f"Bearer {platform.environment['VERCEL_API_TOKEN']}"},
    ).json()["envs"]
    assert {variable["value"] for variable in listed} == {""}
    assert "another value" not in json.dumps(platform.vercel.received())


# ------------------------------------------------------------------ the schema range of this build


def files() -> list[str]:
    return sorted(file.name[:14] for file in (ROOT / "supabase" / "migrations").glob("*.sql"))


def test_this_build_knows_the_newest_migration() -> None:
    assert files()[-1] == deployments.SCHEMA_MAX, "lib/monitoring/deployments.py: raise SCHEMA_MAX"


def migrated(platform: Platform, tmp_path: Any, newest: str) -> str:
    """A database of its own, with the migrations up to `newest`."""
    name = f"until_{newest}"
    migrations.ensure_database(platform.admin_database_url, name)
    dsn = platform.postgres.dsn(name)
    chosen = tmp_path / name
    chosen.mkdir()
    for file in (ROOT / "supabase" / "migrations").glob("*.sql"):
        if file.name[:14] <= newest:
            (chosen / file.name).write_bytes(file.read_bytes())
    migrations.apply(dsn, chosen)
    return dsn


def unfit(dsn: str) -> list[str]:
    """Statements of the bundle that the schema does not carry."""
    unfit_statements = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        for where, text in STATEMENTS.items():
            try:
                connection.execute(f"prepare checked as {numbered(text)}".encode())
                connection.execute("deallocate checked")
            except psycopg.Error:
                unfit_statements.append(where)
    return unfit_statements


def test_every_statement_fits_the_oldest_schema_this_build_says_it_works_with(
    platform: Platform, tmp_path: Any
) -> None:
    assert deployments.SCHEMA_MIN in files()
    faults = unfit(migrated(platform, tmp_path, deployments.SCHEMA_MIN))
    assert not faults, f"lib/monitoring/deployments.py: raise SCHEMA_MIN; {faults}"


def test_schema_min_is_not_newer_than_needed(platform: Platform, tmp_path: Any) -> None:
    before = files()[files().index(deployments.SCHEMA_MIN) - 1]
    assert unfit(migrated(platform, tmp_path, before)), (
        "lib/monitoring/deployments.py: lower SCHEMA_MIN"
    )
