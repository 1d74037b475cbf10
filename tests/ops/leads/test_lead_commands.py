"""Operators' commands: what each finds, does, says, and exits with."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.edge.runtime import Function
from dev.platform.local_platform import Platform
from lib.encryption import SecretBoxCipher
from lib.leads import canary, emails, repository, submission
from lib.leads.lead import Lead, Recipients
from lib.settings import encryption_keys
from ops import cli
from tests.conftest import LEAD, ROOT, delivered, eventually

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

NO_DATABASE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa"}
NO_REDIS = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
SALES = ["sales@alfabeauty.test"]

COMMANDS = [
    ["leads", "import"],
    ["leads", "list"],
    ["leads", "search"],
    ["leads", "show"],
    ["leads", "mailed"],
    ["leads", "dismiss"],
    *(["leads", verb] for verb in ("waiting", "done", "counts", "export")),
    ["subject", "show"],
    ["subject", "erase"],
    ["subject", "register"],
    ["subject", "requests"],
    ["subject", "receipt"],
    ["subject", "done"],
    ["subject", "tombstones"],
    ["subject", "replay"],
    ["retention", "ages"],
    ["retention", "prune"],
    ["retention", "columns"],
    ["check"],
    ["spam", "list"],
    ["spam", "show"],
    ["spam", "restore"],
    ["dead", "list"],
    ["dead", "rerun"],
    ["dead", "told"],
    ["ledger"],
    ["canary"],
    ["catalogue", "import"],
    ["catalogue", "export"],
    ["catalogue", "purge"],
    ["backup"],
    ["backups"],
    ["restore-drill"],
    ["restore"],
    ["journal", "replay"],
    ["evidence"],
    ["rollback"],
    ["keys"],
    ["rotate"],
    ["monitors", "plan"],
    ["monitors", "apply"],
    ["migrate"],
    *(["incident", verb] for verb in ("list", "show", "ack", "note", "step", "rca")),
    ["postmortem"],
    ["alert-drill"],
    *(["maintenance", verb] for verb in ("on", "off", "status")),
    ["metrics"],
    ["watch"],
]


@pytest.fixture(scope="module")
def without_database(platform: Platform) -> Iterator[Function]:
    with platform.function("api/leads.py", **NO_DATABASE) as function:
        yield function


@pytest.fixture(scope="module")
def with_mail_alone(platform: Platform) -> Iterator[Function]:
    with platform.function("api/leads.py", **NO_DATABASE, **NO_REDIS) as function:
        yield function


def post(at: Platform | Function, number: int = 0, **fields: object) -> dict[str, Any]:
    lead = {**LEAD, "message": f"Nomor {number}", "email": "", **fields}
    answer = httpx.post(f"{at.url}/api/leads", json=lead, timeout=20)
    assert answer.status_code in (200, 202), answer.text
    taken: dict[str, Any] = answer.json()
    return taken


def rows(database: Rows, table: str = "leads") -> list[DictRow]:
    return database.execute(f"select * from {table}".encode()).fetchall()


def mails_to(platform: Platform, recipients: list[str]) -> list[dict[str, Any]]:
    return [mail for mail in delivered(platform) if mail["to"] == recipients]


def ops(platform: Platform, *arguments: str, **changed: str) -> int:
    return cli.main(list(arguments), {**platform.environment, **changed})


# ------------------------------------------------------------------ the ledger


def let_time_pass(database: Rows, valkey: redis.Redis) -> None:
    """Ten minutes, for every lead: past the ledger's time to settle."""
    eventually(lambda: valkey.zcard("accepted") or not rows(database))
    for lead_id in valkey.zrange("accepted", 0, -1):
        valkey.zadd("accepted", {str(lead_id): time.time() - 600})
    database.execute(
        "update leads set created_at = created_at - interval '10 min',"
        " same_until = same_until - interval '10 min'"
    )


def counted(platform: Platform, printed: Printed) -> tuple[int, dict[str, Any]]:
    """The command's exit status, and its figures."""
    printed.readouterr()
    status = ops(platform, "ledger", "--json")
    return status, json.loads(printed.readouterr().out)


def sent(database: Rows) -> bool:
    """Every mail is sent."""
    return all(row["sent_at"] for row in rows(database, "outbox"))


def test_the_reconciliation_balances_when_every_accepted_lead_is_stored_and_notified(
    platform: Platform, database: Rows, valkey: redis.Redis, capsys: Printed
) -> None:
    for number in range(3):
        post(platform, number)
    eventually(lambda: valkey.zcard("accepted") == 3 and sent(database))
    status, report = counted(platform, capsys)
    assert (status, report["accepted"], report["stored"]) == (0, 0, 0), "too new to be judged"
    let_time_pass(database, valkey)
    status, report = counted(platform, capsys)
    assert status == 0
    assert (report["accepted"], report["stored"], report["told"]) == (3, 3, 3)
    assert (report["missing"], report["untold"], report["queued"], report["set_aside"]) == (
        [],
        [],
        0,
        0,
    )
    assert ops(platform, "ledger") == 0
    assert "\nbalanced" in capsys.readouterr().out


def test_a_lead_missing_from_the_table_is_named(
    platform: Platform, database: Rows, valkey: redis.Redis, capsys: Printed
) -> None:
    lost, stored = post(platform, 1)["id"], post(platform, 2)["id"]
    eventually(lambda: valkey.zcard("accepted") == 2 and sent(database))
    let_time_pass(database, valkey)
    database.execute("delete from leads where id = %s", [lost])
    status, report = counted(platform, capsys)
    assert (status, report["missing"]) == (1, [lost])
    assert (report["accepted"], report["stored"], report["told"]) == (2, 1, 1)
    assert ops(platform, "ledger") == 1
    shown = capsys.readouterr().out
    assert "NOT BALANCED" in shown
    assert lost in shown
    assert stored not in shown


def test_a_lead_without_a_sent_mail_to_sales_is_named(
    platform: Platform, database: Rows, valkey: redis.Redis, capsys: Printed
) -> None:
    platform.resend.switch(mode="fail", status=500)
    untold = post(platform)["id"]
    eventually(lambda: rows(database, "outbox")[0]["last_error"] and valkey.zcard("accepted"))
    let_time_pass(database, valkey)
    status, report = counted(platform, capsys)
    assert (status, report["untold"]) == (1, [untold])
    assert (report["accepted"], report["stored"], report["told"]) == (1, 1, 0)
    platform.resend.ok()
    database.execute("update outbox set next_attempt_at = now(), leased_until = null")
    platform.cron("deliver")
    assert counted(platform, capsys)[0] == 0


def test_a_lead_that_waits_in_the_queue_is_on_its_way_and_not_missing(
    platform: Platform,
    database: Rows,
    valkey: redis.Redis,
    without_database: Function,
    capsys: Printed,
) -> None:
    post(without_database)
    eventually(lambda: valkey.zcard("accepted"))
    let_time_pass(database, valkey)
    status, report = counted(platform, capsys)
    assert (status, report["accepted"], report["queued"], report["missing"]) == (0, 1, 1, [])


def test_spam_and_canaries_are_left_out_of_the_reconciliation(
    platform: Platform, database: Rows, valkey: redis.Redis, capsys: Printed
) -> None:
    post(platform, company="SEO Inc")
    assert ops(platform, "canary") == 0
    let_time_pass(database, valkey)
    status, report = counted(platform, capsys)
    assert (status, report["accepted"], report["stored"]) == (0, 0, 0)


# ------------------------------------------------------------------ what was given up


def test_dead_letters_are_listed_and_sent_once_they_are_run_again(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    assert ops(platform, "dead", "list") == 0
    platform.resend.switch(mode="fail", status=422)
    first, second = post(platform, 1), post(platform, 2)
    eventually(lambda: all(row["dead_at"] for row in rows(database, "outbox")))
    platform.resend.ok()
    capsys.readouterr()
    assert ops(platform, "dead", "list") == 1
    listed = capsys.readouterr().out
    for shown in (first["ref"], second["ref"], "sales", "validation_error"):
        assert shown in listed
    platform.cron("deliver")
    assert delivered(platform) == [], "what is dead stays dead until a person says"

    mail = {str(row["lead_id"]): str(row["id"]) for row in rows(database, "outbox")}
    assert ops(platform, "dead", "rerun", "--yes", mail[first["id"]]) == 0
    platform.cron("deliver")
    assert len(delivered(platform)) == 1
    assert ops(platform, "dead", "rerun", "--yes", "--all") == 0
    platform.cron("deliver")
    assert len(delivered(platform)) == 2
    assert ops(platform, "dead", "list") == 0


def test_a_mail_to_a_wrong_mailbox_of_ours_is_sent_to_the_right_one_when_run_again(
    platform: Platform, database: Rows
) -> None:
    post(platform)
    eventually(lambda: sent(database))
    database.execute(
        "update outbox set sent_at = null, dead_at = now(), last_error = 'validation_error',"
        " recipients = '{sales}', sender = 'x'"
    )
    platform.resend.forget()
    assert ops(platform, "dead", "rerun", "--yes", "--all") == 0
    platform.cron("deliver")
    assert len(mails_to(platform, SALES)) == 1


def test_a_dead_letter_that_reached_sales_otherwise_is_marked_as_notified(
    platform: Platform, database: Rows
) -> None:
    platform.resend.switch(mode="fail", status=422)
    post(platform)
    [row] = eventually(lambda: [r for r in rows(database, "outbox") if r["dead_at"]])
    assert ops(platform, "dead", "list") == 1
    assert ops(platform, "dead", "told", "--yes", str(row["id"])) == 0
    assert ops(platform, "dead", "list") == 0
    assert ops(platform, "dead", "told", "--yes", str(uuid4())) == 1
    assert sent(database)


def test_an_acknowledgement_to_no_address_is_shown_and_is_no_fault(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    platform.resend.switch(
        "fail", status=422, name="validation_error", message="Invalid `to` field.",
        match="'to': ['andi@example",
    )  # fmt: skip
    lead = post(platform, email="Andi@Example.com")
    eventually(lambda: any(r["dead_at"] for r in rows(database, "outbox")), 15)
    capsys.readouterr()
    assert ops(platform, "dead", "list") == 0
    assert "does not take" in capsys.readouterr().out
    assert ops(platform, "leads", "show", lead["ref"]) == 0
    assert "does not take this address" in capsys.readouterr().out
    assert ops(platform, "dead", "rerun", "--yes", "--all") == 0
    assert "0 mails will be sent" in capsys.readouterr().out


def test_an_undecryptable_lead_is_listed_and_stored_once_its_key_is_back(
    platform: Platform,
    database: Rows,
    valkey: redis.Redis,
    without_database: Function,
    capsys: Printed,
) -> None:
    lead = post(without_database)["id"]
    with platform.function("api/cron/deliver.py", LEADS_ENCRYPTION_KEY="A" * 43 + "=") as cron:
        token = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
        httpx.get(f"{cron.url}/api/cron/deliver", headers=token, timeout=30)
    assert rows(database) == []
    assert ops(platform, "dead", "list") == 1
    assert lead in capsys.readouterr().out
    let_time_pass(database, valkey)
    status, report = counted(platform, capsys)
    assert (status, report["set_aside"], report["missing"]) == (1, 1, [])
    assert ops(platform, "dead", "rerun", "--yes", "--all") == 0
    platform.cron("deliver")
    assert [str(row["id"]) for row in rows(database)] == [lead]
    assert ops(platform, "dead", "list") == 0


# ------------------------------------------------------------------ the canary


def signed(platform: Platform, now: datetime) -> tuple[bytes, dict[str, str]]:
    body = json.dumps(canary.payload(now)).encode()
    signature = canary.sign(platform.environment["CANARY_SECRET"], body, now)
    return body, {"Content-Type": "application/json", canary.HEADER: signature}


def test_a_canary_passes_every_step_and_leaves_nothing_behind(
    platform: Platform, database: Rows, valkey: redis.Redis, capsys: Printed
) -> None:
    assert ops(platform, "canary") == 0
    assert "mails sent: 2 of 2" in capsys.readouterr().out
    assert rows(database) == rows(database, "outbox") == rows(database, "spam") == []
    assert valkey.zcard("accepted") == valkey.hlen("queue") == 0
    assert valkey.keys("journal:*") == []
    assert {tuple(mail["to"]) for mail in delivered(platform)} == {("delivered@resend.dev",)}
    platform.cron("deliver")
    assert valkey.keys("journal:*") == []


def test_a_canary_without_a_valid_signature_is_refused(platform: Platform, database: Rows) -> None:
    body, headers = signed(platform, datetime.now(UTC))
    _, old = signed(platform, datetime.now(UTC) - timedelta(minutes=6))
    forged = {**headers, canary.HEADER: headers[canary.HEADER][:-1] + "x"}
    other_body = body.replace(b"Jakarta", b"Medan")
    for content, sent_headers in (
        (body, forged),
        (body, old),
        (body, {**headers, canary.HEADER: ""}),
        (body, {**headers, canary.HEADER: "soon.0"}),
        (other_body, headers),
    ):
        answer = httpx.post(f"{platform.url}/api/leads", content=content, headers=sent_headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "unauthorized")
    assert rows(database) == rows(database, "outbox") == rows(database, "spam") == []
    assert platform.resend.received() == []


def test_a_form_with_the_canarys_text_is_an_ordinary_lead(
    platform: Platform, database: Rows
) -> None:
    form = canary.payload(datetime.now(UTC))
    assert httpx.post(f"{platform.url}/api/leads", json=form).status_code == 200
    assert [row["canary"] for row in rows(database)] == [False]
    assert eventually(lambda: mails_to(platform, SALES))


def test_a_queued_canary_is_never_mailed_to_sales(
    platform: Platform,
    database: Rows,
    valkey: redis.Redis,
    without_database: Function,
) -> None:
    body, headers = signed(platform, datetime.now(UTC))
    answer = httpx.post(
        f"{without_database.url}/api/leads", content=body, headers=headers, timeout=20
    )
    assert answer.status_code == 202
    platform.cron("deliver")
    assert mails_to(platform, SALES) == []
    assert valkey.keys("journal:*") == []


def test_a_canary_that_cannot_be_sent_is_a_failure(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    assert ops(platform, "canary", "--site", "http://127.0.0.1:1") == 1
    assert "it is stopped" in capsys.readouterr().err
    assert ops(platform, "canary", CANARY_SECRET="another secret of ours") == 1
    assert "the token is refused" in capsys.readouterr().err
    assert rows(database) == []


# ------------------------------------------------------------------ importing


@pytest.fixture
def outage(platform: Platform, database: Rows, with_mail_alone: Function) -> dict[str, Any]:
    """The mail of a lead that only a mail could carry, and the lead's answer."""
    taken = post(with_mail_alone, email="Andi@Example.com")
    [mail] = mails_to(platform, SALES)
    return {**taken, "text": mail["text"], "html": mail["html"]}


def as_saved(outage: dict[str, Any], encoding: str) -> bytes:
    """The mail as a mailbox saves it."""
    mail = EmailMessage()
    mail["From"], mail["To"] = "noreply@alfabeauty.test", SALES[0]
    mail["Subject"] = "New Lead: Barber Maju Jaya"
    mail.set_content(outage["text"], cte=encoding)
    mail.add_alternative(outage["html"], subtype="html", cte=encoding)
    return mail.as_bytes()


@pytest.mark.parametrize("encoding", ["7bit", "quoted-printable", "base64"])
def test_a_saved_mail_is_imported_however_it_was_encoded(
    platform: Platform, database: Rows, tmp_path: Path, encoding: str, capsys: Printed
) -> None:
    """Of three lengths in a row, so that each way a sealed copy can end is among them."""
    vault = SecretBoxCipher(encryption_keys(platform.environment["LEADS_ENCRYPTION_KEY"]))
    written = []
    for more in range(3):
        lead = Lead.from_submission(
            submission.parse({**LEAD, "message": "Halo" + "!" * more}),
            key=None,
            locale="id",
            now=datetime.now(UTC),
            ip_address=None,
            user_agent=None,
        )
        letter = repository.render_emails(
            lead, Recipients("noreply@alfabeauty.test", tuple(SALES))
        )[0]
        mail = emails.attach_sealed_lead(
            letter, vault.encrypt(lead._replace(arrival="mail").to_json())
        )
        written.append(lead.id)
        saved = tmp_path / f"{more}.eml"
        saved.write_bytes(as_saved({"text": mail.body_text, "html": mail.body_html}, encoding))
        assert ops(platform, "leads", "import", str(saved)) == 0, capsys.readouterr().out
    assert {row["id"] for row in rows(database)} == set(written)


def test_a_copy_is_found_in_a_mailbox_a_reply_and_a_forwarded_mail(
    platform: Platform, database: Rows, outage: dict[str, Any], tmp_path: Path
) -> None:
    original = as_saved(outage, "base64")
    quoted = "".join(f"> {line}\n" for line in outage["text"].splitlines()).encode()
    whole = EmailMessage()
    whole["Subject"] = "Fwd"
    whole.set_content("See below.")
    whole.add_attachment(outage["text"].encode(), maintype="text", subtype="plain", filename="m")
    mailbox = b"From a@b.co Mon Nov 23 03:00:00 2026\n" + original + b"\n"
    kinds = {"mailbox": mailbox * 2, "reply": quoted, "attachment": whole.as_bytes()}
    for name, data in kinds.items():
        database.execute("truncate leads cascade")
        (tmp_path / name).write_bytes(data)
        assert ops(platform, "leads", "import", str(tmp_path / name)) == 0, name
        assert [str(row["id"]) for row in rows(database)] == [outage["id"]], name


def test_a_dry_run_says_what_would_be_stored_and_stores_nothing(
    platform: Platform, database: Rows, outage: dict[str, Any], tmp_path: Path, capsys: Printed
) -> None:
    saved = tmp_path / "mail.eml"
    saved.write_bytes(as_saved(outage, "7bit"))
    assert ops(platform, "leads", "import", "--dry-run", str(saved)) == 0
    assert f"would store {outage['id']} {outage['ref']}" in capsys.readouterr().out
    assert rows(database) == []


def test_what_cannot_be_imported_is_said_and_does_not_stop_the_rest(
    platform: Platform, database: Rows, outage: dict[str, Any], tmp_path: Path, capsys: Printed
) -> None:
    damaged = outage["text"].replace(
        "-----BEGIN ALFA LEAD-----\n", "-----BEGIN ALFA LEAD-----\nAAAA"
    )
    cut = outage["text"].partition("-----END")[0]
    saved = tmp_path / "mails.txt"
    saved.write_text(damaged + cut + outage["text"], encoding="utf-8")
    assert ops(platform, "leads", "import", str(saved)) == 1
    output = capsys.readouterr().out
    assert "unreadable" in output
    assert f"stored {outage['id']}" in output
    assert [str(row["id"]) for row in rows(database)] == [outage["id"]]
    saved.write_text("no lead in here", encoding="utf-8")
    assert ops(platform, "leads", "import", str(saved)) == 1
    assert ops(platform, "leads", "import", str(saved), LEADS_ENCRYPTION_KEY="") in (1, 2)


def test_a_file_that_is_not_there_is_named_in_one_line(
    platform: Platform, tmp_path: Path, capsys: Printed
) -> None:
    missing = str(tmp_path / "nowhere.eml")
    assert ops(platform, "leads", "import", missing) == 2
    output = capsys.readouterr().err
    assert missing in output
    assert len(output.splitlines()) == 1


def test_a_mail_is_read_from_standard_input_by_the_command_itself(
    platform: Platform, database: Rows, outage: dict[str, Any]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ops.cli", "leads", "import", "-"],
        cwd=ROOT,
        env=platform.environment,
        input=as_saved(outage, "7bit"),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"stored {outage['id']}".encode() in done.stdout
    assert len(rows(database)) == 1


# ------------------------------------------------------------------ how they end


@pytest.mark.parametrize("command", [[], *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(command: list[str], capsys: Printed) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*command, "--help"], {})
    assert ended.value.code == 0
    explained = capsys.readouterr().out
    assert "Usage: python3 -m ops" in explained
    assert "Example: python3 -m ops" in explained or not command


@pytest.mark.parametrize(
    "wrong",
    [[], ["nothing"], ["spam"], ["spam", "restore"], ["dead", "told", "7d0c"]],
)
def test_wrong_usage_ends_with_2(wrong: list[str], capsys: Printed) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(wrong, {})
    assert ended.value.code == 2
    assert "Usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        (["ledger"], "UPSTASH_REDIS_REST_URL"),
        (["spam", "list"], "DATABASE_URL"),
        (["spam", "restore", str(uuid4())], "DATABASE_URL"),
        (["dead", "list"], "DATABASE_URL"),
        (["dead", "rerun", "--all", "--yes"], "DATABASE_URL"),
        (["canary"], "CANARY_SECRET"),
        (["migrate"], "DATABASE_DIRECT_URL"),
    ],
)
def test_a_missing_variable_is_named_and_ends_with_2(
    command: list[str], variable: str, capsys: Printed
) -> None:
    assert cli.main(command, {}) == 2
    assert variable in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "broken"),
    [
        (["ledger"], NO_REDIS),
        (["ledger"], NO_DATABASE),
        (["spam", "list"], NO_DATABASE),
        (["dead", "list"], NO_DATABASE),
    ],
)
def test_a_server_that_is_down_ends_a_command_with_1_and_a_word(
    platform: Platform, command: list[str], broken: dict[str, str], capsys: Printed
) -> None:
    assert ops(platform, *command, **broken) == 1
    assert "it is stopped, or the port is wrong" in capsys.readouterr().err
