"""Slack: by a bot, whose message is edited and threaded; or by a webhook, which can only post.

Slack down delays an alert and loses none: incidents remember what they have told. A bot that is
refused for good (revoked, thrown out of the channel) leaves the word to the webhook.
"""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any

from lib.alerts import Message, Posted
from lib.problems import AlertDelayed, AlertGone

TIMEOUT_S = 4.0
LOOKED_BACK = 50  # messages
LONGEST_WAIT_S = 600.0


class Slack:
    """One channel. token and channel: the bot's; webhook_url: the other way. Either may be ''."""

    def __init__(self, api_url: str, token: str, channel: str, webhook_url: str) -> None:
        self._api_url = api_url
        self._token = token
        self._channel = channel
        self._webhook_url = webhook_url

    @property
    def edits(self) -> bool:
        return bool(self._token and self._channel)

    def post(self, message: Message, *, thread: str | None = None, aloud: bool = False) -> Posted:
        """A new message, or a reply in a thread; aloud: the channel sees the reply too.

        Raises AlertDelayed.
        """
        if not self.edits:
            return self._by_webhook(message)
        fields: dict[str, Any] = {**_content(message), "unfurl_links": False}
        if thread is not None:
            fields |= {"thread_ts": thread, "reply_broadcast": aloud}
        try:
            answer = self._call("chat.postMessage", fields)
        except AlertDelayed as fault:
            if not (fault.final and self._webhook_url):
                raise
            return self._by_webhook(message)
        return Posted(str(answer["channel"]), str(answer["ts"]))

    def update(self, posted: Posted, message: Message) -> None:
        """Make an earlier message say this. Raises AlertDelayed; AlertGone when it is not there,
        or cannot be edited by us."""
        fields = {**_content(message), "channel": posted.channel, "ts": posted.ts}
        self._call("chat.update", fields)

    def marked(self, mark: str) -> list[tuple[Posted, dict[str, str]]]:
        """The messages of ours that carry this mark, newest first, with all their marks. Raises
        AlertDelayed."""
        if not self.edits:
            return []
        query = {"channel": self._channel, "limit": LOOKED_BACK, "include_all_metadata": True}
        found = []
        for message in self._call("conversations.history", query).get("messages", []):
            marks = (message.get("metadata") or {}).get("event_payload", {})
            if mark in marks:
                found.append((Posted(self._channel, str(message["ts"])), marks))
        return found

    def find(self, mark: str, value: str) -> Posted | None:
        """The newest message with this mark: posted by an attempt whose answer was lost, or by an
        instance that could write nothing down. Raises AlertDelayed."""
        try:
            found = self.marked(mark)
        except AlertDelayed as fault:
            if fault.final:  # without the right to read, a lost answer means a second message
                return None
            raise
        return next((posted for posted, marks in found if marks[mark] == value), None)

    def refusal(self) -> str | None:
        """Why Slack refuses our bot or its channel, by Slack's name for it; None if it does not,
        or there is no bot. Posts nothing. Raises AlertDelayed where that cannot be told."""
        if not self.edits:
            return None
        try:
            self._call("auth.test", {})
            self.marked("-")
        except AlertDelayed as fault:
            if not fault.final:
                raise
            # Without the right to read, alerts are posted all the same.
            return None if fault.reason == "missing_scope" else fault.reason
        return None

    def _by_webhook(self, message: Message) -> Posted:
        if not self._webhook_url:
            raise AlertDelayed("not_configured", final=True)
        self._send(self._webhook_url, _content(message), {})
        return Posted("webhook", "")

    def _call(self, method: str, fields: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"}
        text = self._send(
            f"{self._api_url}/{method}", {"channel": self._channel, **fields}, headers
        )
        try:
            answer = json.loads(text)
            well, error = answer["ok"] is True, str(answer.get("error"))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise AlertDelayed("nonsense") from None
        if well:
            return dict(answer)
        if error in ("message_not_found", "cant_update_message", "edit_window_closed"):
            raise AlertGone
        passing = ("ratelimited", "internal_error", "fatal_error", "service_unavailable",
                   "request_timeout")  # fmt: skip
        raise AlertDelayed(error, final=error not in passing)

    def _send(self, url: str, value: object, headers: dict[str, str]) -> str:
        request = urllib.request.Request(  # noqa: S310 - a setting's http(s) address
            url,
            data=json.dumps(value).encode(),
            headers={"Content-Type": "application/json; charset=utf-8", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
                return str(answer.read(1_000_000).decode("utf-8", "replace"))
        except urllib.error.HTTPError as fault:
            fault.close()
            wait = fault.headers.get("Retry-After", "")
            retry_after_s = min(float(wait), LONGEST_WAIT_S) if wait.isdigit() else None
            gone = fault.code in (403, 404, 410)
            raise AlertDelayed(
                f"status_{fault.code}", retry_after_s=retry_after_s, final=gone
            ) from None
        except (OSError, http.client.HTTPException) as fault:
            raise AlertDelayed(type(fault).__name__) from None


def _content(message: Message) -> dict[str, Any]:
    content: dict[str, Any] = {"text": message.text, "blocks": list(message.blocks)}
    if message.marks:
        content["metadata"] = {"event_type": "alfa_incident", "event_payload": message.marks}
    return content
