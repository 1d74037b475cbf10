"""What became of the leads an oracle sent: figures, and findings when a promise was broken."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from dev.faults.lead_attempt import LeadAttempt

if TYPE_CHECKING:
    from dev.faults.test_site import SiteUnderTest

MARKER = re.compile(r"[0-9a-f]{6}x[0-9]{5}")
# After a 200 the lead's record is written to Redis: by it a retry is known while Postgres is down.
RECORD_WRITTEN_S = 2.0
PERSONAL_DATA = re.compile(r"[0-9a-f]{6}x[0-9]{5}|812[0-9]{9}")


@dataclass(slots=True)
class InvariantReport:
    """Figures in leads or mails, seconds where it says so; findings name every broken promise."""

    attempted: int = 0
    accepted: int = 0
    accepted_200: int = 0
    accepted_202: int = 0
    refused: int = 0
    refused_needlessly: int = 0
    unanswered: int = 0
    stored: int = 0
    journaled: int = 0
    doubled: int = 0
    lost: int = 0
    in_review: int = 0
    mails_due: int = 0
    mails_delivered: int = 0
    mails_missing: int = 0
    mails_doubled: int = 0
    queue_left: int = 0
    slowest_s: float = 0.0
    answers: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.findings

    def has_finding(self, kind: str) -> bool:
        """Whether a finding of this kind is there: "lost", "doubled", "late" …"""
        return any(finding.startswith(kind) for finding in self.findings)

    def render(self) -> str:
        """The figures and the findings, for people."""
        figures = {
            name: value
            for name, value in asdict(self).items()
            if name not in ("findings", "answers")
        }
        rows = [
            f"  {name.replace('_', ' '):<16}{value:>8.2f}"
            if isinstance(value, float)
            else f"  {name.replace('_', ' '):<16}{value:>8}"
            for name, value in figures.items()
        ]
        rows += [
            f"  {'answers':<16}{', '.join(f'{n} x {a}' for a, n in sorted(self.answers.items()))}"
        ]
        listed = self.findings[:20]
        more = len(self.findings) - len(listed)
        lines = [f"  ! {finding}" for finding in listed] + (
            [f"  ! and {more} more"] if more else []
        )
        return "\n".join(rows + lines)


def check_invariants(
    site: "SiteUnderTest", attempts: Sequence[LeadAttempt], problems: Iterable[str], budget_s: float
) -> InvariantReport:
    """Compare what was answered with what is stored and was mailed, after all is drained."""
    report = InvariantReport(findings=list(problems))
    _count_answers(report, attempts, budget_s)
    _check_rows(report, site, attempts)
    _check_mails(report, site, attempts)
    _check_journal(report, site)
    report.queue_left = site.queue_length()
    if report.queue_left:
        report.findings.append(f"queue not empty: {report.queue_left} left")
    report.findings += find_leaks(site, attempts)
    return report


def _count_answers(
    report: InvariantReport, attempts: Sequence[LeadAttempt], budget_s: float
) -> None:
    report.attempted = len(attempts)
    for attempt in attempts:
        report.accepted += attempt.accepted
        first = next((answer for answer in attempt.answers if answer.accepted), None)
        report.accepted_200 += first is not None and first.status == 200
        report.accepted_202 += first is not None and first.status == 202
        answered = [answer for answer in attempt.answers if answer.status]
        report.refused += not attempt.accepted and bool(answered)
        report.unanswered += not answered
        for answer in attempt.answers:
            report.answers[f"{answer.status} {answer.error or ''}".strip()] += 1
            report.slowest_s = max(report.slowest_s, answer.seconds)
            if answer.seconds > budget_s:
                report.findings.append(
                    f"late: {answer.seconds:.1f} s for {answer.status} ({attempt.marker})"
                )
            if answer.avoidable:
                report.refused_needlessly += 1
                report.findings.append(
                    f"refused needlessly: {answer.status} {answer.error} ({attempt.marker})"
                )
            if answer.accepted and answer.queued != (answer.status == 202):
                report.findings.append(f"wrong answer: {answer} ({attempt.marker})")


def _check_rows(
    report: InvariantReport, site: "SiteUnderTest", attempts: Sequence[LeadAttempt]
) -> None:
    rows: dict[str, list[tuple[str, str]]] = {}
    for row in site.admin.execute("select id::text, ref, business_name, phone_whatsapp from leads"):
        mark = row["business_name"].removeprefix("Salon ")
        rows.setdefault(mark, []).append((row["id"], row["ref"]))
    review = Counter(
        row["mark"]
        for row in site.admin.execute("select submission->>'business_name' as mark from spam")
    )
    for attempt in attempts:
        stored = rows.get(attempt.marker, [])
        report.stored += bool(stored)
        answered_ids = {(answer.id, answer.ref) for answer in attempt.answers if answer.accepted}
        if len(stored) > 1:
            report.doubled += 1
            report.findings.append(f"doubled: {attempt.marker} has {len(stored)} rows")
        if _is_queued_after_stored(attempt):
            report.findings.append(f"status differs: {attempt.marker} was told 200, then 202")
        if len(answered_ids) > 1:
            report.findings.append(
                f"id differs: {attempt.marker} was told {sorted(map(str, answered_ids))}"
            )
        if review[f"Salon {attempt.marker}"]:
            report.in_review += 1
            report.findings.append(f"in review: {attempt.marker} was taken for spam")
        elif attempt.accepted and not stored:
            report.lost += 1
            report.findings.append(f"lost: {attempt.marker} was told {_format_answers(attempt)}")
        elif not all(_matches_stored(each, stored) for each in answered_ids):
            report.findings.append(
                f"id differs: {attempt.marker} was told {answered_ids}, kept as {stored}"
            )


def _is_queued_after_stored(attempt: LeadAttempt) -> bool:
    """Whether it was answered 202 although it was sent a while after its 200.

    202, then 200 is right: it was queued where Postgres was down, and stored where it was not. So
    are both of requests that ran at the same time.
    """
    accepted = [answer for answer in attempt.answers if answer.accepted]
    stored_at = min((a.sent_at + a.seconds for a in accepted if a.status == 200), default=None)
    return stored_at is not None and any(
        a.status == 202 and a.sent_at > stored_at + RECORD_WRITTEN_S for a in accepted
    )


def _matches_stored(
    answered: tuple[str | None, str | None], stored: Sequence[tuple[str, str]]
) -> bool:
    """Whether a row has the answered id and reference; a reference that was taken has grown."""
    return any(
        answered[0] == lead_id and ref.startswith(answered[1] or "") for lead_id, ref in stored
    )


def _check_mails(
    report: InvariantReport, site: "SiteUnderTest", attempts: Sequence[LeadAttempt]
) -> None:
    sales: Counter[str] = Counter()
    thanks: Counter[str] = Counter()
    for mail in site.delivered_mails():
        for mark in MARKER.findall(mail["subject"])[:1]:
            sales[mark] += 1
        for recipient in mail["to"]:
            thanks[recipient] += 1
    stored = {
        row["mark"]
        for row in site.admin.execute(
            "select replace(business_name, 'Salon ', '') as mark from leads"
        )
    }
    for attempt in attempts:
        wanted = [("sales mail", sales[attempt.marker])]
        wanted += [("acknowledgement", thanks[attempt.email])] if attempt.with_email else []
        for kind, delivered in wanted:
            report.mails_due += attempt.marker in stored
            report.mails_delivered += delivered
            if delivered > 1:
                report.mails_doubled += 1
                report.findings.append(f"mail doubled: {delivered} x {kind} of {attempt.marker}")
            if delivered == 0 and attempt.marker in stored:
                report.mails_missing += 1
                report.findings.append(f"mail missing: {kind} of {attempt.marker}")


def _check_journal(report: InvariantReport, site: "SiteUnderTest") -> None:
    """Every stored lead has its copy in Redis, so that a restore can bring it back."""
    for row in site.admin.execute("select id::text as id from leads"):
        there = site.redis_command("EXISTS", f"journal:{row['id']}")
        report.journaled += there == 1
        if there != 1:
            report.findings.append(f"not in the journal: {row['id']}")


def find_leaks(site: "SiteUnderTest", attempts: Iterable[LeadAttempt]) -> list[str]:
    """Where something about a person was written that should hold ids alone."""
    places = {
        "log": json.dumps(site.log.since(), ensure_ascii=False),
        "Sentry": json.dumps([record["body"] for record in site.sentry.received()]),
        "Slack": json.dumps([record["body"] for record in site.slack.received()]),
    }
    known = {
        personal: attempt.marker
        for attempt in attempts
        for personal in (attempt.marker, attempt.phone)
    }
    leaks = []
    for name, text in places.items():
        for match in PERSONAL_DATA.finditer(text):
            if match.group() in known:
                around = text[max(0, match.start() - 80) : match.end() + 40]
                leaks.append(f"leak: {name} holds {match.group()}: …{around}")
    return leaks


def _format_answers(attempt: LeadAttempt) -> str:
    return ", ".join(f"{answer.status} {answer.error or answer.id}" for answer in attempt.answers)
