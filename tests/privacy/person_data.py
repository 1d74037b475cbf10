"""What the tests about persons share: a lead in every place it can be, and a search everywhere."""

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import redis
from psycopg.rows import DictRow

from lib.leads import queue as lead_queue
from lib.leads import repository, submission
from lib.leads.repository import Desk, Lead
from lib.services import Services
from tests.conftest import LEAD

type Rows = psycopg.Connection[DictRow]

DESK = Desk("Alfa Beauty <noreply@alfabeauty.test>", ("sales@alfabeauty.test",))

WHO = {"email": "andi@example.com", "phone": "+6281234567890"}
OTHER: dict[str, Any] = {
    "email": "budi@example.com",
    "phone_whatsapp": "+6281299998888",
    "business_name": "Lain",
    "contact_name": "Budi",
}


def lead(now: datetime | None = None, **fields: object) -> Lead:
    """A lead as an instance makes it."""
    return repository.make(
        submission.read({**LEAD, **fields}),
        key=None,
        locale="id",
        now=now or datetime.now(UTC),
        ip_address="203.0.113.7",
        user_agent="Mozilla/5.0",
    )


def store(services: Services, made: Lead) -> None:
    repository.store(
        services.database.run,
        made,
        DESK,
        now=made.created_at,
        deliver_now=False,
        erasure_keys=(),
    )


def queue(services: Services, made: Lead) -> None:
    lead_queue.put(services.cache.run_all, services.vault, made)


def drain(services: Services) -> lead_queue.Tally:
    return lead_queue.drain(
        services.cache.run,
        services.database.run,
        services.vault,
        DESK,
        lambda: datetime.now(UTC),
        budget_s=10,
        store_fault=lambda: None,
        erasure_keys=services.erasure_keys,
    )


def put_everywhere(services: Services, database: Rows, now: datetime | None = None) -> Lead:
    """A person's lead stored and mailed, queued, set aside, journalled, as spam, in a note."""
    made = lead(now)
    store(services, made)
    queue(services, lead(now, message="Menunggu"))
    aside = lead(now, message="Disisihkan")
    sealed = services.vault.seal(json.dumps({**_values(aside)}, ensure_ascii=False))
    services.cache.run("HSET", lead_queue.DEAD, str(aside.id), sealed)
    services.cache.run_all(*lead_queue.journal(services.vault, made))
    services.cache.run("SET", f"seen:{made.identity}", "{}")
    services.cache.run("SET", f"text:{made.text_sha256}", "1")
    services.cache.run("ZADD", "rate:203.0.113.7", 1, "member")
    suspect = lead(now, message="Promo http://a http://b")
    repository.keep_as_spam(services.database.run, suspect, "links", ())
    note(database, "INC-20261124-0101-leads", "Dihubungi: 0812 3456-7890, katanya aman", now)
    return made


def _values(made: Lead) -> dict[str, object]:
    from lib.leads import serialization

    return serialization.values_of(made._replace(arrival="queue"))


def note(database: Rows, incident: str, text: str, at: datetime | None = None) -> None:
    """A note in an incident's timeline."""
    at = at or datetime.now(UTC)
    database.execute(
        "insert into incidents (id, area, severity, title, rules, started_at, detected_at,"
        " deployment, tell_at) values (%s, %s, 'sev2', 't', '{}', %s, %s, 'd', %s)"
        " on conflict do nothing",
        [incident, incident, at, at, at],
    )
    database.execute(
        "insert into incident_events (incident_id, at, kind, actor, note) values"
        " (%s, %s, 'note', 'oncall', %s)",
        [incident, at, text],
    )


def everything(database: Rows, valkey: redis.Redis, services: Services) -> str:
    """Every row of every table and everything in Redis, opened, as one text."""
    tables = database.execute("select tablename from pg_tables where schemaname = 'public'")
    said = [
        str(row["line"])
        for table in tables.fetchall()
        for row in database.execute(
            f"select t::text as line from public.{table['tablename']} as t".encode()
        )
    ]
    for key in map(str, valkey.keys("*")):
        said.append(key)
        said += [_opened(services, text) for text in _texts(valkey, key)]
    return "\n".join(sorted(said))


def _texts(valkey: redis.Redis, key: str) -> list[str]:
    kind = valkey.type(key)
    if kind == "hash":
        held: Any = valkey.hgetall(key)
        return [*held, *held.values()]
    if kind == "zset":
        return [str(member) for member in valkey.zrange(key, 0, -1)]
    return [str(valkey.get(key))]


def _opened(services: Services, text: str) -> str:
    from lib.problems import Unreadable

    try:
        return services.vault.open(text)
    except Unreadable:
        return text


def traces(text: str) -> list[str]:
    """What of the person a text still gives away."""
    known = ("andi@example.com", "81234567890", "812 3456-7890", "Andi Saputra", "Barber Maju")
    return [word for word in known if word in text]


def count(database: Rows, table: str) -> int:
    row: Any = database.execute(f"select count(*) as n from {table}".encode()).fetchone()
    return int(row["n"])
