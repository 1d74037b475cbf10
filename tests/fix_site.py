"""Fixtures of the tests that break things: import `site`, and what it stands on, by name."""

from collections.abc import Iterator

import pytest

from dev.build import source_tree
from dev.faults.invariant_report import InvariantReport
from dev.faults.test_site import SiteUnderTest
from dev.platform.local_platform import Platform
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def shared_site(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SiteUnderTest]:
    """One pair of processes for a whole file, as an instance lives through many troubles."""
    copied = source_tree.copy(ROOT, tmp_path_factory.mktemp("tree") / "copy")
    with SiteUnderTest(platform, copied) as started:
        yield started


@pytest.fixture
def site(shared_site: SiteUnderTest) -> SiteUnderTest:
    """The functions behind fault proxies, everything whole and empty."""
    shared_site.reset()
    return shared_site


def all_invariants_hold(report: InvariantReport) -> bool:
    """Every promise was kept; pytest shows the table when not."""
    assert report.ok, "\n" + report.render()
    return True


def all_accepted(report: InvariantReport) -> bool:
    """No lead was refused, and every promise was kept."""
    assert report.accepted == report.attempted, "\n" + report.render()
    return all_invariants_hold(report)
