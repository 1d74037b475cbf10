"""Behind a transaction pooler, as in production: any statement may meet any server connection."""

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.build import source_tree
from dev.faults.known_faults import Fault
from dev.faults.oracle import Oracle, run_concurrently
from dev.faults.test_site import SiteUnderTest
from dev.platform.local_platform import Platform
from dev.platform.pgbouncer import PgBouncer
from lib.privacy import erasure, retention
from lib.privacy.data_subject import Subject
from lib.services import Services
from lib.settings import Settings
from tests.conftest import ROOT
from tests.fix_site import all_accepted
from tests.privacy.person_data import OTHER_PERSON, count_rows, make_lead, store_lead


@pytest.fixture(scope="module")
def pooler(platform: Platform) -> Iterator[PgBouncer]:
    made = PgBouncer(platform.database_url)
    yield made
    made.close()


@pytest.fixture(scope="module")
def pooled_rig(
    platform: Platform, pooler: PgBouncer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SiteUnderTest]:
    copied = source_tree.copy(ROOT, tmp_path_factory.mktemp("pooled") / "copy")
    with SiteUnderTest(platform, copied, database_url=pooler.dsn) as made:
        yield made


@pytest.fixture
def rig(pooled_rig: SiteUnderTest) -> SiteUnderTest:
    pooled_rig.reset()
    return pooled_rig


def test_this_pooler_does_break_prepared_statements(pooler: PgBouncer) -> None:
    """So that the tests below prove something: two clients, one name, other connections."""
    with pytest.raises(psycopg.errors.DatabaseError, match="prepared statement"):
        prepare_by_turns(pooler.dsn)


def prepare_by_turns(dsn: str) -> None:
    with (
        psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as one,
        psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as other,
    ):
        for number in range(20):
            (one if number % 2 else other).execute("select %s::int + 1", [number])


def test_leads_come_in_through_a_pooler_one_by_one_and_together(
    rig: SiteUnderTest, pooler: PgBouncer
) -> None:
    oracle = Oracle(rig)
    for _ in range(5):
        oracle.post(oracle.new_attempt())
    oracle.submit(40)
    verdict = oracle.recover_and_check()
    assert all_accepted(verdict)
    assert verdict.accepted_200 == verdict.offered
    assert says_nothing_of_prepared_statements(rig)
    [pool] = [pool for pool in pooler.pools() if pool["database"] == "alfa"]
    assert pool["pool_mode"] == "transaction"


def test_one_lead_sent_many_times_at_once_through_a_pooler_is_one(rig: SiteUnderTest) -> None:
    oracle = Oracle(rig)
    offer = oracle.new_attempt()
    oracle.send_all([offer] * 30)
    assert all_accepted(oracle.recover_and_check())


def test_drains_at_once_through_a_pooler_bring_in_what_waited(rig: SiteUnderTest) -> None:
    oracle = Oracle(rig)
    rig.apply([Fault("database", "refuse")])
    oracle.submit(30)
    rig.clear_faults_and_wait()
    run_concurrently(rig.drain, rig.drain, rig.drain)
    assert all_accepted(oracle.recover_and_check())
    assert says_nothing_of_prepared_statements(rig)


def test_a_pooler_whose_server_connections_die_costs_no_lead(rig: SiteUnderTest) -> None:
    oracle = Oracle(rig)
    oracle.submit(4)
    rig.inside.end_sessions()
    oracle.submit(4)
    assert all_accepted(oracle.recover_and_check())


def test_erasing_and_pruning_through_a_pooler_say_so_to_nobody_elses_statements(
    platform: Platform, pooler: PgBouncer, database: psycopg.Connection[DictRow]
) -> None:
    settings = Settings({**platform.environment, "DATABASE_URL": pooler.dsn})
    now = datetime.now(UTC)
    with closing(Services(settings)) as services:
        store_lead(services, make_lead())
        store_lead(services, make_lead(now - timedelta(days=1200), message="Lama", **OTHER_PERSON))
        erasure.erase(services, Subject(emails=("andi@example.com",)), now, asked_by="api")
        ended = retention.prune(services.database.run, retention.rules(1095), now, budget_s=9)
        assert ended["leads"] == 1
        assert count_rows(database, "leads") == 0
        store_lead(services, make_lead(message="Lagi"))
        with psycopg.connect(pooler.dsn, autocommit=True, prepare_threshold=None) as by_hand:
            by_hand.execute("delete from leads")
        assert erasure.run_pending(services, now)["taken_over"] == 1, "known as a deletion by hand"


def says_nothing_of_prepared_statements(rig: SiteUnderTest) -> bool:
    told = "\n".join(line["message"] for line in rig.log.since())
    return "repared" not in told and "DuplicatePrepared" not in told
