"""`python3 -m dev outages`: each staged outage for real, and what everybody was told.

For every outage of outage_plan.py: a lead is sent before, during and after it; the monitor runs as
its cron runs it; then everything is mended. Printed is what the visitor got, what Slack showed,
what the status page said and the command that ends it; right is what the table expects, with no
lead lost and none stored twice.
"""

import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from dev.build import source_tree
from dev.faults.outage_plan import OUTAGES, Outage
from dev.faults.test_site import LEADS, SiteUnderTest
from dev.platform.local_platform import Platform

FUNCTIONS = (LEADS, "api/cron/watch", "api/cron/deliver", "api/status", "api/health")
OPERATOR = "on-call@alfa.example.com"
# A pause that Resend's refusal of a key began is over.
END_PAUSE = "update mail_pace set next_at = now(), held_until = null, held_for = null"
AGE_MAILS = "update outbox set created_at = created_at - interval '20 min'"
# Ten quiet minutes: a finding of a request ends only after them.
PASS_QUIET_TIME = "update incidents set facts = facts || jsonb_build_object('quiet_from', now())"
MORNING = "update incidents set tell_at = now()"
SELECT_LEADS = "select id::text as id, message, canary from leads"
SELECT_INCIDENTS = """
select unnest(rules) as rule, severity, state from incidents order by number
"""


@dataclass(slots=True)
class Record:
    """What one outage looked like from outside. alert: the first message's text; messages: the
    channel a minute later."""

    outage: Outage
    status: int = 0
    answer_s: float = 0.0
    alert: str | None = None
    alert_s: float = 0.0
    messages: list[dict[str, Any]] = field(default_factory=list)
    indicator: str = ""
    description: str = ""
    accepted: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def expect(self, is_right: bool, fault: str) -> None:
        if not is_right:
            self.faults.append(fault)


def main(root: Path, names: list[str]) -> int:
    """Run those whose name holds one of `names`, or all; 1 when any was not as expected."""
    chosen = [o for o in OUTAGES if not names or any(part in o.name for part in names)]
    if not chosen:
        print(f"No outage is named so. There are: {', '.join(o.name for o in OUTAGES)}")
        return 2
    records = []
    with tempfile.TemporaryDirectory(prefix="outages-") as folder:
        copied = source_tree.copy(root, Path(folder) / "tree")
        data = Path(folder) / "data"
        with (
            Platform(root, data, durable=False) as platform,
            SiteUnderTest(platform, copied, ALERTS_MAIL_TO=OPERATOR) as site,
        ):
            site.environment["SITE_URL"] = site.url
            for number, outage in enumerate(chosen, 1):
                records.append(run(site, outage))
                print(render(records[-1], number), flush=True)
    right = sum(not record.faults for record in records)
    print(f"{right} of {len(records)} as expected.")
    return 0 if right == len(records) else 1


def run(site: SiteUnderTest, outage: Outage) -> Record:
    """Break, watch, mend, count."""
    record = Record(outage)
    whole = dict(site.environment)
    _prepare(site, record)
    try:
        _break(site, outage)
        _observe(site, record)
    finally:
        site.environment.clear()
        site.environment.update(whole)
        if outage.mends is not None:
            outage.mends(site)
        site.clear_faults_and_wait()
    _recover(site, record)
    return record


# ---------------------------------------------------------------- before and during


def _prepare(site: SiteUnderTest, record: Record) -> None:
    site.reset()
    _restart(site)
    _watch(site)
    _post(site, record, "before")


def _break(site: SiteUnderTest, outage: Outage) -> None:
    site.apply(outage.faults)
    for name, value in outage.environment.items():
        site.environment[name] = _variable(site, name, value)
    if outage.breaks is not None:
        outage.breaks(site)
    if outage.environment or outage.breaks is not None:
        _restart(site)


def _variable(site: SiteUnderTest, name: str, value: str) -> str:
    """The address with another password, or the value as it is."""
    if name != "DATABASE_URL":
        return value
    scheme, _, rest = site.environment[name].partition("://")
    user, _, place = rest.partition("@")
    return f"{scheme}://{user.partition(':')[0]}:changed@{place}"


def _observe(site: SiteUnderTest, record: Record) -> None:
    outage, began = record.outage, time.monotonic()
    record.status = _post(site, record, "during")
    record.expect(record.status in outage.lead, f"the lead was answered {record.status}")
    for _ in range(3):
        if outage.ages_mails:
            site.admin.execute(AGE_MAILS.encode())
        _watch(site)
        if alerts := _alerts(site):
            record.alert = str(alerts[0]["fields"]["text"])
            record.alert_s = time.monotonic() - began
            _watch(site)
            break
    record.messages = _messages(site)
    _judge_alert(site, record)
    page = httpx.get(f"{site.url}/api/status", timeout=30).json()["status"]
    record.indicator, record.description = page["indicator"], page["description"]
    record.expect(
        record.indicator in outage.indicator, f"the status page says {record.indicator!r}"
    )


def _judge_alert(site: SiteUnderTest, record: Record) -> None:
    outage = record.outage
    if outage.alert is None:
        record.expect(record.alert is None, "Slack was told at once")
    else:
        is_told = (record.alert or "").startswith(f"SEV1 {outage.alert}")
        record.expect(is_told, f"Slack shows {record.alert!r}")
        alerts = len(_alerts(site))
        record.expect(alerts == 1, f"Slack holds {alerts} alerts")
    if outage.incident is not None:
        rules = [row["rule"] for row in site.admin.execute(SELECT_INCIDENTS).fetchall()]
        record.expect(rules == [outage.incident], f"recorded incidents: {rules}")
    if outage.mail is not None:
        subjects = [mail["subject"] for mail in site.delivered_mails() if OPERATOR in mail["to"]]
        is_mailed = any(outage.mail in subject for subject in subjects)
        record.expect(is_mailed, f"operators were mailed {subjects}")


# ---------------------------------------------------------------- after


def _recover(site: SiteUnderTest, record: Record) -> None:
    _restart(site)
    answer_s = record.answer_s
    record.expect(_post(site, record, "after") == 200, "a lead after it was not stored")
    record.answer_s = answer_s
    site.admin.execute(END_PAUSE.encode())
    site.make_mails_due()
    _wait_for(lambda: site.drain()[1].get("queue") is not None and site.queue_length() == 0)
    for statement in (MORNING, PASS_QUIET_TIME):
        site.admin.execute(statement.encode())
        for _ in range(3):
            _watch(site)
    if record.outage.late_alert is not None:
        texts = [message["fields"]["text"] for message in _alerts(site)]
        is_told = any(record.outage.late_alert in text for text in texts)
        record.expect(is_told, f"afterwards Slack shows {texts}")
    _count_leads(site, record)
    open_incidents = [
        row["rule"]
        for row in site.admin.execute(SELECT_INCIDENTS).fetchall()
        if row["state"] not in ("resolve", "review", "closed")
    ]
    # A lead that is in a mail alone stays open until a person has imported it.
    is_over = not set(open_incidents) - {"leads_only_in_mail"}
    record.expect(is_over, f"still open: {open_incidents}")


def _count_leads(site: SiteUnderTest, record: Record) -> None:
    rows = site.admin.execute(SELECT_LEADS.encode()).fetchall()
    stored = [row["id"] for row in rows if not row["canary"]]
    record.expect(len({row["message"] for row in rows if not row["canary"]}) == len(stored),
                  "a lead is stored twice")  # fmt: skip
    mailed = [mail["text"] for mail in site.delivered_mails() if "ALFA LEAD" in mail["text"]]
    for lead_id, ref in record.accepted.items():
        is_held = lead_id in stored or any(ref in text for text in mailed)
        record.expect(is_held, f"lead {ref} is lost")


# ---------------------------------------------------------------- steps


def _post(site: SiteUnderTest, record: Record, message: str) -> int:
    lead = {
        "business_name": "Salon Melati", "contact_name": "Ani", "phone_whatsapp": "081234567890",
        "city": "Medan", "salon_type": "SALON", "consent": True, "message": message,
    }  # fmt: skip
    answer = httpx.post(f"{site.url}/api/leads", json=lead, timeout=30)
    record.answer_s = answer.elapsed.total_seconds()
    if answer.status_code in (200, 202):
        body = answer.json()
        record.accepted[body["id"]] = body["ref"]
    site.wait_idle(20)
    return answer.status_code


def _watch(site: SiteUnderTest) -> None:
    token = {"Authorization": f"Bearer {site.environment['CRON_SECRET']}"}
    httpx.get(f"{site.url}/api/cron/watch", headers=token, timeout=90)
    site.wait_idle(20)


def _restart(site: SiteUnderTest) -> None:
    """New instances: what a circuit breaker remembers ends with the old ones."""
    ended = {pid for name in FUNCTIONS for pid in site.signal(name, signal.SIGKILL)}
    _wait_for(lambda: not ended & {int(running["pid"]) for running in site.running()})


def _messages(site: SiteUnderTest) -> list[dict[str, Any]]:
    """What stands in the channel, replies left out."""
    messages = site.platform.slack_api.messages()
    return [message for message in messages if not message["fields"].get("thread_ts")]


def _alerts(site: SiteUnderTest) -> list[dict[str, Any]]:
    """Without the messages that keep a lead which is in a mail alone."""
    return [message for message in _messages(site) if "SEV" in message["fields"]["text"]]


def _wait_for(is_done: Callable[[], bool], timeout_s: float = 30.0) -> None:
    end = time.monotonic() + timeout_s
    while not is_done() and time.monotonic() < end:
        time.sleep(0.05)


# ---------------------------------------------------------------- print


def render(record: Record, number: int) -> str:
    outage = record.outage
    outcome = "as expected" if not record.faults else "WRONG: " + "; ".join(record.faults)
    if record.alert is not None:
        alert = f"after {record.alert_s:.1f} s: {record.alert}; a minute later:"
    elif outage.incident is not None:
        alert = f"nothing at once: {outage.incident} waits for the morning"
    else:
        alert = f"nothing{'; operators were mailed' if outage.mail else ''}"
    lines = [
        f"\n{number:>2}. {outage.name}: {outcome}",
        f"    visitor      {record.status} after {record.answer_s:.1f} s",
        f"    Slack        {alert}",
        *(f"      {line}" for message in record.messages for line in _drawn(message)),
        f"    status page  {record.indicator}: {record.description}",
        f"    it ends by   {outage.command}",
    ]
    return "\n".join(lines)


def _drawn(message: dict[str, Any]) -> Iterator[str]:
    """The message's texts, as its blocks show them."""
    yield "┌"
    for block in message["fields"].get("blocks", []):
        texts = [block.get("text"), *block.get("fields", []), *block.get("elements", [])]
        for text in texts:
            if isinstance(text, dict) and text.get("text"):
                yield from (f"│ {line}" for line in str(text["text"]).splitlines())


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[2], sys.argv[1:]))
