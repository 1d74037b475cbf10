"""No lead lost, none doubled, whatever fails: an oracle posts, breaks, heals, drains, counts."""

from collections.abc import Iterator

import pytest

from dev import breaks, tree
from dev.breaks import Break
from dev.oracle import Oracle
from dev.platform import Platform
from dev.rig import Rig
from dev.verdict import Verdict
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def shared_rig(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One pair of processes for the whole file, as an instance lives through many troubles."""
    copied = tree.copy(ROOT, tmp_path_factory.mktemp("tree") / "copy")
    with Rig(platform, copied) as made:
        yield made


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    shared_rig.empty()
    return shared_rig


def kept(verdict: Verdict) -> bool:
    """Every promise was kept; pytest shows the table when not."""
    assert verdict.ok, "\n" + verdict.table()
    return True


# ------------------------------------------------------------------ one thing broken


@pytest.mark.parametrize("broken", breaks.EVERY, ids=str)
def test_with_one_thing_broken_every_lead_is_accepted_and_kept_once(
    rig: Rig, broken: Break
) -> None:
    oracle = Oracle(rig)
    oracle.under([broken], 4)
    verdict = oracle.settle()
    assert kept(verdict)
    assert verdict.accepted == verdict.offered, "\n" + verdict.table()


def of(*names: str) -> list[Break]:
    """The breaks of these names."""
    known = {str(broken): broken for broken in breaks.EVERY}
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
    rig: Rig, broken: list[Break]
) -> None:
    oracle = Oracle(rig)
    oracle.under(broken, 3)
    verdict = oracle.settle()
    assert kept(verdict)
    assert verdict.accepted == verdict.offered, "\n" + verdict.table()


EVERYTHING = [
    of("database refuse", "redis refuse", "resend fail"),
    of("database stall", "redis stall", "resend stall"),
    of("database drop_reply", "redis drop_reply", "resend lose_reply"),
    of("inside locked", "redis refuse", "resend lose_reply"),
]


@pytest.mark.parametrize("broken", EVERYTHING, ids=lambda broken: " + ".join(map(str, broken)))
def test_with_everything_broken_a_refusal_is_honest_and_a_later_try_is_kept_once(
    rig: Rig, broken: list[Break]
) -> None:
    oracle = Oracle(rig)
    oracle.under([*broken, *of("sentry stall", "slack stall")], 3)
    verdict = oracle.settle(insist=True)
    assert kept(verdict)
    for offer in oracle.offers:
        for answer in offer.answers:
            assert answer.accepted or (answer.status, answer.error) == (503, "persistence_failed")
