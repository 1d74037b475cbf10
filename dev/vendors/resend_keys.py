"""Resend's API keys (read 2026-11-24): made with a key of full access, told once, deleted by id.

A key with sending access may send, and is refused everything else with 401 restricted_api_key.
"""

import secrets
import threading
import time
import uuid
from typing import Any

from dev.edge.http_server import Request, Response, as_json


class ApiKeys:
    """first: the functions' key, full: one with full access; both are there from the start."""

    def __init__(self, first: str, full: str) -> None:
        self._lock = threading.Lock()
        self._first, self._full = first, full
        self.forget()

    def forget(self) -> None:
        with self._lock:
            self._keys: dict[str, dict[str, Any]] = {}
        for name, token in (("production", self._first), ("operators", self._full)):
            self._add(name, token, "full_access")

    def permission(self, token: str) -> str | None:
        with self._lock:
            for key in self._keys.values():
                if key["token"] == token:
                    key["last_used_at"] = _now()
                    return str(key["permission"])
        return None

    def respond(self, request: Request) -> Response | None:
        """None for what is no endpoint of keys."""
        if request.path == "/api-keys" and request.method == "POST":
            return self._create(request.parsed_body())
        if request.path == "/api-keys" and request.method == "GET":
            names = ("id", "name", "created_at", "last_used_at")
            with self._lock:
                data = [{name: key[name] for name in names} for key in self._keys.values()]
            return as_json({"object": "list", "has_more": False, "data": data})
        if request.path.startswith("/api-keys/") and request.method == "DELETE":
            with self._lock:
                gone = self._keys.pop(request.path.removeprefix("/api-keys/"), None)
            body = {"statusCode": 404, "name": "not_found", "message": "API key not found"}
            return as_json({}) if gone else as_json(body, 404)
        return None

    def _create(self, fields: Any) -> Response:
        name = fields.get("name") if isinstance(fields, dict) else None
        permission = fields.get("permission", "full_access") if isinstance(fields, dict) else ""
        if not name or len(name) > 50 or permission not in ("full_access", "sending_access"):
            body = {"statusCode": 422, "name": "validation_error", "message": "Invalid `name`"}
            return as_json(body, 422)
        key = self._add(name, f"re_{secrets.token_urlsafe(24)}", permission)
        return as_json({"id": key["id"], "token": key["token"]}, 201)

    def _add(self, name: str, token: str, permission: str) -> dict[str, Any]:
        key = {"id": str(uuid.uuid4()), "name": name, "token": token, "permission": permission,
                "created_at": _now(), "last_used_at": None}  # fmt: skip
        with self._lock:
            self._keys[str(key["id"])] = key
        return key


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S+00", time.gmtime())
