"""A hundred leads at once: two hundred mails through Resend's documented rate, each once."""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import psycopg
from psycopg.rows import DictRow

from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.leads import send_rate
from tests.conftest import LEAD, delivered
from tests.leads.test_outbox import drain

type Rows = psycopg.Connection[DictRow]

# Of a whole team (resend.com/docs/api-reference/rate-limit, read 2026-11-28).
DOCUMENTED_RATE_PER_S = 5
ENVIRONMENT = {
    "MAIL_PER_SECOND": str(DOCUMENTED_RATE_PER_S),
    "LEADS_PER_MINUTE": "1000",
    "LEADS_PER_HOUR": "1000",
    "LEADS_CEILING_PER_MINUTE": "1000",
}
BURST = 100
MOST_REFUSED = BURST // 20  # a slot is a little more than the limit allows; no more than chance


@contextmanager
def instances(platform: Platform) -> Iterator[tuple[list[Function], Function]]:
    """Three of the leads function, and the worker, all at the documented rate."""
    with ExitStack() as running:
        leads = [
            running.enter_context(platform.function("api/leads.py", **ENVIRONMENT))
            for _ in range(3)
        ]
        yield leads, running.enter_context(platform.function("api/cron/deliver.py", **ENVIRONMENT))


def post_burst(leads: list[Function], count: int) -> None:
    """So many leads of different people, all at once."""
    turns = list(itertools.islice(itertools.cycle(leads), count))

    def post(number: int) -> int:
        lead = {**LEAD, "business_name": f"Salon {number}", "email": f"sari{number}@example.com",
                "phone_whatsapp": f"0812{40_000_000 + number}",
                "message": f"Nomor {number}"}  # fmt: skip
        return httpx.post(f"{turns[number].url}/api/leads", json=lead, timeout=60).status_code

    with ThreadPoolExecutor(count) as pool:
        assert set(pool.map(post, range(count))) <= {200, 202}


def count_unsent(database: Rows) -> int:
    row = database.execute("select count(*) from outbox where sent_at is null").fetchone()
    assert row is not None
    return int(row["count"])


def test_a_hundred_leads_at_once_are_mailed_each_once_and_sales_first(
    platform: Platform, database: Rows
) -> None:
    platform.resend.switch("limit", per_second=DOCUMENTED_RATE_PER_S)
    with instances(platform) as (leads, cron):
        post_burst(leads, BURST)
        while count_unsent(database):
            assert drain(platform, cron)["dead"] == 0
    received = platform.resend.received()
    outcomes = Counter(record["outcome"] for record in received)
    assert outcomes.pop("ok") == 2 * BURST
    assert sum(outcomes.values()) <= MOST_REFUSED, outcomes
    subjects = Counter(mail["subject"] for mail in delivered(platform))
    assert len(subjects) == 2 * BURST, "each once"
    kinds = [record["headers"]["idempotency-key"].split("/")[0] for record in received
             if record["outcome"] == "ok"]  # fmt: skip
    # But for leads that had a slot before the others came, and mails that Resend refused once.
    early = send_rate.MAX_WAIT.total_seconds() * DOCUMENTED_RATE_PER_S / 2
    assert kinds[:BURST].count("sales") >= BURST - early - MOST_REFUSED, kinds


def test_a_429_amid_a_burst_holds_every_mail_of_every_instance(
    platform: Platform, database: Rows
) -> None:
    """Those whose slot was reserved before, too: only what is under way still comes."""
    with instances(platform) as (leads, cron):
        platform.resend.switch("rate_limit", retry_after_s=60)
        worker = threading.Thread(target=drain, args=(platform, cron))
        worker.start()
        post_burst(leads, 30)
        worker.join()
        for function in (*leads, cron):
            assert function.wait_idle(60)
        refused = platform.resend.received()
        # At 5 a second some twenty slots lie in the four seconds for which they are reserved.
        assert 1 <= len(refused) <= len(leads) + 1, "an instance's one under way, at most"
        drain(platform, cron)
        assert len(platform.resend.received()) == len(refused)
        platform.resend.ok()
        database.execute("update mail_pace set held_until = now()")
        database.execute("update outbox set next_attempt_at = now() where sent_at is null")
        while count_unsent(database):
            drain(platform, cron)
    assert len(delivered(platform)) == 60
