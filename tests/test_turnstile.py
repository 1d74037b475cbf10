"""The optional challenge on the form: it sends to review, and refuses nobody."""

from collections.abc import Iterator
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform import Platform
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


def kept(database: Rows) -> list[str]:
    """Where leads are: `lead`, or the reason they are kept for review."""
    rows = database.execute(
        "select 'lead' as place from leads union all select reason from spam"
    ).fetchall()
    return [row["place"] for row in rows]


def test_a_solved_challenge_makes_a_lead(challenged: httpx.Client, database: Rows) -> None:
    assert send(challenged, **{"cf-turnstile-response": "good-1"}) == 200
    assert kept(database) == ["lead"]


@pytest.mark.parametrize(("token", "reason"), [("", "unchallenged"), ("bad", "challenge_failed")])
def test_a_challenge_not_solved_is_kept_for_review(
    challenged: httpx.Client, database: Rows, token: str, reason: str
) -> None:
    assert send(challenged, **{"cf-turnstile-response": token}) == 200
    assert kept(database) == [reason]


@pytest.mark.parametrize("mode", ["stall", "fail", "reset"])
def test_turnstile_down_is_review_and_never_a_refusal(
    challenged: httpx.Client, platform: Platform, database: Rows, mode: str
) -> None:
    platform.turnstile.switch(mode=mode)
    assert send(challenged, **{"cf-turnstile-response": "good-1"}) == 200
    assert kept(database)[0] in ("challenge_down", "challenge_failed")


def test_without_a_secret_nobody_is_challenged_and_a_token_is_ignored(
    site: httpx.Client, platform: Platform, database: Rows
) -> None:
    assert send(site, **{"cf-turnstile-response": "bad"}) == 200
    assert kept(database) == ["lead"]
    assert platform.turnstile.received() == []
