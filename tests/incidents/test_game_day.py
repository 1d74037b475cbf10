"""A game day: each dependency is broken for real, and whoever is on call hears of it once.

The functions run behind fault proxies; the watch is called as the cron calls it; Slack, Resend and
Sentry are the stand-ins.
"""

import json
import signal
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from dev.faults.test_site import SiteUnderTest
from dev.vendors import block_kit
from lib.services import Services
from lib.settings import Settings
from ops import cli
from ops.incidents import postmortem
from tests.conftest import LEAD, eventually
from tests.fix_site import rig, shared_rig

__all__ = ["rig", "shared_rig"]


@pytest.fixture
def day(rig: SiteUnderTest) -> Iterator[SiteUnderTest]:
    """Nothing is broken, and the monitor has run once."""
    rig.environment["SITE_URL"] = rig.url
    kill(rig, "api/leads", "api/cron/watch", "api/status", "api/health")
    assert watch(rig)["findings"] == []
    yield rig
    rig.clear_faults_and_wait()


def kill(rig: SiteUnderTest, *functions: str) -> None:
    """Their processes end: what a breaker remembers goes with them."""
    pids = {pid for function in functions for pid in rig.signal(function, signal.SIGKILL)}
    eventually(lambda: pids.isdisjoint(running["pid"] for running in rig.running()))


def watch(rig: SiteUnderTest) -> dict[str, Any]:
    token = {"Authorization": f"Bearer {rig.environment['CRON_SECRET']}"}
    response = httpx.get(f"{rig.url}/api/cron/watch", headers=token, timeout=60)
    assert response.status_code == 200, response.text
    rig.wait_idle(10)
    report: dict[str, Any] = response.json()
    return report


def post(rig: SiteUnderTest, number: int = 0) -> httpx.Response:
    lead = {**LEAD, "message": f"Nomor {number}", "email": ""}
    return httpx.post(f"{rig.url}/api/leads", json=lead, timeout=30)


def messages(rig: SiteUnderTest) -> list[dict[str, Any]]:
    """What stands in the channel, replies in threads left out."""
    posted: list[dict[str, Any]] = rig.slack.vendor.messages()  # type: ignore[attr-defined]
    return [each for each in posted if not each["fields"].get("thread_ts")]


def replies(rig: SiteUnderTest) -> list[dict[str, Any]]:
    posted: list[dict[str, Any]] = rig.slack.vendor.messages()  # type: ignore[attr-defined]
    return [each for each in posted if each["fields"].get("thread_ts")]


def status(rig: SiteUnderTest) -> dict[str, Any]:
    response = httpx.get(f"{rig.url}/api/status", timeout=30)
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


def incidents(rig: SiteUnderTest) -> list[dict[str, Any]]:
    return rig.admin.execute("select * from incidents order by number").fetchall()


def recovered(rig: SiteUnderTest) -> None:
    """Two quiet watches: it is over."""
    kill(rig, "api/leads", "api/cron/watch", "api/status")
    for _ in range(3):
        watch(rig)


def quiet(rig: SiteUnderTest) -> None:
    """Ten minutes pass: what happened and is over calls nobody any more."""
    passed = "update incidents set facts = facts || jsonb_build_object('quiet_from', now())"
    rig.admin.execute(passed)


def test_postgres_down_is_one_sev1_within_one_monitor_run_and_its_recovery_edits_it(
    day: SiteUnderTest,
) -> None:
    day.database.switch("refuse")
    assert post(day).status_code == 202
    report = watch(day)
    assert report["written"] == "redis"
    assert "database_down" in report["findings"]
    [alert] = messages(day)
    assert alert["fields"]["text"] == "SEV1 Postgres is down: leads are queued"
    for _ in range(3):
        watch(day)
    assert len(messages(day)) == 1, "the same outage, posted once"
    document = status(day)
    assert document["data"]["source"] == "copy"
    assert document["status"]["indicator"] == "major"
    assert [(i["status"], i["impact"]) for i in document["incidents"]] == [
        ("investigating", "critical")
    ]

    day.clear_faults_and_wait()
    recovered(day)
    [edited] = messages(day)
    assert edited["ts"] == alert["ts"]
    assert edited["fields"]["text"].startswith("RECOVERED SEV1")
    assert any("recovered" in reply["fields"]["text"] for reply in replies(day))
    [incident] = incidents(day)
    assert (incident["severity"], incident["state"]) == ("sev1", "resolve")
    assert incident["slack_ts"] == alert["ts"]
    document = status(day)
    assert [(i["status"], i["impact"]) for i in document["incidents"]] == [("resolved", "critical")]


def test_its_post_mortem_counts_the_leads_and_it_closes_with_an_rca_alone(
    day: SiteUnderTest,
) -> None:
    assert post(day, 1).status_code == 200
    assert day.wait_idle(10)
    day.database.switch("refuse")
    assert post(day, 2).status_code == 202
    watch(day)
    day.clear_faults_and_wait()
    recovered(day)
    eventually(lambda: day.drain()[1].get("queue") is not None and day.queue_length() == 0)

    services = Services(Settings(day.environment))
    facts = postmortem.as_dict(postmortem.load(services, "last"))
    assert (facts["leads_accepted"], facts["leads_stored"]) == (2, 2)
    assert (facts["leads_recovered"], facts["leads_lost"]) == (1, 0)
    assert facts["time_to_detect_s"] is not None
    assert facts["time_to_recover_s"] >= facts["time_to_detect_s"]
    text = postmortem.render(postmortem.load(services, "last"))
    assert "Postgres is down" in text
    assert "TODO" in text
    services.close()

    def ops(*arguments: str) -> int:
        return cli.main(list(arguments), day.environment)

    assert ops("incident", "step", "last", "review", "--by", "on call") == 0
    assert ops("incident", "step", "last", "closed") == 1, "a Sev1 without its RCA stays open"
    assert ops("incident", "rca", "last", "--cause", "the server was stopped") == 1
    assert ops("incident", "rca", "last", "--cause", "the server was stopped", "--impact",
               "one lead late", "--action", "watch the disk | ops | 2026-12-01") == 0  # fmt: skip
    assert ops("incident", "step", "last", "closed") == 0
    [incident] = incidents(day)
    assert incident["state"] == "closed"
    assert ops("incident", "show", "last") == 0, "the timeline is whole"


def test_redis_down_is_one_sev2_that_waits_for_the_morning(day: SiteUnderTest) -> None:
    day.redis.switch("refuse")
    report = watch(day)
    assert report["findings"] == ["redis_down"]
    watch(day)
    assert messages(day) == []
    [incident] = incidents(day)
    assert (incident["severity"], incident["told"]) == ("sev2", 0)
    assert incident["tell_at"] > incident["detected_at"]
    assert status(day)["data"]["source"] == "database"
    # The morning comes.
    day.clear_faults_and_wait()
    day.admin.execute("update incidents set tell_at = now()")
    recovered(day)
    [digest] = messages(day)
    assert "SEV2 Redis is down" in json.dumps(digest["fields"])


def test_a_lead_kept_nowhere_is_alerted_by_its_own_request(day: SiteUnderTest) -> None:
    day.database.switch("refuse")
    day.redis.switch("refuse")
    day.resend.switch("fail", status=500)
    response = post(day)
    assert response.status_code == 503
    [alert] = eventually(lambda: messages(day))
    assert "A lead was not stored anywhere" in alert["fields"]["text"]
    assert post(day, 2).status_code == 503
    day.wait_idle(20)
    report = watch(day)
    assert report["written"] == "slack"
    assert len(messages(day)) == 1, "nothing can be recorded, and still it is posted once"
    # What nobody could write down is taken over when they can, and over after ten quiet minutes.
    day.clear_faults_and_wait()
    recovered(day)
    quiet(day)
    recovered(day)
    [incident] = incidents(day)
    assert (incident["slack_ts"], incident["state"]) == (alert["ts"], "resolve")
    assert messages(day)[0]["fields"]["text"].startswith("RECOVERED SEV1")


def test_a_lead_in_a_mail_alone_is_alerted_at_once(day: SiteUnderTest) -> None:
    day.database.switch("refuse")
    day.upstash.switch("fail", status=500, match="HSETNX")
    assert post(day).status_code == 202
    [alert] = eventually(lambda: messages(day))
    assert alert["fields"]["text"].startswith("SEV1 A lead is in a mail alone")


def test_resend_down_delays_mails_and_waits_for_the_morning(day: SiteUnderTest) -> None:
    day.resend.switch("fail", status=500)
    assert post(day).status_code == 200
    day.wait_idle(10)
    day.admin.execute("update outbox set created_at = now() - interval '20 min'")
    assert watch(day)["findings"] == ["mail_delayed"]
    assert messages(day) == []
    assert [each["severity"] for each in incidents(day)] == ["sev2"]


def test_a_mail_given_up_is_sev1(day: SiteUnderTest) -> None:
    day.resend.switch("fail", status=422)
    post(day)
    day.wait_idle(10)
    day.admin.execute("update outbox set dead_at = now(), leased_until = null")
    assert watch(day)["findings"] == ["dead_letters"]
    assert [each["fields"]["text"] for each in messages(day)] == ["SEV1 Mails were given up"]


@pytest.mark.parametrize(
    ("mode", "options"),
    [("fail", {"status": 500}), ("rate_limit", {"retry_after_s": 30}), ("reset", {})],
)
def test_slack_down_delays_an_alert_and_loses_none(
    day: SiteUnderTest, mode: str, options: dict[str, int]
) -> None:
    day.slack.switch(mode, **options)
    day.database.switch("refuse")
    watch(day)  # or the request of its synthetic lead, which meets the outage first
    assert messages(day) == []
    day.slack.ok()
    day.database.ok()
    kill(day, "api/cron/watch", "api/leads")
    watch(day)  # Postgres is back before Slack is
    day.admin.execute("update incidents set tell_at = now()")
    watch(day)
    day.admin.execute("update incidents set tell_at = now()")
    watch(day)
    [alert] = messages(day)
    assert "Postgres is down" in alert["fields"]["text"]


def test_an_alert_whose_response_was_lost_is_not_posted_twice(day: SiteUnderTest) -> None:
    day.slack.switch("lose_reply", match="chat.postMessage", times=1)
    day.database.switch("refuse")
    watch(day)
    assert len(messages(day)) == 1
    document = json.loads(str(day.redis_command("HGET", "incidents", "service").decode()))  # type: ignore[union-attr]
    document["incident"]["tell_at"] = document["incident"]["detected_at"]
    day.redis_command("HSET", "incidents", "service", json.dumps(document))
    watch(day)
    assert len(messages(day)) == 1


def test_a_silent_sentry_raises_no_alert(day: SiteUnderTest) -> None:
    day.sentry.switch("stall")
    assert watch(day)["findings"] == []
    assert messages(day) == []


def test_every_message_keeps_to_block_kits_limits_and_names_no_person(day: SiteUnderTest) -> None:
    day.database.switch("refuse")
    post(day)
    watch(day)
    day.clear_faults_and_wait()
    recovered(day)
    sent = [record["body"] for record in day.slack.received() if "chat." in record["path"]]
    assert len(sent) >= 2
    for body in sent:
        assert block_kit.validate(body) == []
        for private in (LEAD["business_name"], LEAD["contact_name"], "6281234567890", "Nomor"):
            assert private not in json.dumps(body)


def test_the_monitor_checks_in_with_sentry(day: SiteUnderTest) -> None:
    day.sentry.forget()
    watch(day)

    def check_ins() -> list[Any]:
        items = [
            item
            for record in day.sentry.received()
            for item in record["body"].get("items", [])
            if item["header"].get("type") == "check_in"
        ]
        return [item["payload"] for item in items]

    [check_in] = eventually(check_ins)
    assert (check_in["monitor_slug"], check_in["status"]) == ("watch", "ok")
    assert check_in["monitor_config"]["schedule"]["value"] == 1
