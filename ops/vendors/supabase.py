"""Supabase's management API: a project's backups, and restoring from them.

Shapes are those of its OpenAPI document (read 2026-11; never compared with the live one).
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from lib.settings import Settings
from ops.command import Failed
from ops.vendors.http import ApiError, JsonApi

SOURCE = "supabase"
COMPLETED = "COMPLETED"


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup. number: None for the newest point of PITR."""

    taken_at: datetime
    status: str
    id: int | None

    def as_dict(self) -> dict[str, object]:
        return {"pitr": True} if self.id is None else {"id": self.id}


@dataclass(frozen=True, slots=True)
class BackupList:
    """What the project has, newest first. points: the span PITR can go back to."""

    pitr: bool
    backups: tuple[Backup, ...]
    pitr_range: tuple[datetime, datetime] | None


class Project:
    """One project. Every method raises Failed when the API refuses, lies or is silent."""

    def __init__(self, settings: Settings) -> None:
        self._api = JsonApi(
            "Supabase", settings.supabase_api_url, token=settings.supabase_access_token
        )
        self._at = f"/v1/projects/{settings.supabase_project_ref}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    def list_backups(self) -> BackupList:
        try:
            return _parse_backups(self._get("/database/backups"))
        except (LookupError, TypeError, ValueError, AttributeError):
            raise Failed("Supabase's answer about backups is not understood") from None

    def status(self) -> str:
        """`ACTIVE_HEALTHY` when it can be used."""
        answer = self._get("")
        return str(answer.get("status")) if isinstance(answer, dict) else "UNKNOWN"

    def restore(self, number: int) -> None:
        """Begin to restore a daily backup, in place."""
        self._post("/database/backups/restore", {"id": number})

    def restore_to_time(self, at: datetime) -> None:
        """Begin to restore to a moment, in place."""
        body = {"recovery_time_target_unix": int(at.timestamp())}
        self._post("/database/backups/restore-pitr", body)

    def _get(self, path: str) -> Any:
        try:
            return self._api.request_with_retries("GET", self._at + path)
        except ApiError as refusal:
            raise Failed(str(refusal)) from None

    def _post(self, path: str, body: object) -> None:
        try:
            self._api.request("POST", self._at + path, body=body)
        except ApiError as refusal:
            raise Failed(str(refusal)) from None


def _parse_backups(answer: dict[str, Any]) -> BackupList:
    seen = [
        Backup(_parse_time(one["inserted_at"]), str(one["status"]), int(one["id"]))
        for one in answer["backups"]
    ]
    held = answer.get("physical_backup_data") or {}
    first, last = (held.get(f"{end}_physical_backup_date_unix") for end in ("earliest", "latest"))
    points = None
    if first is not None and last is not None:
        points = (datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC))
    pitr = answer["pitr_enabled"] is True
    if pitr and points is not None:
        seen.append(Backup(points[1], COMPLETED, None))
    seen.sort(key=lambda one: one.taken_at, reverse=True)
    return BackupList(pitr, tuple(seen), points if pitr else None)


def _parse_time(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
