"""The restore drill: the newest backup, in a server of its own, until a lead gets through again.

Nothing of production is changed: the journal and the tombstones are read where they are, the
functions of this tree run on the restored database with stand-ins for every vendor, and the
database is thrown away. What the real restore shares with it is ops/recovery/load.py.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from dev.bootstrap import ROOT
from dev.platform import migrations, postgres_binaries
from dev.platform.local_platform import APP_ROLE, Platform
from dev.tools import Missing
from lib.problems import DatabaseDown
from lib.services import Services
from lib.settings import Settings
from ops import steps
from ops.command import Failed
from ops.leads import commands
from ops.recovery import erasures, journal, load, manifest
from ops.recovery.manifest import Manifest
from ops.steps import CouldNotVerify, Outcome, Step

MAX_RTO_S = 3600.0  # handbook: RTO < 60 min
MAX_RPO = timedelta(hours=24)  # handbook: RPO < 24 h
DRILL_DATABASE = "restored"

INSERT_DRILL = """
insert into drills (kind, at, verdict, facts)
values ('restore', %(at)s, %(verdict)s, %(facts)s::jsonb)
"""


@dataclass(frozen=True, slots=True)
class DrillReport:
    """rto_s: from the backup's file to a lead that got through. rpo_s: the backup's age.

    rpo_leads_s: how long before the drill the oldest accepted lead was taken that is nowhere; 0
    when none is missing, None when that could not be found out.
    """

    verdict: str
    backup: str
    rows: int
    rto_s: float
    rpo_s: float
    rpo_leads_s: float | None
    steps: tuple[Outcome, ...]

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


class Drill:
    """One drill; `services` are production's."""

    def __init__(self, services: Services, folder: Path, *, quiet: bool) -> None:
        self._services = services
        self._folder = folder
        self._keys = services.settings.backup_encryption_key
        self._quiet = quiet
        self._now = datetime.now(UTC)
        self._rpo_leads_s: float | None = None

    def run(self, backed_up: Manifest, tell: Callable[[Outcome], None]) -> DrillReport:
        """Every step, then the verdict."""
        major = self._server_major(backed_up)
        with (
            tempfile.TemporaryDirectory(prefix="drill-") as data,
            Platform(ROOT, Path(data), durable=False, major=major) as platform,
        ):
            self._platform = platform
            self._dsn = platform.postgres.dsn(DRILL_DATABASE)
            self._app_dsn = platform.postgres.dsn(
                DRILL_DATABASE, APP_ROLE, platform.state()["secrets"]["APP_PASSWORD"]
            )
            environ = {**self._services.settings.environ, "DATABASE_URL": self._app_dsn}
            self._there = Services(Settings(environ))
            try:
                outcomes = steps.run_steps(self._steps(backed_up), tell)
            finally:
                self._there.close()
        rto_s = round(sum(outcome.took_s for outcome in outcomes), 1)
        age = self._now - backed_up.taken_at
        through = outcomes[-1].verdict == steps.PASS
        last = [_check_limit("rto", rto_s, MAX_RTO_S if through else None),
                _check_limit("rpo", age.total_seconds(), MAX_RPO.total_seconds())]  # fmt: skip
        for outcome in last:
            tell(outcome)
        every = (*outcomes, *last)
        return DrillReport(
            verdict=steps.overall_verdict(every),
            backup=backed_up.name,
            rows=backed_up.rows,
            rto_s=rto_s,
            rpo_s=round(age.total_seconds(), 1),
            rpo_leads_s=self._rpo_leads_s,
            steps=every,
        )

    def _server_major(self, backed_up: Manifest) -> int:
        """Production's PostgreSQL, as it is now; where it is down, as it was when backed up.

        Raises CouldNotVerify where there is no such server to be had: another proves nothing.
        """
        version = backed_up.server_version
        with contextlib.suppress(DatabaseDown, psycopg.Error):
            version = self._services.database.run(lambda one: one.info.server_version)
        major = version // 10_000
        try:
            postgres_binaries.ensure(major)
        except Missing as fault:
            raise CouldNotVerify(f"production runs PostgreSQL {major}: {fault}") from None
        return major

    def _steps(self, backed_up: Manifest) -> list[Step]:
        return [
            Step("check", lambda: self._check_backup(backed_up), required=True),
            Step("restore", lambda: self._restore(backed_up), required=True),
            Step("manifest", lambda: self._compare_contents(backed_up)),
            Step("passwords", self._set_passwords, required=True),
            Step("migrations", self._migrate, required=True),
            Step("erasures", self._reapply_erasures),
            Step("journal", self._replay_journal),
            Step("accepted", self._find_missing_leads),
            Step("canary", self._send_canary),
        ]

    def _check_backup(self, backed_up: Manifest) -> str:
        load.verify_backup(self._folder, backed_up, self._keys, quiet=self._quiet)
        return f"{backed_up.sealed_bytes:,} bytes, every seal and checksum is right"

    def _restore(self, backed_up: Manifest) -> str:
        migrations.ensure_database(self._platform.postgres.dsn("postgres"), DRILL_DATABASE)
        told = load.load(self._dsn, self._folder, backed_up, self._keys, quiet=self._quiet)
        into = f"{len(backed_up.tables)} tables into PostgreSQL {self._platform.postgres.major}"
        return "; ".join([into, *told])

    def _compare_contents(self, backed_up: Manifest) -> str:
        if said := load.differences(self._dsn, backed_up):
            raise Failed("; ".join(said))
        return f"{backed_up.rows:,} rows, each as it was"

    def _set_passwords(self) -> str:
        return f"{load.set_app_password(self._dsn, self._app_dsn)} logs in"

    def _migrate(self) -> str:
        applied = migrations.apply(self._dsn, ROOT / "supabase" / "migrations")
        doubtful = load.mark_mails_uncertain(self._dsn)
        return f"{len(applied)} applied; {doubtful} mails in doubt"

    def _reapply_erasures(self) -> str:
        return erasures.replay(self._there, self._now)

    def _replay_journal(self) -> str:
        tally = replay_journal(self._there, self._now)
        return describe_replay(tally)

    def _find_missing_leads(self) -> str:
        found = journal.find_lost(self._there, self._now)
        if found.ids:
            oldest = found.oldest or self._now
            self._rpo_leads_s = round((self._now - oldest).total_seconds(), 1)
            raise Failed(f"{len(found.ids)} accepted leads are nowhere: {', '.join(found.ids[:5])}")
        self._rpo_leads_s = 0.0
        return "every lead accepted in the last 48 hours is there"

    def _send_canary(self) -> str:
        with self._platform.function("api/leads.py", DATABASE_URL=self._app_dsn) as function:
            environ = {**self._platform.environment, "DATABASE_URL": self._app_dsn}
            there = Services(Settings(environ))
            try:
                send_canary(there, site=function.url)
            finally:
                there.close()
        return "a lead went in by HTTP, was stored, and its mails left"


def replay_journal(
    services: Services, now: datetime, *, dry_run: bool = False
) -> journal.ReplayStats:
    """The journal into the database of `services`; nobody erased comes back."""
    return journal.replay(services, now, dry_run=dry_run)


def describe_replay(tally: journal.ReplayStats) -> str:
    said = ", ".join(f"{name} {count}" for name, count in tally.as_dict().items())
    if tally.unreadable or tally.refused:
        raise Failed(f"not every lead of the journal could be stored: {said}")
    return said


def send_canary(
    services: Services, site: str | None = None, *, past_maintenance: bool = False
) -> None:
    """`ops canary`, its lines kept apart from ours. Raises Failed."""
    asked = argparse.Namespace(site=site, past_maintenance=past_maintenance)
    with contextlib.redirect_stdout(sys.stderr):
        if commands.send_canary(services, asked) != 0:
            raise Failed("a synthetic lead did not get through")


def _check_limit(name: str, seconds: float, bound_s: float | None) -> Outcome:
    if bound_s is None:
        return Outcome(
            name, steps.COULD_NOT_VERIFY, f"{seconds:,.0f} s, and no lead got through", 0.0
        )
    verdict = steps.PASS if seconds < bound_s else steps.FAIL
    return Outcome(name, verdict, f"{seconds:,.0f} s of {bound_s:,.0f}", 0.0)


def newest_backup(folder: Path, keys: tuple[bytes, ...]) -> Manifest:
    """Raises CouldNotVerify when there is no backup that could be drilled."""
    found, faults = manifest.list_backups(folder, keys)
    if not found:
        raise CouldNotVerify("; ".join([f"no backup in {folder}", *faults]))
    return found[0]


def record(services: Services, report: DrillReport, at: datetime) -> None:
    """Raises DatabaseDown."""
    values = {
        "at": at,
        "verdict": report.verdict,
        "facts": json.dumps(report.as_dict()),
    }
    services.database.run(lambda connection: connection.execute(INSERT_DRILL, values))
