"""A marked month of leads, mails, incidents, counts and vitals on the local platform.

The rule a newcomer would break: every row carries a mark (an id made here, or DEMO in its
deployment or release), and `remove` deletes by these marks alone. It writes to the platform's own
database on this machine and refuses any other.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

import psycopg
from psycopg.conninfo import conninfo_to_dict

from lib import metrics
from lib.leads import reference
from lib.monitoring import rollup, service_levels
from lib.vitals import quantile_sketch, samples

DEMO = "demo"
RELEASES = (f"{DEMO}-1", f"{DEMO}-2")
SECOND_RELEASE_DAYS = 8
DAYS = 30
HOURS_KEPT_DAYS = 89  # whole ones: retention keeps the hours of 90
LEADS = 60
SPAM = 3
WIB = timedelta(hours=7)
OUTAGE_DAYS_AGO = 9
OUTAGE_MINUTES = 84
_NAMESPACE = UUID("5b1f4d0e-3a57-4b0e-9d53-6f1a0c5f7e21")

# The mark of an incident stands at the end of its id.
DELETE = (
    "delete from outbox where lead_id = any(%(leads)s::uuid[])",
    "delete from leads where id = any(%(leads)s::uuid[])",
    "delete from spam where id = any(%(spam)s::uuid[])",
    r"delete from incident_events where incident_id like '%%\_demo'",
    r"delete from incidents where id like '%%\_demo'",
    "delete from metric_minutes where deployment = %(demo)s",
    "delete from rum_hours where release = any(%(releases)s::text[])",
    "delete from rum_days where release = any(%(releases)s::text[])",
    "delete from rum_releases where release = any(%(releases)s::text[])",
    # service_days has no mark: it is counted again from the hours that stay.
    """delete from service_days where day in (
      select (hour at time zone 'Asia/Jakarta')::date from metric_hours
      where deployment = %(demo)s)""",
    "delete from metric_hours where deployment = %(demo)s",
)
INSERT = """
insert into {table} ({columns})
select {columns} from jsonb_populate_recordset(null::public.{table}, %(rows)s::jsonb)
"""

BUSINESSES = ("Salon Melati", "Barber Maju Jaya", "Kenanga Beauty", "Pangkas Rapi", "Studio Ayu")
PEOPLE = ("Sri Wahyuni", "Andi Saputra", "Dewi Lestari", "Budi Santoso", "Rina Marlina")
CITIES = ("Medan", "Jakarta", "Bandung", "Surabaya", "Denpasar", "Makassar")
TYPES = ("SALON", "BARBER", "UNISEX", "BRIDAL", "OTHER")
CAMPAIGNS = ("instagram", "whatsapp", None)

# Service -> requests an hour, median milliseconds.
TRAFFIC = {"leads": (30, 180), "products": (120, 60), "health": (60, 25), "rum": (90, 14)}
# Path -> views a day.
VIEWS = {"/": 90, "/en": 24, "/produk": 60, "/terima-kasih": 12}
# Metric -> median on a phone, on a desktop.
MEDIANS = {
    "LCP": (1900, 1100),
    "INP": (130, 60),
    "CLS": (0.03, 0.02),
    "FCP": (1200, 700),
    "TTFB": (420, 260),
}


class NotLocal(RuntimeError):
    """The platform's functions use a database that is not the platform's own."""


def fill(state: Mapping[str, Any], now: datetime) -> dict[str, int]:
    """Put the month before `now` in place of an earlier one; rows by table. Raises NotLocal."""
    tables = _tables(now, random.Random(7))
    with _connect(state) as connection, connection.transaction():
        _delete(connection)
        for table, rows in tables.items():
            _insert(connection, table, rows)
        _count_days(connection, now)
    return {table: len(rows) for table, rows in tables.items()}


def remove(state: Mapping[str, Any], now: datetime) -> int:
    """Delete every row that `fill` put there; how many. Raises NotLocal."""
    with _connect(state) as connection, connection.transaction():
        deleted = _delete(connection)
        _count_days(connection, now)
    return deleted


def _connect(state: Mapping[str, Any]) -> "psycopg.Connection[Any]":
    url = state["superuser_database_url"]
    is_own = state["environment"].get("DATABASE_URL") == state["database_url"]
    if not is_own or conninfo_to_dict(url).get("host") != "127.0.0.1":
        raise NotLocal("the demo is for the platform's own database alone; nothing was changed")
    return psycopg.connect(url, autocommit=True)


def _delete(connection: "psycopg.Connection[Any]") -> int:
    marks = {
        "demo": DEMO,
        "releases": list(RELEASES),
        "leads": [str(_id("lead", n)) for n in range(LEADS)],
        "spam": [str(_id("spam", n)) for n in range(SPAM)],
    }
    # Triggers keep timelines for ever and note deleted leads: none of it is meant for these rows.
    connection.execute("set local session_replication_role = replica")
    deleted = sum(connection.execute(statement.encode(), marks).rowcount for statement in DELETE)
    connection.execute("set local session_replication_role = origin")
    return deleted


def _insert(connection: "psycopg.Connection[Any]", table: str, rows: list[dict[str, Any]]) -> None:
    statement = INSERT.format(table=table, columns=", ".join(rows[0]))
    connection.execute(statement.encode(), {"rows": json.dumps(rows, default=str)})


def _count_days(connection: "psycopg.Connection[Any]", now: datetime) -> None:
    buckets = service_levels.SLA_BUCKETS
    since = _midnight(now - timedelta(days=HOURS_KEPT_DAYS))
    values = {"since": since, "service": list(buckets), "bucket": list(buckets.values())}
    connection.execute(rollup.UPSERT_DAYS.encode(), values)


def _tables(now: datetime, chance: random.Random) -> dict[str, list[dict[str, Any]]]:
    """Table -> rows; every row of a table has the same columns."""
    leads = [_lead(n, now, chance) for n in range(LEADS)]
    outage = _midnight(now - timedelta(days=OUTAGE_DAYS_AGO)) + timedelta(hours=10)
    incidents = [_outage(outage), _slow_day(_midnight(now - timedelta(days=3)))]
    return {
        "leads": leads,
        "outbox": [mail for lead in leads for mail in _mails(lead)],
        "spam": [_spam(n, now) for n in range(SPAM)],
        "incidents": incidents,
        "incident_events": list(_events(incidents)),
        "metric_hours": list(_hours(now, outage, chance)),
        "metric_minutes": list(_minutes(now, chance)),
        "rum_days": list(_vitals(now, chance)),
        "rum_releases": [
            {"release": release, "first_at": _midnight(now - timedelta(days=days))}
            for release, days in zip(RELEASES, (DAYS, SECOND_RELEASE_DAYS), strict=True)
        ],
    }


# ---------------------------------------------------------------- leads and mails


def _lead(n: int, now: datetime, chance: random.Random) -> dict[str, Any]:
    lead_id = _id("lead", n)
    created_at = now - timedelta(days=DAYS) * (n + 0.5) / LEADS
    locale = "en" if n % 6 == 0 else "id"
    phone = f"+62812{chance.randrange(10**8):08}"
    return {
        "id": lead_id,
        "ref": reference.for_lead(lead_id),
        "created_at": created_at,
        "business_name": f"{BUSINESSES[n % len(BUSINESSES)]} {n + 1}",
        "contact_name": PEOPLE[n % len(PEOPLE)],
        "phone_whatsapp": phone,
        "city": chance.choice(CITIES),
        "salon_type": TYPES[n % len(TYPES)],
        "email": f"demo-{n + 1}@example.com" if n % 3 else None,
        "chair_count": chance.randint(1, 12) if n % 2 else None,
        "message": "Saya ingin tahu harga grosir." if n % 4 == 0 else None,
        "utm_source": CAMPAIGNS[n % len(CAMPAIGNS)],
        "utm_campaign": DEMO,
        "locale": locale,
        "consent_at": created_at,
        "consent_version": "2026-11",
        "consent_locale": locale,
        "identity": _bytes("identity", n),
        "body_sha256": _bytes("body", n),
        "same_until": created_at + timedelta(days=1),
        "arrival": "queue" if n in (17, 18) else "direct",
        "journaled": True,
        "canary": False,
        "corrections": 0,
    }


def _mails(lead: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Both mails of a lead, sent."""
    recipients = {"sales": "sales@alfabeauty.test", "acknowledgement": lead["email"]}
    subjects = {
        "sales": f"New Lead: {lead['business_name']}",
        "acknowledgement": f"Alfa Beauty {lead['ref']}",
    }
    for kind, recipient in recipients.items():
        if recipient is None:
            continue
        text = f"Ref: {lead['ref']}\n{lead['business_name']}, {lead['city']}\n"
        yield {
            "id": uuid5(lead["id"], kind),
            "lead_id": lead["id"],
            "kind": kind,
            "sender": "Alfa Beauty <no-reply@alfabeauty.test>",
            "recipients": [recipient],
            "subject": subjects[kind],
            "body_text": text,
            "body_html": f"<pre>{text}</pre>",
            "created_at": lead["created_at"],
            "attempts": 1,
            "first_attempt_at": lead["created_at"],
            "next_attempt_at": lead["created_at"],
            "uncertain": False,
            "sent_at": lead["created_at"] + timedelta(seconds=2),
            "provider_id": str(uuid5(lead["id"], f"provider/{kind}")),
        }


def _spam(n: int, now: datetime) -> dict[str, Any]:
    spam_id = _id("spam", n)
    submission = {
        "business_name": f"Cheap SEO {n + 1}",
        "contact_name": "Winner",
        "phone_whatsapp": f"+62813000000{n:02}",
        "city": "Nowhere",
        "salon_type": "OTHER",
        "consent": True,
        "message": "Buy now https://spam.example https://spam.example/2",
    }
    return {
        "id": spam_id,
        "ref": reference.for_lead(spam_id),
        "received_at": now - timedelta(days=2 + 5 * n),
        "reason": "honeypot" if n else "honeypot+links",
        "submission": submission,
        "locale": "id",
    }


# ---------------------------------------------------------------- incidents


def _outage(start: datetime) -> dict[str, Any]:
    """A Sev1 that was handled to its end, with a post-mortem."""
    end = start + timedelta(minutes=OUTAGE_MINUTES)
    description = "a connection was refused within 2 s; leads are queued"
    due = (end + timedelta(days=30)).date()
    return _incident(
        start,
        "service",
        "sev1",
        "Postgres is down",
        {"database_down": description},
        "queued",
        state="closed",
        contained_at=start + timedelta(minutes=31),
        resolved_at=end,
        closed_at=end + timedelta(days=1),
        rca={
            "cause": "The pool of connections was exhausted by a report that ran for 80 minutes.",
            "impact": "14 leads were queued and stored after 84 minutes. None was lost.",
            "actions": [
                {"what": "A statement timeout for reports", "owner": "Budi", "due": str(due)}
            ],
        },
    )


def _slow_day(start: datetime) -> dict[str, Any]:
    """A Sev2 that is over and waits for its review."""
    return _incident(
        start + timedelta(hours=14),
        "products",
        "sev2",
        "Requests are too slow",
        {"slow_over_5_seconds": "6 % of the requests to products took over 5 s"},
        "",
        state="review",
        contained_at=start + timedelta(hours=14, minutes=9),
        resolved_at=start + timedelta(hours=14, minutes=26),
        closed_at=None,
        rca=None,
    )


def _incident(
    start: datetime,
    area: str,
    severity: str,
    title: str,
    descriptions: dict[str, str],
    effect: str,
    **columns: Any,
) -> dict[str, Any]:
    detected_at = start + timedelta(minutes=2)
    services = ["leads", "products"] if area == "service" else ["products"]
    return {
        "id": f"INC-{detected_at:%Y%m%d-%H%M}-{area}_{DEMO}",
        "area": area,
        "severity": severity,
        "title": title,
        "rules": list(descriptions),
        "started_at": start,
        "detected_at": detected_at,
        "acknowledged_at": start + timedelta(minutes=6),
        "acknowledged_by": "Budi",
        "deployment": DEMO,
        "facts": {"what": descriptions, "effect": effect, "services": services},
        "clean_ticks": 2,
        "version": 4,
        "told": 4,
        "tell_at": detected_at,
        **columns,
    }


def _events(incidents: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for incident in incidents:
        times = (
            ("detected", incident["detected_at"], "monitor", None),
            ("classified", incident["detected_at"], "monitor", None),
            ("acknowledged", incident["acknowledged_at"], "Budi", None),
            ("note", incident["acknowledged_at"], "Budi", "A report holds every connection."),
            ("contain", incident["contained_at"], "Budi", None),
            ("resolve", incident["resolved_at"], "monitor", None),
            ("review", incident["resolved_at"] + timedelta(hours=2), "Budi", None),
            ("closed", incident["closed_at"], "Budi", None),
        )
        for kind, at, actor, note in times:
            if at is not None:
                yield {
                    "incident_id": incident["id"],
                    "seq": 0,  # the trigger numbers and chains them
                    "note_sha256": "\\x",
                    "previous": "\\x",
                    "hash": "\\x",
                    "at": at,
                    "kind": kind,
                    "actor": actor,
                    "facts": {},
                    "note": note,
                }


# ---------------------------------------------------------------- counts and vitals


def _hours(now: datetime, outage: datetime, chance: random.Random) -> Iterator[dict[str, Any]]:
    hour = _midnight(now - timedelta(days=DAYS))
    while hour <= now - timedelta(hours=1):
        is_outage = outage <= hour < outage + timedelta(minutes=OUTAGE_MINUTES)
        yield from _counts("hour", hour, 1.0, chance, is_outage=is_outage)
        hour += timedelta(hours=1)


def _minutes(now: datetime, chance: random.Random) -> Iterator[dict[str, Any]]:
    """The last hour alone: retention keeps minutes for two days."""
    this_minute = now.replace(second=0, microsecond=0)
    for ago in range(1, 60):
        yield from _counts("minute", this_minute - timedelta(minutes=ago), 1 / 60, chance)


def _counts(
    unit: str, at: datetime, share: float, chance: random.Random, *, is_outage: bool = False
) -> Iterator[dict[str, Any]]:
    """The requests that began at `at`, by service, class and bucket; share: of an hour's."""
    for service, (per_hour, median_ms) in TRAFFIC.items():
        counts: Counter[tuple[str, int]] = Counter()
        for _ in range(int(per_hour * share + chance.random())):
            took_ms = median_ms * chance.lognormvariate(0, 0.4)
            outcome = "error" if chance.random() < 0.0005 else "ok"
            if is_outage and service in ("leads", "products"):
                took_ms, outcome = took_ms + 2000, "queued" if service == "leads" else "ok"
            counts[outcome, metrics.bucket_of(took_ms)] += 1
        for (outcome, bucket), n in counts.items():
            row = {"service": service, "deployment": DEMO, "class": outcome, "bucket": bucket}
            yield {unit: at, **row, "n": n}


def _vitals(now: datetime, chance: random.Random) -> Iterator[dict[str, Any]]:
    for ago in range(DAYS):
        day = (now + WIB - timedelta(days=ago)).date()
        is_second = ago < SECOND_RELEASE_DAYS
        release, factor = RELEASES[is_second], 0.85 if is_second else 1
        for path, views in VIEWS.items():
            for device, share in (("mobile", 0.7), ("desktop", 0.3)):
                n = round(views * share * chance.uniform(0.8, 1.2))
                key = {"day": day, "path": path, "device": device, "release": release}
                yield {**key, "metric": samples.VIEWS, "buckets": [0], "counts": [n]}
                for metric, medians in MEDIANS.items():
                    scale = samples.METRICS[metric]
                    median = factor * medians[device == "desktop"]
                    values = (median * chance.lognormvariate(0, 0.5) for _ in range(n))
                    sketch = sorted(
                        Counter(quantile_sketch.bucket_of(scale, v) for v in values).items()
                    )
                    buckets, counts = zip(*sketch, strict=True)
                    yield {**key, "metric": metric, "buckets": buckets, "counts": counts}


def _id(kind: str, n: int) -> UUID:
    return uuid5(_NAMESPACE, f"{kind}/{n}")


def _bytes(kind: str, n: int) -> str:
    """A hash that no submission has, as PostgreSQL reads bytes."""
    return "\\x" + hashlib.sha256(f"{DEMO}/{kind}/{n}".encode()).hexdigest()


def _midnight(moment: datetime) -> datetime:
    """The start of its day in Jakarta."""
    local = moment.astimezone(UTC) + WIB
    return local.replace(hour=0, minute=0, second=0, microsecond=0) - WIB
