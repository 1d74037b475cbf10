"""Slack: by a bot, whose message is edited and threaded; or by a webhook, which can only post.

Slack down delays an alert and loses none: an incident records which version was sent. The webhook
takes over from a bot that is refused for good (revoked, removed from the channel).
"""

import json
import urllib.parse
from typing import Any

from lib.http_client import Client, RequestFailed
from lib.interfaces import Message, MessageRef
from lib.problems import MessageNotFound, SlackError

TIMEOUT_S = 4.0  # for the connection, and again for the response
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
        self, message: Message, *, thread: str | None = None, reply_broadcast: bool = False
    ) -> MessageRef:
        """A new message, or a reply in a thread; reply_broadcast: the channel sees the reply too.

        Raises SlackError.
        """
        if not self.can_update:
            return self._post_to_webhook(message)
        fields: dict[str, Any] = {**_content(message), "unfurl_links": False}
        if thread is not None:
            fields |= {"thread_ts": thread, "reply_broadcast": reply_broadcast}
        try:
            answer = self._call("chat.postMessage", fields)
        except MessageNotFound:  # somebody deleted what this replies to
            answer = self._call("chat.postMessage", {**_content(message), "unfurl_links": False})
        except SlackError as error:
            if not (error.permanent and self._webhook_url):
                raise
            self.last_bot_error = error.reason
            return self._post_to_webhook(message)
        return str(answer["channel"]), str(answer["ts"])

    def update(self, ref: MessageRef, message: Message) -> None:
        """Raises SlackError; MessageNotFound when it is not there, or cannot be edited by us."""
        channel, ts = ref
        self._call("chat.update", {**_content(message), "channel": channel, "ts": ts})

    def delete(self, ref: MessageRef) -> None:
        """Raises SlackError, MessageNotFound."""
        channel, ts = ref
        self._call("chat.delete", {"channel": channel, "ts": ts})

    def read_thread(self, ref: MessageRef) -> tuple[str | None, tuple[dict[str, str], ...]]:
        """The first person who replied or reacted, and the metadata of our replies, oldest first.

        Raises SlackError, MessageNotFound.
        """
        channel, ts = ref
        query = {"channel": channel, "ts": ts, "limit": HISTORY_LIMIT}
        answer = self._read("conversations.replies", query)
        root, *replies = answer.get("messages") or [{}]
        people = [each["user"] for each in replies if each.get("user") and not each.get("bot_id")]
        people += [user for each in root.get("reactions", ()) for user in each.get("users", ())]
        metadata = [_metadata_of(each) for each in replies if each.get("bot_id")]
        return people[0] if people else None, tuple(each for each in metadata if each)

    def list_with_metadata(self, key: str) -> list[tuple[MessageRef, dict[str, str]]]:
        """Our messages with this key in their metadata, newest first. Raises SlackError."""
        if not self.can_update:
            return []
        query = {"channel": self._channel, "limit": HISTORY_LIMIT}
        messages: list[tuple[MessageRef, dict[str, str]]] = []
        for message in self._read("conversations.history", query).get("messages", []):
            metadata = _metadata_of(message)
            if key in metadata:
                messages.append(((self._channel, str(message["ts"])), metadata))
        return messages

    def find(self, key: str, value: str) -> MessageRef | None:
        """The newest message with this metadata: of an attempt whose response was lost, or of an
        instance that could record nothing. Raises SlackError."""
        try:
            messages = self.list_with_metadata(key)
        except SlackError as error:
            if error.permanent:  # without the right to read, a lost response means a second message
                return None
            raise
        return next((ref for ref, metadata in messages if metadata[key] == value), None)

    def bot_error(self) -> str | None:
        """Why Slack refuses our bot or its channel, by Slack's name for it; None if it does not,
        or there is no bot. Posts nothing. Raises SlackError where Slack does not say."""
        if not self.can_update:
            return None
        try:
            self._call("auth.test", {})
            self.list_with_metadata("-")
        except SlackError as error:
            if not error.permanent:
                raise
            # Without the right to read, alerts are posted all the same.
            return None if error.reason == "missing_scope" else error.reason
        return None

    def _post_to_webhook(self, message: Message) -> MessageRef:
        if not self._webhook_url:
            raise SlackError("not_configured", permanent=True)
        content = {"text": message.text, "blocks": list(message.blocks)}
        if self._send(self._webhook_url, _json_bytes(content), JSON_TYPE).strip() != "ok":
            raise SlackError("nonsense")
        return "webhook", ""

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
        try:
            with Client(connect_s=TIMEOUT_S, response_s=TIMEOUT_S) as client:
                response = client.post(url, content=body, headers=headers)
        except (*RequestFailed, ValueError) as error:
            raise SlackError(type(error).__name__) from None
        if response.is_success:
            return response.text
        wait = response.headers.get("Retry-After", "")
        raise SlackError(
            f"status_{response.status_code}",
            retry_after_s=min(float(wait), MAX_RETRY_AFTER_S) if wait.isdigit() else None,
            permanent=response.status_code in (403, 404, 410),
        )


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
