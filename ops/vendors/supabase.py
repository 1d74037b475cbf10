"""Supabase's management API: a project's backups, and restoring from them.

Shapes are those of its OpenAPI document (read 2026-11; never compared with the live one).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from ops.command import Failed
from ops.settings import OperatorSettings
from ops.vendors.http import JsonApi

SOURCE = "supabase"
COMPLETED = "COMPLETED"


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup. id: None for the newest point of PITR."""

    taken_at: datetime
    status: str
    id: int | None

    def as_dict(self) -> dict[str, object]:
        return {"pitr": True} if self.id is None else {"id": self.id}


@dataclass(frozen=True, slots=True)
class BackupList:
    """What the project has, newest first. pitr_range: the times PITR reaches."""

    pitr: bool
    backups: tuple[Backup, ...]
    pitr_range: tuple[datetime, datetime] | None


class Project:
    """One project. Every method raises Failed when the API refuses or does not answer."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._api = JsonApi(
            "Supabase", settings.supabase_api_url, token=settings.supabase_access_token
        )
        self._path = f"/v1/projects/{settings.supabase_project_ref}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    def list_backups(self) -> BackupList:
        answer = self._api.request_with_retries("GET", f"{self._path}/database/backups")
        try:
            return _parse_backups(answer)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise Failed("Supabase's answer about backups is not understood") from None

    def status(self) -> str:
        """`ACTIVE_HEALTHY` when it can be used."""
        answer = self._api.request_with_retries("GET", self._path)
        return str(answer.get("status")) if isinstance(answer, dict) else "UNKNOWN"

    def restore(self, number: int) -> None:
        """Begin to restore a daily backup, in place."""
        self._api.request("POST", f"{self._path}/database/backups/restore", body={"id": number})

    def restore_to_time(self, at: datetime) -> None:
        """Begin to restore to a moment, in place."""
        body = {"recovery_time_target_unix": int(at.timestamp())}
        self._api.request("POST", f"{self._path}/database/backups/restore-pitr", body=body)


def _parse_backups(answer: dict[str, Any]) -> BackupList:
    backups = [
        Backup(_parse_time(row["inserted_at"]), str(row["status"]), int(row["id"]))
        for row in answer["backups"]
    ]
    physical = answer.get("physical_backup_data") or {}
    first = physical.get("earliest_physical_backup_date_unix")
    last = physical.get("latest_physical_backup_date_unix")
    pitr, pitr_range = answer["pitr_enabled"] is True, None
    if pitr and first is not None and last is not None:
        pitr_range = (datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC))
        backups.append(Backup(pitr_range[1], COMPLETED, None))
    backups.sort(key=lambda backup: backup.taken_at, reverse=True)
    return BackupList(pitr, tuple(backups), pitr_range)


def _parse_time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
