"""Supabase's secret keys (read 2026-11-24): the management API that makes and deletes them, and a
gateway that takes or refuses them.

`POST /v1/projects/{ref}/api-keys {"type": "secret", "name": …}`; a value is told with `reveal`
alone. `DELETE …/{id}`. The gateway is the project's `/rest/v1/`.
"""

import hashlib
import re
import secrets
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

from dev.edge.http_server import Request, Response, as_json
from dev.vendors import pages
from dev.vendors.fake_vendor import Pause

PROJECT = "alfabeautylocal00000"
KEYS = re.compile(rf"/v1/projects/{PROJECT}/api-keys(?:/([0-9a-f-]+))?")
NAME = re.compile(r"[a-z_][a-z0-9_]{3,63}")


class SupabaseKeys:
    name = "Supabase"

    def __init__(self, token: str, first: str) -> None:
        self._token = token
        self._first = first
        self.forget()

    def forget(self) -> None:
        self._keys: dict[str, dict[str, Any]] = {}
        self._made("default", self._first)

    def respond(self, request: Request, pause: Pause) -> Response:
        response = self.answer(request) or _no(404, "Cannot find it")
        pause()
        return response

    def answer(self, request: Request) -> Response | None:
        """None for what is not about keys."""
        if request.path.startswith("/rest/v1/"):
            return self._gateway(request)
        match = KEYS.fullmatch(request.path)
        if match is None:
            return None
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            return _no(401, "Unauthorized")
        reveal = parse_qs(urlsplit(request.target).query).get("reveal") == ["true"]
        if request.method == "GET" and not match[1]:
            return as_json([_key_to_json(key, reveal) for key in self._keys.values()])
        if request.method == "POST" and not match[1]:
            return self._create(request.parsed_body(), reveal)
        if request.method == "DELETE" and match[1] in self._keys:
            return as_json(_key_to_json(self._keys.pop(match[1]), reveal=False))
        return _no(404, "API key not found")

    def _create(self, fields: Any, reveal: bool) -> Response:
        if not isinstance(fields, dict) or fields.get("type") != "secret":
            return _no(400, "type: expected secret")
        name = str(fields.get("name", ""))
        if not NAME.fullmatch(name):
            return _no(400, "name: 4 to 64 of a-z, 0-9 and _")
        if any(key["name"] == name for key in self._keys.values()):
            return _no(400, "name: there is one of this name")
        key = self._made(name, f"sb_secret_{secrets.token_urlsafe(24)}")
        return as_json(_key_to_json(key, reveal), 201)

    def _made(self, name: str, value: str) -> dict[str, Any]:
        key = {
            "id": str(uuid.uuid4()),
            "type": "secret",
            "name": name,
            "prefix": value[:15],
            "hash": hashlib.sha256(value.encode()).hexdigest(),
            "inserted_at": "2026-11-24T00:00:00Z",
            "api_key": value,
        }
        self._keys[key["id"]] = key
        return key

    def _gateway(self, request: Request) -> Response:
        api_key = request.headers.get("apikey", "")
        if api_key not in {key["api_key"] for key in self._keys.values()}:
            return as_json({"message": "Invalid API key", "hint": "Double check"}, 401)
        return as_json({"swagger": "2.0"})

    def failure(self, request: Request, status: int) -> Response:
        return _no(status, "Internal error")

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        return as_json({"message": "Too many requests"}, 429, retry_after=str(retry_after_s))

    def describe(self, request: Request) -> Any:
        return request.parsed_body()

    def page(self, request: Request) -> Response | None:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        return pages.page("Supabase", f"{len(self._keys)} keys.", ())


def _key_to_json(key: dict[str, Any], reveal: bool) -> dict[str, Any]:
    return {**key, "api_key": key["api_key"] if reveal else key["prefix"] + "···"}


def _no(status: int, message: str) -> Response:
    return as_json({"message": message}, status)
