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
from lib.products.catalogue import Answer, Found, Published, without_withdrawn
from lib.products.query import Query

type RunAll = Callable[..., list[Any]]

BUDGET_S = 1.6
KNOWN_BUDGET_S = 0.45  # where an older copy is at hand: inside the SLA of half a second
DOWN_BUDGET_S = 0.9  # where Redis is down, and the database may well be
MEMORY_FRESH_S = 5.0
REDIS_FRESH_S = 60.0
EAGERNESS = 1.0  # XFetch's beta (Vattani et al., VLDB 2015): above 1 refreshes earlier
KEPT_S = 7 * 86400  # how long Redis holds the last good copy of a list
KEPT_SEARCH_S = 3600  # and of a search or a page of it, of which there are many
LOCK_MS = 3000
POLL_S, PATIENCE_S = 0.05, 1.0  # while another instance fills
MAX_ENTRIES, MAX_MEMORY_BYTES = 300, 24_000_000

FORMAT = "p2"  # of an entry; another one is not read
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


class Served(NamedTuple):
    """source: memory, redis, postgres, stale or snapshot. timings_ms: by rung asked.

    early: it is fresh, and somebody had better refresh it after the answer.
    """

    entry: Entry
    source: str
    timings_ms: dict[str, float]
    early: bool = False


class Reach(NamedTuple):
    """How to ask each source. redis raises CacheDown; postgres, which is told what is known to be
    published, DatabaseDown or NotFound, hands over what it heard of that, and answers None when it
    cannot tell; snapshot raises NotFound alone."""

    redis: RunAll
    postgres: Callable[[Query, Published | None, Callable[[Found], None]], Answer | None]
    snapshot: Callable[[Query, frozenset[str] | None], Answer]


class Shelf:
    """An instance's memory of answers, and its searches under way; shared by its threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[float, Served]] = OrderedDict()
        self._bytes = 0
        self._flights: dict[str, _Flight] = {}
        self.published: Published | None = None

    def hear(self, published: Published | None) -> None:
        """What is published, by whoever heard of it last."""
        with self._lock:
            known = self.published
            if published is not None and (known is None or known.heard_at < published.heard_at):
                self.published = published

    def serve(self, query: Query, reach: Reach) -> Served:
        """The nearest right answer, or an honestly older one. Raises NotFound alone."""
        key = query.key
        started = time.perf_counter()
        with self._lock:
            fresh_until, held = self._held.get(key, (0.0, None))
            if held is not None and time.monotonic() < fresh_until and self.holds(held.entry):
                self._held.move_to_end(key)
                source = held.source if held.source == "stale" else "memory"
                return Served(held.entry, source, {"memory": _ms_since(started)})
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = _Flight(query, reach, self)
                threading.Thread(target=self._fly, args=(key, flight), daemon=True).start()
        flight.wait(held is not None)
        if flight.not_found:
            raise NotFound
        if flight.served is not None:
            return flight.served
        older = flight.older or (held.entry if held else None)
        if older is not None:
            return Served(self.current(older), "stale", dict(flight.timings_ms))
        return self._from_snapshot(query, reach, flight)

    def refresh(self, query: Query, reach: Reach) -> None:
        """Make a copy anew before it expires, unless another instance does."""
        flight = _Flight(query, reach, self)
        try:
            if flight.claim():
                flight.fill()
        except (CacheDown, DatabaseDown, NotFound):
            return
        if flight.served is not None:
            self._keep(query.key, flight.served, recall=query.is_whole_list)

    def _fly(self, key: str, flight: "_Flight") -> None:
        try:
            flight.search()
            if flight.served is None and not flight.not_found:
                flight.hear_of_published()
                if flight.older is not None:
                    # Kept for a moment too: an outage must not be felt by every request.
                    flight.served = Served(self.current(flight.older), "stale", flight.timings_ms)
            if flight.served is not None:
                self._keep(key, flight.served, recall=flight.query.is_whole_list)
        except NotFound:
            flight.not_found = True
        finally:
            with self._lock:
                self._flights.pop(key, None)
            flight.landed.set()

    def holds(self, entry: Entry) -> bool:
        """Whether the catalogue has not been heard to have changed since."""
        known = self.published
        return known is None or (
            known.heard_at < entry.made_at or known.changed_at == entry.changed_at
        )

    def current(self, entry: Entry) -> Entry:
        """An older entry without what was withdrawn since. Raises NotFound."""
        known = self.published
        if known is None or self.holds(entry):
            return entry
        body = without_withdrawn(entry.body, entry.slugs, known)
        if body is entry.body:
            return entry
        slugs = tuple(slug for slug in entry.slugs if slug in known.slugs)
        cursor = entry.next_cursor if slugs else None
        return entry._replace(body=body, etag=etag_of(body), slugs=slugs, next_cursor=cursor)

    def _keep(self, key: str, served: Served, *, recall: bool = False) -> None:
        if not served.entry.slugs and not recall:
            return
        with self._lock:
            before = self._held.pop(key, None)
            self._bytes += len(served.entry.body) - (len(before[1].entry.body) if before else 0)
            self._held[key] = (time.monotonic() + MEMORY_FRESH_S, served)
            while len(self._held) > MAX_ENTRIES or self._bytes > MAX_MEMORY_BYTES:
                _, (_, dropped) = self._held.popitem(last=False)
                self._bytes -= len(dropped.entry.body)

    def _from_snapshot(self, query: Query, reach: Reach, flight: "_Flight") -> Served:
        started = time.perf_counter()
        found = reach.snapshot(query, self.published and self.published.slugs)
        entry = entry_of(found, made_at=found.changed_at.timestamp(), cost_s=0, version="")
        return Served(entry, "snapshot", flight.timings_ms | {"snapshot": _ms_since(started)})


class _Flight:
    """One search for one answer, whoever waits for it."""

    def __init__(self, query: Query, reach: Reach, shelf: Shelf) -> None:
        self.query = query
        self.reach = reach
        self._shelf = shelf
        self._heard: Published | None = None
        self.landed = threading.Event()
        self.served: Served | None = None
        self.older: Entry | None = None
        self.not_found = False
        self.redis_is_down = False
        self.timings_ms: dict[str, float] = {}
        self._key = f"products:entry:{query.key}"
        self._version = "0"
        self._claimed = False

    def wait(self, knows_an_answer: bool) -> None:
        """Until it has landed, or it is better to answer from what there is."""
        waited_s = 0.0
        for until_s in (KNOWN_BUDGET_S, DOWN_BUDGET_S, BUDGET_S):
            if self.landed.wait(until_s - waited_s) or knows_an_answer or self.older is not None:
                return
            if self.redis_is_down and until_s >= DOWN_BUDGET_S:
                return
            waited_s = until_s

    def search(self) -> None:
        """Redis, then Postgres. Leaves `served`, or `not_found`, or the `older` copy it met."""
        try:
            if self._in_redis() or self._another_fills():
                return
        except CacheDown:
            self.redis_is_down = True  # or garbage: what is found is offered to it all the same
        try:
            self.fill()
        except DatabaseDown:
            self._release()
        except NotFound:
            self.not_found = True
            self._release()

    def fill(self) -> None:
        """Ask Postgres, and leave the answer in Redis for everybody."""
        started = time.perf_counter()
        try:
            answer = self.reach.postgres(self.query, self._shelf.published, self._hear)
        finally:
            self.timings_ms["postgres"] = _ms_since(started)
        if answer is None:
            self._release()
            return
        cost_s = time.perf_counter() - started
        entry = entry_of(answer, made_at=time.time(), cost_s=cost_s, version=self._version)
        self.served = Served(entry, "postgres", self.timings_ms)
        self.landed.set()  # whoever waits need not wait for the keeping
        search = self.query.q is not None or self.query.after is not None
        keep_s = KEPT_SEARCH_S if search else KEPT_S
        kept = answer.slugs or self.query.is_whole_list
        sealing = ("SET", self._key, sealed(entry, self.query.key), "EX", keep_s)
        self._release(*([sealing] if kept else []))

    def hear_of_published(self) -> None:
        """What another instance heard of it, where the database cannot be asked."""
        try:
            [text] = self.reach.redis(("GET", PUBLISHED_KEY))
        except (CacheDown, ValueError):
            return
        self._shelf.hear(published_of(text))

    def _hear(self, found: Found) -> None:
        self._heard = found.published
        self._shelf.hear(found.published)

    def claim(self) -> bool:
        """Whether this is the one filler of all instances, for LOCK_MS at most."""
        token = uuid4().hex
        command = ("SET", self._key_of_lock, token, "NX", "PX", LOCK_MS)
        self._claimed = self.reach.redis(command)[0] not in (None, False)
        if self._claimed:
            version, _ = _pair(self.reach.redis(("MGET", VERSION_KEY, self._key)))
            self._version = version
        return self._claimed

    @property
    def _key_of_lock(self) -> str:
        return f"products:lock:{self.query.key}"

    def _in_redis(self) -> bool:
        """One command: the version that counts and the copy, which may be of an older one."""
        started = time.perf_counter()
        try:
            self._version, text = _pair(self.reach.redis(("MGET", VERSION_KEY, self._key)))
        finally:
            self.timings_ms["redis"] = self.timings_ms.get("redis", 0) + _ms_since(started)
        entry = opened(text, self.query.key)
        if entry is None:
            return False
        self.older = entry
        age_s = time.time() - entry.made_at
        fresh = self._shelf.holds(entry) and -5 <= age_s < REDIS_FRESH_S
        if entry.version != self._version or not fresh:
            return False
        # The dearer an answer and the older its copy, the likelier that one of many goes early.
        early = age_s - entry.cost_s * EAGERNESS * math.log(1 - random.random()) >= REDIS_FRESH_S  # noqa: S311
        self.served = Served(entry, "redis", self.timings_ms, early)
        return True

    def _another_fills(self) -> bool:
        """Wait for the instance that holds the lock; False when this one is to fill."""
        token = uuid4().hex
        command = ("SET", self._key_of_lock, token, "NX", "PX", LOCK_MS)
        self._claimed = self.reach.redis(command)[0] not in (None, False)
        if self._claimed:
            return False
        older = self.older
        if older is not None and older.version == self._version and self._shelf.holds(older):
            self.served = Served(older, "redis", self.timings_ms)
            return True
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            time.sleep(POLL_S)
            if self._in_redis():
                return True
        return False

    def _release(self, *commands: tuple[str | int, ...]) -> None:
        """Leave what was found in Redis, and let the next one try at once."""
        told = list(commands)
        if self._heard is not None:
            told.append(("SET", PUBLISHED_KEY, published_text(self._heard), "EX", KEPT_S))
        if self._claimed:
            told.append(("DEL", self._key_of_lock))
        try:
            if told:
                self.reach.redis(*told)
        except CacheDown:
            return  # the answer is known all the same


def _pair(results: list[Any]) -> tuple[str, object]:
    """MGET's answer: the version ("0" before the first change) and the copy. CacheDown if none."""
    match results:
        case [[version, text]]:
            return str(version or "0"), text
    raise CacheDown


def entry_of(answer: Answer, *, made_at: float, cost_s: float, version: str) -> Entry:
    return Entry(answer.body, etag_of(answer.body), answer.changed_at, answer.next_cursor,
                 made_at, cost_s, version, answer.slugs)  # fmt: skip


def etag_of(body: bytes) -> str:
    """Of what is said alone: the same from every instance, deployment and source."""
    return hashlib.sha256(body).hexdigest()[:32]


def published_text(published: Published) -> str:
    """As Redis holds it."""
    facts = [published.heard_at, published.changed_at.timestamp(), sorted(published.slugs)]
    return json.dumps(facts, separators=(",", ":"))


def published_of(text: object) -> Published | None:
    """From Redis again; None when there is none, or it is none of ours."""
    if not isinstance(text, str):
        return None
    try:
        heard_at, changed_at, slugs = json.loads(text)
        return Published(frozenset(slugs), datetime.fromtimestamp(changed_at, UTC), heard_at)
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def sealed(entry: Entry, key: str) -> str:
    """An entry as Redis holds it: compressed, about a fifth of the bytes for the whole list."""
    facts = [key, entry.version, entry.made_at, entry.changed_at.timestamp(), entry.cost_s,
             entry.next_cursor, entry.slugs]  # fmt: skip
    head = json.dumps(facts, separators=(",", ":")).encode()
    packed = zlib.compress(head + b"\n" + entry.body, 6)
    check = hashlib.sha256(packed).hexdigest()[:16]
    return f"{FORMAT}.{check}.{base64.b64encode(packed).decode()}"


def opened(text: object, key: str) -> Entry | None:
    """The entry again; None when it is damaged, another format's or another question's."""
    if not isinstance(text, str):
        return None
    mark, _, rest = text.partition(".")
    check, _, coded = rest.partition(".")
    if mark != FORMAT:
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


def outdate(run: RunAll) -> None:
    """Make every copy in Redis an older one. Raises CacheDown."""
    run(("INCR", VERSION_KEY))


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)
