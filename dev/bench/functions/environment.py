"""Everything the measured functions talk to, each as far away as it is in production."""

import contextlib
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psycopg
import redis

from dev.bench.functions import proxies
from dev.bench.functions.proxies import DelayedServer
from dev.bench.functions.wire import Wire
from dev.bootstrap import ROOT
from dev.platform.local_platform import Platform
from dev.platform.pgbouncer import PgBouncer
from lib.products import catalogue, query, snapshot
from lib.products.entry import Entry, encode

REDIS_S, MAIL_S, POSTGRES_S = 0.002, 0.150, 0.001
POOL_SIZE = 20  # connections of the pooler to Postgres, which stay, as Supabase's do

TABLE = """
create schema bench;
create table bench.leads (id uuid primary key, business_name text not null, phone text not null,
  created_at timestamptz not null default now());
grant usage on schema bench to alfa_app;
grant select, insert on bench.leads to alfa_app;
"""


class Dependencies:
    """A platform of its own with slow wires, from __enter__ to __exit__."""

    environment: dict[str, str]

    def __enter__(self) -> Self:
        self._parts = contextlib.ExitStack()
        folder = self._parts.enter_context(tempfile.TemporaryDirectory())
        self._platform = Platform(ROOT, Path(folder), durable=False)
        self._parts.enter_context(self._platform)
        self._pooler = PgBouncer(self._platform.database_url, pool_size=POOL_SIZE)
        self._parts.callback(self._pooler.close)
        self._wire = Wire(self._pooler.port, POSTGRES_S)
        self._parts.callback(self._wire.close)
        self._redis = redis.Redis.from_url(self._platform.redis_url)
        self._parts.callback(self._redis.close)
        self._servers = {
            "redis": DelayedServer(
                REDIS_S, proxies.redis(urlsplit(self._platform.redis_url).port or 0)
            ),
            "mail": DelayedServer(MAIL_S, proxies.mail),
        }
        for server in self._servers.values():
            self._parts.callback(server.close)
        self._admin = self._parts.enter_context(
            psycopg.connect(self._platform.admin_database_url, autocommit=True)
        )
        self._admin.execute(TABLE)
        self.environment = self._environment()
        catalogue_snapshot = snapshot.load()
        self._query = query.parse([], "id")
        self._answer = catalogue.render(
            self._query, catalogue_snapshot.find(self._query), datetime.now(UTC)
        )
        self.etag = self._answer.etag
        return self

    def __exit__(self, *_: object) -> None:
        self._parts.close()

    def stock(self) -> None:
        """Put a fresh copy of the catalogue into Redis, for us and the competitors; empty leads.

        The ceiling is out of reach here, so a lead would count thousands of the last minute in an
        index, where production counts 120 at most.
        """
        self._admin.execute("truncate leads cascade")
        entry = Entry(self._answer, time.time(), cost_s=0.01, version="0")
        key = f"products:entry:{self._query.cache_key}"
        self._redis.set(key, encode(entry, self._query.cache_key))
        self._redis.set("competitor:products", self._answer.body)

    def trips(self) -> dict[str, int]:
        """Round trips to each, since the last call of `forget`."""
        return {name: n - self._before[name] for name, n in self._all_trips().items()}

    def forget(self) -> None:
        self._before = self._all_trips()

    def _all_trips(self) -> dict[str, int]:
        requests = {name: server.requests for name, server in self._servers.items()}
        return {**requests, "postgres": self._wire.trips}

    def _environment(self) -> dict[str, str]:
        given = dict(self._platform.environment)
        ours = f":{self._platform.postgres.port}/"
        assert ours in given["DATABASE_URL"]
        given["DATABASE_URL"] = given["DATABASE_URL"].replace(ours, f":{self._wire.port}/")
        plenty = dict.fromkeys(
            ("LEADS_PER_MINUTE", "LEADS_PER_HOUR", "LEADS_CEILING_PER_MINUTE"), "10000000"
        )
        given["UPSTASH_REDIS_REST_URL"] = self._servers["redis"].url
        given["RESEND_API_URL"] = self._servers["mail"].url
        sender = {"MAIL_FROM": "Alfa Beauty <noreply@alfabeauty.test>"}
        return {**given, **sender, **plenty}
