"""The ages of the newest complete backup and the newest passed restore drill.

Until there is one, its age counts from the monitor's first run, so that a new installation has a
day, and a week, to begin with.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from lib.incidents.rules import MAX_BACKUP_AGE, MAX_DRILL_AGE
from lib.interfaces import RunQuery

LABELS = ("backup", "restore_drill")

SELECT_NEWEST = """
select
  (select max(taken_at) from backups where status = 'COMPLETED'),
  (select max(at) from drills where kind = 'restore' and verdict = 'PASS'),
  (select min(first_run_at) from job_runs where job = 'watch')
"""


@dataclass(frozen=True, slots=True)
class BackupStatus:
    """Ages; None: there has been none. monitored_for: since the monitor's first run."""

    since_backup: timedelta | None
    since_drill: timedelta | None
    monitored_for: timedelta | None

    @property
    def labels(self) -> dict[str, str]:
        ages = ((self.since_backup, MAX_BACKUP_AGE), (self.since_drill, MAX_DRILL_AGE))
        return {name: self._label(*age) for name, age in zip(LABELS, ages, strict=True)}

    @property
    def is_fresh(self) -> bool:
        return set(self.labels.values()) <= {"fresh", "not yet"}

    @property
    def backup_age(self) -> timedelta | None:
        """What the alert rules judge; None until the monitor has run once."""
        return self.monitored_for if self.since_backup is None else self.since_backup

    @property
    def drill_age(self) -> timedelta | None:
        return self.monitored_for if self.since_drill is None else self.since_drill

    def _label(self, age: timedelta | None, max_age: timedelta) -> str:
        if age is not None:
            return "fresh" if age <= max_age else f"stale: {_hours(age)}"
        if self.monitored_for is None or self.monitored_for <= max_age:
            return "not yet"
        return f"none in {_hours(self.monitored_for)}"


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.0f} hours"


def load_status(run: RunQuery, now: datetime) -> BackupStatus:
    """Raises DatabaseDown."""
    row = run(lambda connection: connection.execute(SELECT_NEWEST).fetchone())
    return BackupStatus(*(at and now - at for at in row))
