"""The real restore's steps, in order. What is done is kept in a file, so that it can go on.

No step but the confirmed ones destroys anything, and every one may be repeated.
"""

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

from lib import maintenance
from lib.leads import queue
from lib.maintenance import MaintenanceWindow
from lib.problems import DatabaseDown
from ops import command, steps
from ops.command import Args, Failed
from ops.incidents import maintenance_window, notes
from ops.keys.key_file import write_private
from ops.privacy import tombstone_replay
from ops.products import cache_invalidation
from ops.progress import Waiting
from ops.recovery import after_load, backup, load, manifest, postgres
from ops.recovery.backup_sources import BackupSource
from ops.settings import OperatorServices
from ops.steps import Outcome, Printer, Step
from ops.vendors import supabase

MAINTENANCE_WINDOW = timedelta(hours=4)
LAST_COPY_FOLDER = "before-restore"
SKIPPABLE_STEPS = tuple(
    "maintenance keep passwords erasures journal caches canary proof".split()  # noqa: SIM905
)
START_POLLS = 12  # of Supabase: by then a restore that was requested shows
SUPABASE_TIMEOUT_S = 2 * 3600.0
INSERT_MARKER = """
insert into leases (job, holder, until) values (%(mark)s, 'ops restore', now())
on conflict (job) do nothing
"""
HAS_MARKER = "select exists (select from leases where job = %(mark)s)"


class ConfirmationRequired(Exception):
    """A person must confirm first; the text says how."""


class Restore:
    """One restore; `state` is the file's content."""

    def __init__(
        self, services: OperatorServices, args: Args, file: Path, state: dict[str, Any]
    ) -> None:
        self._services, self._args, self._file, self._state = services, args, file, state
        settings = services.settings
        self._dsn = settings.database_direct_url
        self._folder = Path(settings.backup_directory)
        self._keys = settings.backup_encryption_key
        source = state["source"]
        taken_at = datetime.fromisoformat(source["taken_at"])
        self.source = BackupSource(source["kind"], source["name"], taken_at)

    # ---------------------------------------------------------------- the order

    def steps(self) -> list[Step]:
        services = self._services
        restore = self._restore_own if self.source.kind == "own" else self._restore_at_supabase
        required: list[tuple[str, Callable[[], str]]] = [
            ("restore", restore),
            ("passwords", self._set_password),
            ("migrations", self._migrate),
            ("erasures", self._reapply_erasures),
            ("journal", lambda: after_load.replay_journal(services, datetime.now(UTC))),
            ("caches", self._invalidate_caches),
            ("canary", lambda: after_load.send_canary(services, past_maintenance=True)),
            ("open", self._reopen),
            ("proof", lambda: after_load.send_canary(services)),
        ]
        return [
            Step("check", self._check_source, required=True),
            Step("maintenance", self._enter_maintenance, required=True),
            Step("keep", self._save_current_data),
            *(Step(name, run, required=True) for name, run in required),
        ]

    def run(self, show: Printer) -> list[Outcome]:
        """What is left to do, until it is done or a required step fails."""
        done, outcomes = self._state["done"], []
        for step in [step for step in self.steps() if step.name not in done]:
            skipped = step.name in self._args.skip
            if skipped:
                outcome = Outcome(step.name, steps.COULD_NOT_VERIFY, "skipped (--skip)", 0.0)
            else:
                outcome = steps.run_step(step, show)
            outcomes.append(outcome)
            show(outcome)
            if outcome.verdict != steps.PASS and step.required and not skipped:
                break
            done[step.name] = {"at": datetime.now(UTC).isoformat(), "verdict": outcome.verdict}
            self.save()
        return outcomes

    def save(self) -> None:
        write_private(self._file, json.dumps(self._state, indent=2) + "\n")

    # ---------------------------------------------------------------- the steps

    def _check_source(self) -> str:
        if self.source.kind == "own":
            backed_up = self._manifest()
            load.verify_backup(self._folder, backed_up, self._keys, quiet=self._args.json)
            plan = load.plan_load(self._dsn, self._folder, backed_up, self._keys)
            rows = f"{backed_up.name} is undamaged: {backed_up.rows:,} rows"
            return "; ".join([f"{rows}, for PostgreSQL {plan.server}", *plan.left_out])
        with supabase.Project(self._services.settings) as project:
            listed = project.list_backups()
        if self.source.kind == "point":
            first, last = listed.pitr_range or (datetime.max.replace(tzinfo=UTC),) * 2
            if not first <= self.source.taken_at <= last:
                raise Failed("PITR does not reach that moment")
            return "PITR reaches that moment"
        good = [str(copy.id) for copy in listed.backups if copy.status == supabase.COMPLETED]
        if self.source.name not in good:
            raise Failed(f"Supabase has no good backup {self.source.name}")
        return f"Supabase has backup {self.source.name}"

    def _manifest(self) -> manifest.Manifest:
        return manifest.read(manifest.manifest_file(self._folder, self.source.name), self._keys)

    def _enter_maintenance(self) -> str:
        now = datetime.now(UTC)
        end = now + MAINTENANCE_WINDOW
        window = MaintenanceWindow("intake", now, end, "restore", getpass.getuser())
        maintenance_window.open_in_redis(self._services.cache.execute, window, now)
        self._keep_closed()
        return f"leads are queued until {command.format_time(window.until)} at the latest"

    def _keep_closed(self) -> None:
        """Tell Postgres of the window; again for a database that a backup has replaced.

        One that cannot be told, for want of the table, has no statement that stores a lead either.
        """
        services, now = self._services, datetime.now(UTC)
        window = maintenance.parse_window(services.cache.execute("GET", maintenance.KEY), now)
        if window is not None:
            with suppress(Failed, psycopg.Error), postgres.connect(self._dsn) as connection:
                maintenance_window.open_in_postgres(lambda query: query(connection), window)

    def _save_current_data(self) -> str:
        """What can still be saved of the database that will be replaced."""
        services, journaled = self._services, 0
        with suppress(psycopg.Error, DatabaseDown):
            while count := queue.backfill_journal(services):
                journaled += count
        folder = self._folder / LAST_COPY_FOLDER
        try:
            copy = backup.take(self._dsn, folder, self._keys, quiet=self._args.json, recorded=False)
        except Failed as error:
            raise steps.CouldNotVerify(f"nothing could be saved: {error}") from None
        return f"{journaled} leads added to the journal; a last copy is {folder / copy.name}"

    def _restore_own(self) -> str:
        target = self._target()
        self._confirm("replace", target, f"everything in {target} is replaced")
        backed_up = self._manifest()
        notices = load.load(self._dsn, self._folder, backed_up, self._keys, quiet=self._args.json)
        self._keep_closed()
        return "; ".join([f"{backed_up.rows:,} rows, all verified", *notices])

    def _restore_at_supabase(self) -> str:
        target = self._target()
        self._confirm("replace", target, f"Supabase replaces the database of {target}")
        marked = self._insert_marker()
        with supabase.Project(self._services.settings) as project, Waiting("Supabase") as waiting:
            if self.source.kind == "point":
                project.restore_to_time(self.source.taken_at)
            else:
                project.restore(int(self.source.name))
            self._wait_for_supabase(project, waiting)
        self._wait_for_connection()
        self._keep_closed()
        if not marked:
            return "Supabase says that it restored the database; nothing here could check it"
        with postgres.connect(self._dsn) as connection:
            row = connection.execute(HAS_MARKER, {"mark": self._state["id"]}).fetchone()
        if row and row[0]:
            raise Failed("Supabase says it is done, but the database is still the old one")
        return "Supabase restored it"

    def _insert_marker(self) -> bool:
        """Write a row that no backup has; False where the database is not writable."""
        try:
            with postgres.connect(self._dsn) as connection:
                connection.execute(INSERT_MARKER, {"mark": self._state["id"]})
        except (Failed, psycopg.Error):
            return False
        return True

    def _wait_for_supabase(self, project: supabase.Project, waiting: Waiting) -> None:
        """Until the project is healthy again; a restore may take a while to begin."""
        begun, started = False, time.monotonic()
        while (waited_s := time.monotonic() - started) < SUPABASE_TIMEOUT_S:
            status = project.status()
            waiting.update(f"the project is {status}")
            if "FAILED" in status:
                raise Failed(f"Supabase: {status}")
            begun = begun or status != "ACTIVE_HEALTHY" or waited_s > START_POLLS * self._args.every
            if begun and status == "ACTIVE_HEALTHY":
                return
            time.sleep(self._args.every)
        raise Failed(f"Supabase has not finished after {SUPABASE_TIMEOUT_S / 3600:.0f} hours")

    def _wait_for_connection(self) -> None:
        for _ in range(START_POLLS):
            with suppress(Failed):
                postgres.connect(self._dsn).close()
                return
            time.sleep(self._args.every)
        raise Failed("restored, but the database takes no connection")

    def _set_password(self) -> str:
        result = after_load.set_app_password(self._dsn, self._services.settings.database_url)
        self._services.database.ping(budget_s=postgres.CONNECT_S)  # the breaker may be open
        return result

    def _migrate(self) -> str:
        result = after_load.migrate(self._dsn)
        self._keep_closed()
        return result

    def _reapply_erasures(self) -> str:
        self._confirm("erase", "", "whoever was erased since the backup is erased again")
        return tombstone_replay.reapply_after_restore(self._services, datetime.now(UTC))

    def _invalidate_caches(self) -> str:
        results = cache_invalidation.invalidate_all(self._services)
        if not all(result.ok for result in results.values()):
            messages = (f"{cache}: {result.message}" for cache, result in results.items())
            raise Failed("; ".join(messages))
        return "no cache answers with old data"

    def _reopen(self) -> str:
        self._confirm("open", "", "maintenance ends, and what waits is stored and mailed")
        maintenance_window.close_in_postgres(self._services.database.run)
        maintenance_window.close_in_redis(self._services.cache.execute)
        if self._services.settings.maintenance_mode != "off":
            raise Failed(
                "MAINTENANCE_MODE still keeps maintenance on: `ops maintenance deploy off`"
            )
        now = datetime.now(UTC)
        took_s = (now - datetime.fromisoformat(self._state["began"])).total_seconds()
        self._state["rto_s"] = round(took_s, 1)
        facts: dict[str, object] = {"source": self.source.kind, "rto_s": self._state["rto_s"]}
        run = self._services.database.run
        noted = notes.add_event_to_open(run, "restore", getpass.getuser(), now, facts)
        return f"maintenance is off, {took_s:,.0f} s after the restore began" + "".join(
            f"; noted on {incident_id}" for incident_id in noted
        )

    # ---------------------------------------------------------------- confirmation

    def missing_confirmations(self) -> list[str]:
        """The options that the steps to come need where there is no terminal to ask at."""
        if sys.stdin.isatty():
            return []
        options = {"restore": ("replace", self._target()), "erasures": ("erase", ""),
                   "open": ("open", "")}  # fmt: skip
        left_out = {*self._state["done"], *self._args.skip}
        return [
            f"--yes-{name} {value}".strip()
            for step, (name, value) in options.items()
            if step not in left_out and getattr(self._args, f"yes_{name}") not in (True, value)
        ]

    def _target(self) -> str:
        if self.source.kind == "own":
            return postgres.display_address(self._dsn)
        return self._services.settings.supabase_project_ref

    def _confirm(self, what: str, value: str, consequence: str) -> None:
        """Raises ConfirmationRequired unless it is an option, or is typed at a terminal."""
        option = f"--yes-{what} {value}".strip()
        confirmed = getattr(self._args, f"yes_{what}")
        if confirmed is True or (value and confirmed == value):
            return
        if confirmed:
            raise ConfirmationRequired(f"wrong target name: add {option}")
        if not sys.stdin.isatty():
            raise ConfirmationRequired(f"{consequence}: add {option}")
        phrase = f"{what} {value}".strip()
        print(f"{consequence}. Type `{phrase}` to go on: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip() != phrase:
            raise ConfirmationRequired(
                "not confirmed: this step was not done; the same command asks again"
            )
