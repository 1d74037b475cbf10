"""Cached product answers: memory, Redis, Postgres, the last good copy, the snapshot.

A fetch runs in a thread of its own, once for all requests of an instance that wait for the same
answer (singleflight), and a request waits ANSWER_BUDGET_S for it at most: a store that is down or
slow costs freshness, never an answer. Errors are not cached, and of empty results only the
unfiltered list is: it means that everything was recalled. The rule a newcomer would break: a
product that was withdrawn never comes back from an older copy or the snapshot, so the slugs that
are published are remembered beside the answers, here and in Redis.
"""

import math
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lib.interfaces import RedisCommand, RedisPipeline
from lib.problems import CacheDown, DatabaseDown, NotFound
from lib.products import catalogue, snapshot
from lib.products.catalogue import PublishedSlugs
from lib.products.entry import Entry, decode, decode_published, encode, encode_published
from lib.products.query import Query
from lib.products.sources import Sources

ANSWER_BUDGET_S = 1.6
STALE_BUDGET_S = 0.45  # where an older copy is at hand: inside the SLA of half a second
REDIS_DOWN_BUDGET_S = 0.9  # Postgres may well be down too
MEMORY_FRESH_S = 5.0
REDIS_FRESH_S = 60.0
XFETCH_BETA = 1.0  # Vattani et al., VLDB 2015: above 1 refreshes earlier
LIST_TTL_S = 7 * 86400  # how long Redis holds the last good copy of a list
SEARCH_TTL_S = 3600  # and of a search or a further page, of which there are many
LOCK_TTL_MS = 3000
LOCK_POLL_S, LOCK_WAIT_S = 0.05, 1.0  # while another instance fetches
MAX_ENTRIES, MAX_MEMORY_BYTES = 300, 24_000_000

VERSION_KEY = "products:version"
PUBLISHED_KEY = "products:published"


class CachedAnswer(NamedTuple):
    """source: memory, redis, postgres, stale or snapshot. timings_ms: by store asked.

    should_refresh: it is fresh, and is to be fetched again after the response.
    """

    entry: Entry
    source: str
    timings_ms: dict[str, float]
    should_refresh: bool = False


class ProductCache:
    """An instance's answers in memory and its fetches under way; shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[float, CachedAnswer]] = OrderedDict()
        self._fetches: dict[str, _Fetch] = {}
        self.published: PublishedSlugs | None = None

    def get(self, query: Query, sources: Sources) -> CachedAnswer:
        """The freshest answer to be had in time. Raises NotFound alone."""
        key = query.cache_key
        started = time.perf_counter()
        with self._lock:
            fresh_until, cached = self._entries.get(key, (0.0, None))
            if cached and time.monotonic() < fresh_until and self.is_current(cached.entry):
                self._entries.move_to_end(key)
                source = "stale" if cached.source == "stale" else "memory"
                return CachedAnswer(cached.entry, source, {"memory": _ms_since(started)})
            fetch = self._fetches.get(key)
            if fetch is None:
                fetch = self._fetches[key] = _Fetch(query, sources, self)
                threading.Thread(target=self._run_fetch, args=(key, fetch), daemon=True).start()
        fetch.wait(has_stale_copy=cached is not None)
        if fetch.not_found:
            raise NotFound
        if fetch.answer is not None:
            return fetch.answer
        stale = fetch.stale_entry or (cached and cached.entry)
        if stale is not None:
            return CachedAnswer(self.remove_withdrawn(stale), "stale", dict(fetch.timings_ms))
        return self._from_snapshot(query, fetch)

    def refresh(self, query: Query, sources: Sources) -> None:
        """Fetch a copy again before it expires, unless another instance does."""
        fetch = _Fetch(query, sources, self)
        try:
            if not fetch.acquire_lock():
                return
            fetch.read_redis()
            fetch.fetch_from_postgres()
        except (CacheDown, DatabaseDown, NotFound):
            return

    def update_published(self, published: PublishedSlugs | None) -> None:
        """Remember which slugs are published; the latest reading of the database counts."""
        with self._lock:
            latest = self.published
            if published is not None and (latest is None or latest.read_at < published.read_at):
                self.published = published

    def is_current(self, entry: Entry) -> bool:
        """Whether the catalogue is not known to have changed since."""
        latest = self.published
        return latest is None or (
            latest.read_at < entry.made_at or latest.changed_at == entry.answer.changed_at
        )

    def remove_withdrawn(self, entry: Entry) -> Entry:
        """An older entry without the products withdrawn since. Raises NotFound."""
        if self.published is None or self.is_current(entry):
            return entry
        answer = catalogue.remove_withdrawn(entry.answer, self.published.slugs)
        return entry._replace(answer=answer)

    def _run_fetch(self, key: str, fetch: "_Fetch") -> None:
        try:
            fetch.run()
            if fetch.answer is None and not fetch.not_found:
                fetch.load_published()
                if fetch.stale_entry is not None:
                    # In memory too: not every request is to wait for the end of an outage.
                    stale = self.remove_withdrawn(fetch.stale_entry)
                    fetch.answer = CachedAnswer(stale, "stale", fetch.timings_ms)
            if fetch.answer is not None and not fetch.done.is_set():
                self.store(fetch.query, fetch.answer)
        except NotFound:
            fetch.not_found = True
        finally:
            with self._lock:
                self._fetches.pop(key, None)
            fetch.done.set()

    def store(self, query: Query, answer: CachedAnswer) -> None:
        """Answer with it from memory for a while, if it may be."""
        if not _is_cacheable(query, answer.entry):
            return
        with self._lock:
            self._entries[query.cache_key] = (time.monotonic() + MEMORY_FRESH_S, answer)
            self._entries.move_to_end(query.cache_key)
            sizes = [len(stored.entry.answer.body) for _, stored in self._entries.values()]
            while len(sizes) > MAX_ENTRIES or sum(sizes) > MAX_MEMORY_BYTES:
                self._entries.popitem(last=False)
                del sizes[0]

    def _from_snapshot(self, query: Query, fetch: "_Fetch") -> CachedAnswer:
        started = time.perf_counter()
        shipped = snapshot.load()
        result = shipped.find(query, self.published and self.published.slugs)
        answer = catalogue.render(query, result, shipped.made_at)
        timings_ms = fetch.timings_ms | {"snapshot": _ms_since(started)}
        return CachedAnswer(Entry(answer, shipped.made_at.timestamp()), "snapshot", timings_ms)


class _Fetch:
    """One fetch of one query's answer, shared by every request that waits for it (singleflight).

    Sets `answer`, `not_found`, or `stale_entry`: an expired or outdated entry from Redis.
    """

    def __init__(self, query: Query, sources: Sources, cache: ProductCache) -> None:
        self.query = query
        self.sources = sources
        self._cache = cache
        self.done = threading.Event()
        self.answer: CachedAnswer | None = None
        self.stale_entry: Entry | None = None
        self.not_found = False
        self.redis_is_down = False
        self.timings_ms: dict[str, float] = {}
        self._key = f"products:entry:{query.cache_key}"
        self._lock_key = f"products:lock:{query.cache_key}"
        self._version = "0"
        self._has_lock = False

    def wait(self, *, has_stale_copy: bool) -> None:
        """Until it is done, or it is better to answer from what there is."""
        if self.done.wait(STALE_BUDGET_S) or has_stale_copy or self.stale_entry is not None:
            return
        if self.done.wait(REDIS_DOWN_BUDGET_S - STALE_BUDGET_S) or self.redis_is_down:
            return
        self.done.wait(ANSWER_BUDGET_S - REDIS_DOWN_BUDGET_S)

    def run(self) -> None:
        """Redis, then Postgres."""
        try:
            if self.read_redis() or self._wait_for_other_instance():
                return
        except CacheDown:
            self.redis_is_down = True
        try:
            self.fetch_from_postgres()
        except DatabaseDown:
            return
        except NotFound:
            self.not_found = True

    def read_redis(self) -> bool:
        """Whether Redis holds a fresh answer: one command for the version and the copy."""
        with self._timed("redis"):
            replies = self.sources.redis(("MGET", VERSION_KEY, self._key))
        match replies:
            case [[version, text]]:
                self._version = str(version or "0")
            case _:
                raise CacheDown
        entry = decode(text, self.query.cache_key)
        if entry is None:
            return False
        age_s = time.time() - entry.made_at
        if not self._has_current_version(entry) or not -5 <= age_s < REDIS_FRESH_S:
            if self._cache.published is None:
                self.load_published()  # before anybody is answered with what was withdrawn since
            self.stale_entry = entry
            return False
        # The longer an answer takes to make and the older its copy, the likelier an early refresh.
        early_s = -entry.cost_s * XFETCH_BETA * math.log(1 - random.random())  # noqa: S311
        should_refresh = age_s + early_s >= REDIS_FRESH_S
        self.answer = CachedAnswer(entry, "redis", self.timings_ms, should_refresh)
        return True

    def fetch_from_postgres(self) -> None:
        """Ask Postgres, and write the answer to Redis. Raises DatabaseDown, NotFound."""
        started = time.perf_counter()
        writes: list[RedisCommand] = []
        try:
            with self._timed("postgres"):
                result = self.sources.postgres(self.query, self._cache.published)
            if result.published is not None:
                self._cache.update_published(result.published)
                text = encode_published(result.published)
                writes.append(("SET", PUBLISHED_KEY, text, "EX", LIST_TTL_S))
            if result.changed_at is not None:  # else there is no catalogue, or no right to see it
                answer = catalogue.render(self.query, result, result.changed_at)
                cost_s = time.perf_counter() - started
                writes += self._accept(Entry(answer, time.time(), cost_s, self._version))
        finally:
            self._write_and_unlock(*writes)

    def _accept(self, entry: Entry) -> list[RedisCommand]:
        """Answer with `entry` now, and from memory then; the commands that store it in Redis."""
        self.answer = CachedAnswer(entry, "postgres", self.timings_ms)
        self._cache.store(self.query, self.answer)
        self.done.set()
        if not _is_cacheable(self.query, entry):
            return []
        is_search = self.query.q is not None or self.query.after is not None
        ttl_s = SEARCH_TTL_S if is_search else LIST_TTL_S
        return [("SET", self._key, encode(entry, self.query.cache_key), "EX", ttl_s)]

    def load_published(self) -> None:
        """Learn from Redis what another instance read, where Postgres cannot be asked."""
        try:
            [text] = self.sources.redis(("GET", PUBLISHED_KEY))
        except (CacheDown, ValueError):
            return
        self._cache.update_published(decode_published(text))

    def acquire_lock(self) -> bool:
        """Whether this is the one fetch of all instances, for LOCK_TTL_MS at most."""
        command = ("SET", self._lock_key, "1", "NX", "PX", LOCK_TTL_MS)
        self._has_lock = self.sources.redis(command)[0] not in (None, False)
        return self._has_lock

    def _wait_for_other_instance(self) -> bool:
        """Wait for the answer of the instance that holds the lock; False: fetch it here."""
        if self.acquire_lock():
            return False
        if self.stale_entry is not None and self._has_current_version(self.stale_entry):
            self.answer = CachedAnswer(self.stale_entry, "redis", self.timings_ms)
            return True
        deadline = time.monotonic() + LOCK_WAIT_S
        while time.monotonic() < deadline:
            time.sleep(LOCK_POLL_S)
            if self.read_redis():
                return True
        return False

    def _has_current_version(self, entry: Entry) -> bool:
        return entry.version == self._version and self._cache.is_current(entry)

    def _write_and_unlock(self, *commands: RedisCommand) -> None:
        """Write to Redis, and let the next instance fetch at once."""
        unlock: list[RedisCommand] = [("DEL", self._lock_key)] if self._has_lock else []
        try:
            if commands or unlock:
                self.sources.redis(*commands, *unlock)
        except CacheDown:
            return  # the answer is known all the same

    @contextmanager
    def _timed(self, source: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.timings_ms[source] = self.timings_ms.get(source, 0) + _ms_since(started)


def invalidate(pipeline: RedisPipeline) -> None:
    """Make every copy in Redis an older one. Raises CacheDown."""
    pipeline(("INCR", VERSION_KEY))


def _is_cacheable(query: Query, entry: Entry) -> bool:
    return bool(entry.answer.slugs) or query.is_unfiltered


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)
