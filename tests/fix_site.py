"""Fixtures of the tests that break things: import `rig`, and what it stands on, by name."""

from collections.abc import Iterator

import pytest

from dev.build import source_tree
from dev.faults.invariant_report import Verdict
from dev.faults.test_site import Rig
from dev.platform.local_platform import Platform
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def shared_rig(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One pair of processes for a whole file, as an instance lives through many troubles."""
    copied = source_tree.copy(ROOT, tmp_path_factory.mktemp("tree") / "copy")
    with Rig(platform, copied) as made:
        yield made


@pytest.fixture
def rig(shared_rig: Rig) -> Rig:
    """The functions behind fault proxies, everything whole and empty."""
    shared_rig.empty()
    return shared_rig


def kept(verdict: Verdict) -> bool:
    """Every promise was kept; pytest shows the table when not."""
    assert verdict.ok, "\n" + verdict.table()
    return True


def all_accepted(verdict: Verdict) -> bool:
    """No lead was refused, and every promise was kept."""
    assert verdict.accepted == verdict.offered, "\n" + verdict.table()
    return kept(verdict)
