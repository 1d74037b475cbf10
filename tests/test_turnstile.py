"""The optional challenge on the form: it sends to review, and refuses nobody."""

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from tests.conftest import LEAD

type Rows = psycopg.Connection[DictRow]


@pytest.fixture
def challenged(platform: Platform, database: Rows) -> Iterator[httpx.Client]:
    """The leads function of a site whose pages carry a challenge."""
    with (
        platform.function("api/leads.py", TURNSTILE_SECRET_KEY="secret") as leads,
        httpx.Client(base_url=leads.url, timeout=15) as client,
    ):
        yield client


def send(client: httpx.Client, **fields: Any) -> int:
    return client.post("/api/leads", json={**LEAD, **fields}).status_code


def places(database: Rows) -> list[str]:
    """Where leads are: `lead`, why they wait for review, or why they are in the spam box."""
    rows = database.execute(
        "select coalesce('review: ' || review, 'lead') as place from leads"
        " union all select 'spam: ' || reason from spam"
    ).fetchall()
    return [row["place"] for row in rows]


def test_a_solved_challenge_makes_a_lead(challenged: httpx.Client, database: Rows) -> None:
    assert send(challenged, **{"cf-turnstile-response": "good-1"}) == 200
    assert places(database) == ["lead"]


@pytest.mark.parametrize(
    ("token", "place"),
    [("", "review: unchallenged"), ("bad", "spam: challenge_failed")],
)
def test_a_lead_without_a_solved_challenge_mails_nobody(
    challenged: httpx.Client, platform: Platform, database: Rows, token: str, place: str
) -> None:
    assert send(challenged, **{"cf-turnstile-response": token}) == 200
    assert places(database) == [place]
    assert platform.resend.received() == []


def test_a_used_or_expired_token_is_no_sign_of_spam(
    challenged: httpx.Client, database: Rows
) -> None:
    for message in ("Satu", "Dua"):
        send(challenged, message=message, **{"cf-turnstile-response": "good-1"})
    assert sorted(places(database)) == ["lead", "review: challenge_down"]


@pytest.mark.parametrize("mode", ["stall", "fail", "reset"])
def test_turnstile_down_is_review_and_neither_a_refusal_nor_spam(
    challenged: httpx.Client, platform: Platform, database: Rows, mode: str
) -> None:
    platform.turnstile.switch(mode=mode)
    assert send(challenged, **{"cf-turnstile-response": "good-1"}) == 200
    assert places(database) == ["review: challenge_down"]


def test_without_a_secret_nobody_is_challenged_and_a_token_is_ignored(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    assert send(site, **{"cf-turnstile-response": "bad"}) == 200
    assert places(database) == ["lead"]
    assert platform.turnstile.received() == []
