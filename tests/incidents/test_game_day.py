"""A game day: each dependency is broken for real, and whoever is on call hears of it once.

The functions run behind fault proxies; the monitor is run as the cron runs it; Slack, Resend and
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
from tests.fix_site import shared_site, site

__all__ = ["shared_site", "site"]


@pytest.fixture
def monitored_site(site: SiteUnderTest) -> Iterator[SiteUnderTest]:
    """Nothing is broken, and the monitor has run once."""
    site.environment["SITE_URL"] = site.url
    kill(site, "api/leads", "api/cron/watch", "api/status", "api/health")
    assert run_monitor(site)["findings"] == []
    yield site
    site.clear_faults_and_wait()


def kill(site: SiteUnderTest, *functions: str) -> None:
    """Their processes end: what a breaker remembers goes with them."""
    pids = {pid for function in functions for pid in site.signal(function, signal.SIGKILL)}
    eventually(lambda: pids.isdisjoint(running["pid"] for running in site.running()))


def run_monitor(site: SiteUnderTest) -> dict[str, Any]:
    token = {"Authorization": f"Bearer {site.environment['CRON_SECRET']}"}
    response = httpx.get(f"{site.url}/api/cron/watch", headers=token, timeout=60)
    assert response.status_code == 200, response.text
    site.wait_idle(10)
    report: dict[str, Any] = response.json()
    return report


def post(site: SiteUnderTest, number: int = 0) -> httpx.Response:
    lead = {**LEAD, "message": f"Nomor {number}", "email": ""}
    return httpx.post(f"{site.url}/api/leads", json=lead, timeout=30)


def messages(site: SiteUnderTest) -> list[dict[str, Any]]:
    """What stands in the channel, replies in threads left out."""
    posted: list[dict[str, Any]] = site.slack.vendor.messages()  # type: ignore[attr-defined]
    return [each for each in posted if not each["fields"].get("thread_ts")]


def replies(site: SiteUnderTest) -> list[dict[str, Any]]:
    posted: list[dict[str, Any]] = site.slack.vendor.messages()  # type: ignore[attr-defined]
    return [each for each in posted if each["fields"].get("thread_ts")]


def status(site: SiteUnderTest) -> dict[str, Any]:
    response = httpx.get(f"{site.url}/api/status", timeout=30)
    assert response.status_code == 200
    document: dict[str, Any] = response.json()
    return document


def incidents(site: SiteUnderTest) -> list[dict[str, Any]]:
    return site.admin.execute("select * from incidents order by number").fetchall()


def recovered(site: SiteUnderTest) -> None:
    """Two quiet watches: it is over."""
    kill(site, "api/leads", "api/cron/watch", "api/status")
    for _ in range(3):
        run_monitor(site)


def quiet(site: SiteUnderTest) -> None:
    """Ten minutes pass: what happened and is over calls nobody any more."""
    passed = "update incidents set facts = facts || jsonb_build_object('quiet_from', now())"
    site.admin.execute(passed)


def test_postgres_down_is_one_sev1_within_one_monitor_run_and_its_recovery_edits_it(
    monitored_site: SiteUnderTest,
) -> None:
    monitored_site.database.switch("refuse")
    assert post(monitored_site).status_code == 202
    report = run_monitor(monitored_site)
    assert report["written"] == "redis"
    assert "database_down" in report["findings"]
    [alert] = messages(monitored_site)
    assert alert["fields"]["text"] == "SEV1 Postgres is down: leads are queued"
    for _ in range(3):
        run_monitor(monitored_site)
    assert len(messages(monitored_site)) == 1, "the same outage, posted once"
    document = status(monitored_site)
    assert document["data"]["source"] == "copy"
    assert document["status"]["indicator"] == "major"
    assert [(i["status"], i["impact"]) for i in document["incidents"]] == [
        ("investigating", "critical")
    ]

    monitored_site.clear_faults_and_wait()
    recovered(monitored_site)
    [edited] = messages(monitored_site)
    assert edited["ts"] == alert["ts"]
    assert edited["fields"]["text"].startswith("RECOVERED SEV1")
    assert any("recovered" in reply["fields"]["text"] for reply in replies(monitored_site))
    [incident] = incidents(monitored_site)
    assert (incident["severity"], incident["state"]) == ("sev1", "resolve")
    assert incident["slack_ts"] == alert["ts"]
    document = status(monitored_site)
    assert [(i["status"], i["impact"]) for i in document["incidents"]] == [("resolved", "critical")]


def test_its_post_mortem_counts_the_leads_and_it_closes_with_an_rca_alone(
    monitored_site: SiteUnderTest,
) -> None:
    assert post(monitored_site, 1).status_code == 200
    assert monitored_site.wait_idle(10)
    monitored_site.database.switch("refuse")
    assert post(monitored_site, 2).status_code == 202
    run_monitor(monitored_site)
    monitored_site.clear_faults_and_wait()
    recovered(monitored_site)
    eventually(
        lambda: (
            monitored_site.drain()[1].get("queue") is not None
            and monitored_site.queue_length() == 0
        )
    )

    services = Services(Settings(monitored_site.environment))
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
        return cli.main(list(arguments), monitored_site.environment)

    assert ops("incident", "step", "last", "review", "--by", "on call") == 0
    assert ops("incident", "step", "last", "closed") == 1, "a Sev1 without its RCA stays open"
    assert ops("incident", "rca", "last", "--cause", "the server was stopped") == 1
    assert ops("incident", "rca", "last", "--cause", "the server was stopped", "--impact",
               "one lead late", "--action", "watch the disk | ops | 2026-12-01") == 0  # fmt: skip
    assert ops("incident", "step", "last", "closed") == 0
    [incident] = incidents(monitored_site)
    assert incident["state"] == "closed"
    assert ops("incident", "show", "last") == 0, "the timeline is whole"


def test_redis_down_is_one_sev2_that_waits_for_the_morning(monitored_site: SiteUnderTest) -> None:
    monitored_site.redis.switch("refuse")
    report = run_monitor(monitored_site)
    assert report["findings"] == ["redis_down"]
    run_monitor(monitored_site)
    assert messages(monitored_site) == []
    [incident] = incidents(monitored_site)
    assert (incident["severity"], incident["told"]) == ("sev2", 0)
    assert incident["tell_at"] > incident["detected_at"]
    assert status(monitored_site)["data"]["source"] == "database"
    # The morning comes.
    monitored_site.clear_faults_and_wait()
    monitored_site.admin.execute("update incidents set tell_at = now()")
    recovered(monitored_site)
    [digest] = messages(monitored_site)
    assert "SEV2 Redis is down" in json.dumps(digest["fields"])


def test_a_lead_kept_nowhere_is_alerted_by_its_own_request(monitored_site: SiteUnderTest) -> None:
    monitored_site.database.switch("refuse")
    monitored_site.redis.switch("refuse")
    monitored_site.resend.switch("fail", status=500)
    response = post(monitored_site)
    assert response.status_code == 503
    [alert] = eventually(lambda: messages(monitored_site))
    assert "A lead was not stored anywhere" in alert["fields"]["text"]
    assert post(monitored_site, 2).status_code == 503
    monitored_site.wait_idle(20)
    report = run_monitor(monitored_site)
    assert report["written"] == "slack"
    assert len(messages(monitored_site)) == 1, (
        "nothing can be recorded, and still it is posted once"
    )
    # What nobody could write down is taken over when they can, and over after ten quiet minutes.
    monitored_site.clear_faults_and_wait()
    recovered(monitored_site)
    quiet(monitored_site)
    recovered(monitored_site)
    [incident] = incidents(monitored_site)
    assert (incident["slack_ts"], incident["state"]) == (alert["ts"], "resolve")
    assert messages(monitored_site)[0]["fields"]["text"].startswith("RECOVERED SEV1")


def test_a_lead_in_a_mail_alone_is_alerted_at_once(monitored_site: SiteUnderTest) -> None:
    monitored_site.database.switch("refuse")
    monitored_site.upstash.switch("fail", status=500, match="HSETNX")
    assert post(monitored_site).status_code == 202
    [alert] = eventually(lambda: messages(monitored_site))
    assert alert["fields"]["text"].startswith("SEV1 A lead is in a mail alone")


def test_resend_down_delays_mails_and_waits_for_the_morning(monitored_site: SiteUnderTest) -> None:
    monitored_site.resend.switch("fail", status=500)
    assert post(monitored_site).status_code == 200
    monitored_site.wait_idle(10)
    monitored_site.admin.execute("update outbox set created_at = now() - interval '20 min'")
    assert run_monitor(monitored_site)["findings"] == ["mail_delayed"]
    assert messages(monitored_site) == []
    assert [each["severity"] for each in incidents(monitored_site)] == ["sev2"]


def test_a_mail_given_up_is_sev1(monitored_site: SiteUnderTest) -> None:
    monitored_site.resend.switch("fail", status=422)
    post(monitored_site)
    monitored_site.wait_idle(10)
    monitored_site.admin.execute("update outbox set dead_at = now(), leased_until = null")
    assert run_monitor(monitored_site)["findings"] == ["dead_letters"]
    assert [each["fields"]["text"] for each in messages(monitored_site)] == [
        "SEV1 Mails were given up"
    ]


@pytest.mark.parametrize(
    ("mode", "options"),
    [("fail", {"status": 500}), ("rate_limit", {"retry_after_s": 30}), ("reset", {})],
)
def test_slack_down_delays_an_alert_and_loses_none(
    monitored_site: SiteUnderTest, mode: str, options: dict[str, int]
) -> None:
    monitored_site.slack.switch(mode, **options)
    monitored_site.database.switch("refuse")
    # Or the request of its synthetic lead, which meets the outage first.
    run_monitor(monitored_site)
    assert messages(monitored_site) == []
    monitored_site.slack.ok()
    monitored_site.database.ok()
    kill(monitored_site, "api/cron/watch", "api/leads")
    run_monitor(monitored_site)  # Postgres is back before Slack is
    monitored_site.admin.execute("update incidents set tell_at = now()")
    run_monitor(monitored_site)
    monitored_site.admin.execute("update incidents set tell_at = now()")
    run_monitor(monitored_site)
    [alert] = messages(monitored_site)
    assert "Postgres is down" in alert["fields"]["text"]


def test_an_alert_whose_response_was_lost_is_not_posted_twice(
    monitored_site: SiteUnderTest,
) -> None:
    monitored_site.slack.switch("lose_reply", match="chat.postMessage", times=1)
    monitored_site.database.switch("refuse")
    run_monitor(monitored_site)
    assert len(messages(monitored_site)) == 1
    entry = monitored_site.redis_command("HGET", "incidents", "service")
    document = json.loads(str(entry.decode()))  # type: ignore[union-attr]
    document["incident"]["tell_at"] = document["incident"]["detected_at"]
    monitored_site.redis_command("HSET", "incidents", "service", json.dumps(document))
    run_monitor(monitored_site)
    assert len(messages(monitored_site)) == 1


def test_a_silent_sentry_raises_no_alert(monitored_site: SiteUnderTest) -> None:
    monitored_site.sentry.switch("stall")
    assert run_monitor(monitored_site)["findings"] == []
    assert messages(monitored_site) == []


def test_every_message_keeps_to_block_kits_limits_and_names_no_person(
    monitored_site: SiteUnderTest,
) -> None:
    monitored_site.database.switch("refuse")
    post(monitored_site)
    run_monitor(monitored_site)
    monitored_site.clear_faults_and_wait()
    recovered(monitored_site)
    sent = [
        record["body"] for record in monitored_site.slack.received() if "chat." in record["path"]
    ]
    assert len(sent) >= 2
    for body in sent:
        assert block_kit.validate(body) == []
        for private in (LEAD["business_name"], LEAD["contact_name"], "6281234567890", "Nomor"):
            assert private not in json.dumps(body)


def test_the_monitor_checks_in_with_sentry(monitored_site: SiteUnderTest) -> None:
    monitored_site.sentry.forget()
    run_monitor(monitored_site)

    def check_ins() -> list[Any]:
        items = [
            item
            for record in monitored_site.sentry.received()
            for item in record["body"].get("items", [])
            if item["header"].get("type") == "check_in"
        ]
        return [item["payload"] for item in items]

    [check_in] = eventually(check_ins)
    assert (check_in["monitor_slug"], check_in["status"]) == ("watch", "ok")
    assert check_in["monitor_config"]["schedule"]["value"] == 1
