"""Fixtures of the tests that break things: import `rig`, and what it stands on, by name."""

from collections.abc import Iterator

import pytest

from dev.build import source_tree
from dev.faults.invariant_report import InvariantReport
from dev.faults.test_site import SiteUnderTest
from dev.platform.local_platform import Platform
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def shared_rig(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SiteUnderTest]:
    """One pair of processes for a whole file, as an instance lives through many troubles."""
    copied = source_tree.copy(ROOT, tmp_path_factory.mktemp("tree") / "copy")
    with SiteUnderTest(platform, copied) as made:
        yield made


@pytest.fixture
def rig(shared_rig: SiteUnderTest) -> SiteUnderTest:
    """The functions behind fault proxies, everything whole and empty."""
    shared_rig.reset()
    return shared_rig


def kept(verdict: InvariantReport) -> bool:
    """Every promise was kept; pytest shows the table when not."""
    assert verdict.ok, "\n" + verdict.render()
    return True


def all_accepted(verdict: InvariantReport) -> bool:
    """No lead was refused, and every promise was kept."""
    assert verdict.accepted == verdict.offered, "\n" + verdict.render()
    return kept(verdict)
