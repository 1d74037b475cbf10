"""One platform for the whole session, emptied before each test that uses it.

Nothing here is faked but the vendors that live on the internet: real Postgres, real Valkey,
real HTTP, the functions in Vercel's own runtime. Break things by the stand-ins' switches or by
cutting a socket, never by patching our modules.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import psycopg
import pytest
import redis
from _pytest import runner
from httpx import _config as httpx_config
from httpx._transports import default as httpx_transports
from psycopg.rows import DictRow, dict_row
from xdist.scheduler import LoadFileScheduling

from dev.build import vercel_build
from dev.faults.test_site import empty_tables
from dev.platform import postgres_binaries
from dev.platform.local_platform import Platform
from lib.incidents import alerting, slack_store
from tests.fix_results import Results

# The certificates of a client are read once: that takes 50 ms, and a test makes many clients.
setattr(httpx_transports, "create_ssl_context", functools.cache(httpx.create_ssl_context))  # noqa: B010
# Where no test says how long it waits: a cold start on a busy machine takes longer than 5 s.
for wait in ("connect", "read", "write", "pool"):
    setattr(httpx_config.DEFAULT_TIMEOUT_CONFIG, wait, 30.0)

ROOT = Path(__file__).parent.parent

FAST_MAIL = {"MAIL_PER_SECOND": "1000"}
"""The pause between two mails (0.5 s by default) is the matter of leads/test_send_rate.py alone."""

LEAD: dict[str, Any] = {
    "business_name": "Barber Maju Jaya",
    "contact_name": "Andi Saputra",
    "phone_whatsapp": "0812-3456-7890",
    "city": "Medan",
    "salon_type": "BARBER",
    "consent": True,
    "email": "Andi@Example.com",
    "chair_count": 6,
    "specialization": "coloring, keratin",
    "message": "Tertarik bermitra.\nMohon info harga.",
}
FORM = {**{name: str(value) for name, value in LEAD.items()}, "consent": "on"}  # LEAD as a form
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
"""A lead that every rule accepts."""


both_majors = pytest.mark.both_majors
"""A test, or by `pytestmark` a module, on both PostgreSQLs that Supabase runs; else it is 17."""


NEEDS_PLATFORM = {"platform", "platforms", "built", "server", "own", "small", "browser"}
"""Fixtures that start servers or browsers: `--quick` leaves out the tests that ask for them."""

MOST_MEASUREMENTS = 3

SLOW_FILES = (
    "ops/keys/test_rotation.py",
    "leads/test_no_lead_lost.py",
    "leads/test_inputs.py",
    "ops/recovery/test_restore_whole.py",
    "ops/recovery/test_recovery.py",
    "ops/test_documents.py",
    "leads/test_store_faults.py",
    "leads/test_interrupted.py",
    "dev/faults/test_mutations.py",
    "dev/vendors/test_vercel_cli.py",
    "test_artefact.py",
    "ops/recovery/test_supabase_cli.py",
)
"""Files that take longest, longest first: they are begun first, or one worker waits for them."""

SHARED_OUT = ("tests/ops/keys/test_rotation.py",)
"""Files too long for one worker, whose tests share no fixture of the file: any worker takes any."""

WITH_BROWSER = (
    "tests/browser/",
    "tests/dev/vendors/test_vendor_clients.py",
    "tests/leads/test_inputs.py",
)
"""Each takes a core for itself: no more of them run at once than there are cores."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="without what needs a platform")
    parser.addoption("--results", metavar="FILE", help="write what became of each test there")
    parser.addoption(
        "--changed", action="append", default=[], help="with --quick: a file whose tests run too"
    )


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("results")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Results(Path(file)))
    # An example is not too slow because the machine is busy with something else.
    hypothesis.settings.register_profile("any_machine", deadline=None)
    hypothesis.settings.load_profile("any_machine")
    config.addinivalue_line("markers", "both_majors: on PostgreSQL 17 and on 15")
    config.addinivalue_line("markers", "measures_time: up to three times, as machines are busy")
    config.addinivalue_line("markers", "slow: left out by --quick, as what needs a platform is")
    config.addinivalue_line("markers", "real_now: NOW of the module is when the test began")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marked = metafunc.definition.get_closest_marker("both_majors")
    if marked and "platform" in metafunc.fixturenames:
        metafunc.parametrize(
            "platform", [17, 15], ids=["pg17", "pg15"], indirect=True, scope="session"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test that names a fixture nobody has cannot start: then it runs alone, and fails at once.

    An exception here would end the workers of xdist without a word about the test.
    """
    if broken := [item for item in items if missing_fixtures(item)]:
        items[:] = broken
        return
    order = {name: number for number, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: order.get(_file(item).removeprefix("tests/"), len(order)))
    if not config.getoption("quick"):
        return
    changed = set(config.getoption("changed"))
    left_out = [item for item in items if not (is_quick(item) or _file(item) in changed)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


def missing_fixtures(item: pytest.Item) -> set[str]:
    """Fixtures that a test or one of its fixtures asks for, and that are nowhere."""
    info = getattr(item, "_fixtureinfo", None)
    if info is None:
        return set()
    return set(info.names_closure) - set(info.name2fixturedefs) - {"request"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> "ByFile | None":
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """Whole files to each worker, each PostgreSQL's tests of it apart, and single tests of some."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file in SHARED_OUT:
            return nodeid
        return f"{file} pg15" if "pg15" in nodeid else file

    def _assign_work_unit(self, node: Any) -> None:
        """A worker more than there are cores takes no file with a browser while others wait."""
        if node not in self.nodes[: os.cpu_count() or 1]:
            light = (scope for scope in self.workqueue if not scope.startswith(WITH_BROWSER))
            if (scope := next(light, None)) is not None:
                self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)


def is_quick(item: pytest.Item) -> bool:
    """Whether a test asks for no server and is not marked `slow`."""
    fixtures = set(getattr(item, "fixturenames", ()))
    return not (NEEDS_PLATFORM & fixtures or item.get_closest_marker("slow"))


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """A test marked `measures_time` fails when three runs of it in a row do.

    It compares a duration with a limit, or what it tests does: code that is too slow is so each
    time, a machine that is busy with something else is not. What must hold whatever the load is,
    as that no lead is lost, is never marked. The end of the run says what was measured again.
    """
    if item.get_closest_marker("measures_time") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    runs = 1
    reports = runner.runtestprotocol(item, nextitem=nextitem, log=False)
    while any(report.failed for report in reports) and runs < MOST_MEASUREMENTS:
        runs += 1
        reports = runner.runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        if runs > 1 and report.when == "teardown":
            report.user_properties.append(("measured", runs))
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, runs in getattr(report, "user_properties", ()):
                if name == "measured":
                    terminalreporter.line(f"measured {runs} times: {report.nodeid}")


@pytest.fixture(autouse=True)
def present(request: pytest.FixtureRequest) -> None:
    """NOW of a module is the moment its test began, when the marker `real_now` says so.

    A suite takes longer than what such tests wait for, and commands read the real clock.
    """
    if request.node.get_closest_marker("real_now"):
        request.module.NOW = datetime.now(UTC)


@pytest.fixture(scope="session")
def platforms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], Platform]]:
    """The platform of a major, started when first asked for."""
    running: dict[int, Platform] = {}

    def of(major: int) -> Platform:
        if major not in running:
            folder = tmp_path_factory.mktemp(f"platform-{major}")
            platform = Platform(ROOT, folder, durable=False, environ=FAST_MAIL, major=major)
            running[major] = parts.enter_context(platform)
        return running[major]

    with contextlib.ExitStack() as parts:
        yield of


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest, platforms: Callable[[int], Platform]) -> Platform:
    return platforms(getattr(request, "param", postgres_binaries.MAIN))


@pytest.fixture(scope="session")
def admin(platform: Platform) -> Iterator[psycopg.Connection[DictRow]]:
    """A superuser's connection in autocommit mode; rows come as dicts.

    Commands of ops get `platform.admin_database_url`: the owner's, who is no superuser.
    """
    with psycopg.connect(
        platform.superuser_database_url, autocommit=True, row_factory=dict_row
    ) as connection:
        yield connection


@pytest.fixture(scope="session")
def built() -> Path:
    """The project folder that `python3 -m dev build` leaves, its output in `.vercel/output`.

    Built once for the same files: no test changes it.
    """
    return vercel_build.build_once(ROOT).parents[1]


@pytest.fixture
def database(platform: Platform, admin: psycopg.Connection[DictRow]) -> psycopg.Connection[DictRow]:
    """The database, emptied, and every stand-in as new."""
    stand_ins = (
        platform.resend,
        platform.slack,
        platform.sentry,
        platform.turnstile,
        platform.upstash,
        platform.vercel,
        platform.supabase,
        platform.upstash_api,
        platform.uptimerobot,
    )
    for stand_in in stand_ins:
        stand_in.ok()
    _wait_for_work_after_answers(platform)
    empty_tables(lambda statement: admin.execute(statement.encode()))
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.flushall()
    for stand_in in stand_ins:
        stand_in.forget()
    platform.forget_logs()
    # What commands and jobs that ran here before would leave out as posted a moment ago.
    alerting._last_raised_at.clear()
    slack_store._last_posted_at.clear()
    return admin


def _wait_for_work_after_answers(platform: Platform) -> None:
    """Let the test before finish its work, for at most 20 s, so that it does not show up here."""
    end = time.monotonic() + 20
    while not platform.is_idle() and time.monotonic() < end:
        time.sleep(0.005)


@pytest.fixture
def valkey(platform: Platform, database: psycopg.Connection[DictRow]) -> Iterator[redis.Redis]:
    """A client of the emptied Redis; it gives texts."""
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def site(platform: Platform, database: object) -> Iterator[httpx.Client]:
    """A client of the whole site, on an empty database."""
    with httpx.Client(base_url=platform.url, timeout=20) as client:
        yield client


def delivered(platform: Platform) -> list[dict[str, Any]]:
    """The mails Resend delivered, each once however often it was asked, newest first."""
    key = {"Authorization": f"Bearer {platform.environment['RESEND_API_KEY']}"}
    answer = httpx.get(f"{platform.resend.url}/emails", headers=key)
    mails: list[dict[str, Any]] = answer.json()["data"]
    return mails


def eventually[T](look: Callable[[], T], timeout_s: float = 30.0, pause_s: float = 0.01) -> T:
    """What `look` finds, once it finds something: for what happens after an answer.

    The longer it takes, the longer the pauses, up to 0.1 s: looking takes what is waited for time.
    """
    end = time.monotonic() + timeout_s
    while not (result := look()):
        if time.monotonic() > end:
            raise AssertionError(f"{getattr(look, '__doc__', None) or look} did not happen")
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.3, max(pause_s, 0.1))
    return result
