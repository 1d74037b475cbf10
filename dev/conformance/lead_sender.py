"""Sends leads of different people, and reads back what was stored of each."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import psycopg
from psycopg.rows import dict_row

ORDINARY = {
    "business_name": "Salon Melati",
    "contact_name": "Rina Wulandari",
    "city": "Bandung",
    "salon_type": "SALON",
    "consent": True,
}
"""Every required field but the number, which is another one for each lead."""

_STORED_LEAD = "select to_jsonb(leads) as fields from leads where id = %(id)s"
_STORED_SPAM = "select submission as fields from spam where id = %(id)s"


@dataclass
class Findings:
    """How often each outcome came, and each that breaks a promise, in words."""

    stored: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        requests = self.stored + self.refused
        return (
            f"{requests} requests, {self.stored} stored, {self.refused} refused with words, "
            f"{len(self.faults)} findings"
        )


class LeadSender:
    """A client of the site at `url`, and a reader of its database."""

    def __init__(self, url: str, database_url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30, trust_env=False)
        self._database = psycopg.connect(database_url, autocommit=True, row_factory=dict_row)
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._database.close()

    def ordinary(self) -> dict[str, Any]:
        """A lead of somebody new, which every rule accepts."""
        return {**ORDINARY, "phone_whatsapp": f"0812 34{next(self._numbers):06}"}

    def send(self, lead: dict[str, Any], *, as_form: bool = False) -> httpx.Response:
        headers = {"Accept": "application/json", "Accept-Language": "en"}
        if not as_form:
            # In ASCII: a lone surrogate has no other form in JSON.
            headers["Content-Type"] = "application/json"
            return self._client.post("/api/leads", content=json.dumps(lead), headers=headers)
        fields = {name: "on" if value is True else value for name, value in lead.items()}
        return self._client.post("/api/leads", data=fields, headers=headers)

    def send_bytes(self, body: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return self._client.post("/api/leads", content=body, headers=headers)

    def stored(self, lead_id: str) -> dict[str, Any]:
        """A lead's fields, among the leads or among spam; empty when it is in neither."""
        for statement in (_STORED_LEAD, _STORED_SPAM):
            row = self._database.execute(statement, {"id": lead_id}).fetchone()
            if row is not None:
                fields: dict[str, Any] = row["fields"]
                return fields
        return {}


def refusal(answer: httpx.Response) -> dict[str, list[str]] | None:
    """Why a lead was refused: messages by field; None where the answer has no such words."""
    kind = answer.headers.get("Content-Type", "")
    if answer.status_code != 400 or not kind.startswith("application/problem+json"):
        return None
    problem = answer.json()
    details: dict[str, list[str]] = problem.get("details", {})
    if problem["error"] == "validation_error":
        has_words = all(words and all(words) for words in details.values())
        return details if details and has_words else None
    return {} if problem["title"] else None
