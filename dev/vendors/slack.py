"""Slack's API as documented (read 2026-11): posting, replying, updating, deleting, reading back,
incoming webhooks; and a page. Blocks beyond Block Kit's limits are refused as there. `/_person`
does what a person does in the channel: POST {ts, text} replies, {ts, reaction} reacts."""

import json
import threading
import time
from typing import Any
from urllib.parse import parse_qs

from dev.edge.http_server import Request, Response, as_json, as_text
from dev.vendors import block_kit, pages
from dev.vendors.fake_vendor import Pause


class Slack:
    """Accepts calls whose bearer token is `token`, and any webhook address of `webhook_path`."""

    name = "Slack"

    def __init__(self, token: str, webhook_path: str) -> None:
        self._first = token
        self.tokens = {token}
        self._webhook_path = webhook_path
        self._lock = threading.Lock()
        self._messages: dict[str, dict[str, Any]] = {}
        self._count = 0

    def respond(self, request: Request, pause: Pause) -> Response:
        fields = self.describe(request)
        response = self._do(request, fields if isinstance(fields, dict) else None)
        pause()
        return response

    def failure(self, request: Request, status: int) -> Response:
        if request.path.startswith("/services/"):
            return as_text("server_error", status)
        return as_json({"ok": False, "error": "internal_error"}, status)

    def rate_limited(self, request: Request, retry_after_s: int) -> Response:
        if request.path.startswith("/services/"):
            response = as_text("rate_limited", 429)
            response.headers["Retry-After"] = str(retry_after_s)
            return response
        return as_json({"ok": False, "error": "ratelimited"}, 429, retry_after=str(retry_after_s))

    def describe(self, request: Request) -> Any:
        kind = request.headers.get("Content-Type", "")
        if not kind.startswith("application/x-www-form-urlencoded"):
            return request.parsed_body()
        pairs = parse_qs(request.body.decode(errors="replace"))
        fields: dict[str, Any] = {name: values[-1] for name, values in pairs.items()}
        # A webhook may carry its JSON in the form field `payload`; blocks are JSON in a form.
        for name in ("payload", "blocks", "attachments"):
            if name in fields:
                try:
                    fields[name] = json.loads(fields[name])
                except ValueError:
                    continue
        payload = fields.get("payload")
        return payload if isinstance(payload, dict) else fields

    def forget(self) -> None:
        with self._lock:
            self._messages.clear()
            self.tokens = {self._first}

    def reply(self, ts: str, text: str, user: str = "U0PERSON") -> None:
        """A person writes in a message's thread."""
        self._keep(self._channel_of(ts), {"thread_ts": ts, "text": text, "user": user})

    def react(self, ts: str, name: str = "eyes", user: str = "U0PERSON") -> None:
        """A person reacts to a message."""
        with self._lock:
            self._messages[ts].setdefault("reactions", []).append((name, user))

    def _channel_of(self, ts: str) -> str:
        with self._lock:
            return str(self._messages[ts]["channel"])

    def _person(self, request: Request) -> Response:
        fields = request.parsed_body()
        if request.method != "POST" or not isinstance(fields, dict) or not self._has(fields["ts"]):
            return as_json({"ok": False, "error": "POST {ts, text} or {ts, reaction}"}, 400)
        if "reaction" in fields:
            self.react(fields["ts"], fields["reaction"])
        else:
            self.reply(fields["ts"], str(fields.get("text", "")))
        return as_json({"ok": True})

    def page(self, request: Request) -> Response | None:
        if request.path == "/_person":
            return self._person(request)
        if request.path != "/" or request.method not in ("GET", "HEAD"):
            return None
        with self._lock:
            messages = list(reversed(self._messages.values()))
        return pages.page(
            "Slack", f"{len(messages)} messages, newest first.", map(_article, messages)
        )

    def _do(self, request: Request, fields: dict[str, Any] | None) -> Response:
        if request.path.startswith("/services/"):
            return self._webhook(request, fields)
        if not request.path.startswith("/api/") or request.method != "POST":
            return as_json({"ok": False, "error": "unknown_method"})
        refusal = self._refusal(request, fields)
        if refusal is not None or fields is None:
            response = as_json({"ok": False, "error": refusal or "invalid_json"})
            response.outcome = "refused"
            return response
        does = {
            "/api/chat.postMessage": self._post,
            "/api/chat.update": self._update,
            "/api/chat.delete": self._delete,
            "/api/conversations.history": self._history,
            "/api/conversations.replies": self._replies,
        }.get(request.path)
        if does is not None:
            return does(fields)
        if request.path == "/api/auth.revoke":
            return self._revoke(_token(request, fields), fields)
        if request.path == "/api/auth.test":
            return as_json({"ok": True, "team": "Local", "user": "local", "bot_id": "B0LOCAL"})
        return as_json({"ok": False, "error": "unknown_method"})

    def _refusal(self, request: Request, fields: dict[str, Any] | None) -> str | None:
        token = _token(request, fields)
        if not token:
            return "not_authed"
        return None if token in self.tokens else "invalid_auth"

    def _revoke(self, token: str, fields: dict[str, Any]) -> Response:
        if str(fields.get("test", "")).lower() in ("1", "true"):
            return as_json({"ok": True, "revoked": False})
        self.tokens.discard(token)
        return as_json({"ok": True, "revoked": True})

    def _post(self, fields: dict[str, Any]) -> Response:
        if not fields.get("channel"):
            return _no("channel_not_found")
        if not any(fields.get(name) for name in ("text", "blocks", "attachments")):
            return _no("no_text")
        if faults := block_kit.validate(fields):
            return _no("invalid_blocks", faults)
        if fields.get("thread_ts") and not self._has(str(fields["thread_ts"])):
            return _no("thread_not_found")
        message = self._keep(str(fields["channel"]), fields)
        base = {"type": "message", "subtype": "bot_message", "bot_id": "B0LOCAL"}
        text = {"text": fields.get("text", ""), "ts": message["ts"]}
        listed = {"channel": message["channel"], "ts": message["ts"], "message": {**base, **text}}
        return as_json({"ok": True, **listed})

    def _has(self, ts: str) -> bool:
        with self._lock:
            return ts in self._messages

    def _history(self, fields: dict[str, Any]) -> Response:
        with self._lock:
            in_channel = [
                m for m in self._messages.values() if m["channel"] == fields.get("channel")
            ]
        messages = []
        for message in sorted(in_channel, key=lambda message: str(message["ts"]), reverse=True):
            message_fields = message["fields"]
            if message_fields.get("thread_ts") and not message_fields.get("reply_broadcast"):
                continue
            messages.append(
                _message_to_json(message, with_metadata=bool(fields.get("include_all_metadata")))
            )
        return as_json({"ok": True, "messages": messages[: int(fields.get("limit") or 100)]})

    def _replies(self, fields: dict[str, Any]) -> Response:
        """The message itself, then its thread, oldest first."""
        root = str(fields.get("ts"))
        if not self._has(root):
            return _no("thread_not_found")
        with self._lock:
            thread = [
                message
                for ts, message in sorted(self._messages.items())
                if root in (ts, message["fields"].get("thread_ts"))
            ]
        with_metadata = bool(fields.get("include_all_metadata"))
        messages = [_message_to_json(message, with_metadata=with_metadata) for message in thread]
        return as_json({"ok": True, "messages": messages[: int(fields.get("limit") or 1000)]})

    def _delete(self, fields: dict[str, Any]) -> Response:
        with self._lock:
            message = self._messages.get(str(fields.get("ts")))
            if message is None or message["channel"] != fields.get("channel"):
                return _no("message_not_found")
            if "user" in message["fields"]:
                return _no("cant_delete_message")
            del self._messages[str(fields["ts"])]
        return as_json({"ok": True, "channel": fields["channel"], "ts": fields["ts"]})

    def messages(self) -> list[dict[str, Any]]:
        """What the channel shows: {channel, ts, fields, at, edited?}, oldest first."""
        with self._lock:
            return [dict(message) for message in self._messages.values()]

    def _update(self, fields: dict[str, Any]) -> Response:
        if faults := block_kit.validate(fields):
            return _no("invalid_blocks", faults)
        with self._lock:
            message = self._messages.get(str(fields.get("ts")))
            if message is None or message["channel"] != fields.get("channel"):
                return _no("message_not_found")
            message["fields"] = {**message["fields"], **fields}
            message["edited"] = time.time()
        names = ("channel", "ts", "text")
        return as_json({"ok": True, **{name: fields.get(name, "") for name in names}})

    def _webhook(self, request: Request, fields: dict[str, Any] | None) -> Response:
        if request.method != "POST":
            return as_text("invalid_method", 405)
        if request.path != self._webhook_path:
            return as_text("invalid_token", 403)
        if fields is None:
            return as_text("invalid_payload", 400)
        if not any(fields.get(name) for name in ("text", "blocks", "attachments")):
            return as_text("no_text", 400)
        if block_kit.validate(fields):
            return as_text("invalid_blocks", 400)
        self._keep("webhook", fields)
        return as_text("ok")

    def _keep(self, channel: str, fields: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._count += 1
            ts = f"{int(time.time())}.{self._count:06d}"
            message = {"channel": channel, "ts": ts, "fields": fields, "at": time.time()}
            self._messages[ts] = message
        return message


def _message_to_json(message: dict[str, Any], *, with_metadata: bool) -> dict[str, Any]:
    """A message as it is read back."""
    fields = message["fields"]
    rendered = {"type": "message", "ts": message["ts"], "text": fields.get("text", "")}
    rendered |= (
        {"user": fields["user"]} if "user" in fields else {"user": "U0BOT", "bot_id": "B0LOCAL"}
    )
    if fields.get("thread_ts"):
        rendered["thread_ts"] = fields["thread_ts"]
    if with_metadata and fields.get("metadata"):
        rendered["metadata"] = fields["metadata"]
    reactions: dict[str, list[str]] = {}
    for name, user in message.get("reactions", ()):
        reactions.setdefault(name, []).append(user)
    if reactions:
        rendered["reactions"] = [
            {"name": name, "users": users, "count": len(users)} for name, users in reactions.items()
        ]
    return rendered


def _token(request: Request, fields: dict[str, Any] | None) -> str:
    token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    return token or str((fields or {}).get("token", ""))


def _no(error: str, errors: list[str] | None = None) -> Response:
    response = as_json({"ok": False, "error": error} | ({"errors": errors} if errors else {}))
    response.outcome = "refused"
    return response


def _article(message: dict[str, Any]) -> str:
    fields = message["fields"]
    facts = [("at", pages.format_time(message["at"])), ("ts", message["ts"])]
    if "edited" in message:
        facts.append(("updated", pages.format_time(message["edited"])))
    parts = [pages.text_part("Text", str(fields.get("text", "")), opened=True)]
    parts.append(pages.text_part("Payload", json.dumps(fields, indent=2, ensure_ascii=False)))
    return pages.article(message["channel"], facts, *parts)
