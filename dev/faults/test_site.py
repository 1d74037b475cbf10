"""A second site on a platform's databases, whose every connection can be broken."""

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import psycopg
from psycopg.rows import DictRow, dict_row

from dev.edge import proxy
from dev.edge.functions import Pool
from dev.edge.http_server import Request, Response, Server
from dev.edge.proxy import Site
from dev.edge.router import Router, RoutesFile
from dev.faults.fault_proxy import FaultProxy
from dev.faults.known_faults import FALLBACK_STORES, Fault, ServerFaults
from dev.faults.schema import Schema
from dev.platform.local_platform import APP_GROUP, APP_ROLE, Platform
from dev.platform.logs import LogBuffer
from dev.vendors import resp

LEADS = "api/leads"
DELIVER = "api/cron/deliver"
MAX_CONCURRENT = 6

# A run is one client in the limiter's eyes, and no flood; the stand-in for Resend has no limit.
NO_RATE_LIMITS = {
    "LEADS_PER_MINUTE": "1000000",
    "LEADS_PER_HOUR": "1000000",
    "LEADS_CEILING_PER_MINUTE": "1000000",
    "MAIL_PER_SECOND": "1000",
}

MAKE_MAILS_DUE = """
update outbox set next_attempt_at = now(), leased_until = null
where sent_at is null and dead_at is null
"""


# Only tables that hold rows: truncating all of them takes ten times as long.
EMPTY_TABLES = """
do $$
declare
  name text;
  is_filled boolean;
  filled text[];
begin
  for name in select quote_ident(tablename) from pg_tables where schemaname = 'public' loop
    execute 'select exists (select from public.' || name || ')' into is_filled;
    if is_filled then
      filled := filled || ('public.' || name);
    end if;
  end loop;
  if filled is not null then
    execute 'truncate ' || array_to_string(filled, ', ') || ' cascade';
  end if;
end $$
"""


def empty_tables(execute: Callable[[str], object]) -> None:
    """Empty every table, though a function's work after an answer may just be at them."""
    for last in (False, False, True):
        try:
            execute(EMPTY_TABLES)
        except psycopg.errors.DeadlockDetected:
            if last:
                raise
        else:
            return


class SiteUnderTest:
    """The functions of the tree at `root` behind a fault proxy for Postgres and one for Redis.

    instances: so many processes of each function take turns, as at Vercel under load.
    concurrency: so many requests are let into an instance at once.
    database_url: another way to the same database. overrides: variables of the bundle that win
    over the platform's. The attributes database, redis, inside, schema, upstash, resend,
    slack and sentry are what a Fault may name.
    """

    def __init__(
        self,
        platform: Platform,
        root: Path,
        *,
        instances: int = 1,
        concurrency: int = MAX_CONCURRENT,
        database_url: str | None = None,
        **overrides: str,
    ) -> None:
        self.platform = platform
        self.root = root.resolve()
        self.log = LogBuffer()
        self.resend, self.slack = platform.resend, platform.slack
        self.sentry, self.upstash = platform.sentry, platform.upstash
        self._database_url = database_url or platform.database_url
        self._given = overrides
        self._instances = instances
        self._concurrency = concurrency
        self._parts = contextlib.ExitStack()
        self._broken: list[Fault] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as parts:
            self._start(parts)
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        for stand_in in (self.resend, self.slack, self.sentry, self.upstash):
            stand_in.ok()
        self._parts.close()

    def _start(self, parts: contextlib.ExitStack) -> None:
        platform = self.platform
        database = urlsplit(self._database_url)
        self.database = _close_with(parts, FaultProxy("127.0.0.1", database.port or 5432))
        self.redis = _close_with(parts, FaultProxy("127.0.0.1", platform.upstash.port))
        self.inside = _close_with(parts, ServerFaults(platform.superuser_database_url, APP_ROLE))
        self.schema = _close_with(parts, Schema(platform.superuser_database_url, APP_GROUP))
        self.environment = {
            **platform.environment,
            **NO_RATE_LIMITS,
            "DATABASE_URL": self._database_url.replace(
                f":{database.port}/", f":{self.database.port}/"
            ),
            "UPSTASH_REDIS_REST_URL": f"http://127.0.0.1:{self.redis.port}",
            **self._given,
        }
        self.admin: psycopg.Connection[DictRow] = _close_with(
            parts,
            psycopg.connect(platform.superuser_database_url, autocommit=True, row_factory=dict_row),
        )
        self._valkey = _close_with(
            parts, resp.Connection(urlsplit(platform.redis_url).port or 6379)
        )
        routes = RoutesFile(self.root / "vercel.json")
        self._pools = [
            _close_with(
                parts,
                Pool(
                    self.root, lambda: self.environment, routes.max_duration_s, self.log, forks=True
                ),
            )
            for _ in range(self._instances)
        ]
        turns = itertools.cycle(
            _Instance(Router(self.root, routes, pool, self.log, self._site), self._concurrency)
            for pool in self._pools
        )
        taking_turns = threading.Lock()

        def answer(request: Request) -> Response:
            with taking_turns:
                instance = next(turns)
            return instance(request)

        self._server = _close_with(parts, Server(answer, max_body_bytes=proxy.MAX_BODY_BYTES))
        self.url = self._server.url

    def _site(self) -> Site:
        return Site(self._server.port)

    # ---------------------------------------------------------------- breaking and mending

    def apply(self, breaks: Iterable[Fault]) -> None:
        for broken in breaks:
            self._broken.append(broken)
            broken.apply(self)

    def clear_faults(self) -> None:
        """Every part works again."""
        for part in (self.database, self.redis, self.inside, self.schema):
            part.ok()
        for stand_in in (self.resend, self.slack, self.sentry, self.upstash):
            stand_in.ok()
        self._broken.clear()

    @property
    def must_accept_leads(self) -> bool:
        """Whether a place that takes a lead is whole: then no valid one may be refused."""
        broken = tuple(self._broken)
        return not all(any(each in group for each in broken) for group in FALLBACK_STORES)

    def clear_faults_and_wait(self) -> None:
        """Every part works again; work in flight has come to its end, or 20 s have passed."""
        self.clear_faults()
        self.wait_idle(20)

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until no function works, after its answers included; False when time ran out."""
        end = time.monotonic() + timeout_s
        while any(running["in_flight"] for running in self.running()):
            if time.monotonic() > end:
                return False
            time.sleep(0.005)
        return True

    def reset(self) -> None:
        """As new: no rows, no keys, nothing received, nothing logged."""
        self.clear_faults_and_wait()
        empty_tables(lambda statement: self.admin.execute(statement.encode()))
        self.redis_command("FLUSHALL")
        for stand_in in (self.resend, self.slack, self.sentry, self.upstash):
            stand_in.forget()
        self.log.forget()

    # ---------------------------------------------------------------- processes

    def running(self) -> list[dict[str, Any]]:
        """pid, requests, in_flight of every live function process."""
        return [running for pool in self._pools for running in pool.running()]

    def pids(self, name: str) -> list[int]:
        return [int(running["pid"]) for running in self.running() if running["name"] == name]

    def signal(self, name: str, how: signal.Signals) -> list[int]:
        """Send a signal to the processes of a function; the next request starts a new one.

        A killed process is gone when this returns, or 5 s later: threads end one after another.
        """
        pids = self.pids(name)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
        end = time.monotonic() + 5
        while how == signal.SIGKILL and time.monotonic() < end and {*pids} & {*self.pids(name)}:
            time.sleep(0.005)
        return pids

    # ---------------------------------------------------------------- draining and looking

    def make_mails_due(self) -> None:
        """Every waiting mail is due and nobody's: time has passed."""
        self.admin.execute(MAKE_MAILS_DUE)

    def drain(self, timeout_s: float = 120) -> tuple[int, dict[str, Any]]:
        """Call the cron once: status and body; (0, {}) when there was no answer."""
        token = {"Authorization": f"Bearer {self.environment['CRON_SECRET']}"}
        try:
            answer = httpx.get(
                f"{self.url}/{DELIVER}", headers=token, timeout=timeout_s, trust_env=False
            )
            body = answer.json()
        except (httpx.HTTPError, json.JSONDecodeError):
            return 0, {}
        return answer.status_code, body if isinstance(body, dict) else {}

    def redis_command(self, *command: str) -> resp.Reply:
        """Ask Valkey itself, past every proxy."""
        [reply] = self._valkey.run([[part.encode() for part in command]])
        return reply

    def queue_length(self) -> int:
        """Leads waiting in the queue."""
        reply = self.redis_command("HLEN", "queue")
        return reply if isinstance(reply, int) else 0

    def delivered_mails(self) -> list[dict[str, Any]]:
        """What Resend delivered, each mail once, newest first."""
        key = {"Authorization": f"Bearer {self.environment['RESEND_API_KEY']}"}
        answer = httpx.get(f"{self.resend.url}/emails", headers=key, timeout=30, trust_env=False)
        mails: list[dict[str, Any]] = answer.json()["data"]
        return mails


class _Instance:
    """A router that lets few requests in at once: with more, some never get a connection.

    The runtime listens with a backlog of 5; its platform gives an instance no crowd.
    """

    def __init__(self, router: Router, concurrency: int) -> None:
        self._router = router
        self._places = threading.Semaphore(concurrency)

    def __call__(self, request: Request) -> Response:
        with self._places:
            return self._router(request)


def _close_with[T](parts: contextlib.ExitStack, thing: T) -> T:
    """Have it closed with the site."""
    parts.callback(thing.close)  # type: ignore[attr-defined]
    return thing
