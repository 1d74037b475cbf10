"""Alerts by mail, to operators, while Slack cannot be told: a Sev1 must reach somebody.

Once an hour each: Resend's idempotency key, of the rule and the hour, makes a repeat a no-op, so
nobody has to remember. The rule a newcomer would break: a mail holds ids, numbers and our own
words, never a visitor's.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from html import escape

from lib.incidents.model import Finding
from lib.interfaces import Services
from lib.leads.emails import Email
from lib.problems import IdempotencyConflict, NotConfigured, PermanentMailError, TransientMailError


def send_alerts(means: Services, found: Sequence[Finding], now: datetime) -> int:
    """Mail each finding to the operators; how many. None where no address is configured."""
    sender, recipients = means.alert_addresses
    told = 0
    for one in found if recipients else ():
        with suppress(TransientMailError, PermanentMailError, IdempotencyConflict, NotConfigured):
            key = f"alert/{one.rule}/{now.astimezone(UTC):%Y%m%d%H}"
            means.mailer.send(_alert_email(one, sender, recipients), key)
            told += 1
    return told


def _alert_email(one: Finding, sender: str, recipients: tuple[str, ...]) -> Email:
    subject = f"{one.severity.upper()} {one.title}"
    text = (
        f"{one.title}: {one.description}\n\nSlack cannot be told, so you are.\n"
        f"Runbook: ops/README.md, section {one.rule}\n"
    )
    html = f"<p>{escape(text).replace(chr(10), '<br>')}</p>"
    return Email("alert", sender, recipients, None, subject, text, html)
