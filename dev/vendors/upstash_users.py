"""Upstash's users and their REST tokens (read 2026-11-24): the `ACL` commands that Valkey knows
otherwise or not at all, and the developer API that resets the default user's password.

A token from `ACL GENTOKEN` is a password for `ACL SETUSER` and, once set, a REST token.
"""

import base64
import secrets
import threading

from dev.edge.http_server import Request, Response, as_json
from dev.vendors import pages
from dev.vendors.fake_vendor import Pause

DATABASE_ID = "0d7e1c52-local"
EMAIL = "ops@alfabeauty.test"


class AclError(Exception):
    """An error reply."""


class Users:
    """Whose token is whose. `default` is there always."""

    def __init__(self, token: str) -> None:
        self._first = token
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        self.tokens = {self._first: "default"}

    def of(self, token: str) -> str | None:
        with self._lock:
            return self.tokens.get(token)

    def default_token(self) -> str:
        with self._lock:
            return next(token for token, user in self.tokens.items() if user == "default")

    def reset_default(self) -> str:
        """A new password, and so a new token; the old ones are refused from now on."""
        with self._lock:
            self._drop("default")
            token = _token("default")
            self.tokens[token] = "default"
            return token

    def command(self, caller: str, words: list[str]) -> object:
        """`ACL …` without its first word. Raises AclError."""
        verb, *rest = [words[0].upper(), *words[1:]]
        if verb == "WHOAMI":
            return caller
        if caller != "default":
            raise AclError(f"NOPERM this user has no permissions to run 'acl|{verb.lower()}'")
        with self._lock:
            if verb == "GENTOKEN" and rest:
                return _token(rest[0])
            if verb == "SETUSER" and rest and rest[0] != "default":
                return self._set(rest[0], rest[1:])
            if verb == "DELUSER" and rest and rest[0] != "default":
                return int(self._drop(rest[0]))
            if verb == "USERS":
                return sorted(set(self.tokens.values()))
        raise AclError(f"ERR unknown subcommand or wrong number of arguments for '{verb}'")

    def _set(self, user: str, rules: list[str]) -> str:
        for rule in rules:
            if rule in ("reset", "resetpass"):
                self._drop(user)
            elif rule.startswith(">"):
                if not rule[1:].startswith(_head(user)):
                    raise AclError("ERR password must be generated with ACL GENTOKEN")
                self.tokens[rule[1:]] = user
            elif rule.startswith("#") or rule == "nopass":
                raise AclError("ERR Error in ACL SETUSER modifier")
        return "OK"

    def _drop(self, user: str) -> bool:
        mine = [token for token, whose in self.tokens.items() if whose == user]
        for token in mine:
            del self.tokens[token]
        return bool(mine)


def _head(user: str) -> str:
    return base64.b64encode(f"{user}:".encode().ljust(12, b"-")).decode()


def _token(user: str) -> str:
    return _head(user) + secrets.token_urlsafe(24)


class UpstashApi:
    """The developer API, of one database. Basic authentication with account and key."""

    name = "Upstash API"

    def __init__(self, key: str, users: Users) -> None:
        self._authorization = base64.b64encode(f"{EMAIL}:{key}".encode()).decode()
        self._users = users

    def respond(self, request: Request, pause: Pause) -> Response:
        response = self._answer(request)
        pause()
        return response

    def _answer(self, request: Request) -> Response:
        if request.headers.get("Authorization") != f"Basic {self._authorization}":
            return as_json("Unauthorized", 401)
        if request.path == f"/v2/redis/database/{DATABASE_ID}" and request.method == "GET":
            return as_json(self._user_to_json())
        reset = request.path == f"/v2/redis/reset-password/{DATABASE_ID}"
        if reset and request.method == "POST":
            self._users.reset_default()
            return as_json(self._user_to_json())
        return as_json("Not Found", 404)

    def _user_to_json(self) -> dict[str, object]:
        token = self._users.default_token()
        facts = {"database_id": DATABASE_ID, "database_name": "alfa", "state": "active"}
        return {**facts, "rest_token": token, "password": token, "db_acl_enabled": "true"}

    def failure(self, request: Request, status: int) -> Response:
        return as_json("internal error", status)

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        return as_json("Too Many Requests", 429, retry_after=str(retry_after_s))

    def describe(self, request: Request) -> object:
        return request.parsed_body()

    def forget(self) -> None:
        self._users.forget()

    def page(self, request: Request) -> Response | None:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        return pages.page("Upstash's developer API", "Users: see ACL USERS.", ())
