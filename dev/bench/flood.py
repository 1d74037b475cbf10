"""100 refused leads a second beside 20 accepted ones: what the flood costs the others.

`python3 -m dev bench flood [--seconds N]`. The accepted ones alone, then beside a flood of one
client, then of thousands, each past its limit. The flood meets an instance of its own, as at
Vercel: the figures show what the table costs, a look at pg_locks every 20 ms who waits for it.
"""

import argparse
import http.client
import json
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from dev.bootstrap import ROOT
from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.leads import admission
from lib.services import Services
from lib.settings import Settings

ACCEPTED_A_SECOND, REFUSED_A_SECOND = 20, 100
CLIENTS = 3000
CALLERS = 64

# Every client of the flood had its five leads just now.
EXHAUST = """
insert into lead_clients (client, moments, last_at)
select client, array(select now() from generate_series(1, 5)), now()
from unnest(%(clients)s::bytea[]) as client
on conflict (client) do update set moments = excluded.moments, last_at = excluded.last_at
"""
COUNT_WAITING = """
select locktype from pg_locks where not granted
"""


@dataclass(slots=True)
class Result:
    """seconds: of the accepted ones. waits: looks at which a session waited, by kind of lock."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    looks: int = 0

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[int(len(ordered) * share)] * 1000


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m dev bench flood")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each (below 50)")
    seconds: float = parser.parse_args(arguments).seconds
    environ = {"LEADS_CEILING_PER_MINUTE": "1000000", "MAIL_PER_SECOND": "1000"}
    with (
        tempfile.TemporaryDirectory() as data,
        Platform(ROOT, Path(data), durable=False, environ=environ) as platform,
        platform.function("api/leads.py") as own,
        platform.function("api/leads.py") as flooded,
    ):
        run_one(platform, own, flooded, 3.0, 0, 1)  # both have started
        print(f"{'':26}{'p50 ms':>9}{'p95 ms':>9}{'x alone':>9}  answers; waits for locks")
        alone = run_one(platform, own, flooded, seconds, 0, 1)
        _print("accepted, alone", alone, alone)
        for name, clients in (("beside one client", 1), (f"beside {CLIENTS:,} clients", CLIENTS)):
            _print(name, run_one(platform, own, flooded, seconds, REFUSED_A_SECOND, clients), alone)
    return 0


def run_one(
    platform: Platform, own: Function, flooded: Function, seconds: float, refused: int, clients: int
) -> Result:
    """Offer both at their rates, whatever is answered."""
    addresses = [f"198.18.{number // 250}.{number % 250}" for number in range(clients)]
    _exhaust(platform, addresses)
    result, lock = Result(), threading.Lock()

    def post(function: Function, address: str, number: int, *, measured: bool) -> None:
        started = time.perf_counter()
        status = post_lead(function, address, number)
        took_s = time.perf_counter() - started
        with lock:
            result.statuses[status] += 1
            if measured:
                result.seconds.append(took_s)

    first = time.time_ns() // 1000 % 10**8
    with _lock_watch(platform, result), ThreadPoolExecutor(CALLERS) as callers:
        work: list[tuple[float, Callable[[], None]]] = []
        for number in range(int(seconds * ACCEPTED_A_SECOND)):
            address = f"203.0.{number // 250}.{number % 250}"
            work.append(
                (number / ACCEPTED_A_SECOND, _job(post, own, address, first + number, True))
            )
        for number in range(int(seconds * refused)):
            address = addresses[number % clients]
            work.append((number / refused, _job(post, flooded, address, number, False)))
        started = time.monotonic()
        for at_s, job in sorted(work, key=lambda item: item[0]):
            time.sleep(max(0.0, started + at_s - time.monotonic()))
            callers.submit(job)
    return result


def _job(
    post: Callable[..., None], function: Function, address: str, number: int, measured: bool
) -> Callable[[], None]:
    return lambda: post(function, address, number, measured=measured)


def _exhaust(platform: Platform, addresses: list[str]) -> None:
    settings = Settings(platform.environment)
    with (
        closing(Services(settings)) as services,
        psycopg.connect(platform.superuser_database_url, autocommit=True) as admin,
    ):
        key = services.rate_limit_key
        hashes = [admission.client_hash(key, address) for address in addresses]
        admin.execute("truncate lead_clients")
        admin.execute(EXHAUST, {"clients": hashes})


def post_lead(function: Function, address: str, number: int) -> int:
    """Straight to the runtime, as the platform's proxy hands it over. The status."""
    body = json.dumps(
        {
            "business_name": f"Salon {number}",
            "contact_name": "Sari",
            "phone_whatsapp": f"+62813{number % 10**8:08}",
            "city": "Medan",
            "salon_type": "SALON",
            "consent": True,
            "message": f"Pesan {number}",
        }
    )
    headers = {
        "Content-Type": "application/json",
        "x-forwarded-for": address,
        "x-vercel-internal-invocation-id": f"{number:x}",
        "x-vercel-internal-request-id": "1",
    }
    with closing(http.client.HTTPConnection("127.0.0.1", function.port, timeout=30)) as connection:
        connection.request("POST", "/api/leads", body, headers)
        response = connection.getresponse()
        response.read()
        return response.status


@contextmanager
def _lock_watch(platform: Platform, result: Result) -> Iterator[None]:
    ended = threading.Event()

    def look() -> None:
        with psycopg.connect(platform.superuser_database_url, autocommit=True) as admin:
            while not ended.wait(0.02):
                result.looks += 1
                for (kind,) in admin.execute(COUNT_WAITING).fetchall():
                    result.waits[kind] += 1

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _print(name: str, result: Result, alone: Result) -> None:
    p50, p95 = statistics.median(result.seconds) * 1000, result.quantile_ms(0.95)
    answers = ", ".join(f"{n} x {status}" for status, n in sorted(result.statuses.items()))
    waits = ", ".join(f"{kind} {n}" for kind, n in result.waits.items()) or "none"
    ratio = p95 / alone.quantile_ms(0.95)
    print(f"{name:26}{p50:9.1f}{p95:9.1f}{ratio:9.2f}  {answers}; {waits} in {result.looks} looks",
          flush=True)  # fmt: skip
