"""The load command: what it offers, what it sees, and a short run of it."""

import itertools
import re
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.faults.test_site import SiteUnderTest
from dev.load import run, sampling, wall
from dev.load.phases import phases
from dev.load.report import quantile_ms
from dev.load.traffic import MIX, Sample, schedule
from lib.leads import canary, delivery_status
from tests.fix_site import shared_site, site

__all__ = ["shared_site", "site"]


def test_every_service_gets_requests_at_its_own_constant_rate() -> None:
    offered = list(schedule(rate=2, seconds=10))
    assert Counter(name for _, name in offered) == {n: int(20 * each) for n, each in MIX.items()}
    leads = [at_s for at_s, name in offered if name == "leads"]
    assert {round(later - at_s, 6) for at_s, later in itertools.pairwise(leads)} == {0.5}


def test_a_run_begins_and_ends_without_a_fault_and_breaks_the_schema_too() -> None:
    planned = list(phases(300))
    assert planned[0].fault is planned[-1].fault is None
    assert {"schema", "database", "redis", "resend"} <= {
        phase.fault.target for phase in planned if phase.fault
    }
    assert (planned[0].from_s, round(planned[-1].to_s, 6)) == (0, 300)


def test_memory_that_grows_is_seen_and_a_warm_up_is_not() -> None:
    warm = [(float(at), 50.0 if at > 10 else 30.0) for at in range(100)]
    assert sampling.growth(warm) == 1.0
    assert sampling.growth([(float(at), 50.0 + at) for at in range(100)]) > 1.5


def test_the_wall_names_the_sla_that_was_missed() -> None:
    quick = [Sample("health", at, 0.05, 200) for at in range(100)]
    slow = [Sample("health", at, 0.3, 200) for at in range(100)]
    failing = [Sample("rum", at, 0.01, 0 if at < 5 else 204) for at in range(100)]
    assert wall.broken_promises(quick) == []
    assert wall.broken_promises([*slow, *failing]) == [
        "rum: 5 errors of 100", "health: p95 300 ms, SLA 200"
    ]  # fmt: skip
    assert quantile_ms(failing, 0.5) == 10.0


def test_a_short_run_counts_every_lead_and_draws_a_picture(
    site: SiteUnderTest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "load.svg"
    assert run.run_traffic(site, seconds=6, rate=0.5, out=picture, budget_s=120) == 0
    printed = capsys.readouterr().out
    assert "lost 0, doubled 0" in printed
    assert "database refuse" in printed
    lines = re.findall(r'<polyline points="([^"]+)"', picture.read_text())
    assert len(lines) > len(MIX)
    assert all(lines)


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        (canary.DELETE_OLD_CANARIES, {"until": datetime.now(UTC)}),
        (
            delivery_status.COUNT_UNSENT,
            {"now": datetime.now(UTC), "address_refused": "", "stopped": ["not_found"]},
        ),
    ],
    ids=["old canaries", "unsent mails"],
)
def test_no_statement_of_the_monitor_scans_a_growing_table(
    database: psycopg.Connection[DictRow], statement: str, values: dict[str, object]
) -> None:
    with database.transaction():
        database.execute("set local enable_seqscan = off")
        cursor = psycopg.ClientCursor(database)
        plan = str(cursor.execute(f"explain {statement}".encode(), values).fetchall())
    assert "Seq Scan" not in plan
