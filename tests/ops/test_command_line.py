"""What holds for every command: where flags stand, how times and tables look, how it ends."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import click
import httpx
import psycopg
import pytest
from psycopg.rows import DictRow

from dev.platform.local_platform import Platform
from lib.problems import DatabaseDown
from ops import cli, command, compliance, connections, progress
from ops.command import Group, Invocation
from tests.conftest import LEAD, ROOT, eventually
from tests.ops.terminal import Terminal

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

NO_REDIS = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}


def ops(platform: Platform, *arguments: str, **changed: str) -> int:
    return cli.main(list(arguments), {**platform.environment, **changed})


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group, obj=Invocation({}))
    for name in group.list_commands(context):
        subcommand = group.get_command(context, name)
        if isinstance(subcommand, Group):
            yield from commands(subcommand, (*words, name))
        else:
            yield (*words, name)


ALL = list(commands(cli.root))


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_explains_itself_and_takes_json(
    words: tuple[str, ...], capsys: Printed
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--help"], {})
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert "Exit " in " ".join(text.split())
    assert "Example: python3 -m ops" in text


def test_a_flag_of_the_line_stands_anywhere(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    for words in (
        ["--json", "spam", "list"],
        ["spam", "--json", "list"],
        ["spam", "list", "--json"],
    ):
        assert ops(platform, *words) == 0
        assert json.loads(capsys.readouterr().out) == []


def test_an_empty_result_says_so(platform: Platform, database: Rows, capsys: Printed) -> None:
    for words in (["spam", "list"], ["review", "list"], ["incident", "list"], ["dead", "list"]):
        assert ops(platform, *words) == 0
        assert "no " in capsys.readouterr().out, words


def test_a_person_reads_jakarta_time_and_utc_where_it_is_wanted(
    platform: Platform, database: Rows, site: httpx.Client, capsys: Printed
) -> None:
    site.post("/api/leads", json=LEAD)
    database.execute("update leads set created_at = '2026-11-28 20:30:00+00'")
    assert ops(platform, "leads", "list") == 0
    assert "2026-11-29 03:30 WIB" in capsys.readouterr().out
    assert ops(platform, "leads", "list", "--utc") == 0
    assert "2026-11-28 20:30 UTC" in capsys.readouterr().out
    assert ops(platform, "leads", "list", "--json") == 0
    assert "T20:30:00+00:00" in capsys.readouterr().out


def test_a_table_is_100_columns_wide_at_most_and_cuts_no_reference(capsys: Printed) -> None:
    words = "a rather long text that goes on and on " * 5
    command.print_table(("ref", "text [x]"), [("ALFA-7KQ2M", f"[bold] :smile: {words}")])
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 100
    assert lines[1].startswith("ALFA-7KQ2M  [bold] :smile: a rather")
    assert "".join(lines).count("goes") == 5


DEAD_NAMES = ("id", "ref", "kind", "attempts", "given up", "error")
DEAD_ROW = (
    "7d0c1111-2222-4333-8444-555555666666", "ALFA-7KQ2M", "acknowledgement",
    "5, one may have arrived", datetime(2026, 11, 28, 20, 30, tzinfo=UTC), "quota exceeded",
)  # fmt: skip


def test_a_narrow_terminal_shows_ids_and_times_whole(
    capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    command.print_table(DEAD_NAMES, [DEAD_ROW, DEAD_ROW])
    output = capsys.readouterr().out
    assert f"      id  {DEAD_ROW[0]}\n" in output
    assert "given up  2026-11-29 03:30 WIB\n" in output
    assert max(len(line) for line in output.splitlines()) <= 80
    command.print_table(("ref", "received", "why"), [("ALFA-7KQ2M", DEAD_ROW[4], "flood " * 20)])
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert lines[1].startswith("ALFA-7KQ2M  2026-11-29 03:30 WIB  flood flood")
    assert max(len(line) for line in lines) <= 80


def test_a_pipe_gets_one_row_a_record_with_ids_and_times_whole(capsys: Printed) -> None:
    command.print_table(DEAD_NAMES, [DEAD_ROW])
    output = capsys.readouterr().out
    for text in (DEAD_ROW[0], "ALFA-7KQ2M", "acknowledgement", "2026-11-29 03:30 WIB"):
        assert str(text) in output


def test_a_bar_without_a_terminal_prints_a_line_every_five_seconds(capsys: Printed) -> None:
    with progress.ProgressBar("backup", 10_000_000) as bar:
        bar.add(1_000_000)
        assert capsys.readouterr().err == ""
        time.sleep(progress.LINE_EVERY_S + 0.1)
        bar.add(4_000_000)
    assert capsys.readouterr().err == "  5.0 of 10.0 MB backup\n"


def test_a_full_bar_says_what_still_goes_on() -> None:
    with progress.ProgressBar("restore", 10) as bar:
        bar.add(10)
        bar.describe("all is read; Postgres applies it")
        (task,) = bar.progress.tasks
    assert task.description == "restore: all is read; Postgres applies it"


# ------------------------------------------------------------------ how it ends


def test_a_reader_that_has_enough_ends_it_quietly(platform: Platform, database: Rows) -> None:
    database.execute(
        "insert into spam (id, ref, received_at, reason, locale, submission)"
        " select gen_random_uuid(), 'ALFA-' || lpad(n::text, 5, '0'), now(), 'honeypot', 'id',"
        " jsonb_build_object('business_name', repeat('x', 2000)) from generate_series(1, 300) as n"
    )
    running = subprocess.Popen(
        [sys.executable, "-m", "ops.cli", "spam", "list", "--limit", "300", "--json"],
        cwd=ROOT, text=True, env={**os.environ, **platform.environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert running.stdout is not None
    running.stdout.close()
    _, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (0, "")


class InterruptedInput:
    """Standard input at which Ctrl-C is pressed."""

    @property
    def buffer(self) -> "InterruptedInput":
        return self

    def read(self) -> bytes:
        raise KeyboardInterrupt


def test_an_interrupt_says_that_it_can_be_run_again(
    platform: Platform, database: Rows, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", InterruptedInput())
    assert ops(platform, "leads", "import", "-") == cli.INTERRUPTED
    assert "can be run again" in capsys.readouterr().err


def test_what_people_are_mailed_about_is_asked_and_refused_without_a_terminal(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    assert ops(platform, "dead", "rerun", "--all") == 2
    assert "add --yes" in capsys.readouterr().err


# ------------------------------------------------------------------ why a server cannot be used


def address(platform: Platform, **parts: object) -> str:
    """The platform's database, with another user, password, host, port or name."""
    url = urlsplit(platform.admin_database_url)
    user = parts.get("user", url.username)
    login = f"{user}:{parts.get('password', url.password)}"
    netloc = f"{login}@{parts.get('host', url.hostname)}:{parts.get('port', url.port)}"
    return urlunsplit(url._replace(netloc=netloc, path=f"/{parts.get('name', url.path[1:])}"))


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"port": 1}, connections.STOPPED),
        ({"host": "no-such-host.invalid"}, connections.WRONG_HOST),
        ({"name": "elsewhere"}, connections.NO_DATABASE),
        ({"query": "sslmode=require"}, connections.TLS),
    ],
)
def test_a_database_that_cannot_be_used_says_why(
    platform: Platform, parts: dict[str, object], reason: str
) -> None:
    url = urlsplit(address(platform, **parts))
    query = str(parts.get("query", url.query))
    with pytest.raises(psycopg.OperationalError) as raised:
        psycopg.connect(urlunsplit(url._replace(query=query)), connect_timeout=5)
    assert connections.explain(raised.value) == f"Postgres cannot be used: {reason}"


def test_what_postgres_refuses_is_not_called_unusable(database: Rows) -> None:
    with pytest.raises(psycopg.Error) as raised:
        database.execute("insert into maintenance_window (mode) values (null)")
    words = connections.explain(raised.value)
    assert words.startswith("Postgres refused the statement: NotNullViolation (23502, table ")
    with pytest.raises(psycopg.Error) as raised:
        database.execute("select 1 / 0")
    assert "DivisionByZero (22012)" in connections.explain(raised.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('FATAL:  password authentication failed for user "alfa"', connections.PASSWORD),
        ('FATAL:  role "alfa" does not exist', connections.NO_ROLE),
        ("FATAL:  Tenant or user not found", connections.NO_ROLE),
        ("connection timeout expired", connections.SILENT),
        ("SSL error: certificate verify failed", connections.TLS),
        ("server closed the connection unexpectedly", connections.CUT),
    ],
)
def test_what_libpq_says_is_explained(text: str, reason: str) -> None:
    assert connections.explain_reason(psycopg.OperationalError(text)) == reason


def test_the_cause_behind_our_own_error_is_explained_and_not_quoted() -> None:
    error = DatabaseDown()
    error.__cause__ = psycopg.OperationalError('password authentication failed for user "geheim"')
    assert "geheim" not in connections.explain(error)
    assert connections.PASSWORD in connections.explain(error)
    assert connections.OPEN_BREAKER in connections.explain(DatabaseDown())


# ------------------------------------------------------------------ ops check


def test_a_check_whose_variables_are_all_valid_passes(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    assert ops(platform, "check", "catalogue") == 0, capsys.readouterr().out
    assert "every variable is set" in capsys.readouterr().out


def test_everything_that_is_wrong_is_named_at_once(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    changed = {"ERASURE_KEY": "", "UPSTASH_REDIS_REST_URL": "redis://x",
               "DATABASE_URL": address(platform, name="elsewhere")}  # fmt: skip
    assert ops(platform, "check", "privacy", "--json", **changed) == 1
    report = json.loads(capsys.readouterr().out)
    states = {each["name"]: each["state"] for each in report["variables"]}
    assert (states["ERASURE_KEY"], states["UPSTASH_REDIS_REST_URL"]) == ("MISSING", "MALFORMED")
    servers = {each["name"]: each["reason"] for each in report["servers"]}
    assert servers["Postgres, as the functions"] == connections.NO_DATABASE
    assert "UPSTASH_REDIS_REST_URL first" in servers["Redis"]


@pytest.mark.parametrize(("secret", "turnstile"), [("", None), ("a secret", True)])
def test_what_production_can_do_without_is_checked_where_it_is_set(
    platform: Platform, database: Rows, capsys: Printed, secret: str, turnstile: bool | None
) -> None:
    assert ops(platform, "check", "--json", TURNSTILE_SECRET_KEY=secret) == 0, (
        capsys.readouterr().out
    )
    servers = {each["name"]: each["ok"] for each in json.loads(capsys.readouterr().out)["servers"]}
    assert servers.get("Turnstile") == turnstile


@pytest.mark.parametrize(
    ("name", "value", "server", "reason"),
    [
        ("UPSTASH_REDIS_REST_TOKEN", "wrong", "Redis", connections.REFUSED_TOKEN),
        ("RESEND_API_KEY", "re_wrong", "Resend", connections.REFUSED_TOKEN),
        ("HEALTH_CHECK_TOKEN", "x" * 20, "deep health at the site", connections.REFUSED_TOKEN),
        ("VERCEL_API_TOKEN", "wrong", "Vercel", "Vercel refused with 403"),
        ("SLACK_BOT_TOKEN", "xoxb-wrong", "Slack", connections.REFUSED_TOKEN),
    ],
)
def test_a_key_that_is_refused_is_named(
    platform: Platform, database: Rows, capsys: Printed, name: str, value: str, server: str,
    reason: str,
) -> None:  # fmt: skip
    assert ops(platform, "check", "--json", **{name: value}) == 1
    servers = {each["name"]: each for each in json.loads(capsys.readouterr().out)["servers"]}
    assert reason in servers[server]["reason"]
    assert value not in servers[server]["reason"].replace("the token is refused: it is wrong", "")


# ------------------------------------------------------------------ single commands


@pytest.mark.parametrize("duty", ["on-call", "rotation"])
def test_the_secret_of_the_crons_belongs_to_who_calls_them(
    platform: Platform, capsys: Printed, duty: str
) -> None:
    assert ops(platform, "check", duty, CRON_SECRET="") == 1
    assert "CRON_SECRET" in capsys.readouterr().out


def test_spam_is_shown_whole_before_it_is_restored(
    platform: Platform, database: Rows, site: httpx.Client, capsys: Printed
) -> None:
    answer = site.post("/api/leads", json={**LEAD, "company": "a robot fills it in"})
    ref = answer.json()["ref"]
    eventually(lambda: database.execute("select from spam").fetchone() is not None)
    assert ops(platform, "spam", "show", ref) == 0
    output = capsys.readouterr().out
    assert LEAD["business_name"] in output
    assert "ops spam restore" in output
    assert ops(platform, "leads", "show", ref) == 1
    assert "ops spam show" in capsys.readouterr().err


def add_spam(database: Rows, number: int) -> None:
    database.execute(
        "insert into spam (id, ref, received_at, reason, locale, submission)"
        " select gen_random_uuid(), 'ALFA-' || lpad(n::text, 5, '0'), now(), 'honeypot', 'id',"
        " %s::jsonb from generate_series(1, %s) as n",
        [json.dumps(LEAD), number],
    )


def test_a_list_that_is_cut_says_so(platform: Platform, database: Rows, capsys: Printed) -> None:
    add_spam(database, 3)
    assert ops(platform, "spam", "list", "--limit", "3") == 0
    assert capsys.readouterr().err == ""
    assert ops(platform, "spam", "list", "--limit", "2") == 0
    output = capsys.readouterr()
    assert output.out.count("ALFA-") == 2
    assert output.err == "There are more submissions than 2: --limit N shows them.\n"


def test_cut_lists_of_leads_in_review_and_dead_letters_say_so(
    platform: Platform, database: Rows, site: httpx.Client, capsys: Printed
) -> None:
    for number in range(2):
        site.post("/api/leads", json={**LEAD, "phone_whatsapp": f"+62812345678{number:02}"})
    unsent = "select from outbox where sent_at is null"
    eventually(lambda: database.execute(unsent).fetchone() is None, 15)
    database.execute("update leads set review = 'flood'")
    database.execute("update outbox set sent_at = null, dead_at = now(), last_error = 'quota'")
    assert ops(platform, "review", "list", "--limit", "1") == 1
    assert "There are more leads in review than 1" in capsys.readouterr().err
    assert ops(platform, "dead", "list", "--limit", "1") == 1
    assert "There are more dead letters than 1" in capsys.readouterr().err


def keep_as_spam(database: Rows, site: httpx.Client) -> str:
    """The reference of a submission in the spam table."""
    answer = site.post("/api/leads", json={**LEAD, "company": "a robot fills it in"})
    eventually(lambda: database.execute("select from spam").fetchone() is not None)
    return str(answer.json()["ref"])


def test_spam_is_restored_by_its_reference(
    platform: Platform, database: Rows, site: httpx.Client, capsys: Printed
) -> None:
    ref = keep_as_spam(database, site)
    assert ops(platform, "spam", "restore", ref.lower(), "--yes") == 0
    assert f"{ref}; its mails will be sent at the next worker run" in capsys.readouterr().out
    assert database.execute("select ref from leads").fetchall() == [{"ref": ref}]
    assert database.execute("select from spam").fetchall() == []


def test_spam_of_an_erased_person_is_refused_in_words(
    platform: Platform, database: Rows, site: httpx.Client, capsys: Printed
) -> None:
    ref = keep_as_spam(database, site)
    database.execute("create temp table spam_before as select * from spam")
    assert ops(platform, "subject", "erase", "--phone", LEAD["phone_whatsapp"], "--yes") == 0
    database.execute("insert into spam select * from spam_before")
    database.execute("drop table spam_before")
    assert ops(platform, "spam", "restore", ref, "--yes") == 1
    assert "this person's data was erased. Nothing was changed." in capsys.readouterr().err
    assert len(database.execute("select from spam").fetchall()) == 1


def test_maintenance_without_redis_names_the_other_way(
    platform: Platform, database: Rows, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("yes\nno\n"))
    words = ("maintenance", "on", "--for", "30m", "--reason", "Redis is down")
    assert ops(platform, *words, **NO_REDIS) == 1
    error = capsys.readouterr().err
    assert connections.STOPPED in error
    assert "MAINTENANCE_MODE at Vercel" in error
    assert "Deploy production with maintenance intake?" in error


def test_a_canary_under_maintenance_says_so_and_does_not_wait(
    platform: Platform, database: Rows, capsys: Printed
) -> None:
    assert ops(platform, "maintenance", "on", "--for", "30m", "--reason", "test", "--yes") == 0

    def is_queued() -> bool:
        status = ops(platform, "canary", VERCEL_API_URL=silent_vercel)
        return status == 1 and "Maintenance (intake) is on" in capsys.readouterr().err

    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent_vercel = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = datetime.now(UTC)
        eventually(is_queued, 60)
        assert (datetime.now(UTC) - started).total_seconds() < 25, "Vercel is not asked"
    assert ops(platform, "maintenance", "off") == 0


def test_evidence_says_whether_a_test_passed_in_the_last_run(tmp_path: Path) -> None:
    file = tmp_path / "test-results.json"
    assert compliance.load_last_run(file) is None
    assert "unknown" in compliance.describe_test("tests/a.py", None)
    results = {"finished_at": "2026-11-28T20:30:00+00:00",
               "passed": ["tests/a.py::test_x", "tests/b.py::test_y"],
               "failed": ["tests/b.py::test_z[1]"]}  # fmt: skip
    file.write_text(json.dumps(results))
    last_run = compliance.load_last_run(file)
    assert compliance.describe_test("tests/a.py", last_run) == "passed 2026-11-29 03:30 WIB"
    assert compliance.describe_test("tests/b.py", last_run) == "FAILED 2026-11-29 03:30 WIB"
    assert "not run" in compliance.describe_test("tests/c.py", last_run)
