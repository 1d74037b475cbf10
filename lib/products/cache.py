"""Where an answer of the catalogue is looked for, nearest first, and what happens when it is not.

Order of resort: this instance's memory, Redis, Postgres, the last good copy, the snapshot. The
search goes on beside the request, which waits BUDGET_S for it and no longer: a dependency that is
down, silent or lying costs freshness, never an answer. No error is kept, and of what finds nothing
the whole list alone, which is a recall. What the database once said was withdrawn never comes back
from an older copy or the snapshot: which products were published is kept beside the copies.
"""

import base64
import hashlib
import json
import math
import random
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from lib.problems import CacheDown, DatabaseDown, NotFound
from lib.products.catalogue import PublishedSlugs, QueryResult, RenderedAnswer, remove_withdrawn
from lib.products.query import Query

type RunPipeline = Callable[..., list[Any]]

ANSWER_BUDGET_S = 1.6
STALE_BUDGET_S = 0.45  # where an older copy is at hand: inside the SLA of half a second
REDIS_DOWN_BUDGET_S = 0.9  # where Redis is down, and the database may well be
MEMORY_FRESH_S = 5.0
REDIS_FRESH_S = 60.0
XFETCH_BETA = 1.0  # XFetch's beta (Vattani et al., VLDB 2015): above 1 refreshes earlier
LIST_TTL_S = 7 * 86400  # how long Redis holds the last good copy of a list
SEARCH_TTL_S = 3600  # and of a search or a page of it, of which there are many
LOCK_TTL_MS = 3000
LOCK_POLL_S, LOCK_WAIT_S = 0.05, 1.0  # while another instance fills
MAX_ENTRIES, MAX_MEMORY_BYTES = 300, 24_000_000

ENTRY_FORMAT = "p2"  # of an entry; another one is not read
VERSION_KEY = "products:version"
PUBLISHED_KEY = "products:published"


class Entry(NamedTuple):
    """An answer with what is known of it. made_at: time.time(); cost_s: what it took to make."""

    body: bytes
    etag: str
    changed_at: datetime
    next_cursor: str | None
    made_at: float
    cost_s: float
    version: str
    slugs: tuple[str, ...]


class CachedAnswer(NamedTuple):
    """source: memory, redis, postgres, stale or snapshot. timings_ms: by rung asked.

    early: it is fresh, and somebody had better refresh it after the answer.
    """

    entry: Entry
    source: str
    timings_ms: dict[str, float]
    should_refresh: bool = False


class Sources(NamedTuple):
    """How to ask each source. redis raises CacheDown; postgres, which is told what is known to be
    published, DatabaseDown or NotFound, hands over what it heard of that, and answers None when it
    cannot tell; snapshot raises NotFound alone."""

    redis: RunPipeline
    postgres: Callable[
        [Query, PublishedSlugs | None, Callable[[QueryResult], None]], RenderedAnswer | None
    ]
    snapshot: Callable[[Query, frozenset[str] | None], RenderedAnswer]


class ProductCache:
    """An instance's memory of answers, and its searches under way; shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[float, CachedAnswer]] = OrderedDict()
        self._size_bytes = 0
        self._fetches: dict[str, _Fetch] = {}
        self.published: PublishedSlugs | None = None

    def update_published(self, published: PublishedSlugs | None) -> None:
        """What is published, by whoever heard of it last."""
        with self._lock:
            known = self.published
            if published is not None and (known is None or known.read_at < published.read_at):
                self.published = published

    def get(self, query: Query, reach: Sources) -> CachedAnswer:
        """The nearest right answer, or an honestly older one. Raises NotFound alone."""
        key = query.cache_key
        started = time.perf_counter()
        with self._lock:
            fresh_until, held = self._entries.get(key, (0.0, None))
            if held is not None and time.monotonic() < fresh_until and self.is_current(held.entry):
                self._entries.move_to_end(key)
                source = held.source if held.source == "stale" else "memory"
                return CachedAnswer(held.entry, source, {"memory": _ms_since(started)})
            flight = self._fetches.get(key)
            if flight is None:
                flight = self._fetches[key] = _Fetch(query, reach, self)
                threading.Thread(target=self._run_fetch, args=(key, flight), daemon=True).start()
        flight.wait(held is not None)
        if flight.not_found:
            raise NotFound
        if flight.answer is not None:
            return flight.answer
        older = flight.stale_entry or (held.entry if held else None)
        if older is not None:
            return CachedAnswer(self.remove_withdrawn(older), "stale", dict(flight.timings_ms))
        return self._from_snapshot(query, reach, flight)

    def refresh(self, query: Query, reach: Sources) -> None:
        """Make a copy anew before it expires, unless another instance does."""
        flight = _Fetch(query, reach, self)
        try:
            if flight.acquire_lock():
                flight.fetch_from_postgres()
        except (CacheDown, DatabaseDown, NotFound):
            return
        if flight.answer is not None:
            self._store(query.cache_key, flight.answer, recall=query.is_unfiltered)

    def _run_fetch(self, key: str, flight: "_Fetch") -> None:
        try:
            flight.run()
            if flight.answer is None and not flight.not_found:
                flight.load_published()
                if flight.stale_entry is not None:
                    # Kept for a moment too: an outage must not be felt by every request.
                    flight.answer = CachedAnswer(
                        self.remove_withdrawn(flight.stale_entry), "stale", flight.timings_ms
                    )
            if flight.answer is not None:
                self._store(key, flight.answer, recall=flight.query.is_unfiltered)
        except NotFound:
            flight.not_found = True
        finally:
            with self._lock:
                self._fetches.pop(key, None)
            flight.done.set()

    def is_current(self, entry: Entry) -> bool:
        """Whether the catalogue has not been heard to have changed since."""
        known = self.published
        return known is None or (
            known.read_at < entry.made_at or known.changed_at == entry.changed_at
        )

    def remove_withdrawn(self, entry: Entry) -> Entry:
        """An older entry without what was withdrawn since. Raises NotFound."""
        known = self.published
        if known is None or self.is_current(entry):
            return entry
        body = remove_withdrawn(entry.body, entry.slugs, known)
        if body is entry.body:
            return entry
        slugs = tuple(slug for slug in entry.slugs if slug in known.slugs)
        cursor = entry.next_cursor if slugs else None
        return entry._replace(body=body, etag=etag_of(body), slugs=slugs, next_cursor=cursor)

    def _store(self, key: str, served: CachedAnswer, *, recall: bool = False) -> None:
        if not served.entry.slugs and not recall:
            return
        with self._lock:
            before = self._entries.pop(key, None)
            self._size_bytes += len(served.entry.body) - (
                len(before[1].entry.body) if before else 0
            )
            self._entries[key] = (time.monotonic() + MEMORY_FRESH_S, served)
            while len(self._entries) > MAX_ENTRIES or self._size_bytes > MAX_MEMORY_BYTES:
                _, (_, dropped) = self._entries.popitem(last=False)
                self._size_bytes -= len(dropped.entry.body)

    def _from_snapshot(self, query: Query, reach: Sources, flight: "_Fetch") -> CachedAnswer:
        started = time.perf_counter()
        found = reach.snapshot(query, self.published and self.published.slugs)
        entry = make_entry(found, made_at=found.changed_at.timestamp(), cost_s=0, version="")
        return CachedAnswer(entry, "snapshot", flight.timings_ms | {"snapshot": _ms_since(started)})


class _Fetch:
    """One search for one answer, whoever waits for it."""

    def __init__(self, query: Query, reach: Sources, shelf: ProductCache) -> None:
        self.query = query
        self.sources = reach
        self._cache = shelf
        self._new_published: PublishedSlugs | None = None
        self.done = threading.Event()
        self.answer: CachedAnswer | None = None
        self.stale_entry: Entry | None = None
        self.not_found = False
        self.redis_is_down = False
        self.timings_ms: dict[str, float] = {}
        self._key = f"products:entry:{query.cache_key}"
        self._version = "0"
        self._has_lock = False

    def wait(self, knows_an_answer: bool) -> None:
        """Until it has landed, or it is better to answer from what there is."""
        waited_s = 0.0
        for until_s in (STALE_BUDGET_S, REDIS_DOWN_BUDGET_S, ANSWER_BUDGET_S):
            if (
                self.done.wait(until_s - waited_s)
                or knows_an_answer
                or self.stale_entry is not None
            ):
                return
            if self.redis_is_down and until_s >= REDIS_DOWN_BUDGET_S:
                return
            waited_s = until_s

    def run(self) -> None:
        """Redis, then Postgres. Leaves `served`, or `not_found`, or the `older` copy it met."""
        try:
            if self._read_redis() or self._wait_for_other_instance():
                return
        except CacheDown:
            self.redis_is_down = True  # or garbage: what is found is offered to it all the same
        try:
            self.fetch_from_postgres()
        except DatabaseDown:
            self._write_and_unlock()
        except NotFound:
            self.not_found = True
            self._write_and_unlock()

    def fetch_from_postgres(self) -> None:
        """Ask Postgres, and leave the answer in Redis for everybody."""
        started = time.perf_counter()
        try:
            answer = self.sources.postgres(
                self.query, self._cache.published, self._record_published
            )
        finally:
            self.timings_ms["postgres"] = _ms_since(started)
        if answer is None:
            self._write_and_unlock()
            return
        cost_s = time.perf_counter() - started
        entry = make_entry(answer, made_at=time.time(), cost_s=cost_s, version=self._version)
        self.answer = CachedAnswer(entry, "postgres", self.timings_ms)
        self.done.set()  # whoever waits need not wait for the keeping
        search = self.query.q is not None or self.query.after is not None
        keep_s = SEARCH_TTL_S if search else LIST_TTL_S
        kept = answer.slugs or self.query.is_unfiltered
        sealing = ("SET", self._key, encode(entry, self.query.cache_key), "EX", keep_s)
        self._write_and_unlock(*([sealing] if kept else []))

    def load_published(self) -> None:
        """What another instance heard of it, where the database cannot be asked."""
        try:
            [text] = self.sources.redis(("GET", PUBLISHED_KEY))
        except (CacheDown, ValueError):
            return
        self._cache.update_published(decode_published(text))

    def _record_published(self, found: QueryResult) -> None:
        self._new_published = found.published
        self._cache.update_published(found.published)

    def acquire_lock(self) -> bool:
        """Whether this is the one filler of all instances, for LOCK_MS at most."""
        token = uuid4().hex
        command = ("SET", self._lock_key, token, "NX", "PX", LOCK_TTL_MS)
        self._has_lock = self.sources.redis(command)[0] not in (None, False)
        if self._has_lock:
            version, _ = _version_and_text(self.sources.redis(("MGET", VERSION_KEY, self._key)))
            self._version = version
        return self._has_lock

    @property
    def _lock_key(self) -> str:
        return f"products:lock:{self.query.cache_key}"

    def _read_redis(self) -> bool:
        """One command: the version that counts and the copy, which may be of an older one."""
        started = time.perf_counter()
        try:
            self._version, text = _version_and_text(
                self.sources.redis(("MGET", VERSION_KEY, self._key))
            )
        finally:
            self.timings_ms["redis"] = self.timings_ms.get("redis", 0) + _ms_since(started)
        entry = decode(text, self.query.cache_key)
        if entry is None:
            return False
        self.stale_entry = entry
        age_s = time.time() - entry.made_at
        fresh = self._cache.is_current(entry) and -5 <= age_s < REDIS_FRESH_S
        if entry.version != self._version or not fresh:
            return False
        # The dearer an answer and the older its copy, the likelier that one of many goes early.
        early = age_s - entry.cost_s * XFETCH_BETA * math.log(1 - random.random()) >= REDIS_FRESH_S  # noqa: S311
        self.answer = CachedAnswer(entry, "redis", self.timings_ms, early)
        return True

    def _wait_for_other_instance(self) -> bool:
        """Wait for the instance that holds the lock; False when this one is to fill."""
        token = uuid4().hex
        command = ("SET", self._lock_key, token, "NX", "PX", LOCK_TTL_MS)
        self._has_lock = self.sources.redis(command)[0] not in (None, False)
        if self._has_lock:
            return False
        older = self.stale_entry
        if older is not None and older.version == self._version and self._cache.is_current(older):
            self.answer = CachedAnswer(older, "redis", self.timings_ms)
            return True
        end = time.monotonic() + LOCK_WAIT_S
        while time.monotonic() < end:
            time.sleep(LOCK_POLL_S)
            if self._read_redis():
                return True
        return False

    def _write_and_unlock(self, *commands: tuple[str | int, ...]) -> None:
        """Leave what was found in Redis, and let the next one try at once."""
        told = list(commands)
        if self._new_published is not None:
            told.append(
                ("SET", PUBLISHED_KEY, encode_published(self._new_published), "EX", LIST_TTL_S)
            )
        if self._has_lock:
            told.append(("DEL", self._lock_key))
        try:
            if told:
                self.sources.redis(*told)
        except CacheDown:
            return  # the answer is known all the same


def _version_and_text(results: list[Any]) -> tuple[str, object]:
    """MGET's answer: the version ("0" before the first change) and the copy. CacheDown if none."""
    match results:
        case [[version, text]]:
            return str(version or "0"), text
    raise CacheDown


def make_entry(answer: RenderedAnswer, *, made_at: float, cost_s: float, version: str) -> Entry:
    return Entry(answer.body, etag_of(answer.body), answer.changed_at, answer.next_cursor,
                 made_at, cost_s, version, answer.slugs)  # fmt: skip


def etag_of(body: bytes) -> str:
    """Of what is said alone: the same from every instance, deployment and source."""
    return hashlib.sha256(body).hexdigest()[:32]


def encode_published(published: PublishedSlugs) -> str:
    """As Redis holds it."""
    facts = [published.read_at, published.changed_at.timestamp(), sorted(published.slugs)]
    return json.dumps(facts, separators=(",", ":"))


def decode_published(text: object) -> PublishedSlugs | None:
    """From Redis again; None when there is none, or it is none of ours."""
    if not isinstance(text, str):
        return None
    try:
        heard_at, changed_at, slugs = json.loads(text)
        return PublishedSlugs(frozenset(slugs), datetime.fromtimestamp(changed_at, UTC), heard_at)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def encode(entry: Entry, key: str) -> str:
    """An entry as Redis holds it: compressed, about a fifth of the bytes for the whole list."""
    facts = [key, entry.version, entry.made_at, entry.changed_at.timestamp(), entry.cost_s,
             entry.next_cursor, entry.slugs]  # fmt: skip
    head = json.dumps(facts, separators=(",", ":")).encode()
    packed = zlib.compress(head + b"\n" + entry.body, 6)
    check = hashlib.sha256(packed).hexdigest()[:16]
    return f"{ENTRY_FORMAT}.{check}.{base64.b64encode(packed).decode()}"


def decode(text: object, key: str) -> Entry | None:
    """The entry again; None when it is damaged, another format's or another question's."""
    if not isinstance(text, str):
        return None
    mark, _, rest = text.partition(".")
    check, _, coded = rest.partition(".")
    if mark != ENTRY_FORMAT:
        return None
    try:
        packed = base64.b64decode(coded, validate=True)
        if hashlib.sha256(packed).hexdigest()[:16] != check:
            return None
        head, _, body = zlib.decompress(packed).partition(b"\n")
        held, version, made_at, changed_at, cost_s, next_cursor, slugs = json.loads(head)
        moment = datetime.fromtimestamp(changed_at, UTC)
        names = tuple(slugs)
    except (ValueError, TypeError, OverflowError, OSError, zlib.error):
        return None
    if held != key or not body:
        return None
    return Entry(body, etag_of(body), moment, next_cursor, made_at, cost_s, version, names)


def invalidate(run: RunPipeline) -> None:
    """Make every copy in Redis an older one. Raises CacheDown."""
    run(("INCR", VERSION_KEY))


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)
