"""A process killed, frozen or crowded: a lead is stored once and mailed once."""

import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import pytest

from dev.build import source_tree
from dev.faults.known_faults import Fault
from dev.faults.lead_attempt import Answer
from dev.faults.oracle import ClientBehavior, Oracle, is_idle, run_concurrently
from dev.faults.test_site import DELIVER, LEADS, SiteUnderTest
from dev.platform.local_platform import APP_ROLE, Platform
from lib.leads import service, submission
from lib.leads.lead import Lead, Recipients
from lib.services import Services
from lib.settings import Settings
from tests.conftest import ROOT
from tests.fix_site import all_accepted, shared_site, site

__all__ = ["shared_site", "site"]

NO_DATABASE = [Fault("database", "refuse")]


# ------------------------------------------------------------------ many at once


def test_200_posts_of_one_lead_at_once_are_one_lead(
    platform: Platform, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copied = source_tree.copy(ROOT, tmp_path_factory.mktemp("crowd") / "copy")
    with SiteUnderTest(platform, copied, instances=2) as site:
        site.reset()
        # Most of the crowd waits at the site's gate: this is about who they are, not how long.
        oracle = Oracle(site, ClientBehavior(timeout_s=60), budget_s=60)
        for keyed in (True, False):
            attempt = oracle.new_attempt(keyed=keyed, with_email=True)
            oracle.send_all([attempt] * 200)
            assert len(attempt.answers) == 200
            assert {answer.status for answer in attempt.answers} <= {200}
            assert len({answer.id for answer in attempt.answers if answer.accepted}) == 1
        assert all_accepted(oracle.recover_and_check())
        stored = site.admin.execute("select business_name from leads").fetchall()
        assert len(stored) == len(oracle.attempts)


def test_a_lead_sent_to_a_cut_off_instance_and_to_a_healthy_one_is_one_lead(
    site: SiteUnderTest, platform: Platform
) -> None:
    with SiteUnderTest(platform, site.root) as healthy:
        cut_off = Oracle(site, ClientBehavior(attempts=6))
        whole = Oracle(healthy, ClientBehavior(attempts=6))
        whole.post(whole.new_attempt())
        assert healthy.wait_idle(10)  # it has seen that nothing is queued
        site.apply(NO_DATABASE)
        # The healthy one asks Postgres alone, and stores what the other has queued: 200 is true.
        for first, second, status in ((cut_off, whole, 202), (whole, cut_off, 200)):
            attempt = cut_off.new_attempt()
            answers = [first.send(attempt)]
            assert first.site.wait_idle(10)
            answers.append(second.send(attempt))
            assert [answer.status for answer in answers] == [status, 200]
            assert len({(answer.id, answer.ref) for answer in answers}) == 1
        for _ in range(12):
            attempt = cut_off.new_attempt()
            run_concurrently(partial(cut_off.send, attempt), partial(whole.send, attempt))
        assert all_accepted(cut_off.recover_and_check())


# ------------------------------------------------------------------ killed


def test_a_request_killed_at_any_point_and_sent_again_is_one_lead(site: SiteUnderTest) -> None:
    """Eight leads on their way, 20 ms apart, each time: 48 points from first byte to mails."""
    oracle = Oracle(site)
    for number, killed_after_s in enumerate((0.02, 0.06, 0.13, 0.22, 0.32, 0.5)):
        how = signal.SIGTERM if number % 2 else signal.SIGKILL
        site.apply([Fault("database", "slow", {"delay_s": 0.015})])
        _kill_among_eight(oracle, killed_after_s, how)
    assert all_accepted(oracle.recover_and_check(insist=True))


def test_a_request_killed_while_the_database_is_down_and_sent_again_is_one_lead(
    site: SiteUnderTest,
) -> None:
    oracle = Oracle(site)
    oracle.submit(1)
    site.apply([*NO_DATABASE, Fault("redis", "slow", {"delay_s": 0.02})])
    for killed_after_s in (0.03, 0.08, 0.15, 0.25):
        _kill_among_eight(oracle, killed_after_s, signal.SIGKILL)
    assert all_accepted(oracle.recover_and_check(insist=True))


def _kill_among_eight(oracle: Oracle, killed_after_s: float, how: signal.Signals) -> None:
    oracle.post(oracle.new_attempt())  # the process is there
    sending = [threading.Thread(target=_post_later, args=(oracle, n * 0.02)) for n in range(8)]
    for thread in sending:
        thread.start()
    time.sleep(killed_after_s)
    oracle.site.signal(LEADS, how)
    for thread in sending:
        thread.join()


def _post_later(oracle: Oracle, delay_s: float) -> None:
    attempt = oracle.new_attempt()
    time.sleep(delay_s)
    oracle.post(attempt)


def test_a_drain_killed_at_any_point_loses_and_doubles_nothing(site: SiteUnderTest) -> None:
    oracle = Oracle(site)
    site.apply(NO_DATABASE)
    oracle.submit(40)
    site.clear_faults_and_wait()
    for killed_after_s in (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8):
        site.apply(
            [
                Fault("database", "slow", {"delay_s": 0.004}),
                Fault("resend", "slow", {"delay_s": 0.02}),
            ]
        )
        site.make_mails_due()
        draining = threading.Thread(target=site.drain)
        draining.start()
        _wait_until(lambda: any(p["in_flight"] for p in site.running() if p["name"] == DELIVER))
        time.sleep(killed_after_s)
        site.signal(DELIVER, signal.SIGKILL)
        draining.join()
    assert all_accepted(oracle.recover_and_check())


def _wait_until(look: Callable[[], object], timeout_s: float = 10.0) -> None:
    end = time.monotonic() + timeout_s
    while not look() and time.monotonic() < end:
        time.sleep(0.005)


# ------------------------------------------------------------------ frozen


def _terminated(site: SiteUnderTest) -> None:
    site.inside.end_sessions()


def _timed_out(site: SiteUnderTest) -> None:
    time.sleep(0.8)  # the role's sessions end after 0.4 s of idleness


def _forgotten(site: SiteUnderTest) -> None:
    site.database.switch("orphan")
    site.redis.switch("orphan")


def _all_cut(site: SiteUnderTest) -> None:
    site.database.switch("kill")
    site.redis.switch("kill")


@pytest.mark.parametrize("meanwhile", [_terminated, _timed_out, _forgotten, _all_cut])
def test_an_instance_thawed_after_its_connections_died_answers_at_once(
    site: SiteUnderTest, meanwhile: Callable[[SiteUnderTest], None]
) -> None:
    oracle = Oracle(site)
    site.inside.end_sessions()
    site.admin.execute(f"alter role {APP_ROLE} set idle_session_timeout = '400ms'".encode())
    try:
        oracle.submit(4)  # several connections are kept
        site.wait_idle(5)
        frozen = site.signal(LEADS, signal.SIGSTOP)
        assert len(frozen) == 1
        meanwhile(site)
        site.signal(LEADS, signal.SIGCONT)
        first = oracle.post(oracle.new_attempt())
        oracle.submit(4)
    finally:
        site.admin.execute(f"alter role {APP_ROLE} reset idle_session_timeout".encode())
    assert (first.status, first.error) == (200, None)
    assert first.seconds < 3
    assert site.pids(LEADS) == frozen
    assert {answer.status for attempt in oracle.attempts for answer in attempt.answers} == {200}
    assert all_accepted(oracle.recover_and_check())


# ------------------------------------------------------------------ a thousand waiting


def test_two_drains_at_once_bring_in_a_thousand_waiting_leads_in_bounded_calls(
    site: SiteUnderTest,
) -> None:
    oracle = Oracle(site)
    site.apply(NO_DATABASE)
    oracle.submit(20)
    _queue(oracle, 980)
    assert site.queue_length() == 1000
    site.clear_faults_and_wait()
    calls: list[tuple[float, int]] = []

    def drain() -> None:
        started = time.monotonic()
        status, body = site.drain()
        calls.append((time.monotonic() - started, status))
        done.append(status == 200 and is_idle(body))

    for _ in range(20):
        done: list[bool] = []
        run_concurrently(drain, drain)
        if all(done):
            break
    assert site.queue_length() == 0
    assert max(seconds for seconds, _ in calls) < 60
    assert {status for _, status in calls} == {200}
    report = oracle.recover_and_check()
    assert all_accepted(report)
    assert report.accepted_202 >= 1000


def _queue(oracle: Oracle, count: int) -> None:
    """Leads that step down to the queue without the cost of HTTP: as instances do, by intake."""
    services = Services(Settings(oracle.site.environment))
    recipients = Recipients("a@b.co", ("sales@b.co",))
    for _ in range(count):
        attempt = oracle.new_attempt(with_email=False)
        lead = Lead.from_submission(
            submission.parse(attempt.body()),
            key=attempt.key,
            locale="id",
            now=datetime.now(UTC),
            ip_address=None,
            user_agent=None,
        )
        persisted = service.persist(services, lead, recipients)
        assert persisted.decision == "queued"
        attempt.answers.append(
            Answer(202, str(persisted.lead.id), persisted.lead.ref, 0.0, queued=True)
        )
    services.close()
