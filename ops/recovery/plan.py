"""The real restore's steps, in order: what is done is kept in a file, so that it can go on.

No step but the confirmed ones destroys anything, and every one may be repeated.
"""

import argparse
import getpass
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from dev.bootstrap import ROOT
from dev.platform import local_secrets as private
from dev.platform import migrations
from lib import maintenance
from lib.leads import queue
from lib.maintenance import MaintenanceWindow
from lib.problems import DatabaseDown
from lib.services import Services
from ops import steps
from ops.command import Failed
from ops.incidents import notes
from ops.products import cache_invalidation
from ops.recovery import backup, drill, erasures, load, manifest, postgres
from ops.recovery.backup_sources import BackupSource
from ops.steps import Outcome, Step
from ops.vendors import supabase as vendor

MAINTENANCE_WINDOW = timedelta(hours=4)
LAST_COPY_FOLDER = "before-restore"
SKIPPABLE_STEPS = (
    "maintenance",
    "keep",
    "passwords",
    "erasures",
    "journal",
    "caches",
    "canary",
    "proof",
)
START_POLLS = 12  # looks at Supabase: by then a restore that was ordered shows
SUPABASE_TIMEOUT_S = 2 * 3600.0
INSERT_MARKER = """
insert into leases (job, holder, until) values (%(mark)s, 'ops restore', now())
on conflict (job) do nothing
"""
HAS_MARKER = "select exists (select from leases where job = %(mark)s)"


class ConfirmationRequired(Exception):
    """Somebody must say so first; the text says how."""


class Restore:
    """One restore; `state` is the file's content."""

    def __init__(
        self, services: Services, args: argparse.Namespace, file: Path, state: dict[str, Any]
    ) -> None:
        self._services, self._args, self._file, self._state = services, args, file, state
        settings = services.settings
        self._dsn = settings.database_direct_url
        self._folder = Path(settings.backup_directory)
        self._keys = settings.backup_encryption_key
        held = state["source"]
        taken_at = datetime.fromisoformat(held["taken_at"])
        self.source = BackupSource(held["kind"], held["name"], taken_at)

    # ---------------------------------------------------------------- the order

    def steps(self) -> list[Step]:
        own = self.source.kind == "own"
        return [
            Step("check", self._check_source, required=True),
            Step("maintenance", self._enter_maintenance, required=True),
            Step("keep", self._save_current_data),
            Step("restore", self._restore_own if own else self._restore_at_supabase, required=True),
            Step("passwords", self._set_password, required=True),
            Step("migrations", self._migrate, required=True),
            Step("erasures", self._reapply_erasures, required=True),
            Step("journal", self._replay_journal, required=True),
            Step("caches", self._invalidate_caches, required=True),
            Step("canary", lambda: self._send_canary(past_maintenance=True), required=True),
            Step("open", self._reopen, required=True),
            Step("proof", lambda: self._send_canary(past_maintenance=False), required=True),
        ]

    def run(self, tell: Callable[[Outcome], None]) -> list[Outcome]:
        """What is left to do, until it is done or something is in the way."""
        done = self._state["done"]
        left = [step for step in self.steps() if step.name not in done]
        outcomes = []
        for step in left:
            if step.name in self._args.skip:
                found = Outcome(step.name, steps.COULD_NOT_VERIFY, "skipped, as asked", 0.0)
            else:
                found = steps.run_step(step)
            outcomes.append(found)
            tell(found)
            if found.verdict != steps.PASS and step.required and step.name not in self._args.skip:
                break
            done[step.name] = {"at": datetime.now(UTC).isoformat(), "verdict": found.verdict}
            self.save()
        return outcomes

    def save(self) -> None:
        private.write_private(self._file, json.dumps(self._state, indent=2) + "\n")

    # ---------------------------------------------------------------- the steps

    def _check_source(self) -> str:
        if self.source.kind == "own":
            backed_up = self._manifest()
            load.verify_backup(self._folder, backed_up, self._keys, quiet=self._args.json)
            planned = load.plan_load(self._dsn, self._folder, backed_up, self._keys)
            whole = f"{backed_up.name} is whole: {backed_up.rows:,} rows"
            return "; ".join([f"{whole}, for PostgreSQL {planned.server}", *planned.left_out])
        with vendor.Project(self._services.settings) as project:
            there = project.list_backups()
        if self.source.kind == "point":
            if (
                not there.pitr_range
                or not there.pitr_range[0] <= self.source.taken_at <= there.pitr_range[1]
            ):
                raise Failed("PITR does not reach that moment")
            return "PITR reaches that moment"
        numbers = [str(one.id) for one in there.backups if one.status == vendor.COMPLETED]
        if self.source.name not in numbers:
            raise Failed(f"Supabase has no good backup {self.source.name}")
        return f"Supabase has backup {self.source.name}"

    def _manifest(self) -> manifest.Manifest:
        return manifest.read(manifest.manifest_file(self._folder, self.source.name), self._keys)

    def _enter_maintenance(self) -> str:
        now = datetime.now(UTC)
        switch = MaintenanceWindow(
            "intake", now, now + MAINTENANCE_WINDOW, "restore", getpass.getuser()
        )
        maintenance.open_window(self._services.cache.execute, switch, now)
        return f"leads are queued until {switch.until:%H:%M} UTC at the latest"

    def _save_current_data(self) -> str:
        """What can still be saved of the database that is about to go."""
        entered, cache, run = 0, self._services.cache, self._services.database.run
        with suppress(psycopg.Error, DatabaseDown):
            while more := queue.backfill_journal(cache.pipeline, run, self._services.cipher):
                entered += more
        folder = self._folder / LAST_COPY_FOLDER
        try:
            kept = backup.take(self._dsn, folder, self._keys, quiet=self._args.json, recorded=False)
        except Failed as fault:
            raise steps.CouldNotVerify(f"nothing could be saved: {fault}") from None
        return f"{entered} leads entered in the journal; a last copy is {folder / kept.name}"

    def _restore_own(self) -> str:
        target = postgres.display_address(self._dsn)
        self._confirm("replace", target, f"everything in {target} is replaced")
        backed_up = self._manifest()
        told = load.load(self._dsn, self._folder, backed_up, self._keys, quiet=self._args.json)
        if said := load.differences(self._dsn, backed_up):
            raise Failed("; ".join(said))
        return "; ".join([f"{backed_up.rows:,} rows, each as it was", *told])

    def _restore_at_supabase(self) -> str:
        target = self._services.settings.supabase_project_ref
        self._confirm("replace", target, f"Supabase replaces the database of {target}")
        marked = self._insert_marker()
        with vendor.Project(self._services.settings) as project:
            if self.source.kind == "point":
                project.restore_to_time(self.source.taken_at)
            else:
                project.restore(int(self.source.name))
            self._wait_for_supabase(project)
        self._wait_for_connection()
        if marked and self._has_marker():
            raise Failed("Supabase says it is done, but the database is still the old one")
        return "Supabase restored it" + ("" if marked else "; whether it did, nothing showed")

    def _insert_marker(self) -> bool:
        """Leave a row that no backup has; False where the database takes none."""
        try:
            with postgres.connect(self._dsn) as connection:
                connection.execute(INSERT_MARKER, {"mark": self._state["id"]})
        except (Failed, psycopg.Error):
            return False
        return True

    def _has_marker(self) -> bool:
        with postgres.connect(self._dsn) as connection:
            row = connection.execute(HAS_MARKER, {"mark": self._state["id"]}).fetchone()
        return bool(row and row[0])

    def _wait_for_supabase(self, project: vendor.Project) -> None:
        begun, started = False, time.monotonic()
        while (passed := time.monotonic() - started) < SUPABASE_TIMEOUT_S:
            status = project.status()
            if "FAILED" in status:
                raise Failed(f"Supabase: {status}")
            begun = begun or status != "ACTIVE_HEALTHY"
            if status == "ACTIVE_HEALTHY" and (begun or passed > START_POLLS * self._args.every):
                return
            time.sleep(self._args.every)
        raise Failed("Supabase has not come to an end of it")

    def _wait_for_connection(self) -> None:
        """Wait until the database takes connections again."""
        for _ in range(START_POLLS):
            with suppress(Failed):
                postgres.connect(self._dsn).close()
                return
            time.sleep(self._args.every)
        raise Failed("restored, but the database takes no connection")

    def _set_password(self) -> str:
        role = load.set_app_password(self._dsn, self._services.settings.database_url)
        self._services.database.ping(budget_s=postgres.CONNECT_S)  # it may be remembered as down
        return f"{role} logs in"

    def _migrate(self) -> str:
        applied = migrations.apply(self._dsn, ROOT / "supabase" / "migrations")
        return f"{len(applied)} applied; {load.mark_mails_uncertain(self._dsn)} mails in doubt"

    def _reapply_erasures(self) -> str:
        self._confirm("erase", "", "whoever was erased since the backup is erased again")
        return erasures.replay(self._services, datetime.now(UTC))

    def _replay_journal(self) -> str:
        tally = drill.replay_journal(self._services, datetime.now(UTC))
        return drill.describe_replay(tally)

    def _invalidate_caches(self) -> str:
        told = cache_invalidation.invalidate_all(self._services)
        if not all(outcome.ok for outcome in told.values()):
            raise Failed("; ".join(f"{place}: {one.message}" for place, one in told.items()))
        return "no cache answers with what was"

    def _send_canary(self, *, past_maintenance: bool) -> str:
        drill.send_canary(self._services, past_maintenance=past_maintenance)
        return "a lead went in, was stored, and its mails left"

    def _reopen(self) -> str:
        self._confirm("open", "", "the site opens, and what waits is stored and mailed")
        maintenance.close_window(self._services.cache.execute)
        if self._services.settings.maintenance_mode != "off":
            raise Failed("MAINTENANCE_MODE still holds it closed: change it and redeploy")
        now = datetime.now(UTC)
        took_s = (now - datetime.fromisoformat(self._state["began"])).total_seconds()
        self._state["rto_s"] = round(took_s, 1)
        facts: dict[str, object] = {"source": self.source.kind, "rto_s": self._state["rto_s"]}
        run = self._services.database.run
        noted = notes.add_event_to_open(run, "restore", getpass.getuser(), now, facts)
        return f"open after {took_s:,.0f} s" + "".join(f"; noted on {one}" for one in noted)

    # ---------------------------------------------------------------- asking

    def _confirm(self, what: str, value: str, words: str) -> None:
        """Raises Failed unless it was said on the command line, or is typed at a terminal."""
        given = getattr(self._args, f"yes_{what}")
        if given is True or (value and given == value):
            return
        option = f"--yes-{what} {value}".strip()
        if given:
            raise ConfirmationRequired(f"that is not the target: say {option}")
        if not sys.stdin.isatty():
            raise ConfirmationRequired(f"{words}: say {option}")
        phrase = f"{what} {value}".strip()
        print(f"{words}. Type `{phrase}` to go on: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip() != phrase:
            raise ConfirmationRequired("not confirmed: nothing was done")
