"""Slack messages: one an incident, whatever Slack does; and nothing of a visitor."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.environment import SLACK_WEBHOOK_PATH
from dev.platform.local_platform import Platform
from dev.vendors import block_kit
from lib.incidents import alerting, model, rules
from lib.incidents import messages as incident_messages
from lib.incidents.messages import Links
from lib.incidents.notifier import NotifyStats
from lib.incidents.postgres_store import PostgresStore
from lib.incidents.redis_store import RedisStore
from lib.services import Services
from lib.settings import Settings
from lib.slack import Slack
from tests.conftest import eventually

type Rows = psycopg.Connection[DictRow]

NOW = datetime(2026, 11, 24, 3, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LINKS = Links("https://runbook.example/x", "https://sentry.example", "https://site.example/status")


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    services = Services(Settings(platform.environment))
    yield services
    services.close()


def postgres(services: Services, now: datetime = NOW) -> PostgresStore:
    return PostgresStore(services.database.run, now, "dpl")


def record(services: Services, *names: str, now: datetime = NOW) -> None:
    findings = [rules.make_finding(rules.BY_NAME[name], f"what {name} saw", now) for name in names]
    postgres(services, now).record_findings(findings, "watch")


def notify(services: Services, now: datetime = NOW, channel: Slack | None = None) -> NotifyStats:
    store = postgres(services, now)
    store.notify(channel or services.slack, LINKS)
    return store.stats


def messages(platform: Platform) -> list[dict[str, Any]]:
    posted: list[dict[str, Any]] = platform.slack.vendor.messages()  # type: ignore[attr-defined]
    return posted


def roots(platform: Platform) -> list[dict[str, Any]]:
    return [message for message in messages(platform) if not message["fields"].get("thread_ts")]


def resolve(services: Services, now: datetime) -> None:
    for step in range(2):
        postgres(services, now + step * MINUTE).record_clean_check(set())


def test_a_message_names_the_fault_its_start_the_services_and_links(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    assert notify(services).posted == 1
    [message] = messages(platform)
    text = json.dumps(message["fields"], ensure_ascii=False)
    for wanted in ("SEV1", "what database_down saw", "since 2026-11-24 10:05 WIB",
                   "leads, products",
                   "https://runbook.example/x#database_down", "https://sentry.example",
                   "https://site.example/status", "INC-20261124-0305-service"):  # fmt: skip
        assert wanted in text


def test_a_change_edits_the_message_and_adds_a_reply_to_its_thread(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    notify(services)
    postgres(services, NOW + MINUTE).acknowledge("last", "Sri")
    notify(services, NOW + MINUTE)
    resolve(services, NOW + 5 * MINUTE)
    notify(services, NOW + 7 * MINUTE)
    [root, *replies] = messages(platform)
    assert root["fields"]["text"].startswith("RECOVERED SEV1")
    assert "acknowledged by Sri" in json.dumps(root["fields"])
    assert [message["fields"]["thread_ts"] for message in replies] == [root["ts"]] * 2
    assert replies[-1]["fields"]["reply_broadcast"] is True


def test_without_a_change_nothing_more_is_posted(services: Services, platform: Platform) -> None:
    record(services, "database_down")
    for minute in range(5):
        notify(services, NOW + minute * MINUTE)
    assert len(messages(platform)) == 1


def test_an_unacknowledged_sev1_is_repeated_each_hour(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    for minute in range(0, 181, 10):
        notify(services, NOW + minute * MINUTE)
    reminders = [
        message for message in messages(platform) if "Still firing" in message["fields"]["text"]
    ]
    assert len(reminders) == 3
    postgres(services, NOW + 181 * MINUTE).acknowledge("last", "Sri")
    for minute in range(181, 400, 10):
        notify(services, NOW + minute * MINUTE)
    again = [
        message for message in messages(platform) if "Still firing" in message["fields"]["text"]
    ]
    assert len(again) == 3


def test_the_sev2_of_a_night_are_one_message_in_the_morning(
    services: Services, platform: Platform
) -> None:
    record(services, "redis_down", "backup_old", "key_old")
    notify(services, NOW + 60 * MINUTE)
    assert messages(platform) == []
    morning = model.notify_time("sev2", NOW)
    notify(services, morning)
    [digest] = messages(platform)
    assert digest["fields"]["text"] == "3 Sev2 incidents, 3 still open"
    assert block_kit.validate(digest["fields"]) == []
    # One of them is over: the same message says so.
    for _ in range(2):
        postgres(services, morning + MINUTE).record_clean_check({"backup", "keys"})
    notify(services, morning + 2 * MINUTE)
    [edited] = roots(platform)
    assert edited["fields"]["text"] == "3 Sev2 incidents, 2 still open"


def test_a_sev2_that_is_resolved_before_the_morning_is_still_posted(
    services: Services, platform: Platform
) -> None:
    record(services, "redis_down")
    resolve(services, NOW + MINUTE)
    notify(services, NOW + 5 * MINUTE)
    assert messages(platform) == []
    notify(services, model.notify_time("sev2", NOW))
    [message] = messages(platform)
    assert message["fields"]["text"].startswith("RECOVERED SEV2")


@pytest.mark.parametrize("mode", ["fail", "reset"])
def test_a_failed_post_is_retried_after_a_minute(
    services: Services, platform: Platform, mode: str
) -> None:
    record(services, "database_down")
    platform.slack.switch(mode)
    assert notify(services).delayed == 1
    platform.slack.ok()
    assert notify(services, NOW + 30 * timedelta(seconds=1)).posted == 0
    assert notify(services, NOW + MINUTE).posted == 1


def test_slacks_retry_after_is_respected(services: Services, platform: Platform) -> None:
    record(services, "database_down")
    platform.slack.switch("rate_limit", retry_after_s=120)
    notify(services)
    platform.slack.ok()
    assert notify(services, NOW + MINUTE).posted == 0
    assert notify(services, NOW + 2 * MINUTE).posted == 1


def test_a_lost_response_does_not_make_a_second_message(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    platform.slack.switch("lose_reply", match="chat.postMessage", times=1)
    notify(services)
    assert notify(services, NOW + MINUTE).updated == 1
    assert len(roots(platform)) == 1


def test_a_kill_between_posting_and_recording_makes_no_second_message(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    store = postgres(services)
    [mine] = store.claim_due()
    services.slack.post(
        incident_messages.render_incidents([mine], LINKS, NOW)
    )  # and then the process is gone
    assert notify(services, NOW + 30 * timedelta(seconds=1)).posted == 0, "the lease"
    assert notify(services, NOW + MINUTE).updated == 1
    assert len(roots(platform)) == 1


def test_a_deleted_message_is_posted_anew(services: Services, platform: Platform) -> None:
    record(services, "database_down")
    notify(services)
    platform.slack.forget()
    record(services, "lead_not_kept", now=NOW + MINUTE)
    assert notify(services, NOW + MINUTE).posted == 1
    assert len(roots(platform)) == 1


def test_an_incident_is_claimed_by_one_of_two_notifiers(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    store = postgres(services)
    assert len(store.claim_due()) == 1
    assert store.claim_due() == []
    redis = RedisStore(services.cache.execute, NOW, "dpl")
    findings = [rules.make_finding(rules.BY_NAME["database_down"], "x", NOW)]
    redis.record_findings(findings, "watch")
    assert len(redis.claim_due()) == 1
    assert redis.claim_due() == []


# --- An edit notifies nobody.


def test_a_new_outage_is_a_new_message_and_the_old_one_stays_recovered(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    notify(services)
    resolve(services, NOW + MINUTE)
    notify(services, NOW + 2 * MINUTE)
    record(services, "database_down", now=NOW + 3 * MINUTE)
    assert notify(services, NOW + 3 * MINUTE).posted == 1
    first, second = roots(platform)
    assert first["fields"]["text"].startswith("RECOVERED SEV1")
    assert second["fields"]["text"].startswith("SEV1")
    assert "since 2026-11-24 10:08 WIB" in json.dumps(second["fields"])


def test_a_sev2_that_becomes_sev1_gets_a_message_of_its_own(
    services: Services, platform: Platform
) -> None:
    record(services, "mail_delayed", "backup_old")
    morning = model.notify_time("sev2", NOW)
    notify(services, morning)
    record(services, "dead_letters", now=morning + MINUTE)
    assert notify(services, morning + MINUTE).posted == 1
    digest, alert = roots(platform)
    assert digest["fields"]["text"] == "2 Sev2 incidents, 2 still open"
    assert alert["fields"]["text"] == "SEV1 Mails were given up"


def test_a_message_about_several_incidents_counts_them_by_severity() -> None:
    names = ("database_down", "leads_set_aside", "backup_old")
    several = [
        model.open_incident([rules.make_finding(rules.BY_NAME[name], "x", NOW)], NOW, "dpl")
        for name in names
    ]
    texts = [incident_messages.render_incidents(several[:n], LINKS, NOW).text for n in (2, 3)]
    assert texts == ["2 Sev1 incidents, 2 still open", "2 Sev1 and 1 Sev2 incidents, 3 still open"]


def test_the_title_says_what_happens_to_leads_and_a_worse_effect_is_broadcast(
    services: Services, platform: Platform
) -> None:
    rule = rules.BY_NAME["database_down"]
    texts = []
    for minute, effect in enumerate(("queued", "queued", "refused", "queued", "refused")):
        now = NOW + minute * MINUTE
        findings = [rules.make_finding(rule, "Postgres does not answer", now, effect=effect)]
        postgres(services, now).record_findings(findings, "watch")
        notify(services, now)
        [root] = roots(platform)
        broadcast = [m for m in messages(platform) if m["fields"].get("reply_broadcast")]
        texts.append((root["fields"]["text"], len(broadcast)))
    assert texts == [
        ("SEV1 Postgres is down: leads are queued", 0),
        ("SEV1 Postgres is down: leads are queued", 0),
        ("SEV1 Postgres is down: leads are refused", 1),
        ("SEV1 Postgres is down: leads are queued", 1),
        ("SEV1 Postgres is down: leads are refused", 2),
    ]


def test_a_failed_reminder_is_retried_a_minute_later(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    notify(services)
    platform.slack.switch("fail")
    assert notify(services, NOW + 60 * MINUTE).delayed == 1
    platform.slack.ok()
    assert notify(services, NOW + 61 * MINUTE).posted == 1
    assert "Still firing after 1 h 01 min" in messages(platform)[-1]["fields"]["text"]


def test_a_bot_revoked_during_an_incident_leaves_the_recovery_to_the_webhook(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    notify(services)
    resolve(services, NOW + MINUTE)
    revoked = webhook(platform, token="revoked", channel="C0LOCAL")
    assert notify(services, NOW + 2 * MINUTE, revoked).posted == 1
    [_, last] = messages(platform)
    assert last["channel"] == "webhook"
    assert last["fields"]["text"].startswith("RECOVERED SEV1")


# --- Acknowledged in Slack.


@pytest.mark.parametrize("how", ["reply", "react"])
def test_a_reply_or_a_reaction_acknowledges_an_incident(
    services: Services, platform: Platform, how: str
) -> None:
    record(services, "database_down")
    notify(services)
    [root] = roots(platform)
    alerting.import_slack_acknowledgements(services, NOW + MINUTE)
    assert postgres(services).find("last").acknowledged_by is None
    vendor = platform.slack.vendor
    getattr(vendor, how)(root["ts"], "looking")
    alerting.import_slack_acknowledgements(services, NOW + 2 * MINUTE)
    notify(services, NOW + 2 * MINUTE)
    incident = postgres(services).find("last")
    assert (incident.acknowledged_by, incident.acknowledged_at) == (
        "slack:U0PERSON",
        NOW + 2 * MINUTE,
    )
    assert "acknowledged by <@U0PERSON>" in json.dumps(roots(platform)[0]["fields"])
    for minute in range(3, 200, 10):
        notify(services, NOW + minute * MINUTE)
    assert not [m for m in messages(platform) if "Still firing" in m["fields"]["text"]]


def test_our_own_replies_acknowledge_nothing(services: Services, platform: Platform) -> None:
    record(services, "database_down")
    notify(services)
    notify(services, NOW + 60 * MINUTE)
    assert len(messages(platform)) == 2
    alerting.import_slack_acknowledgements(services, NOW + 61 * MINUTE)
    assert postgres(services).find("last").acknowledged_at is None


# --- Undeliverable.


MUTE = {
    "refused": {"SLACK_BOT_TOKEN": "revoked"},
    "down": {"SLACK_API_URL": "http://127.0.0.1:1"},
    "not configured": {"SLACK_BOT_TOKEN": ""},
}


@pytest.mark.parametrize("stores", ["with stores", "without stores"])
@pytest.mark.parametrize("broken", MUTE)
def test_a_sev1_that_slack_does_not_take_goes_to_sentry_and_the_monitors_response(
    platform: Platform, database: Rows, broken: str, stores: str
) -> None:
    down = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa", "SLACK_WEBHOOK_URL": ""}
    if stores == "without stores":
        down["UPSTASH_REDIS_REST_URL"] = "http://127.0.0.1:1"
    with platform.function("api/cron/watch.py", **{**MUTE[broken], **down}) as function:
        token = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
        report = httpx.get(f"{function.url}/api/cron/watch", headers=token, timeout=60).json()
        assert report["undelivered"]
        assert report["messages"] == 0
        eventually(lambda: "alarm: database_down" in json.dumps(platform.sentry.received()))
    assert messages(platform) == []


# --- By a webhook.


def webhook(platform: Platform, **changed: str) -> Slack:
    options = {"api_url": f"{platform.slack.url}/api", "token": "", "channel": ""}
    url = platform.slack.url + SLACK_WEBHOOK_PATH
    return Slack(**{**options, "webhook_url": url, **changed})


def test_a_webhook_posts_anew_where_a_bot_would_edit(
    services: Services, platform: Platform
) -> None:
    channel = webhook(platform)
    record(services, "database_down")
    notify(services, NOW, channel)
    resolve(services, NOW + MINUTE)
    notify(services, NOW + 3 * MINUTE, channel)
    texts = [message["fields"]["text"] for message in messages(platform)]
    assert texts[0].startswith("SEV1")
    assert texts[1].startswith("RECOVERED SEV1")
    assert len(texts) == 2


def test_a_revoked_bot_leaves_the_alert_to_the_webhook(
    services: Services, platform: Platform
) -> None:
    record(services, "database_down")
    stats = notify(services, NOW, webhook(platform, token="revoked", channel="C0LOCAL"))
    assert stats.posted == 1
    assert [message["channel"] for message in messages(platform)] == ["webhook"]


# --- Within Slack's limits.


def test_however_much_is_wrong_a_message_keeps_to_block_kits_limits() -> None:
    incident = model.open_incident(
        [
            rules.make_finding(rule, "x" * 2000 + " <&> " + rule.name, NOW)
            for rule in rules.RULES
            if rule.area == "service"
        ],
        NOW,
        "dpl",
    )
    many = [replace(incident, id=f"INC-20261124-03{n:02d}-service") for n in range(60)]
    for batch in ([incident], many):
        message = incident_messages.render_incidents(batch, LINKS, NOW)
        fields = {"text": message.text, "blocks": list(message.blocks)}
        assert block_kit.validate(fields) == []
