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
def pooled_site(
    platform: Platform, pooler: PgBouncer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SiteUnderTest]:
    copied = source_tree.copy(ROOT, tmp_path_factory.mktemp("pooled") / "copy")
    with SiteUnderTest(platform, copied, database_url=pooler.dsn) as made:
        yield made


@pytest.fixture
def site(pooled_site: SiteUnderTest) -> SiteUnderTest:
    pooled_site.reset()
    return pooled_site


def test_this_pooler_does_break_prepared_statements(pooler: PgBouncer) -> None:
    """So that the tests below prove something: two clients, one name, other connections."""
    with pytest.raises(psycopg.errors.DatabaseError, match="prepared statement"):
        prepare_by_turns(pooler.dsn)


def prepare_by_turns(dsn: str) -> None:
    with (
        psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as first,
        psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as second,
    ):
        for number in range(20):
            (first if number % 2 else second).execute("select %s::int + 1", [number])


def test_leads_come_in_through_a_pooler_one_by_one_and_together(
    site: SiteUnderTest, pooler: PgBouncer
) -> None:
    oracle = Oracle(site)
    for _ in range(5):
        oracle.post(oracle.new_attempt())
    oracle.submit(40)
    report = oracle.recover_and_check()
    assert all_accepted(report)
    assert report.accepted_200 == report.attempted
    assert says_nothing_of_prepared_statements(site)
    [pool] = [pool for pool in pooler.pools() if pool["database"] == "alfa"]
    assert pool["pool_mode"] == "transaction"


def test_one_lead_sent_many_times_at_once_through_a_pooler_is_one(site: SiteUnderTest) -> None:
    oracle = Oracle(site)
    attempt = oracle.new_attempt()
    oracle.send_all([attempt] * 30)
    assert all_accepted(oracle.recover_and_check())


def test_drains_at_once_through_a_pooler_bring_in_what_waited(site: SiteUnderTest) -> None:
    oracle = Oracle(site)
    site.apply([Fault("database", "refuse")])
    oracle.submit(30)
    site.clear_faults_and_wait()
    run_concurrently(site.drain, site.drain, site.drain)
    assert all_accepted(oracle.recover_and_check())
    assert says_nothing_of_prepared_statements(site)


def test_a_pooler_whose_server_connections_die_costs_no_lead(site: SiteUnderTest) -> None:
    oracle = Oracle(site)
    oracle.submit(4)
    site.inside.end_sessions()
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


def says_nothing_of_prepared_statements(site: SiteUnderTest) -> bool:
    log = "\n".join(line["message"] for line in site.log.since())
    return "repared" not in log and "DuplicatePrepared" not in log
