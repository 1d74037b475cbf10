"""A lead that exists only in a mail stays open, counted and named, until a person deals with it."""

import json
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.edge.runtime import Function
from dev.faults.fault_proxy import FaultProxy
from dev.platform.local_platform import Platform
from dev.vendors.slack import Slack
from lib.leads import canary, mailed_leads, reconciliation
from lib.leads.mailed_leads import MailedLead
from lib.monitoring import monitor
from lib.privacy import erasure
from lib.privacy.data_subject import Subject
from lib.services import Services
from lib.settings import Settings
from ops import cli
from tests.conftest import LEAD, delivered, eventually
from tests.monitoring.test_health import deep
from tests.privacy.person_data import make_lead

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

pytestmark = pytest.mark.real_now

NOW = datetime.now(UTC)
MINUTE = timedelta(minutes=1)
NOWHERE = {
    "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa",
    "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1",
}
NO_SLACK = {"SLACK_BOT_TOKEN": "", "SLACK_WEBHOOK_URL": ""}
BETWEEN_LEADS_S = 0.5  # stays under the ceiling of all clients, 120 a minute


@pytest.fixture(autouse=True)
def now() -> None:
    global NOW
    NOW = datetime.now(UTC)


@pytest.fixture
def services(platform: Platform, database: Rows) -> Iterator[Services]:
    with closing(Services(Settings(platform.environment))) as made:
        made.cache.ping()
        yield made


def send(at: Function | Platform, message: str) -> dict[str, Any]:
    answer = httpx.post(f"{at.url}/api/leads", json={**LEAD, "message": message}, timeout=20)
    assert answer.status_code in (200, 202), answer.text
    taken: dict[str, Any] = answer.json()
    return taken


def mailed(platform: Platform, *messages: str) -> list[dict[str, Any]]:
    """Leads taken by an instance that reaches neither store and then is gone."""
    with platform.function("api/leads.py", **NOWHERE) as running:
        taken = [send(running, message) for message in messages]
        eventually(lambda: carried(platform) >= {lead["id"] for lead in taken})
    return taken


def carried(platform: Platform) -> set[str]:
    """The ids that Slack's messages carry."""
    return {
        part.split(" ")[0]
        for fields in slack(platform)
        for part in marks(fields).get("mailed", "").split(";")
        if part
    }


def marks(fields: dict[str, Any]) -> dict[str, str]:
    payload: dict[str, str] = fields.get("metadata", {}).get("event_payload", {})
    return payload


def slack(platform: Platform) -> list[dict[str, Any]]:
    return [message["fields"] for message in cast("Slack", platform.slack.vendor).messages()]


def registered(database: Rows) -> set[str]:
    return {str(row["lead_id"]) for row in database.execute("select lead_id from mailed_leads")}


def findings_by_rule(services: Services, at: datetime) -> dict[str, str]:
    return {
        finding.rule: finding.description for finding in monitor.run(services, None, at).findings
    }


def test_several_leads_of_one_outage_are_named_by_monitor_health_reconciliation_and_slack(
    platform: Platform, database: Rows, services: Services
) -> None:
    taken = mailed(platform, "Satu", "Dua", "Tiga")
    refs = {lead["ref"] for lead in taken}
    # Several are carried by one message, which names them and nobody.
    [text] = [json.dumps(message) for message in slack(platform) if "mailed" in marks(message)]
    assert all(ref in text for ref in refs)
    for private in ("Andi", "Maju Jaya", "Satu", "6281234567890", "example.com"):
        assert private not in text

    findings = findings_by_rule(services, NOW)
    assert registered(database) == {lead["id"] for lead in taken}
    assert refs <= set(findings["leads_only_in_mail"].replace(",", "").split())
    assert carried(platform) == set(), "the message says that they are registered"

    result = reconciliation.reconcile(services.cache.pipeline, services.database.run, NOW)
    assert set(result.mailed) == refs
    assert not result.balanced
    answer = deep(platform, platform)
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert set(answer.json()["ledger"]["mailed"]) == refs

    # It stays open, whatever else recovers.
    for tick in range(1, 15):
        assert "leads_only_in_mail" in findings_by_rule(services, NOW + tick * MINUTE)
    messages = [json.dumps(message) for message in slack(platform)]
    [alert] = [message for message in messages if "SEV1 Leads exist only in a mail" in message]
    assert "RECOVERED" not in alert
    assert all(ref in alert for ref in refs)


def test_an_import_closes_an_entry_and_a_person_may_dismiss_one(
    platform: Platform, database: Rows, services: Services, tmp_path: Path, capsys: Printed
) -> None:
    first, second = mailed(platform, "Satu", "Dua")
    assert "leads_only_in_mail" in findings_by_rule(services, NOW)
    assert cli.main(["leads", "mailed"], platform.environment) == 1
    output = capsys.readouterr().out
    assert first["ref"] in output
    assert second["ref"] in output

    [mail] = [mail for mail in delivered(platform) if first["ref"] in mail["text"]]
    saved = tmp_path / "sales.eml"
    saved.write_text(mail["text"], encoding="utf-8")
    assert cli.main(["leads", "import", str(saved)], platform.environment) == 0
    assert findings_by_rule(services, NOW + MINUTE)["leads_only_in_mail"].endswith(second["ref"])

    dismiss = ["leads", "dismiss", second["ref"], "--by", "sari", "--yes"]
    assert cli.main([*dismiss, "--reason", "rang them"], platform.environment) == 0
    assert cli.main([*dismiss, "--reason", "again"], platform.environment) == 1
    row = database.execute("select * from mailed_leads where reason is not null").fetchone()
    assert row is not None
    assert (row["dismissed_by"], row["reason"]) == ("sari", "rang them")
    assert cli.main(["leads", "mailed"], platform.environment) == 0

    for tick in (2, 3):
        assert "leads_only_in_mail" not in findings_by_rule(services, NOW + tick * MINUTE)
    assert any(
        "RECOVERED SEV1 Leads exist only in a mail" in message["text"]
        for message in slack(platform)
    )
    result = reconciliation.reconcile(services.cache.pipeline, services.database.run, NOW)
    assert result.mailed == ()


@pytest.fixture
def flaky(platform: Platform, database: Rows) -> Iterator[tuple[Function, FaultProxy]]:
    """An instance without Slack, whose way to Postgres can be cut."""
    port = urlsplit(platform.database_url).port or 5432
    proxy = FaultProxy("127.0.0.1", port)
    url = platform.database_url.replace(f":{port}/", f":{proxy.port}/")
    with platform.function(
        "api/leads.py",
        DATABASE_URL=url,
        **NO_SLACK,
        LEADS_PER_MINUTE="1000",
        LEADS_PER_HOUR="1000",
    ) as running:
        yield running, proxy
    proxy.close()


def test_an_instance_that_reached_nobody_registers_it_after_a_later_answer(
    platform: Platform, database: Rows, flaky: tuple[Function, FaultProxy]
) -> None:
    running, proxy = flaky
    proxy.switch(mode="refuse")
    platform.upstash.switch(mode="fail", status=500)
    lost = [send(running, f"Hilang {n}") for n in range(2)]
    assert len(delivered(platform)) == 2
    assert registered(database) == set()
    proxy.ok()  # Redis stays down: it would be registered in whichever answers first

    def entered() -> bool:
        """The lost ones are registered."""
        send(running, f"Lalu {datetime.now(UTC)}")
        return {lead["id"] for lead in lost} <= registered(database)

    eventually(entered, pause_s=BETWEEN_LEADS_S)


def test_with_redis_back_first_the_monitor_imports_the_entry_from_redis(
    platform: Platform,
    database: Rows,
    services: Services,
    valkey: redis.Redis,
    flaky: tuple[Function, FaultProxy],
) -> None:
    running, proxy = flaky
    proxy.switch(mode="refuse")
    platform.upstash.switch(mode="fail", status=500)
    lost = send(running, "Hilang")
    platform.upstash.ok()

    def is_registered_in_redis() -> bool:
        """Redis holds the entry."""
        send(running, f"Lalu {datetime.now(UTC)}")
        return lost["id"] in cast("dict[str, str]", valkey.hgetall("mailed"))

    eventually(is_registered_in_redis, pause_s=BETWEEN_LEADS_S)
    entry = json.loads(cast("dict[str, str]", valkey.hgetall("mailed"))[lost["id"]])
    assert set(entry) == {"lead_id", "ref", "accepted_at", "marks"}
    result = reconciliation.reconcile(services.cache.pipeline, services.database.run, NOW)
    assert lost["ref"] in result.mailed, "already, from Redis"
    assert lost["ref"] in findings_by_rule(services, NOW)["leads_only_in_mail"]
    assert lost["id"] in registered(database)
    assert valkey.exists("mailed") == 0


def test_the_reconciliation_counts_a_mailed_lead_as_mailed_and_not_as_missing(
    platform: Platform, database: Rows, services: Services, valkey: redis.Redis
) -> None:
    [taken] = mailed(platform, "Satu")
    at = (NOW - 10 * MINUTE).timestamp()
    valkey.zadd("accepted", {taken["id"]: at})
    findings_by_rule(services, NOW)
    result = reconciliation.reconcile(services.cache.pipeline, services.database.run, NOW)
    assert (result.missing, result.mailed) == ((), (taken["ref"],))


def test_a_canary_that_was_mailed_is_registered_nowhere(platform: Platform, database: Rows) -> None:
    body = json.dumps(canary.payload(NOW)).encode()
    secret = platform.environment["CANARY_SECRET"]
    headers = {
        "Content-Type": "application/json",
        canary.HEADER: canary.sign(secret, body, NOW),
    }
    with platform.function("api/leads.py", **NOWHERE) as running:
        url = f"{running.url}/api/leads"
        answer = httpx.post(url, content=body, headers=headers, timeout=20)
        assert answer.status_code == 202
        send(running, "Sungguh")
        [only] = eventually(lambda: carried(platform))
    assert only != answer.json()["id"]


# ------------------------------------------------------------------ whoever is erased


def entry_of(services: Services, **fields: Any) -> MailedLead:
    from lib.leads import repository

    made = make_lead(NOW - MINUTE, **fields)
    marks = tuple(repository.erasure_hashes(made, services.erasure_keys))
    return MailedLead(str(made.id), made.ref, made.created_at, marks)


def test_an_erased_persons_entry_goes_with_them_and_does_not_come_back(
    services: Services, database: Rows, valkey: redis.Redis
) -> None:
    mine, other = entry_of(services), entry_of(services, email="lain@example.com",
                                               phone_whatsapp="+6281399990000")  # fmt: skip
    mailed_leads.register(services.database.run, [mine, other], NOW)
    erasure.erase(services, Subject(emails=("andi@example.com",)), NOW, asked_by="api")
    assert registered(database) == {other.lead_id}
    entry_json = json.dumps({**mine._asdict(), "accepted_at": mine.accepted_at.isoformat()})
    valkey.hset("mailed", mine.lead_id, entry_json)
    mailed_leads.import_from_redis(services, NOW)
    assert registered(database) == {other.lead_id}
    assert valkey.exists("mailed") == 0


def test_a_lead_deleted_by_hand_after_its_import_leaves_no_open_entry(
    services: Services, database: Rows
) -> None:
    from tests.privacy.person_data import store_lead

    lead = make_lead(NOW - MINUTE)
    store_lead(services, lead)
    entry = MailedLead(str(lead.id), lead.ref, lead.created_at)
    mailed_leads.register(services.database.run, [entry], NOW)
    assert mailed_leads.list_open(services.database.run) == []
    services.database.run(lambda c: c.execute("delete from leads"))
    assert registered(database) == set()


def test_an_import_of_an_erased_persons_mail_closes_its_entry(
    platform: Platform, database: Rows, services: Services, tmp_path: Path
) -> None:
    [taken] = mailed(platform, "Satu")
    findings_by_rule(services, NOW)
    assert registered(database) == {taken["id"]}
    erasure.erase(
        services, Subject(emails=("andi@example.com",)), datetime.now(UTC), asked_by="api"
    )
    [mail] = [mail for mail in delivered(platform) if taken["ref"] in mail["text"]]
    saved = tmp_path / "sales.eml"
    saved.write_text(mail["text"], encoding="utf-8")
    cli.main(["leads", "import", str(saved)], platform.environment)
    assert registered(database) == set(), "what came from Slack holds no mark of a person"
