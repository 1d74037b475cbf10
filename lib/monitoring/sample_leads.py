"""Synthetic leads for the statement check: every kind that the form accepts.

The rule a newcomer would break: each is a canary. If it were committed, it would be counted nowhere
and mailed to a test mailbox.
"""

from datetime import datetime
from uuid import uuid4

from lib.leads.lead import CANARY_MAILBOX, Lead
from lib.leads.submission import Submission


def of_every_kind(now: datetime) -> list[Lead]:
    """One of every salon type: the longest fields that are accepted, the shortest, and between."""
    text = f"Rehearsal {uuid4()}"
    shortest = Submission("AB", "CD", "+6281200000000", "EF", "SALON", consent=True)
    short = [
        shortest._replace(
            salon_type=salon_type, message=f"{text} {number}", business_name=salon_type
        )
        for number, salon_type in enumerate(("SALON", "BARBER", "BRIDAL", "UNISEX", "UNISEX"))
    ]
    short[0] = short[0]._replace(message=None, business_name=text)
    leads = [from_submission(s, now) for s in (longest_submission(now), *short)]
    leads[1] = leads[1]._replace(ip_address=None, user_agent=None)
    leads[2] = leads[2]._replace(arrival="queue")
    leads[3] = leads[3]._replace(arrival="mail", ip_address="2001:db8::1")
    return leads


def longest_submission(now: datetime) -> Submission:
    """Every field, as long as the contract accepts it."""
    lengths = {"business_name": 255, "contact_name": 255, "city": 80, "specialization": 200,
               "current_brands_used": 200, "monthly_spend_range": 80, "page_url_initial": 2048,
               "page_url_current": 2048, "referrer": 2048, "utm_source": 200, "utm_medium": 200,
               "utm_campaign": 200, "utm_term": 200, "utm_content": 200,
               "consent_version": 80}  # fmt: skip
    return Submission.from_stored(
        **{name: "Rehearsal ".ljust(length, "x") for name, length in lengths.items()},
        message=f"Rehearsal {uuid4()} of {now:%Y-%m-%d} ".ljust(2000, "x"),
        phone_whatsapp="+628120000000000",
        salon_type="OTHER",
        consent=True,
        email=CANARY_MAILBOX,
        chair_count=10_000,
        locale="id",
    )


def from_submission(submission: Submission, now: datetime, key: str | None = None) -> Lead:
    return Lead.from_submission(
        submission,
        key=key,
        locale="en",
        now=now,
        ip_address="192.0.2.1",
        user_agent="rehearsal".ljust(255, "x"),
        canary=True,
    )
