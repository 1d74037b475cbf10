"""The restore drill: the newest backup, on a platform of its own, until a lead gets through again.

Nothing of production is changed: the journal and the tombstones are read where they are, the
functions of this tree run on the restored database with fakes of every vendor, and the database is
thrown away. The real restore runs the same code: load.py and after_load.py.
"""

import contextlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg

from lib.problems import DatabaseDown
from ops import local_platform, steps
from ops.command import Failed
from ops.privacy import tombstone_replay
from ops.recovery import after_load, journal, load, manifest
from ops.recovery.manifest import Manifest
from ops.settings import OperatorServices, OperatorSettings
from ops.steps import CouldNotVerify, Outcome, Printer, Step

MAX_RTO_S = 3600.0  # handbook: RTO < 60 min
MAX_RPO = timedelta(hours=24)  # handbook: RPO < 24 h

INSERT_DRILL = """
insert into drills (kind, at, verdict, facts)
values ('restore', %(at)s, %(verdict)s, %(facts)s::jsonb)
"""


@dataclass(frozen=True, slots=True)
class DrillReport:
    """rto_s: from the backup's file to a lead that got through. rpo_s: the backup's age.

    rpo_leads_s: how long before the drill the oldest missing lead was accepted; 0 when none is
    missing, None when that could not be found out.
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

    def __init__(self, services: OperatorServices, folder: Path, *, quiet: bool) -> None:
        self._services = services
        self._folder = folder
        self._keys = services.settings.backup_encryption_key
        self._quiet = quiet
        self._now = datetime.now(UTC)
        self._rpo_leads_s: float | None = None

    def run(self, backup: Manifest, show: Printer) -> DrillReport:
        """Every step, then the verdict."""
        self._major = self._server_major(backup)
        show.begin("platform")
        with local_platform.throwaway(self._major) as site:
            self._site = site
            self._dsn, self._app_dsn = site["admin_database_url"], site["database_url"]
            environ = {**self._services.settings.environ, "DATABASE_URL": self._app_dsn}
            # Production's Redis, the restored database.
            with contextlib.closing(OperatorServices(OperatorSettings(environ))) as self._restored:
                outcomes = steps.run_steps(self._steps(backup), show)
        rto_s = round(sum(outcome.took_s for outcome in outcomes), 1)
        rpo_s = (self._now - backup.taken_at).total_seconds()
        got_through = outcomes[-1].verdict == steps.PASS
        limits = [
            _check_limit("rto", rto_s, MAX_RTO_S if got_through else None),
            _check_limit("rpo", rpo_s, MAX_RPO.total_seconds()),
        ]
        for outcome in limits:
            show(outcome)
        outcomes += limits
        return DrillReport(
            verdict=steps.overall_verdict(outcomes),
            backup=backup.name,
            rows=backup.rows,
            rto_s=rto_s,
            rpo_s=round(rpo_s, 1),
            rpo_leads_s=self._rpo_leads_s,
            steps=tuple(outcomes),
        )

    def _server_major(self, backup: Manifest) -> int:
        """Production's PostgreSQL, as it is now; where it is down, as it was when backed up.

        Raises CouldNotVerify when that major cannot be installed: another proves nothing.
        """
        version = backup.server_version
        with contextlib.suppress(DatabaseDown, psycopg.Error):
            version = self._services.database.run(lambda connection: connection.info.server_version)
        major = version // 10_000
        try:
            local_platform.postgres_folder(major)
        except Failed as error:
            raise CouldNotVerify(f"production runs PostgreSQL {major}: {error}") from None
        return major

    def _steps(self, backup: Manifest) -> list[Step]:
        return [
            Step("check", lambda: self._verify(backup), required=True),
            Step("restore", lambda: self._restore(backup), required=True),
            Step("manifest", lambda: self._compare(backup)),
            Step(
                "passwords",
                lambda: after_load.set_app_password(self._dsn, self._app_dsn),
                required=True,
            ),
            Step("migrations", lambda: after_load.migrate(self._dsn), required=True),
            Step(
                "erasures",
                lambda: tombstone_replay.reapply_after_restore(self._restored, self._now),
            ),
            Step("journal", lambda: after_load.replay_journal(self._restored, self._now)),
            Step("accepted", self._find_missing_leads),
            Step("canary", self._send_canary),
        ]

    def _verify(self, backup: Manifest) -> str:
        load.verify_backup(self._folder, backup, self._keys, quiet=self._quiet)
        return f"{backup.sealed_bytes:,} bytes, every checksum is right"

    def _restore(self, backup: Manifest) -> str:
        notices = load.load(self._dsn, self._folder, backup, self._keys, quiet=self._quiet)
        tables = f"{len(backup.tables)} tables into PostgreSQL {self._major}"
        return "; ".join([tables, *notices])

    def _compare(self, backup: Manifest) -> str:
        if differences := load.differences(self._dsn, backup, quiet=self._quiet):
            raise Failed("; ".join(differences))
        return f"{backup.rows:,} rows, all verified"

    def _find_missing_leads(self) -> str:
        lost = journal.find_lost(self._restored, self._now)
        if lost.ids:
            oldest = lost.oldest or self._now
            self._rpo_leads_s = round((self._now - oldest).total_seconds(), 1)
            raise Failed(f"{len(lost.ids)} accepted leads are missing: {', '.join(lost.ids[:5])}")
        self._rpo_leads_s = 0.0
        return "every lead accepted in the last 48 hours is there"

    def _send_canary(self) -> str:
        with contextlib.closing(
            OperatorServices(OperatorSettings(self._site["environment"]))
        ) as services:
            return after_load.send_canary(services)


def _check_limit(name: str, seconds: float, limit_s: float | None) -> Outcome:
    """limit_s: None when no lead got through, so that the figure proves nothing."""
    if limit_s is None:
        words = f"{seconds:,.0f} s, and no lead got through"
        return Outcome(name, steps.COULD_NOT_VERIFY, words, 0.0)
    verdict = steps.PASS if seconds < limit_s else steps.FAIL
    return Outcome(name, verdict, f"{seconds:,.0f} s of {limit_s:,.0f}", 0.0)


def newest_backup(folder: Path, keys: tuple[bytes, ...]) -> Manifest:
    """Raises CouldNotVerify when there is no backup that could be drilled."""
    backups, faults = manifest.list_backups(folder, keys)
    if not backups:
        raise CouldNotVerify("; ".join([f"no backup in {folder}", *faults]))
    return backups[0]


def record(services: OperatorServices, report: DrillReport, at: datetime) -> None:
    """Raises DatabaseDown."""
    values = {"at": at, "verdict": report.verdict, "facts": json.dumps(report.as_dict())}
    services.database.run(lambda connection: connection.execute(INSERT_DRILL, values))
