"""What whoever is on call reads of an outage, from the request that met it to its end."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.faults.test_site import SiteUnderTest
from dev.platform.environment import SLACK_WEBHOOK_PATH
from dev.platform.local_platform import Platform
from lib.incidents import alerting, redis_store, rules, slack_store, store, stores
from lib.monitoring import monitor
from lib.problems import DatabaseDown
from lib.services import Services
from lib.settings import Settings
from ops import cli
from tests.conftest import eventually
from tests.fix_site import rig, shared_rig
from tests.incidents.test_game_day import kill, post, recovered, replies
from tests.incidents.test_game_day import messages as roots
from tests.incidents.test_game_day import watch as call_watch

__all__ = ["rig", "shared_rig"]

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
def day(rig: SiteUnderTest) -> Iterator[SiteUnderTest]:
    """Everything is whole, and every function is a new process."""
    rig.environment["SITE_URL"] = rig.url
    kill(rig, "api/leads", "api/products", "api/cron/watch", "api/status", "api/health")
    yield rig
    rig.clear_faults_and_wait()
    kill(rig, "api/leads", "api/products", "api/cron/watch", "api/status", "api/health")


def texts(rig: SiteUnderTest) -> list[str]:
    return [one["fields"]["text"] for one in roots(rig)]


# --- Rung at once, by the request.


def test_a_lead_that_met_a_dead_postgres_rings_after_its_answer_and_once(
    day: SiteUnderTest,
) -> None:
    day.database.switch("refuse")
    assert [post(day, number).status_code for number in range(5)] == [202] * 5
    assert eventually(lambda: texts(day)) == ["SEV1 Postgres is down: leads are queued"]
    day.wait_idle(20)
    for number in range(5, 10):
        post(day, number)
    day.wait_idle(20)
    call_watch(day)
    assert texts(day) == ["SEV1 Postgres is down: leads are queued"]
    said = json.dumps(roots(day)[0]["fields"])
    assert "a request to /api/leads was answered 202" in said
    assert not replies(day), "nothing new was found"


def test_any_endpoint_rings(day: SiteUnderTest) -> None:
    day.database.switch("refuse")
    answer = httpx.get(f"{day.url}/api/products?q=wax", timeout=20)
    assert answer.status_code == 200
    assert eventually(lambda: texts(day)) == ["SEV1 Postgres is down"]
    assert "/api/products was answered 200" in json.dumps(roots(day)[0]["fields"])


@contextmanager
def altered(database: Rows, forth: str, back: str) -> Iterator[None]:
    database.execute(forth.encode())
    try:
        yield
    finally:
        database.execute(back.encode())


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
def test_a_postgres_that_answers_and_refuses_is_called_so(day: SiteUnderTest, name: str) -> None:
    with altered(day.admin, *REFUSALS[name]):
        answer = post(day)
        [text] = eventually(lambda: texts(day))
        day.wait_idle(20)
    effect = "queued" if answer.status_code == 202 else "refused"
    assert text == f"SEV1 Postgres would refuse a lead: leads are {effect}"


def test_nothing_kept_a_lead_and_the_title_says_refused(day: SiteUnderTest) -> None:
    day.database.switch("refuse")
    day.redis.switch("refuse")
    day.resend.switch("fail", status=500)
    assert post(day).status_code == 503
    day.wait_idle(30)
    [text] = eventually(lambda: texts(day))
    assert text.endswith(": leads are refused")
    assert "queued" not in json.dumps(roots(day)[0]["fields"])


def test_it_gets_worse_and_the_channel_is_told_in_the_words_of_now(day: SiteUnderTest) -> None:
    day.database.switch("refuse")
    assert post(day, 1).status_code == 202
    assert eventually(lambda: texts(day)) == ["SEV1 Postgres is down: leads are queued"]
    day.wait_idle(20)
    day.upstash.switch("fail", status=500, match="HSETNX")
    day.resend.switch("fail", status=500)
    for number in range(2, 5):
        assert post(day, number).status_code == 503
    day.wait_idle(20)
    call_watch(day)
    assert texts(day) == ["SEV1 Postgres is down: leads are refused"]
    aloud = [one["fields"] for one in replies(day) if one["fields"]["reply_broadcast"]]
    assert any("leads are refused" in one["text"] for one in aloud)
    shown = httpx.get(f"{day.url}/api/status", timeout=20).json()
    states = {one["id"]: one["status"] for one in shown["components"]}
    assert states["leads"] == "major_outage"
    assert shown["status"]["description"] == "Much does not work: forms cannot be taken just now"


def test_the_status_page_follows_an_alarm_between_two_watches(day: SiteUnderTest) -> None:
    call_watch(day)
    day.database.switch("refuse")
    assert post(day).status_code == 202
    day.wait_idle(20)
    assert texts(day), day.log.since()[-12:]
    day.wait_idle(20)
    shown = httpx.get(f"{day.url}/api/status", timeout=20).json()
    assert shown["data"]["source"] == "watch"
    assert [one["name"] for one in shown["incidents"]] == ["Postgres is down: leads are queued"]
    assert shown["status"]["indicator"] == "major"


@dataclass
class Asked:
    """What a request leaves for lib/incidents/alerting.py."""

    services: Services
    outages: dict[str, BaseException] = field(default_factory=dict)
    request_id: str = "r" * 8
    maintenance: object | None = None

    def after_response(self, work: Any) -> None:
        work()


def test_what_a_second_look_does_not_confirm_rings_nobody(
    platform: Platform, database: Rows
) -> None:
    services = Services(Settings(platform.environment))
    for _ in range(2):
        asked = Asked(services, {"database": DatabaseDown(), "mail": TimeoutError()})
        assert alerting.confirm_outage(asked, "leads", 202) == "not confirmed"
    assert messages(platform) == []
    services.close()


# --- Everything down: Slack is the record.


def messages(platform: Platform) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = platform.slack.vendor.messages()  # type: ignore[attr-defined]
    return kept


@pytest.fixture
def dead(platform: Platform, database: Rows) -> Iterator[Services]:
    """An instance that reaches nothing but Slack."""
    alerting._last_raised_at.clear()
    made = Services(Settings({**platform.environment, **DEAD}))
    yield made
    made.close()


def found(
    services: Services, name: str, now: datetime | None = None, effect: str = "refused"
) -> None:
    now = now or NOW
    seen = [rules.make_finding(rules.BY_NAME[name], "Postgres does not answer", now, effect=effect)]
    alerting.record_findings(services, seen, now, "request")


def test_many_instances_with_no_store_between_them_say_it_once(
    platform: Platform, dead: Services
) -> None:
    threads = [
        threading.Thread(target=found, args=(dead, "database_down", NOW + n * MINUTE / 60))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [message] = messages(platform)
    assert message["fields"]["text"] == "SEV1 Postgres is down: leads are refused"


def test_the_watch_says_it_once_again_each_hour_and_no_more_once_acknowledged(
    platform: Platform, dead: Services, capsys: Printed
) -> None:
    for minute in range(0, 130, 10):
        report = monitor.run(dead, None, NOW + minute * MINUTE)
        assert report.written == "slack"
    root, *more = messages(platform)
    assert root["fields"]["text"].startswith("SEV1 ")
    assert [one["fields"]["text"][:12] for one in more] == ["Still firing"] * 2
    assert all(one["fields"]["thread_ts"] == root["ts"] for one in more)
    environment = {**platform.environment, **DEAD}

    def ops(*arguments: str) -> int:
        return cli.main(["incident", *arguments], environment)

    assert ops("list") == 1
    assert "INC-" in capsys.readouterr().out
    assert ops("note", "last", "--by", "Sri", "called", "the", "vendor") == 0
    assert ops("ack", "last", "--by", "Sri") == 0
    assert ops("ack", "last", "--by", "Budi") == 0
    assert ops("show", "last") == 0
    said = capsys.readouterr().out
    assert "called the vendor" in said
    assert "acknowledged" in said
    before = len(messages(platform))
    for minute in range(130, 400, 10):
        monitor.run(dead, None, NOW + minute * MINUTE)
    assert len(messages(platform)) == before
    assert "acknowledged by Sri" in json.dumps(messages(platform)[0]["fields"])


@pytest.mark.parametrize("how", ["reply", "react"])
def test_with_no_store_a_reply_or_a_reaction_acknowledges(
    platform: Platform, dead: Services, how: str
) -> None:
    monitor.run(dead, None, NOW)
    [root] = messages(platform)
    getattr(platform.slack.vendor, how)(root["ts"], "eyes")
    for minute in range(1, 200, 10):
        monitor.run(dead, None, NOW + minute * MINUTE)
    said = messages(platform)
    assert not [one for one in said if "Still firing" in one["fields"]["text"]]
    assert "acknowledged by <@U0PERSON>" in json.dumps(said[0]["fields"])


def test_the_first_store_that_is_back_takes_it_over_with_what_people_did(
    platform: Platform, dead: Services, database: Rows
) -> None:
    monitor.run(dead, None, NOW)
    [root] = messages(platform)
    environment = {**platform.environment, **DEAD}
    assert cli.main(["incident", "ack", "last", "--by", "Sri"], environment) == 0
    assert cli.main(["incident", "note", "last", "--by", "Sri", "rebooted"], environment) == 0
    # Redis first, then Postgres too.
    redis_alone = {**platform.environment, "DATABASE_URL": DEAD["DATABASE_URL"]}
    half = Services(Settings(redis_alone))
    monitor.run(half, None, NOW + MINUTE)
    [held] = [o for o in redis_store.list_open(half.cache.execute) if o.incident.area == "service"]
    assert (held.incident.acknowledged_by, held.incident.slack_ts) == ("Sri", root["ts"])
    whole = Services(Settings(platform.environment))
    for minute in range(2, 5):
        monitor.run(whole, None, NOW + minute * MINUTE)
    incident = store.find(whole.database.run, held.incident.id)
    assert (incident.state, incident.acknowledged_by) == ("resolve", "Sri")
    lines = store.list_events(whole.database.run, incident.id)
    assert "rebooted" in [line[5] for line in lines]
    [still] = [one for one in messages(platform) if not one["fields"].get("thread_ts")]
    assert still["fields"]["text"].startswith("RECOVERED SEV1")
    recoveries = [m for m in messages(platform) if "recovered" in m["fields"]["text"]]
    assert len(recoveries) == 1, "said once"
    # And a second outage without stores is a new message, although the first is minutes old.
    monitor.run(dead, None, NOW + 6 * MINUTE)
    fresh = [one for one in messages(platform) if not one["fields"].get("thread_ts")]
    assert [one["fields"]["text"][:9] for one in fresh] == [
        "RECOVERED",
        fresh[1]["fields"]["text"][:9],
    ]
    assert fresh[1]["fields"]["text"].startswith("SEV1")
    half.close()
    whole.close()


def test_a_second_outage_with_stores_is_a_new_message_too(day: SiteUnderTest) -> None:
    day.database.switch("refuse")
    day.redis.switch("refuse")
    day.resend.switch("fail", status=500)
    assert post(day).status_code == 503
    day.wait_idle(30)
    [first] = eventually(lambda: roots(day))
    day.clear_faults_and_wait()
    passed = "update incidents set facts = facts || jsonb_build_object('quiet_from', now())"
    recovered(day)
    day.admin.execute(passed)
    recovered(day)
    assert texts(day)[0].startswith("RECOVERED SEV1")
    day.database.switch("refuse")
    kill(day, "api/leads", "api/cron/watch")
    assert post(day, 2).status_code == 202
    day.wait_idle(20)
    call_watch(day)
    assert texts(day)[0].startswith("RECOVERED SEV1")
    assert texts(day)[1:] == ["SEV1 Postgres is down: leads are queued"]
    assert roots(day)[0]["ts"] == first["ts"]


def test_two_incidents_of_one_outage_become_one(platform: Platform, dead: Services) -> None:
    """One instance reached no store; another reached Postgres."""
    found(dead, "database_down")
    whole = Services(Settings(platform.environment))
    seen = [rules.make_finding(rules.BY_NAME["database_down"], "a blip", NOW)]
    store.record_findings(whole.database.run, seen, NOW + MINUTE, "dpl", "request")
    monitor.run(whole, None, NOW + 2 * MINUTE)
    [held] = store.list_open(whole.database.run)
    said = [m["fields"]["text"] for m in messages(platform) if not m["fields"].get("thread_ts")]
    assert said == [f"Told of in {held.id} from here on: Postgres is down", "SEV1 Postgres is down"]
    assert stores.in_slack(whole, NOW).list_open() == []
    whole.close()


@pytest.mark.filterwarnings("ignore:The send_default_pii option")
@pytest.mark.parametrize("token", ["", "revoked"])
def test_with_a_webhook_alone_an_instance_says_it_once_an_hour(
    platform: Platform, dead: Services, token: str
) -> None:
    slack_store._last_posted_at.clear()
    url = platform.slack.url + SLACK_WEBHOOK_PATH
    given = {**platform.environment, **DEAD, "SLACK_BOT_TOKEN": token, "SLACK_WEBHOOK_URL": url}
    mute = Services(Settings(given))
    for minute in range(5):
        monitor.run(mute, None, NOW + minute * MINUTE)
    said = [one["fields"]["text"] for one in messages(platform)]
    assert len([text for text in said if "Slack" not in text]) == 1, said
    # A bot that is refused is said by the same way, once too.
    assert len(said) == (2 if token else 1), said
    mute.close()


# --- Postgres down, Redis there: the commands of whoever is on call.


def test_without_postgres_incidents_are_listed_noted_and_acknowledged_from_redis(
    platform: Platform, database: Rows, capsys: Printed, request: pytest.FixtureRequest
) -> None:
    environment = {**platform.environment, "DATABASE_URL": DEAD["DATABASE_URL"]}
    half = Services(Settings(environment))
    request.addfinalizer(half.close)
    seen = [rules.make_finding(rules.BY_NAME["database_down"], "Postgres does not answer", NOW)]
    redis = stores.in_redis(half, NOW)
    redis.record_findings(seen, "watch")
    [made] = redis.list_open()

    def ops(*arguments: str) -> int:
        return cli.main(["incident", *arguments], environment)

    assert ops("list") == 1
    shown = capsys.readouterr()
    assert made.id in shown.out
    assert "this is what Redis holds" in shown.err
    assert ops("ack", made.id, "--by", "Sri") == 0
    assert "Slack knows" in capsys.readouterr().out
    assert ops("note", "last", "--by", "Sri", "pool", "restarted") == 0
    assert ops("show", "last") == 0
    assert "pool restarted" in capsys.readouterr().out
    assert ops("ack", "INC-1") == 1
    [message] = messages(platform)
    assert "acknowledged by Sri" in json.dumps(message["fields"])
    half.close()
    whole = Services(Settings(platform.environment))
    monitor.run(whole, None, NOW + MINUTE)
    kinds = [line[2] for line in store.list_events(whole.database.run, made.id)]
    assert {"acknowledged", "note"} <= {*kinds}
    assert store.find(whole.database.run, made.id).acknowledged_by == "Sri"
    whole.close()


# --- The drill.


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"SLACK_BOT_TOKEN": "revoked"}, "Slack refuses the bot (invalid_auth)"),
        ({"SLACK_BOT_TOKEN": "revoked", "SLACK_WEBHOOK_URL": ""}, "invalid_auth"),
        ({"SLACK_BOT_TOKEN": "", "SLACK_WEBHOOK_URL": ""}, "no channel"),
        ({"SLACK_API_URL": "http://127.0.0.1:1", "SLACK_WEBHOOK_URL": ""}, "did not take it"),
        ({"DATABASE_URL": DEAD["DATABASE_URL"]}, "not written down"),
    ],
)
def test_the_alert_drill_fails_when_its_channel_did_not_take_it(
    platform: Platform, database: Rows, capsys: Printed, given: dict[str, str], words: str
) -> None:
    hook = {"SLACK_WEBHOOK_URL": platform.slack.url + SLACK_WEBHOOK_PATH}
    status = cli.main(["alert-drill"], {**platform.environment, **hook, **given})
    shown = capsys.readouterr()
    assert words in shown.out + shown.err
    assert status == (0 if "DATABASE_URL" in given else 1)
