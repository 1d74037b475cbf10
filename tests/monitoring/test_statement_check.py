"""The statement check: every fault is found and named, and is gone once it is repaired.

Real Postgres is altered under it, as a bad deploy alters it.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from dev.platform.pgbouncer import PgBouncer
from lib.db import Database
from lib.monitoring import statement_check
from lib.problems import DatabaseDown

type Rows = psycopg.Connection[DictRow]

pytestmark = pytest.mark.real_now

NOW = datetime.now(UTC)


class Fault(NamedTuple):
    """How the schema is broken and repaired, and what the message must contain."""

    broken: str
    repaired: str
    message_parts: tuple[str, ...]


FUNCTION = (
    "create function refuse() returns trigger language plpgsql as"
    " $$ begin {body} end $$;"
    " create trigger refuse {when} on {table} for each row execute function refuse()"
)
AWAY = "drop function refuse() cascade"


def trigger(body: str, when: str = "before insert", table: str = "leads") -> str:
    return FUNCTION.format(body=body, when=when, table=table)


STORE: dict[str, Fault] = {
    "column renamed": Fault(
        "alter table leads rename column city to town",
        "alter table leads rename column town to city",
        ('column "city" of relation "leads" does not exist', "42703"),
    ),
    "table renamed": Fault(
        "alter table outbox rename to letters",
        "alter table letters rename to outbox",
        ('relation "public.outbox" does not exist', "42P01"),
    ),
    "tombstones renamed": Fault(
        "alter table erasure_tombstones rename to gone",
        "alter table gone rename to erasure_tombstones",
        ("erasure_tombstones", "42P01"),
    ),
    "insert revoked": Fault(
        "revoke insert on leads from alfa_app",
        "grant insert on leads to alfa_app",
        ("permission denied for table leads", "42501"),
    ),
    "insert on outbox revoked": Fault(
        "revoke insert on outbox from alfa_app",
        "grant insert on outbox to alfa_app",
        ("permission denied for table outbox", "42501"),
    ),
    "select revoked": Fault(
        "revoke select on leads from alfa_app",
        "grant select on leads to alfa_app",
        ("permission denied for table leads", "42501"),
    ),
    "select on the tombstones revoked": Fault(
        "revoke select on erasure_tombstones from alfa_app",
        "grant select on erasure_tombstones to alfa_app",
        ("permission denied for table erasure_tombstones", "42501"),
    ),
    "insert into spam revoked": Fault(
        "revoke insert on spam from alfa_app",
        "grant insert on spam to alfa_app",
        ("permission denied for table spam", "42501"),
    ),
    "schema closed": Fault(
        "revoke usage on schema public from alfa_app, public",
        "grant usage on schema public to alfa_app, public",
        ("accept_lead",),
    ),
    "a column nobody fills": Fault(
        "alter table leads add column region text not null",
        "alter table leads drop column region",
        ('null value in column "region" of relation "leads"', "23502"),
    ),
    "an optional field made required": Fault(
        "alter table leads alter column message set not null",
        "alter table leads alter column message drop not null",
        ('column "message"', "23502"),
    ),
    "a check": Fault(
        "alter table leads add constraint only_few check (chair_count < 100)",
        "alter table leads drop constraint only_few",
        ("only_few", '"leads"', "23514"),
    ),
    "a check on one salon type": Fault(
        "alter table leads add constraint no_bridal check (salon_type <> 'BRIDAL')",
        "alter table leads drop constraint no_bridal",
        ("no_bridal", "23514"),
    ),
    "a check on the way it came": Fault(
        "alter table leads add constraint only_direct check (arrival = 'direct')",
        "alter table leads drop constraint only_direct",
        ("only_direct", "23514"),
    ),
    "a column too short": Fault(
        "alter table leads alter column business_name type varchar(60)",
        "alter table leads alter column business_name type text",
        ("string data right truncation", "22001"),
    ),
    "a column of another type": Fault(
        "alter table leads alter column city type integer using null",
        "alter table leads alter column city type text",
        ("invalid text representation", "accept_lead", "22P02"),
    ),
    "a unique index": Fault(
        "create unique index one_a_city on leads (salon_type)",
        "drop index one_a_city",
        ("leads",),
    ),
    "a foreign key": Fault(
        "alter table leads add constraint of_brand foreign key (city) references brands (name)",
        "alter table leads drop constraint of_brand",
        ("of_brand", "23503"),
    ),
    "a foreign key client at the commit": Fault(
        "alter table leads add constraint of_brand foreign key (city) references brands (name)"
        " deferrable initially deferred",
        "alter table leads drop constraint of_brand",
        ("of_brand", "23503"),
    ),
    "a trigger that raises": Fault(
        trigger("raise exception 'nothing for %', new.email;"), AWAY, ("refuse", "P0001")
    ),
    "a trigger that raises at the commit": Fault(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise exception 'late'; end $$;"
        " create constraint trigger refuse after insert on leads deferrable initially deferred"
        " for each row execute function refuse()",
        AWAY,
        ("refuse", "P0001"),
    ),
    "a trigger that writes into what is not there": Fault(
        trigger("insert into audit values (new.id); return new;", "after insert"),
        AWAY,
        ('relation "audit" does not exist', "refuse", "42P01"),
    ),
    "a trigger that drops the row in silence": Fault(
        trigger("return null;"), AWAY, ('table "leads"', "trigger")
    ),
    "a trigger that drops the mails in silence": Fault(
        trigger("return null;", table="outbox"), AWAY, ('table "outbox"', "trigger")
    ),
    "a trigger that raises on outbox": Fault(
        trigger("raise exception 'no';", table="outbox"), AWAY, ("refuse", "P0001")
    ),
    "a trigger that takes too long": Fault(
        trigger("perform pg_sleep(5); return new;"), AWAY, ("takes too long", "57014")
    ),
    "no policy on leads": Fault(
        "drop policy alfa_app_all on leads",
        "create policy alfa_app_all on leads to alfa_app using (true) with check (true)",
        ('row level security hides every row of table "leads"',),
    ),
    "no policy on outbox": Fault(
        "drop policy alfa_app_all on outbox",
        "create policy alfa_app_all on outbox to alfa_app using (true) with check (true)",
        ('table "outbox"',),
    ),
    "no policy on spam": Fault(
        "drop policy alfa_app_all on spam",
        "create policy alfa_app_all on spam to alfa_app using (true) with check (true)",
        ('row-level security policy for table "spam"', "42501"),
    ),
    "no policy on the tombstones": Fault(
        "drop policy alfa_app_all on erasure_tombstones",
        "create policy alfa_app_all on erasure_tombstones to alfa_app using (true)"
        " with check (true)",
        ('table "erasure_tombstones"',),
    ),
    "a policy that lets nothing in": Fault(
        "create policy nothing on leads as restrictive to alfa_app with check (false)",
        "drop policy nothing on leads",
        ("leads",),
    ),
    "a rule": Fault(
        "create rule nowhere as on insert to leads do instead nothing",
        "drop rule nowhere on leads",
        ("rule", "accept_lead", "P0002"),
    ),
    "a sequence without usage": Fault(
        "create sequence lead_numbers;"
        " alter table leads add column number bigint default nextval('lead_numbers')",
        "alter table leads drop column number; drop sequence lead_numbers",
        ("permission denied for sequence lead_numbers", "42501"),
    ),
    "a read-only role": Fault(
        "alter role alfa_api_a set default_transaction_read_only = on",
        "alter role alfa_api_a reset default_transaction_read_only",
        ("read-only", "25006"),
    ),
    "a role that looks elsewhere": Fault(
        "alter role alfa_api_a set search_path = extensions",
        "alter role alfa_api_a reset search_path",
        ("accept_lead", "does not exist", "42883"),
    ),
    "clients renamed": Fault(
        "alter table lead_clients rename to gone",
        "alter table gone rename to lead_clients",
        ("lead_clients", "42P01"),
    ),
    "the right to count clients revoked": Fault(
        "revoke update on lead_clients from alfa_app",
        "grant update on lead_clients to alfa_app",
        ("lead_clients", "42501"),
    ),
    "a column of outbox renamed": Fault(
        "alter table outbox rename column uncertain to unsure",
        "alter table outbox rename column unsure to uncertain",
        ('column "uncertain" of relation "outbox" does not exist', "42703"),
    ),
}

OUTBOX: dict[str, Fault] = {
    "update revoked": Fault(
        "revoke update on outbox from alfa_app",
        "grant update on outbox to alfa_app",
        ("permission denied for table outbox", "42501"),
    ),
    "a column only the delivery writes": Fault(
        "alter table outbox rename column provider_id to message_id",
        "alter table outbox rename column message_id to provider_id",
        ("provider_id", "42703"),
    ),
    "a column only a dead letter needs": Fault(
        "alter table outbox rename column last_error to last_fault",
        "alter table outbox rename column last_fault to last_error",
        ("last_error", "42703"),
    ),
    "a trigger that raises": Fault(
        trigger("raise exception 'no';", "before update", "outbox"), AWAY, ("refuse", "P0001")
    ),
    "a trigger that undoes in silence": Fault(
        trigger("return null;", "before update", "outbox"), AWAY, ('table "outbox"',)
    ),
    "a check on what is sent": Fault(
        "alter table outbox add constraint never_sent check (provider_id is null)",
        "alter table outbox drop constraint never_sent",
        ("never_sent", "23514"),
    ),
    "a policy that lets nobody update": Fault(
        "alter policy alfa_app_all on outbox to postgres;"
        " create policy reads on outbox for select to alfa_app using (true);"
        " create policy adds on outbox for insert to alfa_app with check (true)",
        "drop policy reads on outbox; drop policy adds on outbox;"
        " alter policy alfa_app_all on outbox to alfa_app",
        ('row level security hides every row of table "outbox" from update',),
    ),
    "the journal's mark": Fault(
        "alter table leads rename column journaled to copied",
        "alter table leads rename column copied to journaled",
        ("journaled", "42703"),
    ),
}

PRODUCTS: dict[str, Fault] = {
    "a column dropped": Fault(
        "alter table products rename column brand_key to brand_code",
        "alter table products rename column brand_code to brand_key",
        ("brand_key", "42703"),
    ),
    "select revoked": Fault(
        "revoke select on products from alfa_app",
        "grant select on products to alfa_app",
        ("permission denied for table products", "42501"),
    ),
    "labels closed": Fault(
        "revoke select on brands from alfa_app",
        "grant select on brands to alfa_app",
        ("permission denied for table brands", "42501"),
    ),
    "the search's function renamed": Fault(
        "alter function product_query rename to asked",
        "alter function asked rename to product_query",
        ("product_query", "42883"),
    ),
    "no policy": Fault(
        "drop policy alfa_app_all on products",
        "create policy alfa_app_all on products to alfa_app using (true) with check (true)",
        ('row level security hides every row of table "products"',),
    ),
    "a policy that hides": Fault(
        "create policy none on products as restrictive for select to alfa_app using (false)",
        "drop policy none on products",
        ('table "products"',),
    ),
}


@pytest.fixture
def client(platform: Platform, database: Rows) -> Iterator[Database]:
    with closing(Database(platform.database_url)) as client:
        yield client


def store_fault(database: Database) -> str | None:
    return statement_check.store_fault(database.run, datetime.now(UTC))


def fault_while_broken(
    platform: Platform, admin: Rows, fault: Fault, check: Callable[[Database], str | None]
) -> str:
    admin.execute(fault.broken.encode())
    try:
        with closing(Database(platform.database_url)) as fresh:
            message = check(fresh)
    finally:
        admin.execute(fault.repaired.encode())
    assert message is not None, "nothing was found"
    for part in fault.message_parts:
        assert part in message, message
    with closing(Database(platform.database_url)) as fresh:
        assert check(fresh) is None
    return message


def test_a_sound_database_passes_every_check(
    client: Database,
) -> None:
    assert store_fault(client) is None
    assert statement_check.find_fault(client.run, "outbox_refused", NOW) is None
    assert statement_check.find_fault(client.run, "products_refused", NOW) is None


@pytest.mark.parametrize("name", STORE)
def test_what_would_refuse_a_lead_is_named(platform: Platform, database: Rows, name: str) -> None:
    message = fault_while_broken(platform, database, STORE[name], store_fault)
    for value in ("Rehearsal", "resend.dev", "xxx", "0000", "192.0.2"):
        assert value not in message, message


@pytest.mark.parametrize("name", OUTBOX)
def test_what_would_keep_mails_from_being_sent_is_named(
    platform: Platform, database: Rows, name: str
) -> None:
    def check(fresh: Database) -> str | None:
        return statement_check.find_fault(fresh.run, "outbox_refused", NOW)

    fault_while_broken(platform, database, OUTBOX[name], check)


@pytest.mark.parametrize("name", PRODUCTS)
def test_what_would_hide_the_catalogue_is_named(
    platform: Platform, database: Rows, name: str
) -> None:
    brand = "insert into brands (name) values ('Merek')"
    database.execute(brand)
    database.execute(
        "insert into products (slug, name, brand, audience, categories, summary_id)"
        " values ('satu', 'Satu', 'Merek', '{SALON}', '{hair}', 'Satu')"
    )
    fault_while_broken(
        platform,
        database,
        PRODUCTS[name],
        lambda fresh: statement_check.find_fault(fresh.run, "products_refused", NOW),
    )


def test_a_locked_table_is_named_as_locked(
    platform: Platform, database: Rows, client: Database
) -> None:
    with psycopg.connect(platform.admin_database_url) as locker:
        locker.execute("lock table leads")
        message = store_fault(client)
    assert message is not None
    assert "locked" in message
    assert "55P03" in message
    assert store_fault(client) is None


def test_an_unreachable_database_is_down_and_no_fault_of_a_statement(client: Database) -> None:
    with (
        closing(Database("postgresql://nobody@127.0.0.1:1/alfa")) as gone,
        pytest.raises(DatabaseDown),
    ):
        store_fault(gone)


def test_a_session_that_began_before_the_role_was_made_read_only_sees_it_too(
    database: Rows, client: Database
) -> None:
    assert store_fault(client) is None
    fault = STORE["a read-only role"]
    database.execute(fault.broken.encode())
    try:
        message = store_fault(client)
    finally:
        database.execute(fault.repaired.encode())
    assert message is not None
    assert "read-only" in message


def test_a_database_made_read_only_is_found_whoever_logs_in(
    database: Rows, client: Database
) -> None:
    database.execute("alter database alfa set default_transaction_read_only = on")
    try:
        assert "25006" in (store_fault(client) or "")
    finally:
        database.execute("alter database alfa reset default_transaction_read_only")
    assert store_fault(client) is None


TRACES = """
select (select count(*) from leads) + (select count(*) from outbox) + (select count(*) from spam)
  + (select count(*) from erasure_remains) as n
"""


def test_it_leaves_no_rows_and_no_time_limits_behind(
    platform: Platform, database: Rows, client: Database
) -> None:
    database.execute("create table audit (id uuid)")
    database.execute("grant insert on audit to alfa_app")
    noted = trigger("insert into audit values (new.id); return new;", "after insert")
    database.execute(noted.encode())
    try:
        for _ in range(2):
            assert store_fault(client) is None
            assert statement_check.find_fault(client.run, "outbox_refused", NOW) is None
        assert database.execute("select count(*) as n from audit").fetchone() == {"n": 0}
    finally:
        database.execute(AWAY)
        database.execute("drop table audit")
    assert database.execute(TRACES).fetchone() == {"n": 0}
    assert platform.resend.received() == []

    def limits(connection: psycopg.Connection[Any]) -> Any:
        return connection.execute("show lock_timeout").fetchone()

    assert client.run(limits) == ("0",)


def test_mails_that_are_due_are_not_touched(database: Rows, client: Database) -> None:
    database.execute(
        "insert into leads (id, ref, created_at, business_name, contact_name, phone_whatsapp, city,"
        " salon_type, locale, consent_at, consent_version, consent_locale, identity, same_until,"
        " body_sha256) values (gen_random_uuid(), 'ALFA-22222', now(), 'A', 'B', '+6281234567890',"
        " 'C', 'SALON', 'id', now(), '1', 'id', '', now(), '')"
    )
    database.execute(
        "insert into outbox (lead_id, kind, sender, recipients, subject, body_text, body_html,"
        " created_at, next_attempt_at) select id, 'sales', 'a@b.id', '{a@b.id}', 's', 't', 'h',"
        " now(), now() from leads"
    )
    before = database.execute("select o.*, o.xmin::text as version from outbox as o").fetchall()
    assert statement_check.find_fault(client.run, "outbox_refused", datetime.now(UTC)) is None
    after = database.execute("select o.*, o.xmin::text as version from outbox as o").fetchall()
    assert before == after


def test_many_at_once_do_not_disturb_each_other_nor_leads(
    platform: Platform, database: Rows, client: Database
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(6) as pool:
        message = list(pool.map(lambda _: store_fault(client), range(18)))
    assert message == [None] * 18


def test_it_works_through_a_transaction_pooler(platform: Platform, database: Rows) -> None:
    pooler = PgBouncer(platform.database_url)
    try:
        with closing(Database(pooler.dsn)) as fresh:
            assert store_fault(fresh) is None
            assert statement_check.find_fault(fresh.run, "outbox_refused", NOW) is None
            assert statement_check.find_fault(fresh.run, "products_refused", NOW) is None
            fault = STORE["column renamed"]
            database.execute(fault.broken.encode())
            message = store_fault(fresh)
            database.execute(fault.repaired.encode())
            assert message == (
                'column "city" of relation "leads" does not exist, in function accept_lead (42703)'
            )
            assert store_fault(fresh) is None
    finally:
        pooler.close()
