"""What Vercel's drains send: Speed Insights' vitals, and Web Analytics' page views.

Vercel signs the bytes, so the bytes are checked, before anything is read from them. A delivery
may come twice: an event's id is the hash of its content, and an id counts once. Unknown fields are
ignored; query, place, device ids and whatever else identifies a visitor are never read.
"""

import hashlib
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from lib.vitals import samples as vitals_samples
from lib.vitals.samples import DEVICES, VIEWS, ParsedReports, Sample

SIGNATURE_HEADER = "x-vercel-signature"
VITALS_SCHEMA = "vercel.speed_insights."
ANALYTICS_SCHEMA = "vercel.analytics."  # v1 and v2 differ in nothing that is read here
MAX_EVENT_AGE = timedelta(days=30)


def verify_signature(secret: str, signature: str, body: bytes) -> bool:
    """Whether `signature` is the body's: HMAC-SHA1 in hex, as Vercel's drains sign."""
    expected = hmac.new(secret.encode(), body, hashlib.sha1).hexdigest()
    return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogateescape"))


def parse(body: bytes, release: str, now: datetime) -> ParsedReports:
    """The samples of a delivery: a JSON array, one object, or an object a line."""
    parsed = [_to_sample(event, release, now) for event in _events(body)]
    samples = [sample for sample in parsed if sample is not None]
    return ParsedReports(vitals_samples.deduplicate(samples), len(parsed) - len(samples))


def _events(body: bytes) -> Iterator[object]:
    """The events of a delivery; None for what cannot be parsed."""
    whole = _parse_json(body)
    if whole is not None:
        yield from whole if isinstance(whole, list) else [whole]
        return
    for line in body.splitlines():
        if line.strip():
            yield _parse_json(line)


def _parse_json(text: bytes) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _to_sample(event: object, release: str, now: datetime) -> Sample | None:
    if not isinstance(event, dict):
        return None
    schema, path = event.get("schema"), event.get("path")
    if not isinstance(schema, str) or not isinstance(path, str):
        return None
    metric, bucket = "", None
    if schema.startswith(VITALS_SCHEMA):
        metric = str(event.get("metricType"))
        bucket = vitals_samples.bucket_for(metric, event.get("value"))
    elif schema.startswith(ANALYTICS_SCHEMA) and event.get("eventType") == "pageview":
        metric, bucket = VIEWS, 0
    if bucket is None:
        return None
    moment = _event_time(event.get("timestamp"), now)
    device = str(event.get("deviceType") or "").lower()
    deployment = event.get("deploymentId") or event.get("deployment")
    if isinstance(deployment, str):
        release = vitals_samples.release_name(deployment, "")
    return vitals_samples.make_sample(
        metric,
        bucket,
        id=json.dumps(event, sort_keys=True),
        at_ms=int(moment.timestamp() * 1000),
        hour=moment.replace(minute=0, second=0, microsecond=0),
        page=path,
        device=device if device in DEVICES else "unknown",
        release=release,
    )


def _event_time(timestamp: object, now: datetime) -> datetime:
    """When it happened: ISO text in one drain, milliseconds in the other; now if implausible."""
    at_ms = vitals_samples.parse_timestamp_ms(timestamp)
    if at_ms is None:
        return now
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment if now - MAX_EVENT_AGE < moment <= now else now
