"""Whether what was lost could be brought back: the ages of the newest good backup and drill.

A backup counts when it is COMPLETED, a drill when it passed: one that could not be verified shows
nothing. Ages count from the watch's first run where there has been none, so that a new
installation has a day, and a week, to begin with.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lib.incidents.rules import MAX_BACKUP_AGE, MAX_DRILL_AGE
from lib.interfaces import RunQuery

if TYPE_CHECKING:
    from psycopg import Connection

SELECT_NEWEST = """
select
  (select max(taken_at) from backups where status = 'COMPLETED'),
  (select max(at) from drills where kind = 'restore' and verdict = 'PASS'),
  (select min(first_run_at) from job_runs where job = 'watch')
"""


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """Ages at one moment; None: there has been none. watched: how long anybody has looked."""

    since_backup: timedelta | None
    since_drill: timedelta | None
    monitored_for: timedelta | None

    @property
    def labels(self) -> dict[str, str]:
        """A word each, `fresh` when all is well."""
        return {
            "backup": self._label(self.since_backup, MAX_BACKUP_AGE),
            "restore_drill": self._label(self.since_drill, MAX_DRILL_AGE),
        }

    @property
    def backup_age(self) -> timedelta | None:
        """What the watch judges; None until it has run once."""
        return self.monitored_for if self.since_backup is None else self.since_backup

    @property
    def drill_age(self) -> timedelta | None:
        return self.monitored_for if self.since_drill is None else self.since_drill

    @property
    def is_fresh(self) -> bool:
        return set(self.labels.values()) <= {"fresh", "not yet"}

    def _label(self, age: timedelta | None, bound: timedelta) -> str:
        if age is not None:
            return "fresh" if age <= bound else f"stale: {_hours(age)}"
        if self.monitored_for is None or self.monitored_for <= bound:
            return "not yet"
        return f"none in {_hours(self.monitored_for)}"


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.0f} hours"


def load_status(run: RunQuery, now: datetime) -> BackupStatus:
    """One question to Postgres. Raises DatabaseDown."""

    def ask(connection: "Connection[Any]") -> Any:
        return connection.execute(SELECT_NEWEST).fetchone()

    backup, drill, watched = (at and now - at for at in run(ask))
    return BackupStatus(backup, drill, watched)
