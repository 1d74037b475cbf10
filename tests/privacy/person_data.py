"""What the tests about persons share: a lead in every place it can be, and a search everywhere."""

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
import redis
from psycopg.rows import DictRow

from lib.leads import queue as lead_queue
from lib.leads import repository, submission
from lib.leads.lead import Lead, Recipients
from lib.services import Services
from tests.conftest import LEAD

type Rows = psycopg.Connection[DictRow]

RECIPIENTS = Recipients("Alfa Beauty <noreply@alfabeauty.test>", ("sales@alfabeauty.test",))

PERSON = {"email": "andi@example.com", "phone": "+6281234567890"}
OTHER_PERSON: dict[str, Any] = {
    "email": "budi@example.com",
    "phone_whatsapp": "+6281299998888",
    "business_name": "Lain",
    "contact_name": "Budi",
}


def make_lead(now: datetime | None = None, **fields: object) -> Lead:
    """A lead as an instance makes it."""
    return Lead.from_submission(
        submission.parse({**LEAD, **fields}),
        key=None,
        locale="id",
        now=now or datetime.now(UTC),
        ip_address="203.0.113.7",
        user_agent="Mozilla/5.0",
    )


def store_lead(services: Services, made: Lead) -> None:
    repository.insert(
        services.database.run,
        made,
        RECIPIENTS,
        now=made.created_at,
        deliver_now=False,
        erasure_keys=(),
    )


def enqueue_lead(services: Services, made: Lead) -> None:
    lead_queue.enqueue(services.cache.pipeline, services.cipher, made)


def drain_queue(services: Services) -> lead_queue.DrainStats:
    return lead_queue.drain(
        services,
        RECIPIENTS,
        lambda: datetime.now(UTC),
        budget_s=10,
        find_database_error=lambda: None,
    )


def store_everywhere(services: Services, database: Rows, now: datetime | None = None) -> Lead:
    """A person's lead stored and mailed, queued, set aside, journalled, as spam, in a note."""
    made = make_lead(now)
    store_lead(services, made)
    enqueue_lead(services, make_lead(now, message="Menunggu"))
    aside = make_lead(now, message="Disisihkan")
    sealed = services.cipher.encrypt(json.dumps({**_queued_values(aside)}, ensure_ascii=False))
    services.cache.execute("HSET", lead_queue.DEAD_LETTERS, str(aside.id), sealed)
    services.cache.pipeline(*lead_queue.journal_commands(services.cipher, made))
    services.cache.execute("SET", f"seen:{made.identity}", "{}")
    services.cache.execute("SET", f"text:{made.text_sha256}", "1")
    services.cache.execute("ZADD", "rate:203.0.113.7", 1, "member")
    suspect = make_lead(now, message="Promo http://a http://b")
    repository.insert_spam(services.database.run, suspect, "links", ())
    add_note(database, "INC-20261124-0101-leads", "Dihubungi: 0812 3456-7890, katanya aman", now)
    return made


def _queued_values(made: Lead) -> dict[str, object]:

    return made._replace(arrival="queue").to_dict()


def add_note(database: Rows, incident: str, text: str, at: datetime | None = None) -> None:
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


def dump_everything(database: Rows, valkey: redis.Redis, services: Services) -> str:
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
        said += [_decrypted(services, text) for text in _redis_values(valkey, key)]
    return "\n".join(sorted(said))


def _redis_values(valkey: redis.Redis, key: str) -> list[str]:
    kind = valkey.type(key)
    if kind == "hash":
        held: Any = valkey.hgetall(key)
        return [*held, *held.values()]
    if kind == "zset":
        return [str(member) for member in valkey.zrange(key, 0, -1)]
    return [str(valkey.get(key))]


def _decrypted(services: Services, text: str) -> str:
    from lib.problems import DecryptionError

    try:
        return services.cipher.decrypt(text)
    except DecryptionError:
        return text


def personal_data_in(text: str) -> list[str]:
    """What of the person a text still gives away."""
    known = ("andi@example.com", "81234567890", "812 3456-7890", "Andi Saputra", "Barber Maju")
    return [word for word in known if word in text]


def count_rows(database: Rows, table: str) -> int:
    row: Any = database.execute(f"select count(*) as n from {table}".encode()).fetchone()
    return int(row["n"])
