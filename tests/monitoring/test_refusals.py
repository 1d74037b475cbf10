"""A database that answers and would refuse: the monitor and deep health find it before a visitor.

The same for vendors' keys: a missing or refused one is reported by the channels that are left.
"""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from dev.vendors.slack import Slack
from lib.monitoring import deployments, monitor
from lib.monitoring.facts import collect_facts
from lib.services import Services
from lib.settings import Settings
from tests.conftest import LEAD, delivered, eventually
from tests.monitoring.test_health import deep
from tests.monitoring.test_statement_check import OUTBOX, PRODUCTS, STORE

# Deep health gives every service a second, whatever else the machine does.
pytestmark = pytest.mark.measures_time

type Rows = psycopg.Connection[DictRow]

MINUTE = timedelta(minutes=1)
# One of each kind.
ALERTED = ("column renamed", "insert revoked", "a column nobody fills", "a check",
        "no policy on leads", "a trigger that raises", "a trigger that drops the row in silence",
        "a read-only role", "a sequence without usage", "insert on outbox revoked")  # fmt: skip


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    with closing(Services(Settings(platform.environment))) as services:
        services.cache.ping()
        yield services


def services_with(platform: Platform, **variables: str) -> Services:
    return Services(Settings({**platform.environment, **variables}))


def findings(report: monitor.Report) -> dict[str, str]:
    return {finding.rule: finding.description for finding in report.findings}


def call_monitor(platform: Platform, **variables: str) -> dict[str, Any]:
    """What the address of the watch answers, with these variables."""
    headers = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    with platform.function("api/cron/watch.py", **variables) as running:
        url = f"{running.url}/api/cron/watch"
        report: dict[str, Any] = httpx.get(url, headers=headers, timeout=60).json()
        return report


def end_sessions(database: Rows) -> None:
    database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'alfa_api_a'"
    )


def slack_texts(platform: Platform) -> list[str]:
    return [json.dumps(m["fields"], ensure_ascii=False) for m in slack_messages(platform)]


def slack_messages(platform: Platform) -> list[dict[str, Any]]:
    vendor = cast("Slack", platform.slack.vendor)
    return vendor.messages()


@pytest.mark.parametrize("name", STORE)
def test_deep_health_is_unhealthy_while_a_lead_would_be_refused_and_says_why(
    platform: Platform, database: Rows, name: str
) -> None:
    fault = STORE[name]
    database.execute(fault.broken.encode())
    try:
        response = deep(platform, platform)
    finally:
        database.execute(fault.repaired.encode())
        if "role" in name:  # sessions that began meanwhile stay as they are
            end_sessions(database)
    assert (response.status_code, response.json()["status"]) == (503, "unhealthy")
    message = response.json()["services"]["database"]
    assert message.startswith("would refuse a lead: ")
    for part in fault.message_parts:
        assert part in message
    response = deep(platform, platform)
    assert (response.status_code, response.json()["status"]) == (200, "healthy"), response.text


@pytest.mark.parametrize("name", ALERTED)
def test_the_monitor_alerts_before_any_visitor_and_reports_the_recovery(
    platform: Platform, database: Rows, services: Services, name: str
) -> None:
    fault, now = STORE[name], datetime.now(UTC)
    assert findings(monitor.run(services, None, now)) == {}
    database.execute(fault.broken.encode())
    try:
        result = findings(monitor.run(services, None, now + MINUTE))
    finally:
        database.execute(fault.repaired.encode())
    assert set(result) == {"store_refused"}, result
    for part in fault.message_parts:
        assert part in result["store_refused"]
    [message] = slack_messages(platform)
    text = message["fields"]["text"]
    assert "SEV1" in text
    assert "refuse" in text
    fields = json.dumps(message["fields"], ensure_ascii=False).replace('\\"', '"')
    assert fault.message_parts[0] in fields
    for tick in (2, 3, 4):
        assert findings(monitor.run(services, None, now + tick * MINUTE)) == {}
    [message, *_replies] = slack_messages(platform)
    assert "RECOVERED" in message["fields"]["text"]


@pytest.mark.parametrize("name", OUTBOX)
def test_mails_that_would_not_be_sent_are_a_sev1_and_degrade(
    platform: Platform, database: Rows, services: Services, name: str
) -> None:
    fault = OUTBOX[name]
    database.execute(fault.broken.encode())
    try:
        facts = collect_facts(services, None, datetime.now(UTC))
        response = deep(platform, platform)
    finally:
        database.execute(fault.repaired.encode())
    assert facts.store_fault is None
    assert fault.message_parts[0] in (facts.outbox_fault or "")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert response.json()["services"]["database"] == "connected"
    assert response.json()["services"]["outbox"].startswith("would send no mail: ")
    assert deep(platform, platform).json()["services"]["outbox"] == "ready"


@pytest.mark.parametrize("name", ["a column dropped", "select revoked", "no policy"])
def test_a_catalogue_that_cannot_be_read_is_a_sev2_and_degrades(
    platform: Platform, database: Rows, services: Services, name: str
) -> None:
    fault = PRODUCTS[name]
    database.execute(fault.broken.encode())
    try:
        result = findings(monitor.run(services, None, datetime.now(UTC)))
        response = deep(platform, platform)
    finally:
        database.execute(fault.repaired.encode())
    assert set(result) == {"products_refused"}
    assert fault.message_parts[0] in result["products_refused"]
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert response.json()["services"]["products"].startswith("would show no product: ")


def test_a_table_the_monitor_may_not_read_hides_nothing_else(
    platform: Platform, database: Rows, services: Services
) -> None:
    database.execute("revoke select on drills from alfa_app")
    try:
        result = findings(monitor.run(services, None, datetime.now(UTC)))
    finally:
        database.execute("grant select on drills to alfa_app")
    assert set(result) == {"watch_blind"}
    assert "permission denied for table drills" in result["watch_blind"]


# ------------------------------------------------------------------ a new deployment


@pytest.mark.parametrize("function", ["leads", "products"])
def test_a_new_deployment_checks_its_statements_after_its_first_response_and_alerts(
    platform: Platform, database: Rows, function: str
) -> None:
    fault = STORE["an optional field made required"]
    database.execute(fault.broken.encode())
    build = {"VERCEL_DEPLOYMENT_ID": f"dpl_new_{function}"}
    query = "select * from deployments where deployment = %s and fault is not null"
    try:
        with platform.function(f"api/{function}.py", **build) as running:
            first_answer(running.url, function)
            row = eventually(lambda: database.execute(query, list(build.values())).fetchone())
            [text] = eventually(lambda: slack_texts(platform))
    finally:
        database.execute(fault.repaired.encode())
    assert row is not None
    assert "23502" in row["fault"]
    assert "a new deployment found" in text


def first_answer(url: str, function: str) -> None:
    if function == "leads":
        assert httpx.post(f"{url}/api/leads", json=LEAD, timeout=20).status_code == 200
    else:
        assert httpx.get(f"{url}/api/products", timeout=20).status_code == 200


def test_of_all_instances_of_a_deployment_one_checks(database: Rows, services: Services) -> None:
    build = deployments.Build("dpl_many", "0" * 40)
    claims = []
    now = datetime.now(UTC)
    for _ in range(3):
        deployments.check_once(services, build, now)
        query = "select asked_at from deployments where deployment = 'dpl_many'"
        claims.append(database.execute(query).fetchone())
        now += MINUTE
    assert claims == [claims[0]] * 3


# ------------------------------------------------------------------ keys of the vendors

CHANNELS = {
    "RESEND_API_KEY": ("mail", "refused: invalid_api_key"),
    "SLACK_BOT_TOKEN": ("slack", "refused: invalid_auth"),
}


@pytest.mark.parametrize("variable", CHANNELS)
def test_a_refused_key_is_named_by_deep_health(
    platform: Platform, database: Rows, variable: str
) -> None:
    service, word = CHANNELS[variable]
    with platform.function("api/health.py", **{variable: "wrong-" + "x" * 30}) as health:
        response = deep(platform, health)
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert response.json()["services"][service] == word


def test_what_is_not_configured_is_named_by_deep_health(platform: Platform, database: Rows) -> None:
    missing = dict.fromkeys(
        ("RESEND_API_KEY", "SLACK_BOT_TOKEN", "SLACK_WEBHOOK_URL", "SENTRY_DSN")
    )
    with platform.function("api/health.py", **missing) as health:
        services = deep(platform, health).json()["services"]
    assert services["mail"] == "unconfigured: RESEND_API_KEY is not set"
    assert services["slack"].startswith("unconfigured: SLACK_BOT_TOKEN")
    assert services["sentry"] == "unconfigured: SENTRY_DSN is not set"


def test_a_key_that_may_only_send_is_accepted(platform: Platform, database: Rows) -> None:
    full = {"Authorization": f"Bearer {platform.environment['RESEND_API_KEY']}"}
    api_key = httpx.post(
        f"{platform.resend.url}/api-keys",
        headers=full,
        json={"name": "sending", "permission": "sending_access"},
    ).json()
    with platform.function("api/health.py", RESEND_API_KEY=api_key["token"]) as health:
        assert deep(platform, health).json()["services"]["mail"] == "connected"


@pytest.mark.parametrize("key", ["", "re_wrong_0123456789abcdef"])
def test_a_missing_or_refused_mail_key_is_a_sev1_in_slack(
    platform: Platform, database: Rows, key: str
) -> None:
    with closing(services_with(platform, RESEND_API_KEY=key)) as services:
        report = monitor.run(services, None, datetime.now(UTC))
    assert set(findings(report)) == {"mail_refused"}
    assert ("RESEND_API_KEY is not set" if not key else "invalid_api_key") in report.faults[0]
    [text] = slack_texts(platform)
    assert "SEV1 Mail is refused" in text


def test_a_refused_bot_is_reported_by_sentry_and_by_mail_to_the_operators(
    platform: Platform, database: Rows
) -> None:
    variables = {
        "SLACK_BOT_TOKEN": "xoxb-wrong",
        "SLACK_WEBHOOK_URL": "",
        "ALERTS_MAIL_TO": "oncall@alfabeauty.co.id",
    }
    for _ in range(2):
        report = call_monitor(platform, **variables)
        assert report["findings"] == ["slack_refused"]
        assert report["faults"] == ["Slack refuses our bot: invalid_auth"]
    [mail] = [mail for mail in delivered(platform) if mail["to"] == ["oncall@alfabeauty.co.id"]]
    assert mail["subject"] == "SEV1 Slack refuses our alerts"
    assert "invalid_auth" in mail["text"]
    assert slack_messages(platform) == []
    assert "alarm: slack_refused" in json.dumps(platform.sentry.received())


def test_slack_that_is_not_configured_is_reported_by_sentry(
    platform: Platform, database: Rows
) -> None:
    result = call_monitor(platform, SLACK_BOT_TOKEN="", SLACK_WEBHOOK_URL="")
    assert result["findings"] == ["alerting_not_configured"]
    assert result["faults"][0].startswith("SLACK_BOT_TOKEN")
    assert "alarm: alerting_not_configured" in json.dumps(platform.sentry.received())


def test_sentry_that_is_not_configured_is_reported_by_slack(
    platform: Platform, database: Rows
) -> None:
    with closing(services_with(platform, SENTRY_DSN="")) as services:
        report = monitor.run(services, None, datetime.now(UTC))
    assert findings(report) == {"alerting_not_configured": "SENTRY_DSN is not set"}


# ------------------------------------------------------------------ the canary


def test_a_canary_sent_during_an_outage_leaves_nothing_once_it_is_drained(
    platform: Platform, database: Rows, services: Services
) -> None:
    fault, now = STORE["column renamed"], datetime.now(UTC)
    database.execute(fault.broken.encode())
    try:
        monitor.run(services, None, now)
    finally:
        database.execute(fault.repaired.encode())
    platform.cron("deliver")
    assert database.execute("select count(*) as n from leads").fetchone() == {"n": 0}


def test_a_canary_drained_after_the_run_is_removed_by_the_next(
    platform: Platform, database: Rows, services: Services
) -> None:
    httpx.post(f"{platform.url}/api/leads", json=LEAD)
    eventually(platform.is_idle)  # its mails are sent
    database.execute("update leads set canary = true, created_at = now() - interval '11 minutes'")
    monitor.run(services, None, datetime.now(UTC))
    assert database.execute("select count(*) as n from leads").fetchone() == {"n": 0}
    assert database.execute("select count(*) as n from erasure_remains").fetchone() == {"n": 0}
