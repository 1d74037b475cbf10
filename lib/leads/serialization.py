"""A lead as text, to be sealed: in the queue, in the journal, in the mail of an outage.

Its fields were checked when it was taken. They are not checked again on the way back: a rule
newer than the lead must not lose it.
"""

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from lib.leads.repository import Lead
from lib.leads.submission import Submission
from lib.problems import DecryptionError


def to_json(lead: Lead) -> str:
    """The lead, whole."""
    return json.dumps(to_dict(lead), ensure_ascii=False)


def to_dict(lead: Lead) -> dict[str, object]:
    """The lead as JSON values."""
    return {
        "id": str(lead.id),
        "ref": lead.ref,
        "created_at": lead.created_at.isoformat(),
        "locale": lead.locale,
        "submission": lead.submission.to_dict(exclude_none=True),
        "ip_address": lead.ip_address,
        "user_agent": lead.user_agent,
        "identity": lead.identity,
        "body_sha256": lead.body_sha256,
        "text_sha256": lead.text_sha256,
        "keyed": lead.keyed,
        "arrival": lead.arrival,
        "spam": lead.spam,
        "review": lead.review,
        "canary": lead.canary,
    }


def from_row(row: dict[str, Any]) -> Lead:
    """A lead from its columns."""
    ours = ("id", "ref", "created_at", "locale", "ip_address", "user_agent", "identity",
            "body_sha256", "arrival", "canary")  # fmt: skip
    facts = {name: row.pop(name) for name in ours}
    return Lead(
        **facts,
        submission=Submission.from_stored(**row, locale=facts["locale"], consent=True),
        text_sha256="",
        keyed=False,
    )


def from_json(text: str) -> Lead:
    """The lead again. Raises Unreadable when the text is no lead."""
    try:
        values = json.loads(text)
        values["id"] = UUID(values["id"])
        values["created_at"] = datetime.fromisoformat(values["created_at"])
        values["submission"] = Submission.from_stored(**values["submission"])
        return Lead(**values)
    except (AttributeError, LookupError, TypeError, ValueError) as fault:
        raise DecryptionError from fault
