"""The oracle against code that is broken on purpose: it must find what is wrong, by name."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from dev.build import source_tree
from dev.faults import chaos
from dev.faults.known_faults import Fault
from dev.faults.mutations import MUTATIONS
from dev.faults.oracle import ClientBehavior, Oracle
from dev.faults.test_site import SiteUnderTest
from dev.platform.local_platform import Platform
from tests.conftest import ROOT

type Broken = Callable[[str], AbstractContextManager[SiteUnderTest]]

NO_DATABASE = Fault("database", "refuse")
SEED_OF_A_SCHEMA_FAULT = 1725  # its first round renames a column of leads, and no more


@pytest.fixture
def broken(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Broken:
    """A site on a copy of the tree with a variant's change. PatchDoesNotApply when outdated."""

    def build(name: str) -> AbstractContextManager[SiteUnderTest]:
        target = tmp_path_factory.mktemp(name) / "copy"
        return SiteUnderTest(platform, source_tree.copy(ROOT, target, MUTATIONS[name]))

    return build


def test_the_oracle_sees_that_a_duplicate_is_not_recognised(broken: Broken) -> None:
    with broken("no-dedupe") as site:
        site.reset()
        oracle = Oracle(site)
        attempt = oracle.new_attempt()
        oracle.post(attempt)
        oracle.post(attempt)
        report = oracle.recover_and_check()
    assert (report.doubled, report.lost) == (1, 0)
    assert report.has_finding("doubled")
    assert report.has_finding("id differs")
    assert report.has_finding("mail doubled")


def test_the_oracle_sees_that_a_lead_was_acknowledged_before_it_was_stored(broken: Broken) -> None:
    with broken("acknowledge-before-write") as site:
        site.reset()
        oracle = Oracle(site)
        oracle.submit_under_faults(
            [NO_DATABASE, Fault("redis", "refuse"), Fault("resend", "fail")], 3
        )
        report = oracle.recover_and_check()
    assert report.lost >= 3
    assert report.has_finding("lost")


def test_the_oracle_sees_that_an_answer_has_no_deadline(broken: Broken) -> None:
    with broken("no-deadline") as site:
        site.reset()
        oracle = Oracle(site, ClientBehavior(timeout_s=9.5))
        oracle.submit_under_faults([Fault("database", "stall")], 1)
        report = oracle.recover_and_check()
    assert report.has_finding("late")
    assert report.slowest_s > 9


def test_the_oracle_sees_that_a_drain_dequeues_leads_before_they_are_stored(broken: Broken) -> None:
    with broken("pop-before-store") as site:
        site.reset()
        oracle = Oracle(site)
        site.apply([NO_DATABASE])
        oracle.submit(3)
        site.drain()
        report = oracle.recover_and_check()
    assert report.lost >= 1
    assert report.has_finding("lost")


def test_the_oracle_sees_that_a_mail_whose_reply_was_lost_is_delivered_again(
    broken: Broken,
) -> None:
    with broken("mail-without-a-key") as site:
        site.reset()
        oracle = Oracle(site)
        oracle.submit_under_faults([Fault("resend", "lose_reply")], 2)
        report = oracle.recover_and_check()
    assert report.mails_doubled >= 1
    assert report.has_finding("mail doubled")


def test_the_oracle_sees_a_name_in_the_log(broken: Broken) -> None:
    with broken("names-in-the-log") as site:
        site.reset()
        oracle = Oracle(site)
        oracle.post(oracle.new_attempt())
        report = oracle.recover_and_check()
    assert report.has_finding("leak: log")


def test_the_oracle_sees_that_an_answered_reference_is_not_stored(broken: Broken) -> None:
    with broken("reference-of-its-own") as site:
        site.reset()
        oracle = Oracle(site)
        oracle.post(oracle.new_attempt())
        report = oracle.recover_and_check()
    assert report.has_finding("id differs")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("schema", "renamed_column", {"table": "leads"}),
        Fault("schema", "failing_trigger", {"table": "leads"}),
        Fault("schema", "revoked_insert", {"table": "outbox"}),
    ],
    ids=str,
)
def test_the_oracle_sees_that_a_refusing_database_costs_a_lead_although_the_queue_works(
    broken: Broken, fault: Fault
) -> None:
    with broken("falls-through-on-outages-alone") as site:
        site.reset()
        oracle = Oracle(site)
        oracle.submit_under_faults([fault], 3)
        report = oracle.recover_and_check()
    assert report.refused_needlessly >= 3
    assert report.has_finding("refused needlessly")


def test_a_chaos_run_finds_a_mutation_too(broken: Broken) -> None:
    with broken("falls-through-on-outages-alone") as site:
        report = chaos.run(site, seed=SEED_OF_A_SCHEMA_FAULT, seconds=1, tell=print)
    assert report.has_finding("refused needlessly")


def test_a_change_that_no_longer_fits_the_source_is_an_error_not_a_pass(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    gone = source_tree.Patch("lib/leads/repository.py", "this was never there", "")
    target = tmp_path_factory.mktemp("gone") / "copy"
    with pytest.raises(source_tree.PatchDoesNotApply, match=r"lib/leads/repository\.py"):
        source_tree.copy(ROOT, target, [gone])
