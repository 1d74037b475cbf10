"""The oracle against code that is broken on purpose: it must find what is wrong, by name."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from dev.build import source_tree
from dev.faults import chaos
from dev.faults.known_faults import Break
from dev.faults.mutations import VARIANTS
from dev.faults.oracle import Client, Oracle
from dev.faults.test_site import Rig
from dev.platform.local_platform import Platform
from tests.conftest import ROOT

type Broken = Callable[[str], AbstractContextManager[Rig]]

NO_DATABASE = Break("database", "refuse")
SEED_OF_A_SCHEMA_FAULT = 1725  # its first round renames a column of leads, and no more


@pytest.fixture
def broken(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """A rig on a copy of the tree with a variant's change; AnchorMissing when that fits no more."""

    def build(name: str) -> AbstractContextManager[Rig]:
        target = tmp_path_factory.mktemp(name) / "copy"
        return Rig(platform, source_tree.copy(ROOT, target, VARIANTS[name]))

    return build


def test_it_sees_that_nobody_recognises_a_lead_sent_twice(broken: Broken) -> None:
    with broken("no-dedupe") as rig:
        rig.empty()
        oracle = Oracle(rig)
        offer = oracle.new()
        oracle.post(offer)
        oracle.post(offer)
        verdict = oracle.settle()
    assert (verdict.doubled, verdict.lost) == (1, 0)
    assert verdict.found("doubled")
    assert verdict.found("id differs")
    assert verdict.found("mail doubled")


def test_it_sees_that_a_lead_was_acknowledged_before_it_was_kept(broken: Broken) -> None:
    with broken("acknowledge-before-write") as rig:
        rig.empty()
        oracle = Oracle(rig)
        oracle.under([NO_DATABASE, Break("redis", "refuse"), Break("resend", "fail")], 3)
        verdict = oracle.settle()
    assert verdict.lost >= 3
    assert verdict.found("lost")


def test_it_sees_that_an_answer_has_no_deadline(broken: Broken) -> None:
    with broken("no-deadline") as rig:
        rig.empty()
        oracle = Oracle(rig, Client(timeout_s=9.5))
        oracle.under([Break("database", "stall")], 1)
        verdict = oracle.settle()
    assert verdict.found("late")
    assert verdict.slowest_s > 9


def test_it_sees_that_a_drain_takes_leads_out_before_they_are_stored(broken: Broken) -> None:
    with broken("pop-before-store") as rig:
        rig.empty()
        oracle = Oracle(rig)
        rig.apply([NO_DATABASE])
        oracle.offer(3)
        rig.drain()
        verdict = oracle.settle()
    assert verdict.lost >= 1
    assert verdict.found("lost")


def test_it_sees_that_a_mail_whose_reply_was_lost_is_delivered_again(broken: Broken) -> None:
    with broken("mail-without-a-key") as rig:
        rig.empty()
        oracle = Oracle(rig)
        oracle.under([Break("resend", "lose_reply")], 2)
        verdict = oracle.settle()
    assert verdict.mails_doubled >= 1
    assert verdict.found("mail doubled")


def test_it_sees_a_name_in_the_log(broken: Broken) -> None:
    with broken("names-in-the-log") as rig:
        rig.empty()
        oracle = Oracle(rig)
        oracle.post(oracle.new())
        verdict = oracle.settle()
    assert verdict.found("leak: log")


def test_it_sees_that_a_caller_was_told_a_reference_nobody_knows(broken: Broken) -> None:
    with broken("reference-of-its-own") as rig:
        rig.empty()
        oracle = Oracle(rig)
        oracle.post(oracle.new())
        verdict = oracle.settle()
    assert verdict.found("id differs")


@pytest.mark.parametrize(
    "fault",
    [
        Break("schema", "renamed_column", {"table": "leads"}),
        Break("schema", "failing_trigger", {"table": "leads"}),
        Break("schema", "revoked_insert", {"table": "outbox"}),
    ],
    ids=str,
)
def test_it_sees_that_a_refusing_database_costs_a_lead_although_the_queue_is_whole(
    broken: Broken, fault: Break
) -> None:
    with broken("falls-through-on-outages-alone") as rig:
        rig.empty()
        oracle = Oracle(rig)
        oracle.under([fault], 3)
        verdict = oracle.settle()
    assert verdict.refused_needlessly >= 3
    assert verdict.found("refused needlessly")


def test_the_chaos_run_catches_it_too(broken: Broken) -> None:
    with broken("falls-through-on-outages-alone") as rig:
        verdict = chaos.run(rig, seed=SEED_OF_A_SCHEMA_FAULT, seconds=1, tell=print)
    assert verdict.found("refused needlessly")


def test_a_change_that_no_longer_fits_the_source_is_an_error_not_a_pass(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    gone = source_tree.Change("lib/leads/repository.py", "this was never there", "")
    target = tmp_path_factory.mktemp("gone") / "copy"
    with pytest.raises(source_tree.AnchorMissing, match=r"lib/leads\.py"):
        source_tree.copy(ROOT, target, [gone])
