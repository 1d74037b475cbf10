"""What whoever is on call reads of an outage, from the request that met it to its end."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.faults.test_site import SiteUnderTest
from dev.platform.environment import SLACK_WEBHOOK_PATH
from dev.platform.local_platform import Platform
from lib.app import Context, Request
from lib.incidents import alerting, fallback, rules
from lib.incidents.postgres_store import PostgresStore
from lib.monitoring import monitor, statement_check
from lib.problems import DatabaseDown
from lib.services import Services
from lib.settings import Settings
from ops import cli
from tests.conftest import eventually
from tests.fix_site import shared_site, site
from tests.incidents.test_game_day import kill, post, recovered, replies, run_monitor
from tests.incidents.test_game_day import messages as roots

__all__ = ["shared_site", "site"]

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

MINUTE = timedelta(minutes=1)
pytestmark = pytest.mark.real_now

NOW = datetime.now(UTC)
DEAD = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa",
    "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1",
    "SITE_URL": "http://127.0.0.1:1",
}


@pytest.fixture
def monitored_site(site: SiteUnderTest) -> Iterator[SiteUnderTest]:
    """Nothing is broken, and every function is a new process."""
    site.environment["SITE_URL"] = site.url
    kill(site, "api/leads", "api/products", "api/cron/watch", "api/status", "api/health")
    yield site
    site.clear_faults_and_wait()
    kill(site, "api/leads", "api/products", "api/cron/watch", "api/status", "api/health")


def postgres(services: Services, now: datetime = NOW) -> PostgresStore:
    return PostgresStore(services.database.run, now, "dpl")


def texts(site: SiteUnderTest) -> list[str]:
    return [root["fields"]["text"] for root in roots(site)]


# --- At once, by the request.


def test_a_lead_that_met_a_dead_postgres_alerts_after_its_response_and_once(
    monitored_site: SiteUnderTest,
) -> None:
    monitored_site.database.switch("refuse")
    assert [post(monitored_site, number).status_code for number in range(5)] == [202] * 5
    assert eventually(lambda: texts(monitored_site)) == ["SEV1 Postgres is down: leads are queued"]
    monitored_site.wait_idle(20)
    for number in range(5, 10):
        post(monitored_site, number)
    monitored_site.wait_idle(20)
    run_monitor(monitored_site)
    assert texts(monitored_site) == ["SEV1 Postgres is down: leads are queued"]
    message = json.dumps(roots(monitored_site)[0]["fields"])
    assert "a request to /api/leads was answered 202" in message
    assert not replies(monitored_site), "nothing new was found"


def test_any_endpoint_alerts(monitored_site: SiteUnderTest) -> None:
    monitored_site.database.switch("refuse")
    response = httpx.get(f"{monitored_site.url}/api/products?q=wax", timeout=20)
    assert response.status_code == 200
    assert eventually(lambda: texts(monitored_site)) == ["SEV1 Postgres is down"]
    assert "/api/products was answered 200" in json.dumps(roots(monitored_site)[0]["fields"])


@contextmanager
def altered(database: Rows, statement: str, undo: str) -> Iterator[None]:
    database.execute(statement.encode())
    try:
        yield
    finally:
        database.execute(undo.encode())


REFUSALS = {
    "a renamed column": (
        "alter table leads rename column city to town",
        "alter table leads rename column town to city",
    ),
    "a revoked right": (
        "revoke insert on leads from alfa_app",
        "grant insert on leads to alfa_app",
    ),
    "a missing mail table": (
        "alter table outbox rename to outbox_away",
        "alter table outbox_away rename to outbox",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_postgres_that_answers_and_refuses_has_its_own_title(
    monitored_site: SiteUnderTest, name: str
) -> None:
    with altered(monitored_site.admin, *REFUSALS[name]):
        response = post(monitored_site)
        [text] = eventually(lambda: texts(monitored_site))
        monitored_site.wait_idle(20)
    effect = "queued" if response.status_code == 202 else "refused"
    assert text == f"SEV1 Postgres would refuse a lead: leads are {effect}"


def test_nothing_kept_a_lead_and_the_title_says_refused(monitored_site: SiteUnderTest) -> None:
    monitored_site.database.switch("refuse")
    monitored_site.redis.switch("refuse")
    monitored_site.resend.switch("fail", status=500)
    assert post(monitored_site).status_code == 503
    monitored_site.wait_idle(30)
    [text] = eventually(lambda: texts(monitored_site))
    assert text.endswith(": leads are refused")
    assert "queued" not in json.dumps(roots(monitored_site)[0]["fields"])


def test_a_worse_effect_on_leads_edits_the_title_and_is_broadcast(
    monitored_site: SiteUnderTest,
) -> None:
    monitored_site.database.switch("refuse")
    assert post(monitored_site, 1).status_code == 202
    assert eventually(lambda: texts(monitored_site)) == ["SEV1 Postgres is down: leads are queued"]
    monitored_site.wait_idle(20)
    monitored_site.upstash.switch("fail", status=500, match="HSETNX")
    monitored_site.resend.switch("fail", status=500)
    for number in range(2, 5):
        assert post(monitored_site, number).status_code == 503
    monitored_site.wait_idle(20)
    run_monitor(monitored_site)
    assert texts(monitored_site) == ["SEV1 Postgres is down: leads are refused"]
    sent = [reply["fields"] for reply in replies(monitored_site)]
    broadcast = [fields["text"] for fields in sent if fields["reply_broadcast"]]
    assert any("leads are refused" in text for text in broadcast)
    document = httpx.get(f"{monitored_site.url}/api/status", timeout=20).json()
    states = {each["id"]: each["status"] for each in document["components"]}
    assert states["leads"] == "major_outage"
    assert document["status"]["description"] == "Much does not work: forms cannot be taken just now"


def test_the_status_page_shows_an_alert_between_two_monitor_runs(
    monitored_site: SiteUnderTest,
) -> None:
    run_monitor(monitored_site)
    monitored_site.database.switch("refuse")
    assert post(monitored_site).status_code == 202
    monitored_site.wait_idle(20)
    assert texts(monitored_site), monitored_site.log.since()[-12:]
    monitored_site.wait_idle(20)
    document = httpx.get(f"{monitored_site.url}/api/status", timeout=20).json()
    assert document["data"]["source"] == "watch"
    assert [each["name"] for each in document["incidents"]] == [
        "Postgres is down: leads are queued"
    ]
    assert document["status"]["indicator"] == "major"


def test_an_outage_that_a_second_check_does_not_confirm_alerts_nobody(
    platform: Platform, database: Rows
) -> None:
    services = Services(Settings(platform.environment))
    for _ in range(2):
        context = Context("leads", Request({}))
        context.services = services
        context.outages = {"database": DatabaseDown(), "mail": TimeoutError()}
        check = statement_check.store_fault
        assert alerting.confirm_outage(context, 202, check) == "not confirmed"
    assert messages(platform) == []
    services.close()


# --- Everything down: Slack is the record.


def messages(platform: Platform) -> list[dict[str, Any]]:
    posted: list[dict[str, Any]] = platform.slack.vendor.messages()  # type: ignore[attr-defined]
    return posted


@pytest.fixture
def no_stores(platform: Platform, database: Rows) -> Iterator[Services]:
    """An instance that reaches nothing but Slack."""
    services = Services(Settings({**platform.environment, **DEAD}))
    yield services
    services.close()


def record(
    services: Services, name: str, now: datetime | None = None, effect: str = "refused"
) -> None:
    now = now or NOW
    findings = [
        rules.make_finding(rules.BY_NAME[name], "Postgres does not answer", now, effect=effect)
    ]
    alerting.record_findings(services, findings, now, "request")


def test_many_instances_without_a_store_post_one_message(
    platform: Platform, no_stores: Services
) -> None:
    threads = [
        threading.Thread(target=record, args=(no_stores, "database_down", NOW + n * MINUTE / 60))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [message] = messages(platform)
    assert message["fields"]["text"] == "SEV1 Postgres is down: leads are refused"


def test_without_a_store_it_is_repeated_each_hour_until_acknowledged(
    platform: Platform, no_stores: Services, capsys: Printed
) -> None:
    for minute in range(0, 130, 10):
        report = monitor.run(no_stores, None, NOW + minute * MINUTE)
        assert report.written == "slack"
    root, *more = messages(platform)
    assert root["fields"]["text"].startswith("SEV1 ")
    assert [reply["fields"]["text"][:12] for reply in more] == ["Still firing"] * 2
    assert all(reply["fields"]["thread_ts"] == root["ts"] for reply in more)
    environment = {**platform.environment, **DEAD}

    def ops(*arguments: str) -> int:
        return cli.main(["incident", *arguments], environment)

    assert ops("list") == 1
    assert "INC-" in capsys.readouterr().out
    assert ops("note", "last", "--by", "Sri", "called", "the", "vendor") == 0
    assert ops("ack", "last", "--by", "Sri") == 0
    assert ops("ack", "last", "--by", "Budi") == 0
    assert ops("show", "last") == 0
    output = capsys.readouterr().out
    assert "called the vendor" in output
    assert "acknowledged" in output
    before = len(messages(platform))
    for minute in range(130, 400, 10):
        monitor.run(no_stores, None, NOW + minute * MINUTE)
    assert len(messages(platform)) == before
    assert "acknowledged by Sri" in json.dumps(messages(platform)[0]["fields"])


@pytest.mark.parametrize("how", ["reply", "react"])
def test_without_a_store_a_reply_or_a_reaction_acknowledges(
    platform: Platform, no_stores: Services, how: str
) -> None:
    monitor.run(no_stores, None, NOW)
    [root] = messages(platform)
    getattr(platform.slack.vendor, how)(root["ts"], "eyes")
    for minute in range(1, 200, 10):
        monitor.run(no_stores, None, NOW + minute * MINUTE)
    [root, *others] = messages(platform)
    assert not [each for each in others if "Still firing" in each["fields"]["text"]]
    assert "acknowledged by <@U0PERSON>" in json.dumps(root["fields"])


def test_the_first_store_that_is_back_imports_it_with_what_people_did(
    platform: Platform, no_stores: Services, database: Rows
) -> None:
    monitor.run(no_stores, None, NOW)
    [root] = messages(platform)
    environment = {**platform.environment, **DEAD}
    assert cli.main(["incident", "ack", "last", "--by", "Sri"], environment) == 0
    assert cli.main(["incident", "note", "last", "--by", "Sri", "rebooted"], environment) == 0
    # Redis first, then Postgres too.
    redis_alone = {**platform.environment, "DATABASE_URL": DEAD["DATABASE_URL"]}
    redis_only = Services(Settings(redis_alone))
    monitor.run(redis_only, None, NOW + MINUTE)
    [in_redis] = [
        each for each in fallback.in_redis(redis_only, NOW).list_open() if each.area == "service"
    ]
    assert (in_redis.acknowledged_by, in_redis.slack_ts) == ("Sri", root["ts"])
    healthy = Services(Settings(platform.environment))
    for minute in range(2, 5):
        monitor.run(healthy, None, NOW + minute * MINUTE)
    incident = postgres(healthy).find(in_redis.id)
    assert (incident.state, incident.acknowledged_by) == ("resolve", "Sri")
    events = postgres(healthy).list_events(incident)
    assert "rebooted" in [event[5] for event in events]
    [edited] = [each for each in messages(platform) if not each["fields"].get("thread_ts")]
    assert edited["fields"]["text"].startswith("RECOVERED SEV1")
    recoveries = [m for m in messages(platform) if "recovered" in m["fields"]["text"]]
    assert len(recoveries) == 1, "posted once"
    # And a second outage without stores is a new message, although the first is minutes old.
    monitor.run(no_stores, None, NOW + 6 * MINUTE)
    fresh = [each for each in messages(platform) if not each["fields"].get("thread_ts")]
    assert [each["fields"]["text"][:9] for each in fresh] == [
        "RECOVERED",
        fresh[1]["fields"]["text"][:9],
    ]
    assert fresh[1]["fields"]["text"].startswith("SEV1")
    redis_only.close()
    healthy.close()


def test_a_second_outage_with_stores_is_a_new_message_too(monitored_site: SiteUnderTest) -> None:
    monitored_site.database.switch("refuse")
    monitored_site.redis.switch("refuse")
    monitored_site.resend.switch("fail", status=500)
    assert post(monitored_site).status_code == 503
    monitored_site.wait_idle(30)
    [first] = eventually(lambda: roots(monitored_site))
    monitored_site.clear_faults_and_wait()
    passed = "update incidents set facts = facts || jsonb_build_object('quiet_from', now())"
    recovered(monitored_site)
    monitored_site.admin.execute(passed)
    recovered(monitored_site)
    assert texts(monitored_site)[0].startswith("RECOVERED SEV1")
    monitored_site.database.switch("refuse")
    kill(monitored_site, "api/leads", "api/cron/watch")
    assert post(monitored_site, 2).status_code == 202
    monitored_site.wait_idle(20)
    run_monitor(monitored_site)
    assert texts(monitored_site)[0].startswith("RECOVERED SEV1")
    assert texts(monitored_site)[1:] == ["SEV1 Postgres is down: leads are queued"]
    assert roots(monitored_site)[0]["ts"] == first["ts"]


def test_two_incidents_of_one_outage_become_one(platform: Platform, no_stores: Services) -> None:
    """One instance reached no store; another reached Postgres."""
    record(no_stores, "database_down")
    healthy = Services(Settings(platform.environment))
    findings = [rules.make_finding(rules.BY_NAME["database_down"], "a blip", NOW)]
    postgres(healthy, NOW + MINUTE).record_findings(findings, "request")
    monitor.run(healthy, None, NOW + 2 * MINUTE)
    [incident] = postgres(healthy).list_open()
    texts = [m["fields"]["text"] for m in messages(platform) if not m["fields"].get("thread_ts")]
    assert texts == [
        f"Continued in {incident.id}: Postgres is down",
        "SEV1 Postgres is down",
    ]
    assert fallback.in_slack(healthy, NOW).list_open() == []
    healthy.close()


@pytest.mark.filterwarnings("ignore:The send_default_pii option")
@pytest.mark.parametrize("token", ["", "revoked"])
def test_with_a_webhook_alone_an_instance_posts_once_an_hour(
    platform: Platform, no_stores: Services, token: str
) -> None:
    url = platform.slack.url + SLACK_WEBHOOK_PATH
    environment = {
        **platform.environment,
        **DEAD,
        "SLACK_BOT_TOKEN": token,
        "SLACK_WEBHOOK_URL": url,
    }
    webhook_only = Services(Settings(environment))
    for minute in range(5):
        monitor.run(webhook_only, None, NOW + minute * MINUTE)
    texts = [each["fields"]["text"] for each in messages(platform)]
    assert len([text for text in texts if "Slack" not in text]) == 1, texts
    # That the bot is refused is posted by the webhook, once too.
    assert len(texts) == (2 if token else 1), texts
    webhook_only.close()


# --- Postgres down, Redis there: the commands of whoever is on call.


def test_without_postgres_incidents_are_listed_noted_and_acknowledged_from_redis(
    platform: Platform, database: Rows, capsys: Printed, request: pytest.FixtureRequest
) -> None:
    environment = {**platform.environment, "DATABASE_URL": DEAD["DATABASE_URL"]}
    redis_only = Services(Settings(environment))
    request.addfinalizer(redis_only.close)
    findings = [rules.make_finding(rules.BY_NAME["database_down"], "Postgres does not answer", NOW)]
    redis = fallback.in_redis(redis_only, NOW)
    redis.record_findings(findings, "watch")
    [incident] = redis.list_open()

    def ops(*arguments: str) -> int:
        return cli.main(["incident", *arguments], environment)

    assert ops("list") == 1
    printed = capsys.readouterr()
    assert incident.id in printed.out
    assert "using Redis" in printed.err
    assert ops("ack", incident.id, "--by", "Sri") == 0
    assert "Slack message updated" in capsys.readouterr().out
    assert ops("note", "last", "--by", "Sri", "pool", "restarted") == 0
    assert ops("show", "last") == 0
    assert "pool restarted" in capsys.readouterr().out
    assert ops("ack", "INC-1") == 1
    [message] = messages(platform)
    assert "acknowledged by Sri" in json.dumps(message["fields"])
    redis_only.close()
    healthy = Services(Settings(platform.environment))
    monitor.run(healthy, None, NOW + MINUTE)
    kinds = [event[2] for event in postgres(healthy).list_events(incident)]
    assert {"acknowledged", "note"} <= {*kinds}
    assert postgres(healthy).find(incident.id).acknowledged_by == "Sri"
    healthy.close()


# --- The drill.


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"SLACK_BOT_TOKEN": "revoked"}, "Slack refuses the bot (invalid_auth)"),
        ({"SLACK_BOT_TOKEN": "revoked", "SLACK_WEBHOOK_URL": ""}, "invalid_auth"),
        ({"SLACK_BOT_TOKEN": "", "SLACK_WEBHOOK_URL": ""}, "Slack is not configured"),
        (
            {"SLACK_API_URL": "http://127.0.0.1:1", "SLACK_WEBHOOK_URL": ""},
            "did not accept the message",
        ),
        ({"DATABASE_URL": DEAD["DATABASE_URL"]}, "The drill is not recorded"),
    ],
)
def test_the_alert_drill_fails_when_its_channel_did_not_take_it(
    platform: Platform, database: Rows, capsys: Printed, changed: dict[str, str], words: str
) -> None:
    hook = {"SLACK_WEBHOOK_URL": platform.slack.url + SLACK_WEBHOOK_PATH}
    status = cli.main(["alert-drill"], {**platform.environment, **hook, **changed})
    printed = capsys.readouterr()
    assert words in printed.out + printed.err
    assert status == (0 if "DATABASE_URL" in changed else 1)
