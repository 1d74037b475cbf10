"""What became of the leads an oracle offered: figures, and findings when a promise was broken."""

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

    offered: int = 0
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
        shown = self.findings[:20]
        more = len(self.findings) - len(shown)
        told = [f"  ! {finding}" for finding in shown] + ([f"  ! and {more} more"] if more else [])
        return "\n".join(rows + told)


def check_invariants(
    rig: "SiteUnderTest", offers: Sequence[LeadAttempt], problems: Iterable[str], budget_s: float
) -> InvariantReport:
    """Compare what was answered with what is stored and was mailed, after all is drained."""
    verdict = InvariantReport(findings=list(problems))
    _count_answers(verdict, offers, budget_s)
    _check_rows(verdict, rig, offers)
    _check_mails(verdict, rig, offers)
    _check_journal(verdict, rig)
    verdict.queue_left = rig.queue_length()
    if verdict.queue_left:
        verdict.findings.append(f"queue not empty: {verdict.queue_left} left")
    verdict.findings += find_leaks(rig, offers)
    return verdict


def _count_answers(
    verdict: InvariantReport, offers: Sequence[LeadAttempt], budget_s: float
) -> None:
    verdict.offered = len(offers)
    for offer in offers:
        verdict.accepted += offer.accepted
        first = next((answer for answer in offer.answers if answer.accepted), None)
        verdict.accepted_200 += first is not None and first.status == 200
        verdict.accepted_202 += first is not None and first.status == 202
        answered = [answer for answer in offer.answers if answer.status]
        verdict.refused += not offer.accepted and bool(answered)
        verdict.unanswered += not answered
        for answer in offer.answers:
            verdict.answers[f"{answer.status} {answer.error or ''}".strip()] += 1
            verdict.slowest_s = max(verdict.slowest_s, answer.seconds)
            if answer.seconds > budget_s:
                verdict.findings.append(
                    f"late: {answer.seconds:.1f} s for {answer.status} ({offer.marker})"
                )
            if answer.avoidable:
                verdict.refused_needlessly += 1
                verdict.findings.append(
                    f"refused needlessly: {answer.status} {answer.error} ({offer.marker})"
                )
            if answer.accepted and answer.queued != (answer.status == 202):
                verdict.findings.append(f"wrong answer: {answer} ({offer.marker})")


def _check_rows(
    verdict: InvariantReport, rig: "SiteUnderTest", offers: Sequence[LeadAttempt]
) -> None:
    rows: dict[str, list[tuple[str, str]]] = {}
    for row in rig.admin.execute("select id::text, ref, business_name, phone_whatsapp from leads"):
        mark = row["business_name"].removeprefix("Salon ")
        rows.setdefault(mark, []).append((row["id"], row["ref"]))
    review = Counter(
        row["mark"]
        for row in rig.admin.execute("select submission->>'business_name' as mark from spam")
    )
    for offer in offers:
        stored = rows.get(offer.marker, [])
        verdict.stored += bool(stored)
        told = {(answer.id, answer.ref) for answer in offer.answers if answer.accepted}
        if len(stored) > 1:
            verdict.doubled += 1
            verdict.findings.append(f"doubled: {offer.marker} has {len(stored)} rows")
        if _is_queued_after_stored(offer):
            verdict.findings.append(f"status differs: {offer.marker} was told 200, then 202")
        if len(told) > 1:
            verdict.findings.append(f"id differs: {offer.marker} was told {sorted(map(str, told))}")
        if review[f"Salon {offer.marker}"]:
            verdict.in_review += 1
            verdict.findings.append(f"in review: {offer.marker} was taken for spam")
        elif offer.accepted and not stored:
            verdict.lost += 1
            verdict.findings.append(f"lost: {offer.marker} was told {_format_answers(offer)}")
        elif not all(_matches_stored(each, stored) for each in told):
            verdict.findings.append(f"id differs: {offer.marker} was told {told}, kept as {stored}")


def _is_queued_after_stored(offer: LeadAttempt) -> bool:
    """Whether it was answered 202 although it was sent a while after its 200.

    202, then 200 is right: it was queued where Postgres was down, and stored where it was not. So
    are both of requests that ran at the same time.
    """
    accepted = [answer for answer in offer.answers if answer.accepted]
    stored_at = min((a.sent_at + a.seconds for a in accepted if a.status == 200), default=None)
    return stored_at is not None and any(
        a.status == 202 and a.sent_at > stored_at + RECORD_WRITTEN_S for a in accepted
    )


def _matches_stored(told: tuple[str | None, str | None], stored: Sequence[tuple[str, str]]) -> bool:
    """Whether what was told is what is kept. A reference that was taken has grown."""
    return any(told[0] == lead_id and ref.startswith(told[1] or "") for lead_id, ref in stored)


def _check_mails(
    verdict: InvariantReport, rig: "SiteUnderTest", offers: Sequence[LeadAttempt]
) -> None:
    sales: Counter[str] = Counter()
    thanks: Counter[str] = Counter()
    for mail in rig.delivered_mails():
        for mark in MARKER.findall(mail["subject"])[:1]:
            sales[mark] += 1
        for recipient in mail["to"]:
            thanks[recipient] += 1
    stored = {
        row["mark"]
        for row in rig.admin.execute(
            "select replace(business_name, 'Salon ', '') as mark from leads"
        )
    }
    for offer in offers:
        wanted = [("sales mail", sales[offer.marker])]
        wanted += [("acknowledgement", thanks[offer.email])] if offer.with_email else []
        for kind, delivered in wanted:
            verdict.mails_due += offer.marker in stored
            verdict.mails_delivered += delivered
            if delivered > 1:
                verdict.mails_doubled += 1
                verdict.findings.append(f"mail doubled: {delivered} x {kind} of {offer.marker}")
            if delivered == 0 and offer.marker in stored:
                verdict.mails_missing += 1
                verdict.findings.append(f"mail missing: {kind} of {offer.marker}")


def _check_journal(verdict: InvariantReport, rig: "SiteUnderTest") -> None:
    """Every stored lead has its copy in Redis, so that a restore can bring it back."""
    for row in rig.admin.execute("select id::text as id from leads"):
        there = rig.redis_command("EXISTS", f"journal:{row['id']}")
        verdict.journaled += there == 1
        if there != 1:
            verdict.findings.append(f"not in the journal: {row['id']}")


def find_leaks(rig: "SiteUnderTest", offers: Iterable[LeadAttempt]) -> list[str]:
    """Where something about a person was written that should hold ids alone."""
    places = {
        "log": json.dumps(rig.log.since(), ensure_ascii=False),
        "Sentry": json.dumps([record["body"] for record in rig.sentry.received()]),
        "Slack": json.dumps([record["body"] for record in rig.slack.received()]),
    }
    known = {personal: offer.marker for offer in offers for personal in (offer.marker, offer.phone)}
    found = []
    for name, text in places.items():
        for match in PERSONAL_DATA.finditer(text):
            if match.group() in known:
                around = text[max(0, match.start() - 80) : match.end() + 40]
                found.append(f"leak: {name} holds {match.group()}: …{around}")
    return found


def _format_answers(offer: LeadAttempt) -> str:
    return ", ".join(f"{answer.status} {answer.error or answer.id}" for answer in offer.answers)
