"""Bringing it all back: the drill's verdicts, the real restore, and that no accepted lead is lost.

A platform of this file's own, since its database is destroyed.
"""

import hashlib
import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis
from psycopg.rows import DictRow, dict_row

from dev.faults.test_site import NO_RATE_LIMITS, empty_tables
from dev.platform.local_platform import Platform
from dev.vendors.supabase_api import SupabaseApi
from lib.encryption import SecretBoxCipher
from lib.settings import encryption_keys as read_keys
from ops import cli, connections
from ops.recovery import load, manifest, postgres, stream_encryption
from tests.conftest import LEAD, ROOT, eventually

type Rows = psycopg.Connection[DictRow]
type Printed = pytest.CaptureFixture[str]

NO_REDIS = {"UPSTASH_REDIS_REST_URL": "http://127.0.0.1:1"}
NO_DATABASE = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/alfa"}


@pytest.fixture(scope="module", params=[17, 15], ids=["pg17", "pg15"])
def own(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("recovery")
    major: int = request.param
    with Platform(ROOT, folder, durable=False, environ=NO_RATE_LIMITS, major=major) as running:
        yield running


main_major_alone = pytest.mark.parametrize("own", [17], ids=["pg17"], indirect=True, scope="module")
"""For what no other PostgreSQL could change: verdicts, questions, Supabase's API."""


class Site:
    """The platform, with the folder its backups go to."""

    def __init__(self, platform: Platform, folder: Path, printed: Printed) -> None:
        self.platform, self.folder, self.printed = platform, folder, printed
        self.valkey = redis.Redis.from_url(platform.redis_url, decode_responses=True)
        self.keys = read_keys(platform.environment["BACKUP_ENCRYPTION_KEY"])
        self.state = folder.parent / "restore.json"
        self.target = postgres.display_address(platform.admin_database_url)
        vendor = platform.supabase.vendor
        assert isinstance(vendor, SupabaseApi)
        self.supabase = vendor

    def ops(self, *arguments: str, **changed: str) -> int:
        environ = {**self.platform.environment, "BACKUP_DIRECTORY": str(self.folder), **changed}
        return cli.main(list(arguments), environ)

    def restore(self, *arguments: str, **changed: str) -> int:
        return self.ops("restore", "--state", str(self.state), "--every", "0.05", *arguments,
                        **changed)  # fmt: skip

    def restore_all(self, *arguments: str, **changed: str) -> int:
        confirmed = ("--yes-replace", self.target, "--yes-erase", "--yes-open")
        return self.restore(*confirmed, *arguments, **changed)

    def answers(self, *arguments: str, **changed: str) -> tuple[int, Any]:
        """A command's status and its JSON."""
        self.printed.readouterr()
        status = self.ops(*arguments, "--json", **changed)
        return status, json.loads(self.printed.readouterr().out)

    def post(self, number: int, **fields: object) -> str:
        lead = {**LEAD, "message": f"Nomor {number}", "email": "", **fields}
        answer = httpx.post(f"{self.platform.url}/api/leads", json=lead, timeout=20)
        assert answer.status_code in (200, 202), answer.text
        lead_id: str = answer.json()["id"]
        return lead_id

    def query(self, query: str, *values: object) -> list[DictRow]:
        dsn = self.platform.admin_database_url
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def leads(self) -> set[str]:
        return {str(row["id"]) for row in self.query("select id from leads")}

    def lose(self, *ids: str) -> None:
        """What a broken disk does: no trigger sees it."""
        with psycopg.connect(self.platform.admin_database_url, autocommit=True) as connection:
            connection.execute("set session_replication_role = replica")
            connection.execute("delete from outbox where lead_id = any(%s::uuid[])", [list(ids)])
            connection.execute("delete from leads where id = any(%s::uuid[])", [list(ids)])

    def journaled(self, count: int) -> None:
        def all_there() -> bool:
            """The journal has them all, and their mails are sent."""
            waiting = self.query("select 1 from outbox where sent_at is null")
            return self.valkey.zcard("accepted") == count and not waiting

        eventually(all_there)

    def destroy(self) -> None:
        self.query("drop schema public cascade")
        self.query("drop schema supabase_migrations cascade")
        self.query("create schema public")


@pytest.fixture
def site(own: Platform, tmp_path: Path, capsys: Printed) -> Iterator[Site]:
    new_site = Site(own, tmp_path / "backups", capsys)
    own.restart_functions()
    for stand_in in (own.resend, own.upstash, own.supabase, own.slack, own.sentry, own.vercel):
        stand_in.ok()
        stand_in.forget()
    new_site.valkey.flushall()
    empty_tables(new_site.query)
    yield new_site
    new_site.valkey.close()


# ------------------------------------------------------------------ the whole way


def test_after_a_disaster_nothing_accepted_is_missing_and_nobody_is_mailed_twice(
    site: Site,
) -> None:
    before = {site.post(number) for number in range(3)}
    site.journaled(3)
    [answered] = site.query("select ref from leads order by id limit 1")
    assert site.ops("leads", "done", str(answered["ref"]), "--by", "rina") == 0
    assert site.ops("backup") == 0
    after = {site.post(number) for number in range(3, 6)}
    erased = site.post(6, phone_whatsapp="0813 9999 0000")
    site.journaled(7)
    mails = len(site.platform.resend.vendor.mails())  # type: ignore[attr-defined]
    assert site.ops("subject", "erase", "--phone", "0813 9999 0000", "--yes") == 0
    assert erased not in site.leads()
    site.destroy()
    assert site.restore_all() == 0
    assert site.leads() == before | after, "every accepted lead, and nobody who was erased"
    marked = site.query("select ref, answered_by from leads where answered_at is not null")
    assert marked == [{**answered, "answered_by": "rina"}], "what sales had marked"
    output = site.printed.readouterr().out
    assert "maintenance is off" in output, "the clock"
    [finished] = site.state.parent.glob("restore-*.json")
    assert json.loads(finished.read_text())["rto_s"] > 0
    drain(site)
    sent = site.query("select 1 from outbox where sent_at is not null and dead_at is null")
    assert len(sent) == len(before | after)
    assert len(site.platform.resend.vendor.mails()) == mails + 4  # type: ignore[attr-defined]
    assert site.ops("ledger") == 0
    assert not site.valkey.exists("maintenance")


def drain(site: Site) -> None:
    site.query("update outbox set next_attempt_at = now(), leased_until = null")
    assert site.platform.cron("deliver").status == 200


def test_leads_taken_during_a_restore_wait_and_are_stored_afterwards(site: Site) -> None:
    site.post(1)
    site.journaled(1)
    assert site.ops("backup") == 0
    # Stops before anything is destroyed, with the site in maintenance.
    state = ("--state", str(site.state))
    assert at_a_terminal(site, "restore", *state, typed="yes\nno\n")[0] == 2
    queued = site.post(2)
    assert site.valkey.hkeys("queue") == [queued]
    assert queued not in site.leads()
    assert site.restore_all() == 0
    drain(site)
    assert queued in site.leads()
    assert site.valkey.hlen("queue") == 0


def test_a_mail_of_a_lead_that_came_back_after_resends_memory_is_left_to_a_person(
    site: Site,
) -> None:
    assert site.ops("backup") == 0
    lead_id = site.post(1)
    site.journaled(1)
    site.lose(lead_id)
    age_journal(site, lead_id, timedelta(hours=30))
    mails = len(site.platform.resend.vendor.mails())  # type: ignore[attr-defined]
    assert site.ops("journal", "replay") == 0
    assert site.leads() == {lead_id}
    drain(site)
    assert len(site.platform.resend.vendor.mails()) == mails  # type: ignore[attr-defined]
    [mail] = site.query("select uncertain, dead_at, last_error from outbox")
    assert mail["uncertain"]
    assert mail["dead_at"] is not None


def age_journal(site: Site, lead_id: str, age: timedelta) -> None:
    vault = SecretBoxCipher(read_keys(site.platform.environment["LEADS_ENCRYPTION_KEY"]))
    lead = json.loads(vault.decrypt(str(site.valkey.get(f"journal:{lead_id}"))))
    lead["created_at"] = (datetime.fromisoformat(lead["created_at"]) - age).isoformat()
    site.valkey.set(f"journal:{lead_id}", vault.encrypt(json.dumps(lead)))


def test_a_mail_that_left_after_the_backup_is_not_sent_again_a_day_later(site: Site) -> None:
    site.platform.resend.switch("fail")
    site.post(1)
    eventually(lambda: site.query("select 1 from outbox where last_error is not null"))
    site.query(
        "update outbox set created_at = now() - interval '30 hours', first_attempt_at = null,"
        " attempts = 0, uncertain = false"
    )
    assert site.ops("backup") == 0
    site.platform.resend.ok()
    drain(site)
    mails = len(site.platform.resend.vendor.mails())  # type: ignore[attr-defined]
    site.platform.resend.forget()  # it keeps a key for a day
    site.destroy()
    assert site.restore_all("--skip", "canary", "--skip", "proof") == 0
    drain(site)
    assert mails == 1
    assert site.platform.resend.vendor.mails() == []  # type: ignore[attr-defined]
    [mail] = site.query("select uncertain, dead_at from outbox")
    assert mail["uncertain"]
    assert mail["dead_at"] is not None


# ------------------------------------------------------------------ the journal


def test_a_replay_stores_what_is_missing_once_however_often_it_is_run(site: Site) -> None:
    ids = {site.post(number) for number in range(4)}
    site.journaled(4)
    gone = sorted(ids)[:2]
    site.lose(*gone)
    status, tally = site.answers("journal", "replay", "--dry-run")
    assert (status, tally["stored"], tally["there"]) == (0, 2, 2)
    assert site.leads() == ids - set(gone)
    for expected in (2, 0):
        status, tally = site.answers("journal", "replay")
        assert (status, tally["found"], tally["stored"]) == (0, 4, expected)
    assert site.leads() == ids
    assert len(site.query("select 1 from outbox")) == 4


def test_entries_that_cannot_be_decrypted_are_counted(site: Site) -> None:
    site.post(1)
    site.journaled(1)
    site.valkey.set("journal:00000000-0000-0000-0000-000000000000", "c2VhbGVk")
    status, tally = site.answers("journal", "replay")
    assert (status, tally["unreadable"], tally["there"]) == (1, 1, 1)


# ------------------------------------------------------------------ the drill


def verdicts(report: Any) -> dict[str, str]:
    return {step["name"]: step["verdict"] for step in report["steps"]}


def recorded(site: Site) -> list[DictRow]:
    return site.query("select kind, verdict, facts from drills order by id")


def test_a_drill_restores_replays_and_gets_a_lead_through_with_the_clock_running(
    site: Site,
) -> None:
    before = site.post(1)
    site.journaled(1)
    assert site.ops("backup") == 0
    site.post(2)
    site.journaled(2)
    site.lose(before)
    leads_before = site.query("select * from leads order by id")
    status, report = site.answers("restore-drill")
    assert set(verdicts(report).values()) == {"PASS"}, report
    assert (status, report["verdict"]) == (0, "PASS")
    restored = next(step for step in report["steps"] if step["name"] == "restore")
    assert f"into PostgreSQL {site.platform.postgres.major}" in restored["words"]
    assert 0 < report["rto_s"] < 3600
    assert 0 < report["rpo_s"] < 3600
    assert report["rpo_leads_s"] == 0
    [row] = recorded(site)
    assert (row["kind"], row["verdict"]) == ("restore", report["verdict"])
    assert row["facts"]["rto_s"] == report["rto_s"]
    assert site.query("select * from leads order by id") == leads_before, "production is as it was"


@main_major_alone
def test_a_drill_fails_when_an_accepted_lead_is_nowhere(site: Site) -> None:
    assert site.ops("backup") == 0
    lead_id = site.post(1)
    site.journaled(1)
    drain(site)  # else a round might enter it again
    site.valkey.delete(f"journal:{lead_id}")
    status, report = site.answers("restore-drill")
    assert (status, report["verdict"]) == (1, "FAIL")
    assert verdicts(report)["accepted"] == "FAIL"
    assert report["rpo_leads_s"] > 0
    assert recorded(site)[-1]["verdict"] == "FAIL"


@main_major_alone
def test_a_drill_that_cannot_read_the_journal_could_not_verify(site: Site) -> None:
    assert site.ops("backup") == 0
    status, report = site.answers("restore-drill", **NO_REDIS)
    assert (status, report["verdict"]) == (1, "COULD NOT VERIFY")
    assert verdicts(report)["journal"] == verdicts(report)["accepted"] == "COULD NOT VERIFY"
    assert report["rpo_leads_s"] is None
    assert recorded(site)[-1]["verdict"] == "COULD NOT VERIFY"


@main_major_alone
def test_a_drill_without_a_backup_could_not_verify_and_says_so_in_the_record(site: Site) -> None:
    status, report = site.answers("restore-drill")
    assert (status, report["verdict"]) == (1, "COULD NOT VERIFY")
    assert recorded(site)[-1]["verdict"] == "COULD NOT VERIFY"


@main_major_alone
def test_a_drill_on_a_damaged_backup_fails_and_reaches_nothing_else(site: Site) -> None:
    assert site.ops("backup") == 0
    [taken], _ = manifest.list_backups(site.folder, site.keys)
    file = manifest.sealed_file(site.folder, taken.name)
    broken = bytearray(file.read_bytes())
    broken[len(broken) // 2] ^= 1
    file.write_bytes(bytes(broken))
    status, report = site.answers("restore-drill")
    assert (status, report["verdict"]) == (1, "FAIL")
    found_verdicts = verdicts(report)
    assert found_verdicts["check"] == "FAIL"
    assert found_verdicts["canary"] == found_verdicts["rto"] == "COULD NOT VERIFY"


@main_major_alone
def test_a_drill_on_a_backup_over_a_day_old_fails_its_rpo(site: Site) -> None:
    assert site.ops("backup") == 0
    [taken], _ = manifest.list_backups(site.folder, site.keys)
    old = replace(taken, taken_at=taken.taken_at - timedelta(hours=25)).signed(site.keys[0])
    manifest.write(site.folder, old)
    status, report = site.answers("restore-drill")
    assert (status, verdicts(report)["rpo"]) == (1, "FAIL")


@main_major_alone
def test_a_drill_that_cannot_be_recorded_does_not_end_well(site: Site) -> None:
    assert site.ops("backup") == 0
    assert site.ops("restore-drill", **NO_DATABASE) == 1
    assert "NOT RECORDED" in site.printed.readouterr().err


@main_major_alone
def test_a_dry_run_of_the_drill_restores_and_records_nothing(site: Site) -> None:
    assert site.ops("backup") == 0
    status, report = site.answers("restore-drill", "--dry-run")
    assert status == 0
    assert report["name"].startswith("alfa-")
    assert recorded(site) == []


# ------------------------------------------------------------------ the real restore


def test_the_plan_names_the_backup_and_what_is_newer_and_changes_nothing(site: Site) -> None:
    site.post(1)
    site.journaled(1)
    assert site.ops("backup") == 0
    site.post(2)
    site.journaled(2)
    site.printed.readouterr()
    assert site.restore("--dry-run", "--json") == 0
    plan = json.loads(site.printed.readouterr().out)
    assert plan["source"]["kind"] == "own"
    assert (plan["at_risk"]["leads_since"], plan["at_risk"]["leads_in_journal"]) == (1, 1)
    assert plan["at_risk"]["rows"]["public.leads"] == "2 now, 1 in the backup"
    assert plan["left"][:4] == ["check", "maintenance", "keep", "restore"]
    assert plan["left"][-4:] == ["caches", "canary", "open", "proof"]
    assert not site.state.exists()
    assert not site.valkey.exists("maintenance")
    assert len(site.leads()) == 2


def test_without_a_terminal_nothing_that_cannot_be_undone_is_done(site: Site) -> None:
    site.post(1)
    site.journaled(1)
    assert site.ops("backup") == 0
    site.post(2)
    site.journaled(2)
    assert site.restore("--yes-replace", "localhost/other") == 2
    error = site.printed.readouterr().err
    assert f"add: --yes-replace {site.target} --yes-erase --yes-open" in error, "all at once"
    assert site.restore("--yes-replace", site.target, "--yes-erase") == 2
    assert site.printed.readouterr().err.endswith("add: --yes-open\n")
    assert not site.valkey.exists("maintenance")
    assert len(site.leads()) == 2
    assert site.restore_all() == 0
    assert len(site.leads()) == 2


def test_a_restore_killed_while_it_loads_is_begun_again_and_ends_well(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead_id = site.post(1)
    site.journaled(1)
    assert site.ops("backup") == 0
    later = site.post(2)
    site.journaled(2)
    postgres.major_version.cache_clear()
    real = postgres.find_program("pg_restore", site.platform.postgres.major)
    tools = tmp_path / "bin"
    tools.mkdir()
    fake = tools / "pg_restore"
    fake.write_text(
        f'#!/bin/sh\ncase "$1" in --version|--list) exec {real} "$@";; esac\n'
        f"touch {tmp_path}/begun; sleep 60\n"
    )
    fake.chmod(0o755)
    environ = {
        **os.environ,
        **site.platform.environment,
        "BACKUP_DIRECTORY": str(site.folder),
        "PATH": f"{tools}:{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "ops.cli", "restore", "--state", str(site.state),
               "--yes-replace", site.target, "--yes-erase", "--yes-open"]  # fmt: skip
    with subprocess.Popen(command, env=environ, cwd=ROOT, stdout=subprocess.DEVNULL) as running:
        try:
            eventually((tmp_path / "begun").exists, 30)
        finally:
            running.kill()
    assert site.leads() == {lead_id, later}, "as it was"
    assert site.restore_all() == 0
    assert site.leads() == {lead_id, later}, "the backup's, and the journal's"


def test_a_backup_that_cannot_be_restored_here_is_refused_before_anything_is_done(
    site: Site,
) -> None:
    lead_id = site.post(1)
    site.journaled(1)
    assert site.ops("backup") == 0
    [taken], _ = manifest.list_backups(site.folder, site.keys)
    file = manifest.sealed_file(site.folder, taken.name)
    with file.open("rb") as stream:
        dump = b"".join(stream_encryption.decrypt(stream, site.keys))
    major = site.platform.postgres.major
    newer = dump.replace(f"{major}.".encode(), f"{major + 1}.".encode())
    sealed = b"".join(stream_encryption.encrypt([newer], site.keys[0]))
    file.write_bytes(sealed)
    forged = replace(
        taken,
        sealed_bytes=len(sealed),
        sealed_sha256=hashlib.sha256(sealed).hexdigest(),
        dump_sha256=hashlib.sha256(newer).hexdigest(),
    )
    manifest.write(site.folder, forged.signed(site.keys[0]))
    assert site.restore_all() == 1
    output = site.printed.readouterr().out
    assert f"taken from PostgreSQL {major + 1}, the database is {major}" in output
    assert not site.valkey.exists("maintenance"), "the site was not closed for nothing"
    assert site.leads() == {lead_id}


def test_a_database_that_cannot_be_read_any_more_is_replaced_all_the_same(site: Site) -> None:
    lead_id = site.post(1)
    site.journaled(1)
    assert site.ops("backup") == 0
    site.destroy()
    assert site.restore_all() == 0
    assert "nothing could be saved" in site.printed.readouterr().out
    assert site.leads() == {lead_id}


def test_a_last_copy_is_kept_of_what_is_replaced_and_is_no_backup_to_choose(site: Site) -> None:
    assert site.ops("backup") == 0
    site.post(1)
    site.journaled(1)
    assert site.restore_all() == 0
    [backup_manifest], _ = manifest.list_backups(site.folder / "before-restore", site.keys)
    assert backup_manifest.tables["public.leads"][0] == 1
    assert len(manifest.list_backups(site.folder, site.keys)[0]) == 1


def test_a_lost_password_is_set_again(site: Site) -> None:
    assert site.ops("backup") == 0
    site.query("alter role alfa_api_a password 'lost'")
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(site.platform.database_url)
    assert site.restore_all() == 0
    psycopg.connect(site.platform.database_url).close()


def test_a_backup_from_before_the_trouble_can_be_asked_for(site: Site) -> None:
    assert site.ops("backup") == 0
    between = datetime.now(UTC)
    assert site.ops("backup") == 0
    first = min(copy.name for copy in manifest.list_backups(site.folder, site.keys)[0])
    site.printed.readouterr()
    assert site.restore("--dry-run", "--json", "--before", between.isoformat()) == 0
    assert json.loads(site.printed.readouterr().out)["source"]["name"] == first
    assert site.restore("--dry-run", "--before", "2020-01-01T00:00:00Z") == 1


# ------------------------------------------------------------------ Supabase's backups


def by_supabase(site: Site) -> Callable[[datetime], None]:
    """What Supabase does: the database goes back to what our backup of then holds."""
    [taken], _ = manifest.list_backups(site.folder, site.keys)
    dsn = site.platform.admin_database_url

    def replace_all(_point: datetime) -> None:
        load.load(dsn, site.folder, taken, site.keys, quiet=True)

    return replace_all


@main_major_alone
def test_supabases_backups_are_listed_checked_and_recorded_for_the_monitor(site: Site) -> None:
    assert site.ops("backup") == 0
    status, report = site.answers("backups", "--record")
    assert status == 0, report
    assert report["pitr"] is False
    assert [row["source"] for row in report["backups"]] == ["own"] + ["supabase"] * 7
    rows = site.query("select source, status from backups")
    assert len(rows) == 8
    site.answers("backups", "--record")
    assert len(site.query("select 1 from backups")) == 8, "seen twice, recorded once"


def test_point_in_time_recovery_is_the_newest_backup(site: Site) -> None:
    latest = datetime.now(UTC).replace(microsecond=0) - timedelta(minutes=2)
    site.supabase.pitr(latest - timedelta(days=7), latest)
    status, report = site.answers("backups", "--record")
    assert (status, report["pitr"], len(report["backups"])) == (0, True, 1)
    assert datetime.fromisoformat(report["backups"][0]["taken_at"]) == latest


def test_backups_that_failed_or_are_old_or_none_are_not_called_good(site: Site) -> None:
    site.supabase.remove_backups()
    assert site.answers("backups", "--record")[0] == 1
    site.supabase.add_backup(datetime.now(UTC) - timedelta(hours=1), "FAILED")
    site.supabase.add_backup(datetime.now(UTC) - timedelta(hours=30))
    status, report = site.answers("backups", "--record")
    assert (status, report["faults"]) == (1, ["no good backup is younger than a day"])


@main_major_alone
@pytest.mark.parametrize(
    "trouble",
    [{"mode": "fail"}, {"mode": "rate_limit"}, {"mode": "reset"}],
    ids=lambda t: t["mode"],
)
def test_an_outage_of_supabases_api_is_reported_and_our_own_backups_are_listed(
    site: Site, trouble: dict[str, Any]
) -> None:
    assert site.ops("backup") == 0
    site.platform.supabase.switch(**trouble)
    status, report = site.answers("backups", "--record")
    assert (status, len(report["backups"]), len(report["faults"])) == (1, 1, 1)
    assert report["pitr"] is None


@main_major_alone
def test_without_a_token_supabase_is_not_asked_and_that_is_no_success(site: Site) -> None:
    assert site.ops("backup") == 0
    status, report = site.answers("backups", "--record", SUPABASE_ACCESS_TOKEN="")
    assert (status, len(report["backups"])) == (2, 1)
    assert "SUPABASE_ACCESS_TOKEN is not set" in report["faults"][0]
    status, report = site.answers("backups", "--record", SUPABASE_ACCESS_TOKEN="sbp_wrong")
    assert (status, report["faults"]) == (
        1,
        [f"Supabase refused with 401 -: Unauthorized ({connections.REFUSED_TOKEN})"],
    )


def supabase_restore(site: Site, *more: str) -> int:
    project = site.platform.environment["SUPABASE_PROJECT_REF"]
    return site.restore("--yes-replace", project, "--yes-erase", "--yes-open",
                        *more)  # fmt: skip


def test_a_restore_by_supabase_runs_the_same_steps(site: Site) -> None:
    before = site.post(1)
    site.journaled(1)
    assert site.ops("backup") == 0
    after = site.post(2)
    site.journaled(2)
    site.supabase.on_restore = by_supabase(site)
    assert supabase_restore(site, "--source", "supabase") == 0
    assert site.leads() == {before, after}
    paths = [
        request["path"]
        for request in site.platform.supabase.received()
        if request["method"] == "POST"
    ]
    assert [path.rsplit("/", 2)[1:] for path in paths] == [["backups", "restore"]]


def test_a_restore_to_a_moment_is_asked_of_pitr_and_refused_out_of_its_reach(site: Site) -> None:
    lead_id = site.post(1)
    site.journaled(1)
    assert site.ops("backup") == 0
    point = datetime.now(UTC).replace(microsecond=0)
    site.supabase.pitr(point - timedelta(days=7), point)
    site.supabase.on_restore = by_supabase(site)
    early = (point - timedelta(days=8)).isoformat()
    assert supabase_restore(site, "--point", early) == 1
    assert supabase_restore(site, "--start-over", "--point", point.isoformat()) == 0
    assert site.leads() == {lead_id}


def test_a_restore_that_supabase_only_says_it_did_is_noticed(site: Site) -> None:
    assert site.ops("backup") == 0
    assert supabase_restore(site, "--source", "supabase") == 1
    assert "still the old one" in site.printed.readouterr().out
    assert site.valkey.exists("maintenance")


# ------------------------------------------------------------------ deep health


def services(site: Site) -> tuple[str, dict[str, Any]]:
    token = {"Authorization": f"Bearer {site.platform.environment['HEALTH_CHECK_TOKEN']}"}
    url = f"{site.platform.url}/api/health?deep=true"
    httpx.get(url, headers=token, timeout=20)  # warm
    body = httpx.get(url, headers=token, timeout=20).json()
    return body["status"], body["services"]


def watched_for(site: Site, age: timedelta) -> None:
    site.query("delete from job_runs")
    site.query("insert into job_runs values ('watch', %s, now())", datetime.now(UTC) - age)


def drilled(site: Site, age: timedelta, verdict: str = "PASS") -> None:
    site.query(
        "insert into drills (kind, at, verdict) values ('restore', %s, %s)",
        datetime.now(UTC) - age,
        verdict,
    )


@main_major_alone
def test_deep_health_degrades_with_an_old_or_missing_drill_or_backup(site: Site) -> None:
    assert services(site)[1]["restore_drill"] == "not yet", "nobody has watched yet"
    watched_for(site, timedelta(days=6))
    status, checks = services(site)
    assert (status, checks["backup"]) == ("degraded", "none in 144 hours")
    assert checks["restore_drill"] == "not yet"
    assert site.ops("backup") == 0
    assert services(site)[0] == "healthy"
    watched_for(site, timedelta(days=8))
    assert services(site)[1]["restore_drill"] == "none in 192 hours"
    drilled(site, timedelta(days=7, hours=1))
    status, checks = services(site)
    assert (status, checks["restore_drill"]) == ("degraded", "stale: 169 hours")
    for verdict in ("FAIL", "COULD NOT VERIFY"):
        drilled(site, timedelta(), verdict)
        assert services(site)[1]["restore_drill"] == "stale: 169 hours"
    drilled(site, timedelta(days=1))
    assert services(site)[0] == "healthy"
    site.query("update backups set taken_at = taken_at - interval '27 hours'")
    status, checks = services(site)
    assert (status, checks["backup"]) == ("degraded", "stale: 27 hours")


# ------------------------------------------------------------------ at a terminal


def at_a_terminal(site: Site, *arguments: str, typed: str = "") -> tuple[int, str]:
    """A command's status, and everything a person saw who typed that."""
    environ = {**os.environ, **site.platform.environment, "BACKUP_DIRECTORY": str(site.folder)}
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    command = [sys.executable, "-m", "ops.cli", *arguments]
    running = subprocess.Popen(
        command, env=environ, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    output = b""
    with suppress(OSError):  # the terminal is gone with its last user
        while piece := os.read(ours, 65536):
            output += piece
    os.close(ours)
    return running.wait(60), output.decode()


@main_major_alone
def test_a_terminal_shows_how_far_the_backup_is_and_no_secret(site: Site) -> None:
    status, output = at_a_terminal(site, "backup")
    assert status == 0
    assert re.search(r"backup .*\d/\d+(\.\d+)? (bytes|kB|MB)", output), output
    for name, value in site.platform.environment.items():
        if any(word in name for word in ("KEY", "TOKEN", "SECRET")) and len(value) > 15:
            assert value not in output, name
    assert site.platform.admin_database_url not in output


@main_major_alone
def test_a_person_types_what_is_to_be_replaced_and_anything_else_changes_nothing(
    site: Site,
) -> None:
    assert site.ops("backup") == 0
    site.post(1)
    site.journaled(1)
    state = ("--state", str(site.state))
    status, output = at_a_terminal(site, "restore", *state, typed="no\n")
    assert status == 1
    assert "nothing was changed" in output
    assert not site.valkey.exists("maintenance"), "it has not begun"
    status, output = at_a_terminal(site, "restore", *state, typed="yes\nyes\n")
    assert status == 2
    assert f"Type `replace {site.target}` to go on" in output
    assert len(site.leads()) == 1
    typed = f"replace {site.target}\nerase\nopen\n"
    status, output = at_a_terminal(site, "restore", *state, typed=typed)
    assert status == 0, output
    assert "maintenance is off" in output
    assert len(site.leads()) == 1
