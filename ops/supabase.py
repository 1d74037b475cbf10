"""Supabase's management API: a project's backups, and restoring from them.

Shapes are those of its OpenAPI document (read 2026-11; never compared with the live one).
"""

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lib.settings import Settings
from ops.command import Failed

TIMEOUT_S = 20
SOURCE = "supabase"
GOOD = "COMPLETED"


@dataclass(frozen=True, slots=True)
class Seen:
    """One backup. number: None for the newest point of PITR."""

    taken_at: datetime
    status: str
    number: int | None

    def facts(self) -> dict[str, object]:
        return {"pitr": True} if self.number is None else {"id": self.number}


@dataclass(frozen=True, slots=True)
class Backups:
    """What the project has, newest first. points: the span PITR can go back to."""

    pitr: bool
    backups: tuple[Seen, ...]
    points: tuple[datetime, datetime] | None


class Project:
    """One project. Every method raises Failed when the API refuses, lies or is silent."""

    def __init__(self, settings: Settings) -> None:
        self._at = f"{settings.supabase_api_url}/v1/projects/{settings.supabase_project_ref}"
        self._token = settings.supabase_access_token

    def backups(self) -> Backups:
        try:
            return _read(self._ask("GET", "/database/backups"))
        except (LookupError, TypeError, ValueError, AttributeError):
            raise Failed("Supabase's answer about backups is not understood") from None

    def status(self) -> str:
        """`ACTIVE_HEALTHY` when it can be used."""
        answer = self._ask("GET", "")
        return str(answer.get("status")) if isinstance(answer, dict) else "UNKNOWN"

    def restore(self, number: int) -> None:
        """Begin to restore a daily backup, in place."""
        self._ask("POST", "/database/backups/restore", {"id": number})

    def restore_point(self, at: datetime) -> None:
        """Begin to restore to a moment, in place."""
        body = {"recovery_time_target_unix": int(at.timestamp())}
        self._ask("POST", "/database/backups/restore-pitr", body)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - a setting's http(s) address
            self._at + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return json.load(answer)
        except urllib.error.HTTPError as fault:
            with fault:
                raise Failed(f"Supabase refused with status {fault.code}: {_said(fault)}") from None
        except (OSError, ValueError) as fault:
            raise Failed(f"Supabase cannot be asked: {type(fault).__name__}") from None


def _said(fault: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(fault)["message"])[:200]
    except (ValueError, LookupError, TypeError, OSError):
        return "no reason given"


def _read(answer: dict[str, Any]) -> Backups:
    seen = [
        Seen(_moment(one["inserted_at"]), str(one["status"]), int(one["id"]))
        for one in answer["backups"]
    ]
    held = answer.get("physical_backup_data") or {}
    first, last = (held.get(f"{end}_physical_backup_date_unix") for end in ("earliest", "latest"))
    points = None
    if first is not None and last is not None:
        points = (datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC))
    pitr = answer["pitr_enabled"] is True
    if pitr and points is not None:
        seen.append(Seen(points[1], GOOD, None))
    seen.sort(key=lambda one: one.taken_at, reverse=True)
    return Backups(pitr, tuple(seen), points if pitr else None)


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
