"""Whether what was lost could be brought back: the ages of the newest good backup and drill.

A backup counts when it is COMPLETED, a drill when it passed: one that could not be verified shows
nothing. Ages count from the watch's first run where there has been none, so that a new
installation has a day, and a week, to begin with.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lib.incidents.rules import BACKUP_OLD, DRILL_OLD
from lib.leads.repository import Run

if TYPE_CHECKING:
    from psycopg import Connection

NEWEST = """
select
  (select max(taken_at) from backups where status = 'COMPLETED'),
  (select max(at) from drills where kind = 'restore' and verdict = 'PASS'),
  (select min(first_run_at) from job_runs where job = 'watch')
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """Ages at one moment; None: there has been none. watched: how long anybody has looked."""

    backup: timedelta | None
    drill: timedelta | None
    watched: timedelta | None

    @property
    def words(self) -> dict[str, str]:
        """A word each, `fresh` when all is well."""
        return {
            "backup": self._word(self.backup, BACKUP_OLD),
            "restore_drill": self._word(self.drill, DRILL_OLD),
        }

    @property
    def backup_age(self) -> timedelta | None:
        """What the watch judges; None until it has run once."""
        return self.watched if self.backup is None else self.backup

    @property
    def drill_age(self) -> timedelta | None:
        return self.watched if self.drill is None else self.drill

    @property
    def fresh(self) -> bool:
        return set(self.words.values()) <= {"fresh", "not yet"}

    def _word(self, age: timedelta | None, bound: timedelta) -> str:
        if age is not None:
            return "fresh" if age <= bound else f"stale: {_hours(age)}"
        if self.watched is None or self.watched <= bound:
            return "not yet"
        return f"none in {_hours(self.watched)}"


def _hours(age: timedelta) -> str:
    return f"{age.total_seconds() / 3600:.0f} hours"


def standing(run: Run, now: datetime) -> Standing:
    """One question to Postgres. Raises DatabaseDown."""

    def ask(connection: "Connection[Any]") -> Any:
        return connection.execute(NEWEST).fetchone()

    backup, drill, watched = (at and now - at for at in run(ask))
    return Standing(backup, drill, watched)
