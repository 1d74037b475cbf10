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
from lib.incidents import store
from lib.leads import queue
from lib.maintenance import Switch
from lib.problems import DatabaseDown
from lib.services import Services
from ops import steps
from ops.command import Failed
from ops.products import cache_invalidation
from ops.recovery import backup, drill, erasures, load, manifest, postgres
from ops.recovery.backup_sources import Source
from ops.steps import Outcome, Step
from ops.vendors import supabase as vendor

WINDOW = timedelta(hours=4)
BEFORE = "before-restore"
SKIPPABLE = ("maintenance", "keep", "passwords", "erasures", "journal", "caches", "canary", "proof")
BEGINS_WITHIN = 12  # looks at Supabase: by then a restore that was ordered shows
END_S = 2 * 3600.0
MARK = """
insert into leases (job, holder, until) values (%(mark)s, 'ops restore', now())
on conflict (job) do nothing
"""
MARKED = "select exists (select from leases where job = %(mark)s)"


class NeedsYes(Exception):
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
        self.source = Source(held["kind"], held["name"], taken_at)

    # ---------------------------------------------------------------- the order

    def steps(self) -> list[Step]:
        own = self.source.kind == "own"
        return [
            Step("check", self._check, vital=True),
            Step("maintenance", self._close, vital=True),
            Step("keep", self._keep),
            Step("restore", self._restore if own else self._restore_there, vital=True),
            Step("passwords", self._let_in, vital=True),
            Step("migrations", self._migrate, vital=True),
            Step("erasures", self._erase, vital=True),
            Step("journal", self._replay, vital=True),
            Step("caches", self._outdate, vital=True),
            Step("canary", lambda: self._walk(past_maintenance=True), vital=True),
            Step("open", self._open, vital=True),
            Step("proof", lambda: self._walk(past_maintenance=False), vital=True),
        ]

    def run(self, tell: Callable[[Outcome], None]) -> list[Outcome]:
        """What is left to do, until it is done or something is in the way."""
        done = self._state["done"]
        left = [step for step in self.steps() if step.name not in done]
        outcomes = []
        for step in left:
            if step.name in self._args.skip:
                found = Outcome(step.name, steps.UNKNOWN, "skipped, as asked", 0.0)
            else:
                found = steps.one(step)
            outcomes.append(found)
            tell(found)
            if found.verdict != steps.PASS and step.vital and step.name not in self._args.skip:
                break
            done[step.name] = {"at": datetime.now(UTC).isoformat(), "verdict": found.verdict}
            self.save()
        return outcomes

    def save(self) -> None:
        private.write_private(self._file, json.dumps(self._state, indent=2) + "\n")

    # ---------------------------------------------------------------- the steps

    def _check(self) -> str:
        if self.source.kind == "own":
            backed_up = self._manifest()
            load.check(self._folder, backed_up, self._keys, quiet=self._args.json)
            planned = load.plan(self._dsn, self._folder, backed_up, self._keys)
            whole = f"{backed_up.name} is whole: {backed_up.rows:,} rows"
            return "; ".join([f"{whole}, for PostgreSQL {planned.server}", *planned.left_out])
        with vendor.Project(self._services.settings) as project:
            there = project.backups()
        if self.source.kind == "point":
            if not there.points or not there.points[0] <= self.source.taken_at <= there.points[1]:
                raise Failed("PITR does not reach that moment")
            return "PITR reaches that moment"
        numbers = [str(one.number) for one in there.backups if one.status == vendor.GOOD]
        if self.source.name not in numbers:
            raise Failed(f"Supabase has no good backup {self.source.name}")
        return f"Supabase has backup {self.source.name}"

    def _manifest(self) -> manifest.Manifest:
        return manifest.read(manifest.manifest_file(self._folder, self.source.name), self._keys)

    def _close(self) -> str:
        now = datetime.now(UTC)
        switch = Switch("intake", now, now + WINDOW, "restore", getpass.getuser())
        maintenance.switch_on(self._services.cache.run, switch, now)
        return f"leads are queued until {switch.until:%H:%M} UTC at the latest"

    def _keep(self) -> str:
        """What can still be saved of the database that is about to go."""
        entered, cache, run = 0, self._services.cache, self._services.database.run
        with suppress(psycopg.Error, DatabaseDown):
            while more := queue.catch_up(cache.run_all, run, self._services.vault):
                entered += more
        folder = self._folder / BEFORE
        try:
            kept = backup.take(self._dsn, folder, self._keys, quiet=self._args.json, recorded=False)
        except Failed as fault:
            raise steps.CouldNotVerify(f"nothing could be saved: {fault}") from None
        return f"{entered} leads entered in the journal; a last copy is {folder / kept.name}"

    def _restore(self) -> str:
        target = postgres.where(self._dsn)
        self._confirm("replace", target, f"everything in {target} is replaced")
        backed_up = self._manifest()
        told = load.load(self._dsn, self._folder, backed_up, self._keys, quiet=self._args.json)
        if said := load.differences(self._dsn, backed_up):
            raise Failed("; ".join(said))
        return "; ".join([f"{backed_up.rows:,} rows, each as it was", *told])

    def _restore_there(self) -> str:
        target = self._services.settings.supabase_project_ref
        self._confirm("replace", target, f"Supabase replaces the database of {target}")
        marked = self._mark()
        with vendor.Project(self._services.settings) as project:
            if self.source.kind == "point":
                project.restore_point(self.source.taken_at)
            else:
                project.restore(int(self.source.name))
            self._await(project)
        self._reach()
        if marked and self._is_marked():
            raise Failed("Supabase says it is done, but the database is still the old one")
        return "Supabase restored it" + ("" if marked else "; whether it did, nothing showed")

    def _mark(self) -> bool:
        """Leave a row that no backup has; False where the database takes none."""
        try:
            with postgres.connect(self._dsn) as connection:
                connection.execute(MARK, {"mark": self._state["id"]})
        except (Failed, psycopg.Error):
            return False
        return True

    def _is_marked(self) -> bool:
        with postgres.connect(self._dsn) as connection:
            row = connection.execute(MARKED, {"mark": self._state["id"]}).fetchone()
        return bool(row and row[0])

    def _await(self, project: vendor.Project) -> None:
        begun, started = False, time.monotonic()
        while (passed := time.monotonic() - started) < END_S:
            status = project.status()
            if "FAILED" in status:
                raise Failed(f"Supabase: {status}")
            begun = begun or status != "ACTIVE_HEALTHY"
            if status == "ACTIVE_HEALTHY" and (begun or passed > BEGINS_WITHIN * self._args.every):
                return
            time.sleep(self._args.every)
        raise Failed("Supabase has not come to an end of it")

    def _reach(self) -> None:
        """Wait until the database takes connections again."""
        for _ in range(BEGINS_WITHIN):
            with suppress(Failed):
                postgres.connect(self._dsn).close()
                return
            time.sleep(self._args.every)
        raise Failed("restored, but the database takes no connection")

    def _let_in(self) -> str:
        role = load.let_in(self._dsn, self._services.settings.database_url)
        self._services.database.ping(budget_s=postgres.CONNECT_S)  # it may be remembered as down
        return f"{role} logs in"

    def _migrate(self) -> str:
        applied = migrations.apply(self._dsn, ROOT / "supabase" / "migrations")
        return f"{len(applied)} applied; {load.doubt_mails(self._dsn)} mails in doubt"

    def _erase(self) -> str:
        self._confirm("erase", "", "whoever was erased since the backup is erased again")
        return erasures.replay(self._services, datetime.now(UTC))

    def _replay(self) -> str:
        tally = drill.replay_journal(self._services, datetime.now(UTC))
        return drill.told(tally)

    def _outdate(self) -> str:
        told = cache_invalidation.everywhere(self._services)
        if not all(outcome.well for outcome in told.values()):
            raise Failed("; ".join(f"{place}: {one.words}" for place, one in told.items()))
        return "no cache answers with what was"

    def _walk(self, *, past_maintenance: bool) -> str:
        drill.walk_canary(self._services, past_maintenance=past_maintenance)
        return "a lead went in, was stored, and its mails left"

    def _open(self) -> str:
        self._confirm("open", "", "the site opens, and what waits is stored and mailed")
        maintenance.switch_off(self._services.cache.run)
        if self._services.settings.maintenance_mode != "off":
            raise Failed("MAINTENANCE_MODE still holds it closed: change it and redeploy")
        now = datetime.now(UTC)
        took_s = (now - datetime.fromisoformat(self._state["began"])).total_seconds()
        self._state["rto_s"] = round(took_s, 1)
        facts: dict[str, object] = {"source": self.source.kind, "rto_s": self._state["rto_s"]}
        run = self._services.database.run
        noted = store.record(run, "restore", getpass.getuser(), now, facts)
        return f"open after {took_s:,.0f} s" + "".join(f"; noted on {one}" for one in noted)

    # ---------------------------------------------------------------- asking

    def _confirm(self, what: str, value: str, words: str) -> None:
        """Raises Failed unless it was said on the command line, or is typed at a terminal."""
        given = getattr(self._args, f"yes_{what}")
        if given is True or (value and given == value):
            return
        option = f"--yes-{what} {value}".strip()
        if given:
            raise NeedsYes(f"that is not the target: say {option}")
        if not sys.stdin.isatty():
            raise NeedsYes(f"{words}: say {option}")
        phrase = f"{what} {value}".strip()
        print(f"{words}. Type `{phrase}` to go on: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip() != phrase:
            raise NeedsYes("not confirmed: nothing was done")
