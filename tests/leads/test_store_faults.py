"""An accepted lead is stored whatever Postgres answers: schema faults, breakers, dead letters."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.build import source_tree
from dev.edge.runtime import Function
from dev.faults.fault_proxy import FaultProxy
from dev.faults.test_site import SiteUnderTest
from dev.platform.local_platform import APP_ROLE, Platform
from ops import cli
from tests.conftest import BROWSER, FORM, LEAD, ROOT, delivered, eventually

type Rows = psycopg.Connection[DictRow]


RAISE = """
create function refuse_lead() returns trigger language plpgsql as
$$ begin raise exception 'not today'; end $$;
create trigger refuse_lead before insert on {table} for each row execute function refuse_lead()
"""
RAISE_NO_MORE = "drop trigger refuse_lead on {table}; drop function refuse_lead()"

# What is done to the schema, and what undoes it.
FAULTS = {
    "a renamed column": (
        "alter table leads rename column city to town",
        "alter table leads rename column town to city",
    ),
    "no right to insert": (
        "revoke insert on leads from alfa_app",
        "grant insert on leads to alfa_app",
    ),
    "no right to write mails": (
        "revoke insert on outbox from alfa_app",
        "grant insert on outbox to alfa_app",
    ),
    "no right to the schema": (
        "revoke usage on schema public from alfa_app, public",
        "grant usage on schema public to alfa_app, public",
    ),
    "a column that must be given": (
        "alter table leads add column region text not null default 'x';"
        " alter table leads alter column region drop default",
        "alter table leads drop column region",
    ),
    "a check that refuses": (
        "alter table leads add constraint no_barbers check (salon_type <> 'BARBER') not valid",
        "alter table leads drop constraint no_barbers",
    ),
    "another type": (
        "alter table leads alter column specialization type integer using null",
        "alter table leads alter column specialization type text using null",
    ),
    "a table that is gone": (
        "alter table outbox rename to outbox_old",
        "alter table outbox_old rename to outbox",
    ),
    "a constraint that is gone": (
        "alter table erasure_tombstones rename column mark to marked",
        "alter table erasure_tombstones rename column marked to mark",
    ),
    "no right to the function": (
        "alter function accept_lead rename to accept_lead_old",
        "alter function accept_lead_old rename to accept_lead",
    ),
    "a trigger that fails": (RAISE.format(table="leads"), RAISE_NO_MORE.format(table="leads")),
    "a trigger on the mails": (RAISE.format(table="outbox"), RAISE_NO_MORE.format(table="outbox")),
    "no policy": (
        "drop policy alfa_app_all on leads",
        "create policy alfa_app_all on leads to alfa_app using (true) with check (true)",
    ),
    "a read-only role": (
        f"alter role {APP_ROLE} set default_transaction_read_only = on",
        f"alter role {APP_ROLE} reset default_transaction_read_only",
    ),
}


@pytest.fixture
def broken(request: pytest.FixtureRequest, platform: Platform, database: Rows) -> Iterator[None]:
    """The schema with a fault, repaired after the test."""
    damage, repair = FAULTS[request.param]
    database.execute(damage.encode())
    try:
        yield
    finally:
        with contextlib.suppress(psycopg.Error):  # the test repaired it
            database.execute(repair.encode())


def post(url: str, lead: dict[str, Any] = LEAD, key: str | None = None) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return httpx.post(f"{url}/api/leads", json=lead, headers=headers, timeout=20)


def stored(database: Rows) -> list[DictRow]:
    return database.execute("select * from leads order by created_at").fetchall()


# ---------------------------------------------------------------- schema faults


@pytest.mark.parametrize("broken", FAULTS, indirect=True)
def test_a_lead_that_postgres_refuses_is_queued_and_stored_after_the_repair(
    request: pytest.FixtureRequest,
    platform: Platform,
    database: Rows,
    valkey: redis.Redis,
    broken: None,
) -> None:
    # A process of its own: what a connection was given at its start stays with it.
    with platform.function("api/leads.py") as function:
        answers = [post(function.url, {**LEAD, "message": str(n)}) for n in range(2)]
        page = httpx.post(f"{function.url}/api/leads", data=FORM, headers=BROWSER, timeout=20)
    assert [answer.status_code for answer in answers] == [202, 202]
    assert all(answer.json()["queued"] for answer in answers)
    assert page.status_code == 303
    assert valkey.hlen("queue") == 3
    with platform.function("api/cron/deliver.py") as cron:
        status, drained = drain(platform, cron)
        assert status in (500, 503)
        assert status == 503 or drained["queue"]["fault"]
    assert (valkey.hlen("queue"), valkey.hlen("queue:dead")) == (3, 0), "they wait"
    database.execute(FAULTS[request.node.callspec.params["broken"]][1].encode())
    with platform.function("api/cron/deliver.py") as cron:
        assert drain(platform, cron)[1]["queue"] == {"stored": 3, "dead": 0, "left": 0}
    ids = {answer.json()["id"] for answer in answers}
    assert ids < {str(row["id"]) for row in stored(database)}
    assert valkey.hlen("queue") == 0
    assert len(delivered(platform)) == 6


@pytest.mark.parametrize(
    ("damage", "repair"),
    [
        ("alter table lead_clients rename to gone", "alter table gone rename to lead_clients"),
        (
            "revoke insert, update on lead_clients from alfa_app",
            "grant insert, update on lead_clients to alfa_app",
        ),
        ("revoke select on leads from alfa_app", "grant select on leads to alfa_app"),
    ],
    ids=["no table of clients", "no right to count", "no right to read"],
)
def test_a_lead_that_only_the_limits_keep_out_is_queued_and_stored_meanwhile(
    platform: Platform, database: Rows, damage: str, repair: str
) -> None:
    database.execute(damage.encode())
    try:
        with platform.function("api/leads.py") as function:
            assert post(function.url).status_code == 202
        with platform.function("api/cron/deliver.py") as cron:
            drain(platform, cron)
        assert len(stored(database)) == 1
    finally:
        database.execute(repair.encode())


def drain(platform: Platform, cron: Function) -> tuple[int, dict[str, Any]]:
    token = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    answer = httpx.get(f"{cron.url}/api/cron/deliver", headers=token, timeout=60)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("broken", ["a renamed column", "a trigger that fails"], indirect=True)
def test_with_redis_down_too_the_mail_carries_it_and_with_that_down_it_is_refused(
    platform: Platform, database: Rows, broken: None
) -> None:
    with platform.function("api/leads.py", UPSTASH_REDIS_REST_URL="http://127.0.0.1:1") as function:
        assert post(function.url).status_code == 202
        assert "BEGIN ALFA LEAD" in delivered(platform)[0]["text"]
        assert function.wait_idle(10)
        platform.resend.switch(mode="fail", status=500)
        refused = post(function.url, {**LEAD, "message": "Lagi"})
        assert (refused.status_code, refused.json()["error"]) == (503, "persistence_failed")
        platform.resend.ok()
        assert post(function.url, {**LEAD, "message": "Lagi"}).status_code == 202


def test_the_one_lead_that_postgres_refuses_becomes_a_dead_letter_and_blocks_no_other(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    database.execute(
        "create function refuse_lead() returns trigger language plpgsql as $$ begin"
        " if new.message = 'racun' then raise exception 'not this one'; end if; return new; end $$;"
        " create trigger refuse_lead before insert on leads"
        " for each row execute function refuse_lead()"
    )
    try:
        for message in ("satu", "racun", "dua"):
            answer = post(platform.url, {**LEAD, "message": message})
            assert answer.status_code == (202 if message == "racun" else 200)
            if message == "racun":
                poison = answer.json()["id"]
        with platform.function("api/cron/deliver.py") as cron:
            assert drain(platform, cron)[1]["queue"]["left"] == 0
        # By that drain, or by the round after the last answer.
        assert valkey.hkeys("queue:dead") == [poison]
    finally:
        database.execute(RAISE_NO_MORE.format(table="leads").encode())


def test_a_lead_whose_statement_never_ends_is_a_dead_letter_after_five_rounds(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    database.execute(
        "create function refuse_lead() returns trigger language plpgsql as $$ begin"
        " if new.message = 'racun' then perform pg_sleep(30); end if; return new; end $$;"
        " create trigger refuse_lead before insert on leads"
        " for each row execute function refuse_lead()"
    )
    try:
        with platform.function("api/leads.py") as function:
            assert post(function.url, {**LEAD, "message": "racun"}).status_code == 202
        other = platform.function("api/leads.py", DATABASE_URL="postgresql://x@127.0.0.1:1/x")
        with other as function:
            assert post(function.url, {**LEAD, "message": "dua"}).status_code == 202
        with platform.function("api/cron/deliver.py") as cron:
            drained = drain(platform, cron)[1]["queue"]
            assert (drained["dead"], drained["left"]) == (0, 1), "the other is stored"
            valkey.set("queue:tries:" + str(valkey.hkeys("queue")[0]), 4)
            assert drain(platform, cron)[1]["queue"] == {"stored": 0, "dead": 1, "left": 0}
        assert valkey.hlen("queue:dead") == 1
        assert [row["message"] for row in stored(database)] == ["dua"]
    finally:
        database.execute(RAISE_NO_MORE.format(table="leads").encode())


def test_an_instance_stores_leads_again_once_a_rule_that_swallowed_them_is_gone(
    platform: Platform, database: Rows
) -> None:
    """Its session's plan of the insert would outlive the rule."""
    with platform.function("api/leads.py") as function:
        assert post(function.url, {**LEAD, "message": "0"}).status_code == 200
        database.execute("create rule nowhere as on insert to leads do instead nothing")
        try:
            # The check after the first ends its own session; the second is not checked again.
            for message in ("1", "2"):
                assert post(function.url, {**LEAD, "message": message}).status_code == 202
                assert function.wait_idle(10)
        finally:
            database.execute("drop rule nowhere on leads")
        assert post(function.url, {**LEAD, "message": "3"}).status_code == 200


# ---------------------------------------------------------------- circuit breakers


@contextlib.contextmanager
def proxied(platform: Platform) -> Iterator[tuple[FaultProxy, FaultProxy, dict[str, str]]]:
    """Postgres and Redis behind wires that can be cut, and the variables that lead there."""
    port = psycopg.conninfo.conninfo_to_dict(platform.database_url)["port"]
    database, cache = (
        FaultProxy("127.0.0.1", int(str(port))),
        FaultProxy("127.0.0.1", platform.upstash.port),
    )
    variables = {
        "DATABASE_URL": platform.database_url.replace(f":{port}/", f":{database.port}/"),
        "UPSTASH_REDIS_REST_URL": f"http://127.0.0.1:{cache.port}",
        "LEADS_PER_MINUTE": "1000",
    }
    try:
        yield database, cache, variables
    finally:
        database.close()
        cache.close()


@pytest.mark.parametrize("mail", ["up", "down"])
def test_stores_that_were_down_moments_ago_are_asked_before_a_lead_is_left_to_a_mail_or_refused(
    platform: Platform, database: Rows, mail: str
) -> None:
    with (
        proxied(platform) as (postgres, cache, variables),
        platform.function("api/leads.py", **variables) as function,
    ):
        assert post(function.url, {**LEAD, "message": "0"}).status_code == 200
        assert function.wait_idle(10)
        postgres.switch("refuse")
        cache.switch("refuse")
        assert post(function.url, {**LEAD, "message": "1"}).status_code == 202, "by mail"
        # The probes after the answer fail as well: both breakers are open. One that found Redis
        # whole would let the queue take the lead.
        assert function.wait_idle(10)
        postgres.ok()
        cache.ok()
        if mail == "down":
            platform.resend.switch(mode="fail", status=500)
        again = post(function.url, {**LEAD, "message": "2"})
        assert again.status_code == 200
        assert "2" in {row["message"] for row in stored(database)}


def test_an_idle_instance_takes_a_lead_after_an_outage_of_both_stores(
    platform: Platform, database: Rows
) -> None:
    with (
        proxied(platform) as (postgres, cache, variables),
        platform.function("api/leads.py", **variables) as function,
    ):
        platform.resend.switch(mode="fail", status=500)
        postgres.switch("refuse")
        cache.switch("refuse")
        assert post(function.url, {**LEAD, "message": "1"}).status_code == 503
        # The probes after the answer fail as well, and the instance idles.
        assert function.wait_idle(10)
        postgres.ok()
        cache.ok()
        assert post(function.url, {**LEAD, "message": "1"}).status_code == 200


def test_an_operators_erasure_right_after_an_outage_is_done(
    platform: Platform, database: Rows
) -> None:
    with (
        proxied(platform) as (postgres, cache, variables),
        platform.function("api/leads_subject.py", **variables) as function,
    ):
        operator = {"X-Admin-Token": platform.environment["LEADS_ADMIN_TOKEN"]}

        def erase() -> int:
            address = f"{function.url}/api/leads/subject"
            answer = httpx.delete(
                address, params={"email": "a@b.example.com"}, headers=operator, timeout=20
            )
            return answer.status_code

        assert erase() == 200
        postgres.switch("refuse")
        cache.switch("refuse")
        assert erase() == 503
        assert function.wait_idle(10)
        postgres.ok()
        cache.ok()
        assert erase() == 200


def test_a_lead_is_accepted_again_once_no_request_of_it_runs(
    platform: Platform, database: Rows
) -> None:
    """After a refusal, after a killed instance, and right after an answer."""
    with (
        proxied(platform) as (postgres, cache, variables),
        platform.function("api/leads.py", **variables) as function,
    ):
        platform.resend.switch(mode="fail", status=500)
        assert post(function.url, {**LEAD, "message": "0"}).status_code == 200
        postgres.switch("refuse")
        cache.switch("refuse")
        assert post(function.url, key="k-1").status_code == 503
        assert function.wait_idle(10)
        postgres.ok()
        cache.ok()
        first = post(function.url, key="k-1")
        assert first.status_code == 200
        assert post(function.url, key="k-1").json() == first.json()


# ---------------------------------------------------------------- a form keeps what was typed


def test_an_unexpected_error_gives_the_form_back_with_the_submitted_values(
    platform: Platform, database: Rows, tmp_path: Path
) -> None:
    copied = source_tree.copy(ROOT, tmp_path / "copy")
    module = copied / "lib" / "leads" / "submission.py"
    module.write_text(module.read_text() + "\n\ndef parse(_values):\n    raise ZeroDivisionError\n")
    with SiteUnderTest(platform, copied) as site:
        page = httpx.post(f"{site.url}/api/leads", data=FORM, headers=BROWSER, timeout=20)
        plain = post(site.url)
    assert (page.status_code, plain.status_code) == (500, 500)
    assert page.headers["Content-Type"].startswith("text/html")
    assert 'value="Barber Maju Jaya"' in page.text
    assert "Terjadi kesalahan di pihak kami" in page.text
    assert "ZeroDivision" not in page.text
    assert plain.json()["error"] == "internal_error"


# ---------------------------------------------------------------- corrections of a lead


def test_a_corrected_resubmission_reaches_sales_once_under_the_same_reference(
    platform: Platform, database: Rows
) -> None:
    first = post(platform.url).json()
    corrected = {**LEAD, "email": "andi@salon.example.com", "city": "Binjai", "chair_count": None}
    for _ in range(3):
        again = post(platform.url, corrected)
        assert (again.status_code, again.json()) == (200, first)
    [row] = stored(database)
    assert (row["email"], row["city"], row["chair_count"]) == (
        "andi@salon.example.com",
        "Binjai",
        LEAD["chair_count"],
    )
    eventually(lambda: len(delivered(platform)) == 3)
    mails = delivered(platform)
    assert sorted(mail["subject"].split(":")[0] for mail in mails)[:2] == [
        "Corrected Lead",
        f"Kami sudah menerima data Anda ({first['ref']})",
    ]
    [mail] = [mail for mail in mails if mail["subject"].startswith("Corrected")]
    assert mail["to"] == ["sales@alfabeauty.test"]
    assert first["ref"] in mail["subject"]
    assert "Changed: City: Medan -> Binjai" in mail["text"]
    assert "Changed: E-mail: andi@example.com -> andi@salon.example.com" in mail["text"]
    assert "Chairs: 6" in mail["text"], "what was left empty stays"


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize("keys", [("k-1", None), (None, "k-1"), ('"k-1"', "k-1")])
def test_the_same_words_with_and_without_a_key_are_one_lead(
    platform: Platform,
    database: Rows,
    valkey: redis.Redis,
    keys: tuple[str | None, str | None],
    flushed: bool,
) -> None:
    first = post(platform.url, LEAD, key=keys[0]).json()
    eventually(lambda: valkey.keys("seen:*"))
    eventually(platform.is_idle)
    if flushed:
        valkey.flushall()
    assert post(platform.url, LEAD, key=keys[1]).json() == first
    eventually(platform.is_idle)
    valkey.flushall()
    assert post(platform.url, LEAD, key=keys[1]).json() == first
    assert post(platform.url, LEAD, key=keys[0]).json() == first
    assert len(stored(database)) == 1
    other = post(platform.url, {**LEAD, "city": "Binjai"}, key="k-1")
    assert other.status_code == 422
    eventually(lambda: len(delivered(platform)) == 2)


def test_two_keys_are_two_leads_of_the_same_words(platform: Platform, database: Rows) -> None:
    answers = [post(platform.url, LEAD, key=f"k-{n}").json() for n in range(2)]
    assert answers[0]["id"] != answers[1]["id"]
    assert len(stored(database)) == 2


def test_a_correction_while_postgres_is_down_reaches_sales_too(
    platform: Platform, database: Rows, valkey: redis.Redis
) -> None:
    nowhere = {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}
    with platform.function("api/leads.py", **nowhere) as function:
        first = post(function.url)
        eventually(lambda: valkey.keys("seen:*"))
        again = post(function.url, {**LEAD, "city": "Binjai"})
        assert (again.status_code, again.json()["ref"]) == (202, first.json()["ref"])
    assert valkey.hlen("queue") == 2
    assert json.loads(platform.cron("deliver").text)["queue"]["stored"] == 2
    [row] = stored(database)
    assert row["city"] == "Binjai"
    subjects = {mail["subject"] for mail in delivered(platform)}
    # The later one may be stored first: then it is the lead, and the older one changes nothing.
    assert any("Binjai" in mail["text"] for mail in delivered(platform)), subjects


# ---------------------------------------------------------------- leads that wait for a person


def test_leads_of_a_flood_are_listed_released_and_dismissed(
    platform: Platform, database: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    with platform.function("api/leads.py", LEADS_CEILING_PER_MINUTE="1") as function:
        for number in range(5):
            assert post(function.url, {**LEAD, "message": str(number)}).status_code == 200
    refs = [row["ref"] for row in stored(database) if row["review"] == "flood"][:3]
    assert len(refs) == 3
    database.execute("delete from outbox")
    database.execute("update leads set review = 'dismissed' where ref <> all(%s)", [refs])
    platform.resend.forget()
    assert cli.main(["review", "list"], platform.environment) == 1
    listed = capsys.readouterr().out
    assert all(ref in listed for ref in refs)
    assert cli.main(["review", "release", "--yes", refs[0], refs[1]], platform.environment) == 0
    assert cli.main(["review", "release", "--yes", refs[0]], platform.environment) == 1, "once"
    assert cli.main(["review", "dismiss", "--yes", refs[2]], platform.environment) == 0
    assert cli.main(["review", "list"], platform.environment) == 0
    assert "no lead waits" in capsys.readouterr().out
    platform.cron("deliver")
    subjects = [mail["subject"] for mail in delivered(platform)]
    assert len(subjects) == 4
    assert subjects.count("New Lead: Barber Maju Jaya") == 2
