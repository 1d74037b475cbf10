"""`ops rotate`: every key replaced under traffic, the old one shown to fail; killed, it goes on."""

import contextlib
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow

from dev.platform import migrations
from dev.platform.local_platform import APP_GROUP, APP_ROLE, Platform
from lib.encryption import SecretBoxCipher
from ops import cli, connections
from ops.keys import commands, inventory, rotation
from ops.keys.key_file import KeyFile
from ops.settings import OperatorServices, OperatorSettings
from tests.conftest import LEAD, ROOT, delivered, eventually
from tests.ops.incidents.test_rollback import answering
from tests.ops.terminal import Terminal

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

ROTATED = (
    "DATABASE_URL",
    "UPSTASH_REDIS_REST_TOKEN",
    "RESEND_API_KEY",
    "SUPABASE_SECRET_KEY",
    "SLACK_BOT_TOKEN",
    "CRON_SECRET",
    "LEADS_ADMIN_TOKEN",
    "HEALTH_CHECK_TOKEN",
    "CANARY_SECRET",
    "RUM_DRAIN_SECRET",
    "LEADS_ENCRYPTION_KEY",
)
QUICK = ("--yes", "--drain", "1", "--timeout", "40")


@pytest.fixture
def file(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "production.env")


@pytest.fixture(autouse=True)
def production(platform: Platform, database: Rows) -> Iterator[dict[str, str]]:
    """What an operator holds before: the platform's own variables; afterwards all is as it was."""
    variables = dict(platform.environment)
    yield variables
    platform.vercel_api.forget()
    password = platform._keys["APP_PASSWORD"]
    migrations.ensure_login(platform.admin_database_url, APP_ROLE, APP_GROUP, password)


def old_id(platform: Platform, name: str) -> tuple[str, ...]:
    """What a person looks up at Resend, the first time."""
    if name != "RESEND_API_KEY":
        return ()
    bearer = {"Authorization": f"Bearer {platform.environment['RESEND_ADMIN_KEY']}"}
    listed = httpx.get(f"{platform.resend.url}/api-keys", headers=bearer).json()["data"]
    return ("--old-id", next(key["id"] for key in listed if key["name"] == "production"))


def install_second_slack_app(platform: Platform, file: KeyFile, name: str) -> None:
    """What a person does at Slack before: the other app is installed, its token in the file."""
    if name == "SLACK_BOT_TOKEN":
        platform.slack_api.tokens.add("xoxb-the-other-apps")
        file.update({"SLACK_BOT_TOKEN__NEW": "xoxb-the-other-apps"})


def rotate(
    platform: Platform, variables: dict[str, str], file: KeyFile, name: str, *words: str
) -> int:
    """With the variables an operator has: those of before, as no shell reads the file anew."""
    arguments = ["rotate", name, "--keep", str(file._path), *QUICK, *words]
    known = () if "--old-id" in words else old_id(platform, name)
    return cli.main([*arguments, *known], variables)


class Traffic:
    """Leads, products and deep health, one after the other, until it is left."""

    def __init__(self, platform: Platform) -> None:
        self._url, self._end = platform.url, threading.Event()
        self.accepted: list[str] = []
        self.refused: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(2)]

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            n = seed
            while not self._end.wait(0.15):  # they share the machine with what is tested
                n += 2
                headers = {"Idempotency-Key": f"traffic-{n}"}
                body = {**LEAD, "message": f"traffic {n}", "email": ""}
                self._note(client.post("/api/leads", json=body, headers=headers), (200, 202))
                self._note(client.get("/api/products"), (200,))
                self._note(client.get("/api/health"), (200,))

    def _note(self, answer: httpx.Response, good: tuple[int, ...]) -> None:
        if answer.status_code not in good:
            self.refused.append(
                f"{answer.request.url.path} {answer.status_code} {answer.text[:200]}"
            )
        elif answer.request.method == "POST":
            self.accepted.append(answer.json()["id"])


# ------------------------------------------------------------------ each, under traffic


@pytest.mark.parametrize("name", ROTATED)
def test_a_key_is_rotated_under_traffic_and_the_old_one_fails_afterwards(
    platform: Platform, production: dict[str, str], database: Rows, file: KeyFile, name: str,
    capsys: Printed,
) -> None:  # fmt: skip
    without_limits(platform)
    install_second_slack_app(platform, file, name)
    with Traffic(platform) as traffic:
        assert rotate(platform, production, file, name) == 0, capsys.readouterr().err
    output = capsys.readouterr()
    assert traffic.refused == []
    assert len(traffic.accepted) > 5
    stored = file.read()
    assert stored[name] != production[name]
    assert f"{name}__RETIRING" not in stored
    row = database.execute("select * from key_rotations").fetchone()
    assert row is not None
    assert row["finished_at"] is not None
    assert row["facts"]["probe"].startswith("refused")
    assert outcome(name, production | stored, file, production[name]) == "refused"
    if name == "LEADS_ENCRYPTION_KEY":
        assert platform.environment[name] == stored[name].split(",")[0]
    else:
        assert outcome(name, production | stored, file, stored[name]) == "accepted"
        assert platform.environment[name] == stored[name]
    secrets_of(stored, production, name, output.out + output.err + json.dumps(row, default=str))
    everything_is_stored(platform, traffic, database)


def without_limits(platform: Platform) -> None:
    """A deployment that takes any number of leads from one address."""
    project = platform.vercel_api.project
    for limit in ("LEADS_PER_MINUTE", "LEADS_PER_HOUR", "LEADS_CEILING_PER_MINUTE"):
        project.keep({"key": limit, "value": "100000", "type": "plain"}, upsert=True)
    deployment = project.push("busy")
    eventually(lambda: answering(platform) == deployment.id)


def outcome(name: str, environ: dict[str, str], file: KeyFile, value: str) -> str:
    """What becomes of somebody who tries this value."""
    key = inventory.BY_NAME[name]
    kind = commands.TYPES_BY_NAME.get(name) or commands.TYPES_BY_OVERLAP[key.overlap]
    with contextlib.closing(OperatorServices(OperatorSettings(environ))) as services:
        return kind(key, services, environ[name], file).probe(value).outcome


def secrets_of(stored: dict[str, str], before: dict[str, str], name: str, shown: str) -> None:
    """No value, new or old, on screen or in the record."""
    for value in (*stored[name].split(","), *before[name].split(",")):
        assert value not in shown


def everything_is_stored(platform: Platform, traffic: Traffic, database: Rows) -> None:
    def all_there() -> bool:
        platform.cron("deliver")
        rows = database.execute("select id::text from leads").fetchall()
        return {*traffic.accepted} <= {row["id"] for row in rows}

    eventually(all_there, 20)


# ------------------------------------------------------------------ killed, and run again


class Killed(BaseException):
    """What no `except Exception` holds up, as little as SIGKILL."""


def nobody_holds_a_lock(database: Rows) -> bool:
    return not database.execute("select from pg_locks where locktype = 'advisory'").fetchall()


@pytest.mark.parametrize("name", ["DATABASE_URL", "RESEND_API_KEY", "LEADS_ENCRYPTION_KEY"])
def test_killed_before_and_after_every_step_a_rotation_resumes(
    platform: Platform, production: dict[str, str], database: Rows, file: KeyFile, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    deaths = 0
    real = rotation.Rotation.run

    def killing(self: rotation.Rotation) -> Any:
        """Dies at the first word it says that nobody has heard before."""
        say = self.print

        def once(words: str) -> None:
            nonlocal deaths
            step = words.partition(":")[0]
            say(words)
            if step not in heard and step != "done":
                heard.add(step)
                deaths += 1
                raise Killed

        self.print = once
        return real(self)

    heard: set[str] = set()
    monkeypatch.setattr(rotation.Rotation, "run", killing)
    ended = None
    known = old_id(platform, name)
    while ended is None:
        assert deaths < 40
        with contextlib.suppress(Killed):
            ended = rotate(platform, production, file, name, *known)
        # Postgres hears a moment later that its client has gone, and holds the lock until then.
        eventually(lambda: nobody_holds_a_lock(database))
    assert ended == 0
    assert deaths >= 2 * 6
    assert outcome(name, production, file, production[name]) == "refused"
    rows = database.execute("select finished_at from key_rotations").fetchall()
    assert len(rows) == 1
    if name == "RESEND_API_KEY":
        requests = platform.resend.received()
        assert (
            sum(
                request["method"] == "POST" and request["path"] == "/api-keys"
                for request in requests
            )
            == 1
        )


def test_a_key_whose_answer_was_lost_is_not_left_behind_at_the_vendor(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows
) -> None:
    platform.resend.switch("lose_reply", match="sending_access", times=1)
    assert rotate(platform, production, file, "RESEND_API_KEY") == 1
    assert rotate(platform, production, file, "RESEND_API_KEY") == 0
    bearer = {"Authorization": f"Bearer {production['RESEND_ADMIN_KEY']}"}
    listed = httpx.get(f"{platform.resend.url}/api-keys", headers=bearer).json()["data"]
    assert sorted(key["name"].partition("-")[0] for key in listed) == ["alfa", "operators"]


def test_a_process_killed_in_the_middle_leaves_no_lock(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows
) -> None:
    import os
    import signal
    import subprocess
    import sys

    platform.vercel_api.project.build_s = 30.0
    words = ["rotate", "CRON_SECRET", "--keep", str(file._path), *QUICK]
    environ = {**os.environ, **production}
    command = [sys.executable, "-m", "ops.cli", *words]
    waiting = "select 1 from key_rotations where facts ? 'deploy'"
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL) as running:
        try:
            eventually(lambda: database.execute(waiting).fetchone(), 30)
        finally:
            running.send_signal(signal.SIGKILL)
    platform.vercel_api.project.build_s = 0.1
    platform.vercel_api.project.deployments[-1].state = "CANCELED"
    assert rotate(platform, production, file, "CRON_SECRET") == 1  # the build is gone: it says so
    assert rotate(platform, production, file, "CRON_SECRET") == 0


def test_two_operators_do_not_rotate_one_key_at_once(
    platform: Platform, production: dict[str, str], file: KeyFile, capsys: Printed
) -> None:
    with psycopg.connect(platform.admin_database_url) as other:
        other.execute("select pg_advisory_lock(hashtext('rotate CRON_SECRET'))")
        assert rotate(platform, production, file, "CRON_SECRET") == 1
    assert "by somebody else right now" in capsys.readouterr().err


# ------------------------------------------------------------------ a leak


def test_after_a_leak_the_vendors_key_is_revoked_first_and_a_sev1_opened(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows, capsys: Printed
) -> None:
    assert rotate(platform, production, file, "RESEND_API_KEY", "--leak") == 0
    output = capsys.readouterr().out
    assert output.index("revoke …") < output.index("create …") < output.index("deploy …")
    row = database.execute("select severity, rules, id from incidents").fetchone()
    assert row is not None
    assert (row["severity"], row["rules"]) == ("sev1", ["key_leaked"])
    kinds = [event["kind"] for event in database.execute("select kind from incident_events")]
    assert kinds[-1] == "key_rotated"


def test_a_leaked_token_of_ours_is_never_accepted_beside_the_new_one(
    platform: Platform, production: dict[str, str], file: KeyFile, capsys: Printed
) -> None:
    assert rotate(platform, production, file, "CRON_SECRET", "--leak") == 0
    assert "PREVIOUS" not in capsys.readouterr().out
    assert not [
        request
        for request in platform.vercel.received()
        if "CRON_SECRET_PREVIOUS" in str(request["body"])
    ]


def test_a_planned_rotation_that_turns_out_to_be_a_leak_revokes_next(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows, capsys: Printed
) -> None:
    platform.vercel_api.project.lie = "build_fails"
    assert rotate(platform, production, file, "DATABASE_URL") == 1
    platform.vercel_api.project.lie = ""
    capsys.readouterr()
    assert rotate(platform, production, file, "DATABASE_URL", "--leak") == 0
    output = capsys.readouterr().out
    assert output.index("revoke …") < output.index("deploy …")


# ------------------------------------------------------------------ what else would change


def set_at_vercel(platform: Platform, name: str, value: str) -> None:
    time.sleep(0.002)  # Vercel's moments are of milliseconds
    variable = {"key": name, "value": value, "type": "sensitive", "target": ["production"]}
    platform.vercel_api.project.keep(variable, upsert=True)


def test_variables_that_changed_meanwhile_are_listed_and_need_a_confirmation(
    platform: Platform, production: dict[str, str], database: Rows, file: KeyFile,
    capsys: Printed, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    set_at_vercel(platform, "MAINTENANCE_MODE", "read_only")
    before = len(platform.vercel_api.project.deployments)
    assert rotate(platform, production, file, "CRON_SECRET") == 2  # --yes speaks for the key alone
    output = capsys.readouterr()
    assert "MAINTENANCE_MODE, set " in output.err
    assert "--with-changes" in output.err
    assert "read_only" not in output.out + output.err
    assert "create" not in output.out
    assert file.read() == {}
    monkeypatch.setattr("sys.stdin", Terminal("yes\nno\n"))
    words = ["rotate", "CRON_SECRET", "--keep", str(file._path), "--drain", "0"]
    assert cli.main(words, production) == 1
    assert (
        "MAINTENANCE_MODE would also take effect: nothing was deployed" in capsys.readouterr().err
    )
    assert len(platform.vercel_api.project.deployments) == before
    assert httpx.get(f"{platform.url}/api/health").json()["status"] == "ok"


def test_a_change_made_while_the_rotation_is_under_way_is_asked_about_before_the_next_deployment(
    platform: Platform, production: dict[str, str], database: Rows, file: KeyFile,
    capsys: Printed, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def change_at_vercel(number: int) -> None:
        if number == 1:
            set_at_vercel(platform, "LEADS_PER_HOUR", "31")

    terminal = Terminal("yes\n" * 3, change_at_vercel)
    monkeypatch.setattr("sys.stdin", terminal)
    real = rotation.Rotation._revoke

    def revoke(self: rotation.Rotation) -> str:
        set_at_vercel(platform, "MAIL_SALES_TO", "another@alfabeauty.test")
        return real(self)

    monkeypatch.setattr(rotation.Rotation, "_revoke", revoke)
    words = ["rotate", "CRON_SECRET", "--keep", str(file._path), "--drain", "0"]
    assert cli.main(words, production) == 0
    assert terminal.questions == 3
    output = capsys.readouterr().err
    assert output.index("LEADS_PER_HOUR, set ") < output.index("MAIL_SALES_TO, set ")
    assert output.count("LEADS_PER_HOUR") == 1, "it is asked about once"


def test_with_json_and_a_question_standard_output_holds_one_document(
    platform: Platform, production: dict[str, str], database: Rows, file: KeyFile,
    capsys: Printed, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdin", Terminal("yes\n"))
    words = ["rotate", "CRON_SECRET", "--keep", str(file._path), "--drain", "0", "--json"]
    assert cli.main(words, production) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["name"] == "CRON_SECRET"
    assert "redeploy production with the new key" in printed.err, "the plan, beside the question"


def test_agreed_to_by_an_option_the_changes_take_effect(
    platform: Platform, production: dict[str, str], database: Rows, file: KeyFile
) -> None:
    set_at_vercel(platform, "LEADS_PER_HOUR", "31")
    assert rotate(platform, production, file, "CRON_SECRET", "--with-changes") == 0
    assert platform.environment["LEADS_PER_HOUR"] == "31"


def test_every_wait_names_what_it_waits_for(
    platform: Platform, production: dict[str, str], database: Rows, file: KeyFile, capsys: Printed
) -> None:
    platform.vercel_api.project.build_s = 7.0
    assert rotate(platform, production, file, "LEADS_ENCRYPTION_KEY", "--drain", "16") == 0
    output = capsys.readouterr().err
    assert re.search(r"^  [5-8] s: Vercel: dpl_\w+ is still BUILDING$", output, re.M), output
    finishing = r"^  [5-8] s: requests on the old deployment finish: \d+ s are left$"
    assert re.search(finishing, output, re.M), output


@pytest.mark.parametrize("name", ["SUPABASE_SERVICE_ROLE_KEY", "SUPABASE_SERVICE_KEY"])
def test_the_handbooks_old_key_name_is_an_alias(
    platform: Platform, production: dict[str, str], capsys: Printed, name: str
) -> None:
    assert cli.main(["rotate", name, "--dry-run"], production) == 0
    output = capsys.readouterr()
    assert output.out.startswith("SUPABASE_SECRET_KEY (")
    assert f"{name} is now SUPABASE_SECRET_KEY." in output.err
    assert "DATABASE_URL" in output.err


def test_an_unknown_key_name_lists_the_known_keys(
    platform: Platform, production: dict[str, str], capsys: Printed
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["rotate", "SUPABASE_ANON_KEY"], production)
    assert ended.value.code == 2
    assert "SUPABASE_SECRET_KEY" in capsys.readouterr().err


# ------------------------------------------------------------------ it trusts nobody


def test_a_variable_that_vercel_did_not_keep_is_noticed_before_anything_is_revoked(
    platform: Platform, production: dict[str, str], file: KeyFile, capsys: Printed
) -> None:
    platform.vercel_api.project.lie = "env_is_not_kept"
    assert rotate(platform, production, file, "RESEND_API_KEY", "--timeout", "12") == 1
    assert "still use the old key" in capsys.readouterr().err
    name = "RESEND_API_KEY"
    assert outcome(name, production, file, production[name]) == "accepted"


def test_an_old_key_that_still_works_is_reported_and_tried_again(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows, capsys: Printed,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Slack says `revoked`, and it is not."""
    install_second_slack_app(platform, file, "SLACK_BOT_TOKEN")
    tokens = platform.slack_api.tokens
    monkeypatch.setattr(platform.slack_api, "tokens", UnforgettableTokens(tokens))
    assert rotate(platform, production, file, "SLACK_BOT_TOKEN") == 1
    assert "THE OLD KEY STILL WORKS" in capsys.readouterr().err
    row = database.execute("select step, finished_at from key_rotations").fetchone()
    assert row == {"step": "verify", "finished_at": None}
    monkeypatch.setattr(platform.slack_api, "tokens", tokens)
    assert rotate(platform, production, file, "SLACK_BOT_TOKEN") == 0


class UnforgettableTokens(set[str]):
    def discard(self, _token: object) -> None:
        """It stays."""


def test_a_value_that_production_does_not_use_is_not_rotated(
    platform: Platform, production: dict[str, str], file: KeyFile, capsys: Printed
) -> None:
    see(platform)
    variables = {**production, "CRON_SECRET": "another value that was never deployed"}
    assert rotate(platform, variables, file, "CRON_SECRET") == 1
    assert "production uses" in capsys.readouterr().err


def test_a_deployment_after_a_rotation_is_no_longer_offered_for_a_rollback(
    platform: Platform, production: dict[str, str], file: KeyFile, capsys: Printed
) -> None:
    see(platform)
    assert rotate(platform, production, file, "CANARY_SECRET") == 0
    capsys.readouterr()
    cli.main(["rollback", "--dry-run", "--json"], {**production, **file.read()})
    reasons = {
        candidate["deployment"]: candidate["unsafe_because"]
        for candidate in json.loads(capsys.readouterr().out)["candidates"]
    }
    assert any("rotation of CANARY_SECRET" in fault for fault in reasons["dpl_local"])


def see(platform: Platform) -> None:
    """A tick of the watch, and what it does after its answer."""
    bearer = {"Authorization": f"Bearer {platform.environment['CRON_SECRET']}"}
    httpx.get(f"{platform.url}/api/cron/watch", headers=bearer, timeout=30)
    with psycopg.connect(platform.admin_database_url, autocommit=True) as admin:
        eventually(lambda: admin.execute("select 1 from key_sightings").fetchone())


# ------------------------------------------------------------------ after a rollback, sealed data


def test_entries_encrypted_with_the_old_key_are_encrypted_with_the_new_one(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows
) -> None:
    old = SecretBoxCipher(OperatorSettings(production).leads_encryption_key)
    sealed = old.encrypt("a lead of before")
    with redis.Redis.from_url(platform.redis_url, decode_responses=True) as valkey:
        valkey.set("journal:0b0f", sealed, ex=1000)
        assert rotate(platform, production, file, "LEADS_ENCRYPTION_KEY") == 0
        fresh = valkey.get("journal:0b0f")
        assert 0 < valkey.ttl("journal:0b0f") <= 1000
    new = SecretBoxCipher(OperatorSettings(platform.environment).leads_encryption_key)
    assert new.decrypt(str(fresh)) == "a lead of before"
    assert file.read()["LEADS_ENCRYPTION_KEY"].split(",")[1] == production["LEADS_ENCRYPTION_KEY"]


def test_a_rotation_promotes_its_deployment_where_a_rollback_disabled_auto_assignment(
    platform: Platform, production: dict[str, str], file: KeyFile
) -> None:
    platform.vercel_api.project.auto_assign = False
    assert rotate(platform, production, file, "HEALTH_CHECK_TOKEN") == 0
    assert answering(platform) == platform.vercel_api.project.current.id != "dpl_local"


# ------------------------------------------------------------------ the command


@pytest.mark.parametrize("words", [(), ("--leak",)])
@pytest.mark.parametrize("name", ROTATED)
def test_a_dry_run_prints_the_plan_and_changes_nothing(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows, name: str,
    words: tuple[str, ...], capsys: Printed,
) -> None:  # fmt: skip
    arguments = ["rotate", name, "--dry-run", "--keep", str(file._path), *words]
    assert cli.main(arguments, production) == 0
    output = capsys.readouterr().out
    assert "probe" in output
    assert production[name] not in output
    assert file.read() == {}
    assert database.execute("select 1 from key_rotations").fetchone() is None


def test_without_the_settings_it_needs_it_names_them_and_changes_nothing(
    platform: Platform, production: dict[str, str], file: KeyFile, capsys: Printed
) -> None:
    for missing in ("KEY_FINGERPRINT_PEPPER", "DATABASE_DIRECT_URL", "VERCEL_API_TOKEN"):
        variables = {**production, missing: ""}
        assert rotate(platform, variables, file, "CRON_SECRET") == 2
        assert missing in capsys.readouterr().err


def test_resend_is_asked_about_by_id_when_nobody_knows_which_key_is_the_old_one(
    platform: Platform, production: dict[str, str], file: KeyFile, capsys: Printed
) -> None:
    words = ["rotate", "RESEND_API_KEY", "--keep", str(file._path), *QUICK]
    assert cli.main(words, production) == 2
    assert "--old-id" in capsys.readouterr().err
    assert delivered(platform) == []


def test_every_option_it_will_need_is_named_at_once_before_anything_is_changed_or_raised(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows, capsys: Printed
) -> None:
    set_at_vercel(platform, "MAINTENANCE_MODE", "read_only")
    words = ["rotate", "RESEND_API_KEY", "--leak", "--keep", str(file._path)]
    assert cli.main(words, production) == 2
    error = capsys.readouterr().err
    for option in ("\n  --yes ", "\n  --old-id ID ", "\n  --with-changes "):
        assert option in error
    assert re.search(r"MAINTENANCE_MODE, set \d{4}-\d\d-\d\d \d\d:\d\d:\d\d WIB", error), error
    assert "production" in error, "the name of the key at Resend"
    assert file.read() == {}
    assert database.execute("select 1 from incidents").fetchall() == []
    assert database.execute("select 1 from key_rotations").fetchall() == []


def test_after_a_leak_the_sev1_is_raised_although_vercel_cannot_be_asked(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows, capsys: Printed
) -> None:
    nowhere = {**production, "VERCEL_API_URL": "http://127.0.0.1:1"}
    assert rotate(platform, nowhere, file, "CRON_SECRET", "--leak") == 1
    assert "Vercel cannot be used" in capsys.readouterr().err
    assert database.execute("select severity from incidents").fetchone() == {"severity": "sev1"}
    assert rotate(platform, nowhere, file, "HEALTH_CHECK_TOKEN") == 1
    assert len(database.execute("select 1 from incidents").fetchall()) == 1


def test_a_key_that_a_person_makes_is_asked_for_with_its_place(
    platform: Platform, production: dict[str, str], file: KeyFile, capsys: Printed
) -> None:
    assert rotate(platform, production, file, "SENTRY_DSN") == 1
    assert f"put it into {file} as SENTRY_DSN__NEW=…" in capsys.readouterr().err


def test_postgres_down_is_explained_in_the_words_of_every_command(
    platform: Platform, production: dict[str, str], file: KeyFile, capsys: Printed
) -> None:
    nowhere = {**production, "DATABASE_DIRECT_URL": "postgresql://nobody@127.0.0.1:1/alfa"}
    assert rotate(platform, nowhere, file, "CRON_SECRET") == 1
    error = capsys.readouterr().err
    assert f"Postgres cannot be used: {connections.STOPPED}" in error
    assert "nothing was changed" in error


# ------------------------------------------------------------------ a leak, under traffic


@pytest.mark.parametrize("name", ["DATABASE_URL", "UPSTASH_REDIS_REST_TOKEN", "RESEND_API_KEY"])
def test_even_with_the_old_key_gone_first_no_request_fails_and_no_lead_is_lost(
    platform: Platform, production: dict[str, str], file: KeyFile, database: Rows, name: str,
    capsys: Printed,
) -> None:  # fmt: skip
    without_limits(platform)
    platform.vercel_api.project.build_s = 3.0
    with Traffic(platform) as traffic:
        assert rotate(platform, production, file, name, "--leak") == 0, capsys.readouterr().err
    assert traffic.refused == []
    assert outcome(name, production | file.read(), file, production[name]) == "refused"
    everything_is_stored(platform, traffic, database)


@pytest.mark.parametrize(
    "name", [name for name in ROTATED if inventory.BY_NAME[name].previous_variable]
)
def test_callers_may_present_either_token_until_the_old_one_is_revoked(
    platform: Platform, production: dict[str, str], file: KeyFile, name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real = rotation.Rotation._revoke
    outcomes: list[str] = []

    def asking_first(self: rotation.Rotation) -> str:
        both = (production[name], file.read()[name])
        outcomes.extend(outcome(name, production, file, value) for value in both)
        return real(self)

    monkeypatch.setattr(rotation.Rotation, "_revoke", asking_first)
    assert rotate(platform, production, file, name) == 0
    assert outcomes == ["accepted", "accepted"]
