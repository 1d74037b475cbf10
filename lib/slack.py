"""Slack: by a bot, whose message is edited and threaded; or by a webhook, which can only post.

Slack down delays an alert and loses none: incidents remember what they have told. A bot that is
refused for good (revoked, thrown out of the channel) leaves the word to the webhook.
"""

import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from lib.incidents.messages import Message, MessageRef, Thread
from lib.problems import MessageNotFound, SlackError

TIMEOUT_S = 4.0
HISTORY_LIMIT = 200  # messages
MAX_RETRY_AFTER_S = 600.0
JSON_TYPE = "application/json; charset=utf-8"
FORM_TYPE = "application/x-www-form-urlencoded"
METADATA_EVENT_TYPE = "alfa_incident"
# The message is not there any more, or is not ours to change.
NOT_FOUND_ERRORS = (
    "message_not_found",
    "cant_update_message",
    "edit_window_closed",
    "thread_not_found",
    "cant_delete_message",
)


class Slack:
    """One channel. token and channel: the bot's; webhook_url: the other way. Either may be ''."""

    def __init__(self, api_url: str, token: str, channel: str, webhook_url: str) -> None:
        self._api_url = api_url
        self._token = token
        self._channel = channel
        self._webhook_url = webhook_url
        self.last_bot_error = ""

    @property
    def can_update(self) -> bool:
        return bool(self._token and self._channel)

    def post(
        self, message: Message, *, thread: str | None = None, aloud: bool = False
    ) -> MessageRef:
        """A new message, or a reply in a thread; aloud: the channel sees the reply too.

        Raises AlertDelayed.
        """
        if not self.can_update:
            return self._post_to_webhook(message)
        fields: dict[str, Any] = {**_content(message), "unfurl_links": False}
        if thread is not None:
            fields |= {"thread_ts": thread, "reply_broadcast": aloud}
        try:
            answer = self._call("chat.postMessage", fields)
        except MessageNotFound:  # somebody deleted what this replies to
            answer = self._call("chat.postMessage", {**_content(message), "unfurl_links": False})
        except SlackError as fault:
            if not (fault.permanent and self._webhook_url):
                raise
            self.last_bot_error = fault.reason
            return self._post_to_webhook(message)
        return MessageRef(str(answer["channel"]), str(answer["ts"]))

    def update(self, posted: MessageRef, message: Message) -> None:
        """Make an earlier message say this. Raises AlertDelayed; AlertGone when it is not there,
        or cannot be edited by us."""
        fields = {**_content(message), "channel": posted.channel, "ts": posted.ts}
        self._call("chat.update", fields)

    def delete(self, posted: MessageRef) -> None:
        """Take a message of ours away. Raises AlertDelayed, AlertGone."""
        self._call("chat.delete", {"channel": posted.channel, "ts": posted.ts})

    def read_thread(self, posted: MessageRef) -> Thread:
        """Who answered a message, and what we replied to it. Raises AlertDelayed, AlertGone."""
        query = {"channel": posted.channel, "ts": posted.ts, "limit": HISTORY_LIMIT}
        answer = self._read("conversations.replies", query)
        root, *replies = answer.get("messages") or [{}]
        people = [one["user"] for one in replies if one.get("user") and not one.get("bot_id")]
        people += [user for one in root.get("reactions", ()) for user in one.get("users", ())]
        marks = [_metadata_of(one) for one in replies if one.get("bot_id")]
        return Thread(people[0] if people else None, tuple(one for one in marks if one))

    def list_with_metadata(self, mark: str) -> list[tuple[MessageRef, dict[str, str]]]:
        """The messages of ours that carry this mark, newest first, with all their marks. Raises
        AlertDelayed."""
        if not self.can_update:
            return []
        query = {"channel": self._channel, "limit": HISTORY_LIMIT}
        found = []
        for message in self._read("conversations.history", query).get("messages", []):
            marks = _metadata_of(message)
            if mark in marks:
                found.append((MessageRef(self._channel, str(message["ts"])), marks))
        return found

    def find(self, mark: str, value: str) -> MessageRef | None:
        """The newest message with this mark: posted by an attempt whose answer was lost, or by an
        instance that could write nothing down. Raises AlertDelayed."""
        try:
            found = self.list_with_metadata(mark)
        except SlackError as fault:
            if fault.permanent:  # without the right to read, a lost answer means a second message
                return None
            raise
        return next((posted for posted, marks in found if marks[mark] == value), None)

    def bot_error(self) -> str | None:
        """Why Slack refuses our bot or its channel, by Slack's name for it; None if it does not,
        or there is no bot. Posts nothing. Raises AlertDelayed where that cannot be told."""
        if not self.can_update:
            return None
        try:
            self._call("auth.test", {})
            self.list_with_metadata("-")
        except SlackError as fault:
            if not fault.permanent:
                raise
            # Without the right to read, alerts are posted all the same.
            return None if fault.reason == "missing_scope" else fault.reason
        return None

    def _post_to_webhook(self, message: Message) -> MessageRef:
        if not self._webhook_url:
            raise SlackError("not_configured", permanent=True)
        content = {"text": message.text, "blocks": list(message.blocks)}
        if self._send(self._webhook_url, _json_bytes(content), JSON_TYPE).strip() != "ok":
            raise SlackError("nonsense")
        return MessageRef("webhook", "")

    def _call(self, method: str, fields: dict[str, Any]) -> dict[str, Any]:
        return self._request(method, _json_bytes({"channel": self._channel, **fields}), JSON_TYPE)

    def _read(self, method: str, query: dict[str, Any]) -> dict[str, Any]:
        query = {**query, "include_all_metadata": "true"}
        return self._request(method, urllib.parse.urlencode(query).encode(), FORM_TYPE)

    def _request(self, method: str, body: bytes, kind: str) -> dict[str, Any]:
        text = self._send(f"{self._api_url}/{method}", body, kind, f"Bearer {self._token}")
        try:
            answer = json.loads(text)
            well, error = answer["ok"] is True, str(answer.get("error"))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise SlackError("nonsense") from None
        if well:
            return dict(answer)
        if error in NOT_FOUND_ERRORS:
            raise MessageNotFound
        passing = ("ratelimited", "internal_error", "fatal_error", "service_unavailable",
                   "request_timeout")  # fmt: skip
        raise SlackError(error, permanent=error not in passing)

    def _send(self, url: str, body: bytes, kind: str, token: str = "") -> str:
        headers = {"Content-Type": kind, **({"Authorization": token} if token else {})}
        request = urllib.request.Request(  # noqa: S310 - a setting's http(s) address
            url, data=body, headers=headers
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return str(answer.read(1_000_000).decode("utf-8", "replace"))
        except urllib.error.HTTPError as fault:
            fault.close()
            wait = fault.headers.get("Retry-After", "")
            retry_after_s = min(float(wait), MAX_RETRY_AFTER_S) if wait.isdigit() else None
            gone = fault.code in (403, 404, 410)
            raise SlackError(
                f"status_{fault.code}", retry_after_s=retry_after_s, permanent=gone
            ) from None
        except (OSError, http.client.HTTPException) as fault:
            raise SlackError(type(fault).__name__) from None


def _content(message: Message) -> dict[str, Any]:
    content: dict[str, Any] = {"text": message.text, "blocks": list(message.blocks)}
    if message.metadata:
        content["metadata"] = {"event_type": METADATA_EVENT_TYPE, "event_payload": message.metadata}
    return content


def _json_bytes(value: object) -> bytes:
    return json.dumps(value).encode()


def _metadata_of(message: dict[str, Any]) -> dict[str, str]:
    """What we left with a message of ours; empty for any other."""
    metadata = message.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("event_type") != METADATA_EVENT_TYPE:
        return {}
    marks = metadata.get("event_payload")
    pairs = marks.items() if isinstance(marks, dict) else ()
    return {str(key): str(value) for key, value in pairs}
