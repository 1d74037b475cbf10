"""What an answer costs, where it can be counted: libraries loaded, round trips made."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from dev.bench.functions.wire import Wire
from dev.platform.local_platform import Platform
from lib import metrics
from lib.monitoring import deployments
from lib.products import catalogue, snapshot
from lib.products import query as product_query
from lib.products.entry import Entry, encode
from tests.conftest import LEAD, eventually

ROOT = Path(__file__).parent.parent
OURS = {"werkzeug", "markupsafe"}
POSTGRES = {"psycopg", "psycopg_binary", "typing_extensions"}
REDIS = {"upstash_redis", "httpx", "idna"}

VITALS = [{"name": "LCP", "value": 1900.5, "id": "v6-1", "page": "/"}]

# Imported by the runtime, and needed by no first answer.
SPARED = {"urllib3"}

# The first answer of a fresh process under the runtime's name, and what it took until its first
# byte.
FIRST = """
import importlib.util, io, json, sys, types
sys.modules["vercel_runtime.vc_init"] = types.ModuleType("vercel_runtime.vc_init")
function, method, path, body = sys.argv[1:]
spec = importlib.util.spec_from_file_location("function", function)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
environ = {
    "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", "SCRIPT_NAME": "",
    "CONTENT_TYPE": "application/json", "CONTENT_LENGTH": str(len(body)), "REMOTE_ADDR": "10.0.0.1",
    "HTTP_HOST": "alfabeauty.co.id", "HTTP_USER_AGENT": "Mozilla/5.0 (X11)",
    "SERVER_NAME": "x", "SERVER_PORT": "80", "wsgi.url_scheme": "https",
    "wsgi.input": io.BytesIO(body.encode()),
}
statuses = []
module.app(environ, lambda status, headers: statuses.append(status[:3]))
files = ((name, getattr(item, "__file__", None) or "") for name, item in sys.modules.items())
loaded = sorted({name.partition(".")[0] for name, file in files if "site-packages" in file})
print(json.dumps([statuses, loaded, sorted(sys.modules)]))
"""


# httpx loads its command line, and with it these, where they are installed: here, for `ops`.
NOT_IN_THE_BUNDLE = {"_virtualenv", "__editable__", "click", "rich", "pygments", "markdown_it"}


@pytest.fixture
def stocked(platform: Platform, database: object) -> None:
    """A fresh catalogue in Redis."""
    query = product_query.parse([], "id")
    answer = catalogue.render(query, snapshot.load().find(query), datetime.now(UTC))
    entry = Entry(answer, time.time(), cost_s=0.01, version="0")
    with redis.Redis.from_url(platform.redis_url) as valkey:
        key = f"products:entry:{query.cache_key}"
        valkey.set(key, encode(entry, query.cache_key))


@pytest.mark.parametrize(
    ("function", "method", "body", "status", "libraries"),
    [
        ("health", "GET", None, "200", set[str]()),
        ("thanks", "GET", None, "200", set[str]()),
        ("products", "GET", None, "200", REDIS),
        ("rum", "POST", VITALS, "204", set[str]()),
        ("leads", "POST", LEAD, "200", POSTGRES | {"pydantic_core"}),
    ],
)
def test_a_first_answer_loads_no_library_it_can_do_without(
    platform: Platform,
    stocked: None,
    function: str,
    method: str,
    body: object,
    status: str,
    libraries: set[str],
) -> None:
    """Neither the numbers of the world nor odd addresses nor the mail: a usual lead is stored."""
    text = "" if body is None else json.dumps(body)
    answer = subprocess.run(
        [sys.executable, "-c", FIRST, f"api/{function}.py", method, f"/api/{function}", text],
        cwd=ROOT,
        env={**platform.environment, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    statuses, loaded, modules = json.loads(answer.stdout)
    assert statuses == [status]
    assert set(loaded) - NOT_IN_THE_BUNDLE == OURS | libraries
    assert SPARED & set(modules) == set()


LOADED = """
import importlib.util, json, sys
sys.path.insert(0, sys.argv[1])
spec = importlib.util.spec_from_file_location("function", sys.argv[2])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(function: str) -> set[str]:
    """The first names of every module in a fresh process that has imported the function."""
    process = subprocess.run(
        [sys.executable, "-I", "-c", LOADED, str(ROOT), str(ROOT / function)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return {name.partition(".")[0] for name in json.loads(process.stdout)}


VENDORS = {
    "disposable_email_domains",
    "email_validator",
    "httpx",
    "nacl",
    "phonenumbers",
    "psycopg",
    "requests",
    "resend",
    "sentry_sdk",
    "upstash_redis",
}


@pytest.mark.parametrize("function", ["api/health.py", "api/thanks.py", "api/products.py"])
def test_a_function_that_answers_from_memory_loads_no_vendor(function: str) -> None:
    assert not loaded_by(function) & {*VENDORS, "pydantic"}


@pytest.mark.parametrize(
    "function",
    [
        "api/leads.py",
        "api/leads_export.py",
        "api/leads_subject.py",
        "api/rum.py",
        "api/cron/deliver.py",
        "api/cron/prune.py",
    ],
)
def test_a_function_that_needs_vendors_imports_them_when_first_used(function: str) -> None:
    assert not loaded_by(function) & VENDORS


@pytest.fixture
def wire(platform: Platform) -> Iterator[Wire]:
    made = Wire(platform.postgres.port, 0)
    yield made
    made.close()


def database_url(platform: Platform, wire: Wire) -> str:
    mine = f":{platform.postgres.port}/"
    return platform.environment["DATABASE_URL"].replace(mine, f":{wire.port}/")


def test_a_lead_takes_one_trip_to_postgres_and_none_to_redis_until_its_answer(
    platform: Platform, database: Any, wire: Wire
) -> None:
    at = database_url(platform, wire)
    with platform.function("api/leads.py", DATABASE_URL=at, MAIL_PER_SECOND="1000") as function:
        post(function.url, "0812 3456 7890")
        eventually(lambda: not function.in_flight)
        platform.upstash.forget()
        platform.resend.switch("slow", delay_s=30)  # so that nothing after the mail is reached
        platform.upstash.switch("slow", delay_s=0.5, match="journal:")  # and the mail not at once
        before = wire.trips
        post(function.url, "0812 3456 7891")
        assert wire.trips - before == 1
        eventually(lambda: len(platform.resend.received()) > 2)
        bodies = [record["body"] for record in platform.upstash.received()]
        # The requests' counts are sent once a second.
        commands = [body for body in bodies if metrics.INCREMENT not in body]
        assert len(commands) == 1, "once, after the answer, all in one"
        assert "journal:" in str(commands[0])
        assert wire.trips - before == 2, "after the answer: both mails take their turns at once"
        platform.resend.ok()
        eventually(lambda: not function.in_flight)
        assert wire.trips - before == 3, "both mails are written down at once"


def test_leads_whose_mails_must_wait_take_one_trip_in_all(
    platform: Platform, database: Any, wire: Wire
) -> None:
    """With a queue of mails before them they are left to the worker, not leased and given back."""
    at = database_url(platform, wire)
    database.execute("insert into mail_pace (next_at) values (now() + interval '50 s')")
    with platform.function("api/leads.py", DATABASE_URL=at, LEADS_PER_MINUTE="100") as function:
        trips = []
        for number in range(6):
            before = wire.trips
            post(function.url, f"0812 3456 78{number}5")
            assert function.wait_idle(10)
            trips.append(wire.trips - before)
    assert 1 in trips, "once a slot was refused, none is asked for a while, and nothing given back"
    waiting = "select lead_id from outbox where sent_at is null and dead_at is null"
    due = f"{waiting} and leased_until is null and next_attempt_at <= now() and attempts = 0"
    assert len(database.execute(due).fetchall()) == 12


def test_postgres_is_left_alone_in_maintenance(
    platform: Platform, database: Any, wire: Wire
) -> None:
    at = database_url(platform, wire)
    with platform.function("api/leads.py", DATABASE_URL=at, MAINTENANCE_MODE="on") as function:
        lead = {**LEAD, "phone_whatsapp": "0812 3456 7893"}
        answer = httpx.post(f"{function.url}/api/leads", json=lead, timeout=20)
        assert answer.status_code == 202
        eventually(lambda: not function.in_flight)
        assert wire.trips == 0


def post(url: str, phone: str) -> None:
    answer = httpx.post(f"{url}/api/leads", json={**LEAD, "phone_whatsapp": phone}, timeout=20)
    assert answer.status_code == 200, answer.text


def test_products_take_one_trip_to_redis_and_none_from_memory(
    platform: Platform, stocked: None, wire: Wire
) -> None:
    at, asked_before = database_url(platform, wire), deployments.CHECKED_KEY_PREFIX
    with redis.Redis.from_url(platform.redis_url) as valkey:
        valkey.set(asked_before + platform.environment["VERCEL_DEPLOYMENT_ID"], "1")
    with platform.function("api/products.py", DATABASE_URL=at) as function:
        for source in ("redis", "memory"):
            answer = httpx.get(f"{function.url}/api/products", timeout=20)
            assert (answer.status_code, answer.headers["X-Data-Source"]) == (200, source)
            # But for what is done after an answer: its count, and once whether the deployment
            # was asked about its statements.
            other_requests = [
                request
                for request in platform.upstash.received()
                if metrics.INCREMENT not in request["body"]
                and asked_before not in str(request["body"])
            ]
            assert len(other_requests) == 1
    assert wire.trips == 0


def test_a_beacon_waits_for_nothing_and_takes_one_trip_after_its_answer(
    platform: Platform, database: object, wire: Wire
) -> None:
    at = database_url(platform, wire)
    with platform.function("api/rum.py", DATABASE_URL=at) as function:
        platform.upstash.switch("stall")
        agent = {"User-Agent": "Mozilla/5.0 (X11)"}
        answer = httpx.post(f"{function.url}/api/rum", json=VITALS, headers=agent, timeout=20)
        assert answer.status_code == 204
        lines = [line["message"] for line in function.logs()]
        assert not [line for line in lines if '"event": "request"' in line], "still at work"
        requests = eventually(platform.upstash.received)
        assert [request["body"][0] for request in requests] == ["EVAL"]
