"""Parses a browser's Web Vitals beacon into samples.

The rule a newcomer would break: nothing of the visitor leaves this module. A page's address loses
its query, host and ids; a user agent becomes a device class; the metric's id becomes a hash. What
is not understood is dropped and counted, never refused.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote, urlsplit

from lib.vitals import quantile_sketch
from lib.vitals.quantile_sketch import Scale

if TYPE_CHECKING:
    from lib.vitals import beacon

MAX_BODY_BYTES = 64 * 1024
MAX_ITEMS = 50

# Thresholds: web-vitals 6.2.3's own (2026-11). Floors are far below what a person notices.
METRICS = {
    "LCP": Scale("ms", 0.1, 2500, 4000, 600_000),
    "INP": Scale("ms", 0.1, 200, 500, 600_000),
    "CLS": Scale("", 0.0001, 0.1, 0.25, 10),
    "FCP": Scale("ms", 0.1, 1800, 3000, 600_000),
    "TTFB": Scale("ms", 0.1, 800, 1800, 600_000),
}
VIEWS = "views"  # counted like a metric, all in bucket 0: how many pages were shown
DEVICES = ("mobile", "tablet", "desktop", "unknown")

# The site's own pages: always counted by their own path, however many others are invented.
KNOWN_PATHS = frozenset(
    {"/", "/en", "/terima-kasih", "/en/thank-you", "/produk", "/en/products", "/vitals", "/status"}
)
OTHER_PATHS = "(other)"  # an address that cannot be parsed, or a path past the day's limit

_BOTS = re.compile(
    r"bot\b|bot[/_-]|crawl|spider|slurp|headless|lighthouse|pagespeed|ptst|gtmetrix|pingdom"
    r"|uptime|synthetic|monitor|prerender|facebookexternalhit|meta-external|bingpreview|phantomjs"
    r"|mediapartners-google|apis-google|google-(?:inspectiontool|read-aloud|safety|extended)"
    r"|googleother|feedfetcher|chatgpt-user|perplexity-user|ia_archiver|heritrix|statuscake"
    r"|site24x7|checkly|newrelicpinger",
    re.IGNORECASE,
)
# A phone's model may look like a bot's name: an Android's stands after its version and language,
# and in apps' own lists again. CUBOT makes phones.
_PHONE_MODEL = re.compile(
    r"(?<=android) [\d.]+;(?: *[a-z]{2,3}[-_][a-z]{2};)?[^;()]*(?=[;)])"
    r"|(?<![a-z])cubot(?![a-z])",
    re.IGNORECASE,
)
_PLAIN_SEGMENT = re.compile(r"[A-Za-z0-9._~-]{1,64}")
_TOKEN = re.compile(
    r"(?=.*\d)(?:[A-Za-z0-9_~]{16,}|[A-Fa-f0-9-]{8,}|(?=.*[A-Z])(?=.*[a-z])[\w~-]{20,})"
    r"|ALFA-[0-9A-Z]{5,13}"
)
_UNSAFE_IN_RELEASE = re.compile(r"[^A-Za-z0-9._-]")


class Sample(NamedTuple):
    """One value. id: a hash; at_ms orders reports of one id; hour: an aware hour."""

    id: str
    at_ms: int
    hour: datetime
    path: str
    device: str
    metric: str
    release: str
    bucket: int


class RequestInfo(NamedTuple):
    """What the HTTP request says. release: of the deployment that answers."""

    user_agent: str
    mobile_hint: str | None
    referrer: str
    release: str
    now: datetime


class ParsedReports(NamedTuple):
    """dropped: items that were no report of a vital. drop_reason: when all were, and why."""

    samples: list[Sample]
    dropped: int = 0
    drop_reason: str | None = None


def parse(body: bytes, request: RequestInfo) -> ParsedReports:
    """The samples in a beacon's body, the last of each id."""
    if len(body) > MAX_BODY_BYTES:
        return ParsedReports([], 1, "too_large")
    if is_bot(request.user_agent):
        return ParsedReports([], 1, "bot")
    try:
        values = json.loads(body, object_pairs_hook=_without_duplicate_keys)
    except (ValueError, RecursionError):
        return ParsedReports([], 1, "no_json")
    items = values if isinstance(values, list) else [values]
    parsed = (_parse_item(item, request) for item in items[:MAX_ITEMS])
    samples = [sample for sample in parsed if sample is not None]
    return ParsedReports(deduplicate(samples), len(items) - len(samples))


def _without_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object] | None:
    """A JSON object; None, which is dropped, where it holds a key twice."""
    values = dict(pairs)
    return values if len(values) == len(pairs) else None


def deduplicate(samples: list[Sample]) -> list[Sample]:
    """The last report of each id; of two at the same moment the later in the list."""
    last: dict[str, Sample] = {}
    for sample in samples:
        if sample.id not in last or last[sample.id].at_ms <= sample.at_ms:
            last[sample.id] = sample
    return list(last.values())


def bucket_for(metric: str, value: object) -> int | None:
    """The value's bucket; None when there is no such metric, or the value is out of its range."""
    scale = METRICS.get(metric)
    number = _finite_number(value)
    if scale is None or number is None or not 0 <= number <= scale.maximum:
        return None
    if metric == "TTFB" and number == 0:
        return None  # the page came out of the browser's own memory: no server was asked
    return quantile_sketch.bucket_of(scale, number)


def make_sample(
    metric: str,
    bucket: int,
    *,
    id: str,  # noqa: A002 - as in Sample
    at_ms: int,
    hour: datetime,
    page: str,
    device: str,
    release: str,
) -> Sample:
    """A sample without what names the visitor. page: an address."""
    path = normalize_path(page)
    return Sample(hash_id(metric, id), at_ms, hour, path, device, metric, release, bucket)


@cache
def _item_parser() -> "Callable[[object], beacon.Item | None]":
    from lib.vitals import beacon

    return beacon.item_parser(tuple(METRICS))


def _parse_item(item: object, request: RequestInfo) -> Sample | None:
    report = _item_parser()(item)
    bucket = report and bucket_for(report["name"], report["value"])
    if report is None or bucket is None:
        return None
    now_ms = _epoch_ms(request.now)
    return make_sample(
        report["name"],
        bucket,
        id=report["id"],
        # The page's clock orders its own reports; the hour is by the server's.
        at_ms=parse_timestamp_ms(report.get("timestamp")) or now_ms,
        hour=hour_start(now_ms),
        page=report.get("page") or request.referrer,
        device=device_class(request.user_agent, request.mobile_hint, report.get("device_type")),
        release=request.release,
    )


def _finite_number(value: object) -> float | None:
    """A finite number; text is none, neither are true and false."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def parse_timestamp_ms(value: object) -> int | None:
    """Milliseconds since 1970, from that number or an ISO time; None when it is neither."""
    if isinstance(value, str):
        try:
            return _epoch_ms(datetime.fromisoformat(value).astimezone(UTC))
        except (ValueError, OverflowError):
            return None
    number = _finite_number(value)
    return int(number) if number is not None and 0 < number < 1e13 else None


def hour_start(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms // 3_600_000 * 3600, UTC)


def _epoch_ms(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def hash_id(*parts: str) -> str:
    """22 characters: an id is only ever compared."""
    text = "\x1f".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=11).hexdigest()


def normalize_path(address: str) -> str:
    """A page's path, with `:id` for each part that names a thing or a person.

    Query, fragment and host are gone; so is every part that is not plain ASCII (an address, a
    name typed by somebody), a number, a UUID or a long token. At most 8 parts.
    """
    try:
        path = urlsplit(address).path
    except ValueError:
        return OTHER_PATHS
    parts = [part for part in path.split("/") if part]
    return "/" + "/".join(_normalize_segment(unquote(part)) for part in parts[:8])


def _normalize_segment(part: str) -> str:
    plain = _PLAIN_SEGMENT.fullmatch(part) and not part.isdigit() and not _TOKEN.fullmatch(part)
    return part if plain else ":id"


def release_name(deployment: str, commit: str) -> str:
    """A deployment's name in the counts."""
    return _UNSAFE_IN_RELEASE.sub("", deployment or commit[:12])[:64] or "unknown"


def is_bot(user_agent: str) -> bool:
    """Whether it is a crawler, a monitor or a browser that nobody looks at."""
    return bool(_BOTS.search(_PHONE_MODEL.sub(" ", user_agent)))


def device_class(user_agent: str, mobile_hint: str | None, stated: object = None) -> str:
    """A class of DEVICES: by the client hint, else the user agent, else what the page says.

    The hint says `?0` for tablets too, so their user agent is tested first.
    """
    if re.search(r"iPad|Tablet|Android(?!.*Mobile)", user_agent):
        return "tablet"
    if mobile_hint in ("?0", "?1"):
        return "mobile" if mobile_hint == "?1" else "desktop"
    if re.search(r"Mobi|iPhone|iPod", user_agent):
        return "mobile"
    if re.search(r"Windows NT|Macintosh|X11|CrOS", user_agent):
        return "desktop"
    return stated if isinstance(stated, str) and stated in DEVICES else "unknown"
