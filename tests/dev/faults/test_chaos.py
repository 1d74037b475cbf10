"""The chaos run: its choices are a seed's alone, and one round of it is part of every test run."""

from itertools import islice

from dev.faults import chaos, known_faults, plan
from dev.faults.test_site import SiteUnderTest
from tests.fix_site import all_invariants_hold, shared_site, site

__all__ = ["shared_site", "site"]


def test_a_seed_fixes_every_choice() -> None:
    assert list(islice(plan.phases(5), 30)) == list(islice(plan.phases(5), 30))
    assert list(islice(plan.phases(5), 30)) != list(islice(plan.phases(6), 30))


def test_sooner_or_later_everything_is_broken_and_never_two_faults_share_a_switch() -> None:
    planned = list(islice(plan.phases(1), 800))
    assert {broken for phase in planned for broken in phase.faults} == set(known_faults.ALL)
    groups = (known_faults.DATABASE, known_faults.REDIS, known_faults.MAIL, known_faults.ALERTS)
    for phase in planned:
        for group in groups:
            assert sum(broken in group for broken in phase.faults) <= 1


def test_a_round_of_chaos_loses_and_doubles_nothing_and_ends_by_itself(site: SiteUnderTest) -> None:
    lines: list[str] = []
    report = chaos.run(site, seed=22, seconds=1, tell=lines.append)
    assert all_invariants_hold(report)
    assert len(lines) == 2  # the round, and the mending
    assert report.attempted > 5
