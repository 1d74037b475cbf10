"""Upstash's REST protocol in front of Valkey (read 2026-11): one command, pipelines, MULTI/EXEC."""

import base64
import json
import re
from typing import Any
from urllib.parse import unquote

from dev.edge.http_server import Request, Response, as_json
from dev.vendors import pages, resp
from dev.vendors.fake_vendor import Pause
from dev.vendors.resp import Failure, Reply, Status
from dev.vendors.upstash_users import AclError, Users

# Upstash's own server takes this flag in a script's first line; Valkey refuses the script.
_UNKNOWN_FLAG = re.compile(rb"\A#!lua flags=allow-key-locking[^\n]*")


class Upstash:
    """Speaks for the Valkey on `valkey_port` to callers whose bearer token is a user's."""

    name = "Upstash"

    def __init__(self, valkey_port: int, users: Users) -> None:
        self._connections = resp.Connections(valkey_port)
        self._users = users

    def respond(self, request: Request, pause: Pause) -> Response:
        response = self._do(request)
        pause()
        return response

    def failure(self, request: Request, status: int) -> Response:
        return as_json({"error": "ERR internal error"}, status)

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        text = "ERR max requests limit exceeded. See https://upstash.com/docs/redis for details"
        return as_json({"error": text}, 429, retry_after=str(retry_after_s))

    def describe(self, request: Request) -> Any:
        return request.parsed_body()

    def forget(self) -> None:
        """What was received lives in Valkey: FLUSHALL there is its owner's decision."""
        self._users.forget()

    def page(self, request: Request) -> Response | None:
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        return pages.page("Upstash", "Upstash's REST protocol in front of Valkey.", [])

    def close(self) -> None:
        self._connections.close()

    def _do(self, request: Request) -> Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        caller = self._users.of(token)
        if caller is None:
            return as_json({"error": "WRONGPASS invalid or missing auth token"}, 401)
        encode = request.headers.get("Upstash-Encoding", "").lower() == "base64"
        try:
            if request.path in ("/pipeline", "/multi-exec"):
                commands = [command_of(command) for command in _array(request)]
                run = self._pipeline if request.path == "/pipeline" else self._transaction
                return run(commands, encode)
            command = _from_request(request)
            if command[0].upper() == b"ACL" and len(command) > 1:
                return self._acl(caller, [word.decode() for word in command[1:]])
            return self._single(command, encode)
        except (ValueError, RecursionError) as fault:
            return as_json({"error": f"ERR failed to parse command: {fault}"}, 400)
        except OSError as fault:
            return as_json({"error": f"ERR server is not reachable: {fault}"}, 503)

    def _acl(self, caller: str, words: list[str]) -> Response:
        try:
            return as_json({"result": self._users.command(caller, words)})
        except AclError as refusal:
            return as_json({"error": str(refusal)}, 400)

    def _single(self, command: list[bytes], encode: bool) -> Response:
        with self._connections.borrow() as connection:
            [reply] = connection.run([command])
        return as_json(reply_to_json(reply, encode), 400 if isinstance(reply, Failure) else 200)

    def _pipeline(self, commands: list[list[bytes]], encode: bool) -> Response:
        with self._connections.borrow() as connection:
            replies = connection.run(commands)
        return as_json([reply_to_json(reply, encode) for reply in replies])

    def _transaction(self, commands: list[list[bytes]], encode: bool) -> Response:
        with self._connections.borrow() as connection:
            *_, replies = connection.run([[b"MULTI"], *commands, [b"EXEC"]])
        if isinstance(replies, list):
            return as_json([reply_to_json(reply, encode) for reply in replies])
        return as_json(reply_to_json(replies, encode), 400)


def _array(request: Request) -> list[Any]:
    body = request.json()
    if not isinstance(body, list):
        raise ValueError("expected an array")
    return body


def _from_request(request: Request) -> list[bytes]:
    """A JSON array posted to `/`, or a command in the path (`/set/key/value`, body last)."""
    if request.path == "/":
        return command_of(_array(request))
    path = request.target.split("?", 1)[0].strip("/")
    command = [unquote(part).encode() for part in path.split("/")]
    return [*command, request.body] if request.body else command


def command_of(arguments: Any) -> list[bytes]:
    if not isinstance(arguments, list) or not arguments:
        raise ValueError("a command is a non-empty array")
    command = [_argument(argument) for argument in arguments]
    if command[0].upper() in (b"EVAL", b"EVAL_RO") and len(command) > 1:
        command[1] = _UNKNOWN_FLAG.sub(b"", command[1])
    if command[0].upper() in (b"SUBSCRIBE", b"PSUBSCRIBE", b"MONITOR", b"MULTI", b"WATCH"):
        raise ValueError(f"{command[0].decode()} is not available over REST")
    return command


def _argument(value: Any) -> bytes:
    if isinstance(value, str):
        # Lone surrogates cannot be sent as UTF-8: a ValueError, answered as a bad request.
        return value.encode()
    if isinstance(value, bool) or value is None or isinstance(value, int | float):
        return json.dumps(value).encode()
    return json.dumps(value, separators=(",", ":")).encode()


def reply_to_json(reply: Reply, encode: bool) -> dict[str, Any]:
    if isinstance(reply, Failure):
        return {"error": str(reply)}
    return {"result": _value(reply, encode)}


def _value(reply: Reply, encode: bool) -> Any:
    if isinstance(reply, list):
        return [_value(item, encode) for item in reply]
    if reply is None or isinstance(reply, int):
        return reply
    text = reply.encode() if isinstance(reply, Status | Failure) else reply
    if encode and text != b"OK":
        return base64.b64encode(text).decode()
    return text.decode(errors="replace")
