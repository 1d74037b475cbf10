"""An incident's life: opened once, joined, over, reviewed, closed; and a timeline nobody edits."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.build import days_off
from dev.platform.local_platform import Platform
from lib.incidents import model, redis_store, rules
from lib.incidents.model import Event, Finding, IncidentError
from lib.incidents.postgres_store import PostgresStore
from lib.incidents.redis_store import RedisStore
from lib.services import Services
from lib.settings import Settings
from ops.incidents import lifecycle, notes
from tests.conftest import eventually

type Rows = psycopg.Connection[DictRow]

NOW = datetime(2026, 11, 24, 3, 5, tzinfo=UTC)  # a Tuesday, 10:05 in Jakarta
MINUTE = timedelta(minutes=1)


def finding(name: str, description: str = "1 of 1", since: datetime = NOW) -> Finding:
    return rules.make_finding(rules.BY_NAME[name], description, since)


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    services = Services(Settings(platform.environment))
    services.cache.ping()
    yield services
    services.close()


def postgres(services: Services, now: datetime = NOW) -> PostgresStore:
    return PostgresStore(services.database.run, now, "dpl")


def record(services: Services, *names: str, now: datetime = NOW) -> list[model.Incident]:
    return postgres(services, now).record_findings([finding(name) for name in names], "watch")


def events(database: Rows, incident_id: str) -> list[str]:
    rows = database.execute(
        "select kind from incident_events where incident_id = %s order by seq", [incident_id]
    )
    return [row["kind"] for row in rows]


RCA: dict[str, Any] = {
    "cause": "the disk was full",
    "impact": "12 leads late",
    "actions": [{"what": "watch the disk", "owner": "ops", "due": "2026-12-01"}],
}


# --- Beginning.


def test_findings_of_one_area_are_one_incident_of_the_worst_severity(
    services: Services, database: Rows
) -> None:
    [incident] = record(services, "errors_over_5_percent", "database_down", "canary_failing")
    assert (incident.severity, incident.state) == ("sev1", "classify")
    assert incident.title == "Postgres is down"
    assert len(incident.rules) == 3
    assert events(database, incident.id) == ["detected", "classified"]


def test_the_same_finding_again_changes_nothing(services: Services, database: Rows) -> None:
    [first] = record(services, "database_down")
    for minute in range(1, 4):
        [again] = record(services, "database_down", now=NOW + minute * MINUTE)
        assert (again.id, again.version) == (first.id, 1)
    assert events(database, first.id) == ["detected", "classified"]


def test_a_new_finding_in_its_area_joins_it_and_raises_its_version(
    services: Services, database: Rows
) -> None:
    [first] = record(services, "errors_over_5_percent")
    assert first.severity == "sev2"
    [worse] = record(services, "lead_not_kept", now=NOW + MINUTE)
    assert (worse.id, worse.severity, worse.version) == (first.id, "sev1", 2)
    assert worse.notify_at == NOW + MINUTE, "no longer a matter for the morning"


def test_another_area_is_another_incident(services: Services, database: Rows) -> None:
    incidents = record(services, "database_down", "backup_old")
    assert {incident.area for incident in incidents} == {"service", "backup"}


def test_many_who_record_it_at_once_open_one_incident(services: Services, database: Rows) -> None:
    threads = [threading.Thread(target=record, args=(services, "lead_not_kept")) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = database.execute("select id from incidents").fetchall()
    assert len(rows) == 1
    assert events(database, rows[0]["id"])[:2] == ["detected", "classified"]


# --- Its end.


def test_two_clean_checks_resolve_it(services: Services, database: Rows) -> None:
    [incident] = record(services, "database_down")
    assert postgres(services, NOW + MINUTE).record_clean_check(set()) == []
    [over] = postgres(services, NOW + 2 * MINUTE).record_clean_check(set())
    assert (over.id, over.state, over.resolved_at) == (incident.id, "resolve", NOW + 2 * MINUTE)


def test_a_finding_in_between_resets_the_count_of_clean_checks(
    services: Services, database: Rows
) -> None:
    record(services, "database_down")
    postgres(services, NOW + MINUTE).record_clean_check(set())
    record(services, "database_down", now=NOW + 2 * MINUTE)
    assert postgres(services, NOW + 3 * MINUTE).record_clean_check(set()) == []


def test_an_event_stays_open_for_ten_quiet_minutes(services: Services, database: Rows) -> None:
    record(services, "lead_not_kept")
    for minute in range(1, 10):
        assert postgres(services, NOW + minute * MINUTE).record_clean_check(set()) == []
    assert postgres(services, NOW + 11 * MINUTE).record_clean_check(set())


@pytest.mark.parametrize("minutes", [3, 20])
def test_a_resolved_incident_stays_resolved_and_the_next_one_is_another(
    services: Services, database: Rows, minutes: int
) -> None:
    [incident] = record(services, "database_down")
    for minute in (1, 2):
        postgres(services, NOW + minute * MINUTE).record_clean_check(set())
    later = NOW + minutes * MINUTE
    findings = [finding("database_down", since=later)]
    [again] = postgres(services, later).record_findings(findings, "watch")
    assert again.id != incident.id
    assert (again.started_at, again.notified_version) == (NOW + minutes * MINUTE, 0)
    assert postgres(services).find(incident.id).state == "resolve"


def test_two_outages_of_one_minute_are_two_incidents(services: Services, database: Rows) -> None:
    ids = set()
    for second in range(0, 30, 10):
        now = NOW + timedelta(seconds=second)
        [incident] = record(services, "database_down", now=now)
        ids.add(incident.id)
        for _ in range(2):
            postgres(services, now).record_clean_check(set())
    assert len(ids) == 3


def test_a_milder_finding_that_began_before_does_not_move_its_start(
    services: Services, database: Rows
) -> None:
    [incident] = record(services, "database_down")
    early = finding("errors_over_5_percent", since=NOW - 16 * MINUTE)
    [after] = postgres(services, NOW + MINUTE).record_findings([early], "watch")
    assert (after.id, after.started_at) == (incident.id, NOW)


def test_a_higher_severity_moves_the_start_to_when_it_got_worse(
    services: Services, database: Rows
) -> None:
    early = finding("errors_over_5_percent", since=NOW - 16 * MINUTE)
    postgres(services, NOW - MINUTE).record_findings([early], "watch")
    [after] = postgres(services).record_findings([finding("database_down")], "watch")
    assert (after.severity, after.started_at) == ("sev1", NOW)


def test_the_same_fault_later_is_another_incident(services: Services, database: Rows) -> None:
    [incident] = record(services, "database_down")
    for minute in (1, 2):
        postgres(services, NOW + minute * MINUTE).record_clean_check(set())
    [other] = record(services, "database_down", now=NOW + 40 * MINUTE)
    assert other.id != incident.id


# --- People.


def resolved(services: Services, name: str = "database_down") -> str:
    [incident] = record(services, name)
    for minute in (1, 2):
        postgres(services, NOW + minute * MINUTE).record_clean_check(set())
    return incident.id


@pytest.mark.parametrize("state", ["resolve", "review", "closed"])
def test_a_step_that_does_not_follow_is_refused(
    services: Services, database: Rows, state: str
) -> None:
    record(services, "database_down")
    run = services.database.run
    lifecycle.transition(run, "last", "contain", "ops", NOW, None)
    if state == "resolve":
        assert lifecycle.transition(run, "last", state, "ops", NOW, None).state == state
    else:
        with pytest.raises(IncidentError, match="the next state can only be: resolve"):
            lifecycle.transition(run, "last", state, "ops", NOW, None)


@pytest.mark.parametrize(
    "incomplete",
    [
        {},
        {**RCA, "cause": " "},
        {**RCA, "impact": ""},
        {**RCA, "actions": []},
        {**RCA, "actions": [{"what": "x", "owner": "", "due": "2026-12-01"}]},
        {**RCA, "actions": [{"what": "x", "owner": "ops", "due": "soon"}]},
    ],
)
def test_a_sev1_without_a_whole_rca_is_not_closed(
    services: Services, database: Rows, incomplete: dict[str, Any]
) -> None:
    run, incident_id = services.database.run, resolved(services)
    lifecycle.transition(run, incident_id, "review", "ops", NOW, None)
    assert lifecycle.set_rca(run, incident_id, incomplete, "ops", NOW) is False
    with pytest.raises(IncidentError, match="RCA"):
        lifecycle.transition(run, incident_id, "closed", "ops", NOW, None)
    with pytest.raises(psycopg.errors.CheckViolation):  # nor by hand
        database.execute("update incidents set state = 'closed', closed_at = now()")
    assert lifecycle.set_rca(run, incident_id, RCA, "ops", NOW) is True
    assert lifecycle.transition(run, incident_id, "closed", "ops", NOW, None).state == "closed"


def test_a_sev2_closes_itself_a_day_after_it_is_resolved(
    services: Services, database: Rows
) -> None:
    incident_id, _run = resolved(services, "redis_down"), services.database.run
    day = timedelta(hours=24)
    postgres(services, NOW + day - MINUTE).close_old_sev2(day)
    assert postgres(services).find(incident_id).state == "resolve"
    postgres(services, NOW + day + 5 * MINUTE).close_old_sev2(day)
    assert postgres(services).find(incident_id).state == "closed"


def test_what_was_done_is_entered_on_every_open_incident(
    services: Services, database: Rows
) -> None:
    [first, second] = record(services, "database_down", "backup_old")
    run = services.database.run
    ids = notes.add_event_to_open(run, "maintenance", "ops", NOW, {"switched": "on"})
    assert {*ids} == {first.id, second.id}
    assert events(database, first.id)[-1] == "maintenance"


# --- The timeline.


def broken(database: Rows) -> list[tuple[str, int]]:
    rows = database.execute("select * from broken_timelines()").fetchall()
    return [(row["incident_id"], row["seq"]) for row in rows]


def test_the_timeline_cannot_be_edited_or_shortened_by_the_functions(
    services: Services, platform: Platform, database: Rows
) -> None:
    record(services, "database_down")
    with psycopg.connect(platform.database_url, autocommit=True) as connection:
        for statement in (
            "update incident_events set actor = 'nobody'",
            "update incident_events set at = now()",
            "update incident_events set note = 'other'",
            "delete from incident_events",
            "delete from incidents",
        ):
            with pytest.raises(psycopg.Error):
                connection.execute(statement.encode())
    assert broken(database) == []


def test_a_change_past_the_trigger_breaks_the_seal_of_its_event(
    services: Services, database: Rows
) -> None:
    [incident] = record(services, "database_down")
    postgres(services).add_note("last", "ops", "looked at the pooler")
    assert broken(database) == []
    database.execute("alter table incident_events disable trigger chain")
    try:
        database.execute("update incident_events set facts = '{}' where seq = 2")
        assert broken(database) == [(incident.id, 2)]
        database.execute("delete from incident_events where seq = 2")
        assert broken(database) == [(incident.id, 3)]
    finally:
        database.execute("alter table incident_events enable trigger chain")


def test_a_notes_text_may_be_erased_and_the_chain_still_holds(
    services: Services, database: Rows
) -> None:
    record(services, "database_down")
    postgres(services).add_note("last", "ops", "called Ibu Andi")
    database.execute("update incident_events set note = null where note is not null")
    assert broken(database) == []


# --- When somebody is notified.


@pytest.mark.parametrize(
    ("now", "morning"),
    [
        ("2026-11-24 03:05", "2026-11-25 02:00"),  # Tuesday morning: Wednesday at nine
        ("2026-11-24 01:00", "2026-11-24 02:00"),  # Tuesday at eight: in an hour
        ("2026-11-27 12:00", "2026-11-30 02:00"),  # Friday evening: Monday
        ("2026-11-28 18:00", "2026-11-30 02:00"),  # Sunday, in Jakarta
        ("2026-12-24 18:00", "2026-12-28 02:00"),  # Friday is Christmas: Monday
        ("2026-03-17 12:00", "2026-03-25 02:00"),  # Nyepi, Lebaran and their joint leave
    ],
)
def test_sev2_waits_for_the_next_working_morning_in_jakarta(now: str, morning: str) -> None:
    moment = datetime.fromisoformat(f"{now}+00:00")
    expected = datetime.fromisoformat(f"{morning}+00:00")
    assert model.notify_time("sev2", moment) == expected
    assert model.notify_time("sev1", moment) == moment


def test_the_days_off_are_those_of_the_library() -> None:
    assert days_off.FILE.read_text(encoding="utf-8") == days_off.render(), (
        "run `python -m dev.build.days_off`"
    )


def test_a_year_whose_joint_leave_is_not_decreed_is_named() -> None:
    assert model.calendar_gap(date(2027, 12, 31)) == ""
    assert "joint leave of 2028 is not known" in model.calendar_gap(date(2028, 1, 3))
    assert "public holidays of 2040 are not known" in model.calendar_gap(date(2040, 1, 3))


# --- While Postgres is down.


def redis(services: Services, now: datetime = NOW) -> RedisStore:
    return RedisStore(services.cache.execute, now, "dpl")


def test_redis_opens_and_merges_as_postgres_does(services: Services) -> None:
    redis(services).record_findings([finding("database_down")], "watch")
    redis(services, NOW + MINUTE).record_findings([finding("lead_not_kept")], "request")
    [document] = redis(services).list_documents()
    assert (document.incident.detected_at, document.incident.version) == (NOW, 2)
    assert len(document.pending_events) == 2
    assert model.from_document(document.incident.to_document()) == document.incident


def test_many_at_once_lose_no_event(services: Services) -> None:
    names = ["database_down", "canary_failing", "lead_not_kept", "health_failing"]

    def record(name: str) -> None:
        redis(services).record_findings([finding(name)], "request")

    threads = [threading.Thread(target=record, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [incident] = eventually(lambda: redis(services).list_open())
    assert {*incident.rules} == {*names}


def test_imported_twice_it_is_there_once(services: Services, database: Rows) -> None:
    incident = model.open_incident([finding("database_down")], NOW, "dpl")
    event = Event(NOW, "detected", "request", {"what": {}})
    for _ in range(2):
        postgres(services).import_incident(incident, [event], "redis")
    assert events(database, incident.id).count("detected") == 1
    assert broken(database) == []


def test_one_opened_in_redis_joins_the_one_postgres_had_open(
    services: Services, database: Rows
) -> None:
    [before] = record(services, "errors_over_5_percent")
    opened = model.open_incident([finding("database_down")], NOW + 5 * MINUTE, "dpl")
    opened = replace(opened, slack_channel="C", slack_ts="1.1", notified_version=1)
    postgres(services).import_incident(opened, [], "redis")
    after = postgres(services).find("last")
    assert (after.id, after.severity, after.slack_ts) == (before.id, "sev1", "1.1")


def test_nonsense_in_redis_is_skipped(services: Services) -> None:
    services.cache.execute("HSET", redis_store.KEY, "backup", "{", "keys", '{"incident": 1}')
    assert redis(services).list_documents() == []
    redis(services).record_findings([finding("database_down")], "watch")
    assert [incident.version for incident in redis(services).list_open()] == [1]


def test_redis_keeps_a_copy_of_what_postgres_holds_and_nothing_more(services: Services) -> None:
    [open_in_postgres] = record(services, "backup_old")
    redis(services).sync([open_in_postgres])
    redis(services).record_findings([finding("database_down")], "watch")
    redis(services).sync([])
    assert [incident.area for incident in redis(services).list_open()] == ["service"]
