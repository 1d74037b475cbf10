"""Alerts by e-mail to operators while Slack cannot be used: a Sev1 must reach somebody.

Once an hour each: the idempotency key holds rule and hour, so that a repeat is sent by nobody. The
rule a newcomer would break: a mail holds ids, numbers and our own words, never a visitor's.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from html import escape

from lib.incidents.model import Finding
from lib.interfaces import Services
from lib.leads.emails import Email
from lib.problems import IdempotencyConflict, NotConfigured, PermanentMailError, TransientMailError


def send_alerts(services: Services, findings: Sequence[Finding], now: datetime) -> int:
    """How many were sent; none where no address is configured."""
    sender, recipients = services.settings.mail_from, services.settings.alerts_mail_to
    emails_sent = 0
    for finding in findings if recipients else ():
        subject = f"{finding.severity.upper()} {finding.title}"
        text = (
            f"{finding.title}: {finding.description}\n\nSlack takes no alert, so it is mailed.\n"
            f"Runbook: ops/README.md, section {finding.rule}\n"
        )
        html = f"<p>{escape(text).replace(chr(10), '<br>')}</p>"
        email = Email("alert", sender, recipients, None, subject, text, html)
        key = f"alert/{finding.rule}/{now.astimezone(UTC):%Y%m%d%H}"
        with suppress(TransientMailError, PermanentMailError, IdempotencyConflict, NotConfigured):
            services.mailer.send(email, key)
            emails_sent += 1
    return emails_sent
