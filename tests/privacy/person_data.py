"""For tests about a person: their lead in every store, and a dump of every store."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import redis
from psycopg.rows import DictRow

from lib.leads import queue as lead_queue
from lib.leads import repository, submission
from lib.leads.lead import Lead, Recipients
from lib.privacy import erasure, requests
from lib.privacy.data_subject import Subject
from lib.problems import DecryptionError
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


BY_EMAIL = Subject(emails=(PERSON["email"],))
BY_PHONE = Subject(phones=(PERSON["phone"],))
NO_REDIS = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
MINUTE = timedelta(minutes=1)


def now() -> datetime:
    return datetime.now(UTC)


def make_lead(created_at: datetime | None = None, **fields: object) -> Lead:
    """A lead as an instance makes it."""
    return Lead.from_submission(
        submission.parse({**LEAD, **fields}),
        key=None,
        locale="id",
        now=created_at or now(),
        ip_address="203.0.113.7",
        user_agent="Mozilla/5.0",
    )


def store_lead(services: Services, lead: Lead, *, is_copy: bool = False) -> None:
    """is_copy: it was received before, and its person may have been erased since."""
    repository.insert(
        services.database.run,
        lead,
        RECIPIENTS,
        now=lead.created_at,
        deliver_now=False,
        erasure_keys=services.erasure_keys if is_copy else (),
    )


def store_spam(services: Services, lead: Lead) -> None:
    repository.insert_spam(services.database.run, lead, "links", ())


def enqueue_lead(services: Services, lead: Lead) -> None:
    sealed = lead_queue.seal(services.cipher, lead)
    services.cache.execute("HSETNX", lead_queue.QUEUE, str(lead.id), sealed)


def journal_lead(services: Services, lead: Lead) -> None:
    services.cache.pipeline(*lead_queue.journal_commands(services.cipher, lead))


def drain_queue(services: Services) -> lead_queue.DrainStats:
    return lead_queue.drain(
        services,
        RECIPIENTS,
        lambda: datetime.now(UTC),
        budget_s=10,
        find_store_fault=lambda _run, _now: None,
    )


def store_everywhere(services: Services, database: Rows) -> Lead:
    """A person's lead stored and mailed, queued, a dead letter, journalled, as spam, in a note."""
    lead = make_lead()
    store_lead(services, lead)
    enqueue_lead(services, make_lead(message="Menunggu"))
    dead_letter = make_lead(message="Disisihkan")
    values = dead_letter._replace(arrival="queue").to_dict()
    sealed = services.cipher.encrypt(json.dumps(values, ensure_ascii=False))
    services.cache.execute("HSET", lead_queue.DEAD_LETTERS, str(dead_letter.id), sealed)
    journal_lead(services, lead)
    services.cache.execute("SET", f"seen:{lead.identity}", "{}")
    services.cache.execute("SET", f"text:{lead.text_sha256}", "1")
    services.cache.execute("ZADD", "rate:203.0.113.7", 1, "member")
    store_spam(services, make_lead(message="Promo http://a http://b"))
    add_note(database, "INC-20261124-0101-leads", "Dihubungi: 0812 3456-7890, katanya aman")
    return lead


def add_note(database: Rows, incident: str, text: str, at: datetime | None = None) -> None:
    """A note in an incident's timeline."""
    at = at or now()
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


def dump_everything(
    database: Rows, valkey: redis.Redis, services: Services, *, with_request_counters: bool = True
) -> str:
    """Every row of every table and every value in Redis, decrypted, as one text.

    with_request_counters: a request is counted in Redis after its response.
    """
    tables = database.execute("select tablename from pg_tables where schemaname = 'public'")
    texts = [
        str(row["line"])
        for table in tables.fetchall()
        for row in database.execute(
            f"select t::text as line from public.{table['tablename']} as t".encode()
        )
    ]
    for key in map(str, valkey.keys("*")):
        if key.startswith("metrics:") and not with_request_counters:
            continue
        texts.append(key)
        texts += [_decrypted(services, text) for text in _redis_values(valkey, key)]
    return "\n".join(sorted(texts))


def _redis_values(valkey: redis.Redis, key: str) -> list[str]:
    kind = valkey.type(key)
    if kind == "hash":
        fields: Any = valkey.hgetall(key)
        return [*fields, *fields.values()]
    if kind == "zset":
        return [str(member) for member in valkey.zrange(key, 0, -1)]
    return [str(valkey.get(key))]


def _decrypted(services: Services, text: str) -> str:
    try:
        return services.cipher.decrypt(text)
    except DecryptionError:
        return text


def personal_data_in(text: str) -> list[str]:
    """What a text still tells about the person."""
    known = ("andi@example.com", "81234567890", "812 3456-7890", "Andi Saputra", "Barber Maju")
    return [word for word in known if word in text]


def count_rows(database: Rows, table: str) -> int:
    row: Any = database.execute(f"select count(*) as n from {table}".encode()).fetchone()
    return int(row["n"])


def erase(services: Services, subject: Subject = BY_EMAIL) -> dict[str, Any]:
    """The receipt of an erasure."""
    request_id = erasure.erase(services, subject, now(), asked_by="api")
    receipt = requests.load_receipt(services.database.run, request_id)
    assert receipt is not None
    return receipt


def lines(receipt: dict[str, Any] | None) -> dict[str, tuple[str, int]]:
    """(state, count) by store."""
    assert receipt is not None
    return {line["place"]: (line["state"], line["count"]) for line in receipt["places"]}
