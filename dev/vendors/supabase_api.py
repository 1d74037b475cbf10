"""The part of Supabase's management API that backs up and restores, as its OpenAPI document has it
(read 2026-11; never compared with the live one).

`GET /v1/projects/{ref}`, `GET …/health?services=db`, `GET …/database/backups`,
`POST …/database/backups/restore {id}`, `POST …/database/backups/restore-pitr
{recovery_time_target_unix}`. A new route is a line of `_routes` and a method.

It holds seven daily backups, taken at 18:00 UTC. `on_restore` does what a restore would do to
the database; meanwhile the project is RESTORING. `take` and `pitr` make it hold other backups,
sound or not.
"""

import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dev.edge.http_server import Request, Response, as_json
from dev.vendors import pages
from dev.vendors.fake_vendor import Pause
from dev.vendors.supabase_keys import SupabaseKeys

PROJECT = "alfabeautylocal00000"
_DAILY = timedelta(hours=18)
_KEPT_DAYS = 7

type Restore = Callable[[datetime], None]


class SupabaseApi:
    """One project whose bearer token is `token`; keys: the part that makes and takes its keys."""

    name = "Supabase"

    def __init__(self, token: str, keys: SupabaseKeys) -> None:
        self._token = token
        self._keys = keys
        self._lock = threading.Lock()
        self._status = "ACTIVE_HEALTHY"
        self._backups: list[dict[str, Any]] = []
        self._points: tuple[datetime, datetime] | None = None
        self.on_restore: Restore = _nothing
        self._routes: list[tuple[str, re.Pattern[str], Callable[[Request], Response]]] = [
            ("GET", _path(""), self._project),
            ("GET", _path("/health"), self._health),
            ("GET", _path("/database/backups"), self._list),
            ("POST", _path("/database/backups/restore"), self._restore),
            ("POST", _path("/database/backups/restore-pitr"), self._restore_pitr),
        ]
        self.forget()

    # ---------------------------------------------------------------- what tests set

    def add_backup(self, at: datetime, status: str = "COMPLETED") -> int:
        """A backup more; its id."""
        with self._lock:
            number = 1 + max((backup["id"] for backup in self._backups), default=0)
            self._backups.insert(0, _backup(number, at, status))
            return number

    def remove_backups(self) -> None:
        """No backup at all, as on the free plan."""
        with self._lock:
            self._backups.clear()

    def pitr(self, earliest: datetime, latest: datetime) -> None:
        """Point in time recovery, which replaces the daily backups."""
        with self._lock:
            self._backups.clear()
            self._points = (earliest, latest)

    # ---------------------------------------------------------------- the vendor's part

    def respond(self, request: Request, pause: Pause) -> Response:
        response = self._keys.answer(request) or self._answer(request)
        pause()
        return response

    def failure(self, request: Request, status: int) -> Response:
        return _refused("Internal Server Error", status)

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        body = {"message": "ThrottlerException: Too Many Requests"}
        return as_json(body, 429, retry_after=str(retry_after_s))

    def describe(self, request: Request) -> Any:
        return request.parsed_body()

    def forget(self) -> None:
        self._keys.forget()
        last = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + _DAILY
        if last > datetime.now(UTC):
            last -= timedelta(days=1)
        with self._lock:
            self.on_restore = _nothing
            self._points = None
            self._status = "ACTIVE_HEALTHY"
            self._backups = [
                _backup(_KEPT_DAYS - age, last - timedelta(days=age), "COMPLETED")
                for age in range(_KEPT_DAYS)
            ]

    def page(self, request: Request) -> Response | None:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        lead = f"{len(self._backups)} backups; the project is {self._status}."
        return pages.page("Supabase's management API", lead, ())

    def _answer(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return _refused("Unauthorized", 401)
        for method, path, work in self._routes:
            match = path.fullmatch(request.path)
            if match is None or method != request.method:
                continue
            return work(request) if match["ref"] == PROJECT else _refused("Project not found", 404)
        return _refused(f"Cannot {request.method} {request.path}", 404)

    def _project(self, _request: Request) -> Response:
        return as_json(
            {
                "id": PROJECT,
                "ref": PROJECT,
                "organization_id": "alfabeauty",
                "name": "alfa-beauty",
                "region": "ap-southeast-1",
                "created_at": "2026-01-05T02:00:00Z",
                "status": self._status,
            }
        )

    def _health(self, request: Request) -> Response:
        wanted = parse_qs(urlsplit(request.target).query).get("services", [])
        if not wanted:
            return _refused("services should not be empty", 400)
        status = "ACTIVE_HEALTHY" if self._status == "ACTIVE_HEALTHY" else "COMING_UP"
        healthy = status == "ACTIVE_HEALTHY"
        return as_json([{"name": name, "status": status, "healthy": healthy} for name in wanted])

    def _list(self, _request: Request) -> Response:
        with self._lock:
            points = self._points and {
                "earliest_physical_backup_date_unix": int(self._points[0].timestamp()),
                "latest_physical_backup_date_unix": int(self._points[1].timestamp()),
            }
            body = {
                "region": "ap-southeast-1",
                "walg_enabled": True,
                "pitr_enabled": self._points is not None,
                "backups": list(self._backups),
                "physical_backup_data": points or {},
            }
        return as_json(body)

    def _restore(self, request: Request) -> Response:
        body = request.parsed_body()
        wanted = body.get("id") if isinstance(body, dict) else None
        with self._lock:
            backups = [backup for backup in self._backups if backup["id"] == wanted]
        if not backups or backups[0]["status"] != "COMPLETED":
            return _refused("Backup not found", 404)
        return self._begin(datetime.fromisoformat(backups[0]["inserted_at"]))

    def _restore_pitr(self, request: Request) -> Response:
        body = request.parsed_body()
        point = body.get("recovery_time_target_unix") if isinstance(body, dict) else None
        if not isinstance(point, int):
            return _refused("recovery_time_target_unix must be an integer number", 400)
        at = datetime.fromtimestamp(point, UTC)
        if self._points is None or not self._points[0] <= at <= self._points[1]:
            return _refused("recovery_time_target_unix is out of range", 422)
        return self._begin(at)

    def _begin(self, point: datetime) -> Response:
        with self._lock:
            if self._status != "ACTIVE_HEALTHY":
                return _refused("Project is not in a state to be restored", 409)
            self._status = "RESTORING"
        threading.Thread(target=self._work, args=(point,), daemon=True).start()
        return as_json({}, 201)

    def _work(self, point: datetime) -> None:
        try:
            self.on_restore(point)
            self._status = "ACTIVE_HEALTHY"
        except BaseException:
            self._status = "RESTORE_FAILED"
            raise


def _nothing(_point: datetime) -> None:
    pass


def _path(rest: str) -> re.Pattern[str]:
    return re.compile(rf"/v1/projects/(?P<ref>[^/]+){re.escape(rest)}")


def _backup(number: int, at: datetime, status: str) -> dict[str, Any]:
    return {
        "id": number,
        "is_physical_backup": True,
        "status": status,
        "inserted_at": at.isoformat(),
    }


def _refused(message: str, status: int) -> Response:
    return as_json({"message": message}, status)
