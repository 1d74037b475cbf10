"""No lead lost, none doubled, whatever fails: an oracle posts, breaks, heals, drains, counts."""

import signal

import pytest

from dev.faults import known_faults
from dev.faults.known_faults import Fault
from dev.faults.oracle import Oracle
from dev.faults.test_site import LEADS, SiteUnderTest
from tests.fix_site import all_accepted, all_invariants_hold, shared_site, site

__all__ = ["shared_site", "site"]


@pytest.mark.parametrize("broken", known_faults.ALL, ids=str)
def test_with_one_thing_broken_every_lead_is_accepted_and_kept_once(
    site: SiteUnderTest, broken: Fault
) -> None:
    oracle = Oracle(site)
    oracle.submit_under_faults([broken], 4)
    assert all_accepted(oracle.recover_and_check())


def of(*names: str) -> list[Fault]:
    """The breaks of these names."""
    known = {str(broken): broken for broken in known_faults.ALL}
    return [
        next(broken for name, broken in known.items() if name.startswith(wanted))
        for wanted in names
    ]


PAIRS = [
    of("database refuse", "redis refuse"),
    of("database refuse", "redis stall"),
    of("database refuse", "redis drop_reply"),
    of("database reset", "redis garbage"),
    of("database stall", "redis stall"),
    of("database stall", "redis drop_reply"),
    of("database stall", "resend stall"),
    of("database drop_reply", "redis refuse"),
    of("database drop_reply", "redis drop_reply"),
    of("database drop_reply", "resend lose_reply"),
    of("database kill", "redis kill"),
    of("database slow", "resend lose_reply"),
    of("database garbage", "resend fail"),
    of("inside locked", "upstash fail"),
    of("inside locked", "redis slow"),
    of("inside read_only", "redis reset"),
    of("inside full", "upstash rate_limit"),
    of("redis stall", "resend stall"),
    of("database refuse", "sentry stall"),
]


@pytest.mark.parametrize("broken", PAIRS, ids=lambda pair: " + ".join(map(str, pair)))
def test_with_two_things_broken_every_lead_is_accepted_and_kept_once(
    site: SiteUnderTest, broken: list[Fault]
) -> None:
    oracle = Oracle(site)
    oracle.submit_under_faults(broken, 3)
    assert all_accepted(oracle.recover_and_check())


REFUSED = (503, "persistence_failed")
EVERYTHING = [
    of("database refuse", "redis refuse", "resend fail"),
    of("database stall", "redis stall", "resend stall"),
    of("database drop_reply", "redis drop_reply", "resend lose_reply"),
    of("inside locked", "redis refuse", "resend lose_reply"),
]


@pytest.mark.parametrize("broken", EVERYTHING, ids=lambda broken: " + ".join(map(str, broken)))
def test_with_everything_broken_a_refusal_is_honest_and_a_later_try_is_kept_once(
    site: SiteUnderTest, broken: list[Fault]
) -> None:
    oracle = Oracle(site)
    oracle.submit_under_faults([*broken, *of("sentry stall", "slack stall")], 3)
    assert all_invariants_hold(oracle.recover_and_check(insist=True))
    for attempt in oracle.attempts:
        first, *later = [(answer.status, answer.error) for answer in attempt.answers]
        assert first in (REFUSED, (200, None), (202, None))
        assert set(later) <= {REFUSED, (200, None), (202, None)}


@pytest.mark.parametrize("part", ["database", "redis"])
def test_what_is_known_to_be_down_costs_the_next_callers_less_than_two_seconds(
    site: SiteUnderTest, part: str
) -> None:
    oracle = Oracle(site)
    oracle.submit_under_faults(of(f"{part} stall"), 2)
    seconds = [oracle.post(oracle.new_attempt()).seconds for _ in range(4)]
    oracle.submit(6)
    seconds += [attempt.answers[0].seconds for attempt in oracle.attempts[-6:]]
    assert max(seconds) < 2
    assert all_accepted(oracle.recover_and_check())


def test_a_cold_instance_answers_in_time_while_every_service_stalls(site: SiteUnderTest) -> None:
    site.signal(LEADS, signal.SIGKILL)
    site.apply(of("database stall", "redis stall", "sentry stall", "slack stall"))
    oracle = Oracle(site)
    oracle.submit(3)
    assert all_accepted(oracle.recover_and_check())
