"""Keys that a vendor makes, keeps and deletes; several are valid at once.

Formats as documented (read 2026-11-24, never tried on a live account): Resend's OpenAPI file,
Supabase's management API as its own CLI knows it, Upstash's developer API and `ACL` commands.
"""

from contextlib import closing
from typing import Any

import httpx

from ops import connections
from ops.keys.key_types import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    Answer,
    KeyType,
    ProbeResult,
    bearer,
    probe_by_status,
    request,
)
from ops.vendors.http import ApiError, JsonApi


class ListedKey(KeyType):
    """A key that the vendor lists, creates and deletes by an id."""

    value_field = ""
    new_key: dict[str, str]
    create_query: dict[str, str] = {}
    delete_query: dict[str, str] = {}

    def list_keys(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.call("GET")
        return listed

    def call(self, method: str, path: str = "", body: Any = None, **query: str) -> Any:
        """One call to the vendor's management API, below its list of keys."""
        raise NotImplementedError

    def create(self, mark: str) -> str:
        for key in self.list_keys():
            if key["name"] == mark:
                self._delete(key["id"])
        created = self.call("POST", "", {**self.new_key, "name": mark}, **self.create_query)
        self.facts["new_id"] = created["id"]
        return str(created[self.value_field])

    def revoke(self) -> None:
        self._delete(self.facts["old_id"])

    def _delete(self, key_id: str) -> None:
        try:
            self.call("DELETE", f"/{key_id}", **self.delete_query)
        except ApiError as error:
            if error.http_status != 404:
                raise


class ResendKey(ListedKey):
    """Resend never says which key has which value: the old one is known by its id."""

    value_field = "token"
    new_key = {"permission": "sending_access"}

    def missing_option(self, last: dict[str, Any]) -> str:
        names = {key["id"]: key["name"] for key in self.list_keys()}
        if (self.old_id or last.get("new_id")) in names:
            return ""
        listed = ", ".join(f"{key_id} ({name})" for key_id, name in names.items())
        return f"--old-id ID (the key to revoke); keys at Resend: {listed}"

    def prepare(self, last: dict[str, Any]) -> None:
        if option := self.missing_option(last):
            raise ApiError(0, "which", f"Add {option}")
        self.facts["old_id"] = self.old_id or last["new_id"]

    def list_keys(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = self.call("GET")["data"]
        return listed

    def probe(self, value: str) -> ProbeResult:
        """An empty mail: 422 from whoever may send, and nothing is sent."""
        url = f"{self.services.settings.resend_api_url}/emails"
        return probe_by_status(request("POST", url, headers=bearer(value), json={}))

    def call(self, method: str, path: str = "", body: Any = None, **query: str) -> Any:
        settings = self.services.settings
        api = JsonApi("Resend", settings.resend_api_url, token=settings.resend_admin_key)
        return _call(api, method, f"/api-keys{path}", query, body)


class SupabaseKey(ListedKey):
    """A legacy service_role key cannot be made anew: it is replaced by a secret key, once."""

    value_field = "api_key"
    new_key = {"type": "secret"}
    create_query = {"reveal": "true"}
    delete_query = {"reason": "rotation"}

    def prepare(self, last: dict[str, Any]) -> None:
        if self.old.startswith("eyJ"):
            words = "is a legacy JWT, which cannot be rotated: make a secret key at Supabase first"
            raise ApiError(0, "legacy", f"{self.key.name} {words}, and disable the legacy keys")
        for key in self.list_keys():
            if key["type"] == "secret" and self.old.startswith(key["prefix"]):
                self.facts["old_id"] = key["id"]
                return
        raise ApiError(0, "unknown", f"Supabase has no key that begins as {self.key.name} does")

    def create(self, mark: str) -> str:
        return super().create(mark.replace("-", "_"))  # Supabase's names have no hyphens

    def probe(self, value: str) -> ProbeResult:
        url = f"{self.services.settings.supabase_url}/rest/v1/"
        return probe_by_status(request("GET", url, headers={"apikey": value}))

    def call(self, method: str, path: str = "", body: Any = None, **query: str) -> Any:
        settings = self.services.settings
        api = JsonApi("Supabase", settings.supabase_api_url, token=settings.supabase_access_token)
        keys_path = f"/v1/projects/{settings.supabase_project_ref}/api-keys"
        return _call(api, method, f"{keys_path}{path}", query, body)


def _call(api: JsonApi, method: str, path: str, query: dict[str, str], body: Any) -> Any:
    with closing(api):
        send = api.request if method == "POST" else api.request_with_retries
        return send(method, path, query, body)


class UpstashToken(KeyType):
    """Resetting the password cuts everybody off at once: so two ACL users take turns instead, and
    the password is reset only to retire the token that every database is born with."""

    USERS = ("alfa_a", "alfa_b")

    def prepare(self, last: dict[str, Any]) -> None:
        self.facts.setdefault("old_user", self._command(self.old, "ACL", "WHOAMI"))

    def create(self, mark: str) -> str:
        other_user = self.USERS[1] if self.facts["old_user"] == self.USERS[0] else self.USERS[0]
        admin = self._admin_token()
        token = str(self._command(admin, "ACL", "GENTOKEN", other_user))
        rights = ("on", "allkeys", "allchannels", "allcommands", f">{token}")
        self._command(admin, "ACL", "SETUSER", other_user, "reset", *rights)
        return token

    def revoke(self) -> None:
        settings = self.services.settings
        if self.facts["old_user"] != "default":
            self._command(self._admin_token(), "ACL", "DELUSER", self.facts["old_user"])
        elif self.probe(self.old).outcome != REFUSED:  # else it was reset before
            with closing(self._api()) as api:
                api.request("POST", f"/v2/redis/reset-password/{settings.upstash_database_id}")

    def probe(self, value: str) -> ProbeResult:
        return probe_by_status(self._send_command(value, "PING"))

    def _admin_token(self) -> str:
        """The default user's token, as the developer API tells it."""
        with closing(self._api()) as api:
            path = f"/v2/redis/database/{self.services.settings.upstash_database_id}"
            return str(api.request_with_retries("GET", path)["rest_token"])

    def _api(self) -> JsonApi:
        settings = self.services.settings
        account = (settings.upstash_email, settings.upstash_api_key)
        return JsonApi("Upstash", settings.upstash_api_url, basic=account)

    def _send_command(self, token: str, *words: str) -> Answer:
        url = self.services.settings.upstash_redis_rest_url
        return request("POST", url, headers=bearer(token), json=list(words))

    def _command(self, token: str, *words: str) -> Any:
        answer = self._send_command(token, *words)
        if isinstance(answer, httpx.TransportError):
            reason = connections.explain_reason(answer)
            raise ApiError(0, "redis", f"Upstash cannot be used: {reason}")
        if not answer.is_success:
            reason = connections.explain_status(answer.status_code)
            raise ApiError(
                answer.status_code, "redis", f"Upstash refused {' '.join(words[:2])}: {reason}"
            )
        return answer.json()["result"]


class SlackBot(KeyType):
    """Slack gives an installed app one token, so two apps take turns; a person installs the other
    (in the channel, same scopes) and puts its token into the file as SLACK_BOT_TOKEN__NEW."""

    def revoke(self) -> None:
        if self.probe(self.old).outcome != REFUSED:
            self._call(self.old, "auth.revoke")

    def probe(self, value: str) -> ProbeResult:
        answer = self._call(value, "auth.test")
        if isinstance(answer, httpx.TransportError):
            reason = connections.explain_reason(answer)
            return ProbeResult(UNKNOWN, f"Slack cannot be used: {reason}")
        if not answer.is_success:
            return ProbeResult(UNKNOWN, f"auth.test answered {answer.status_code}")
        body = answer.json()
        if body.get("ok"):
            return ProbeResult(ACCEPTED, "auth.test says ok")
        error = str(body.get("error"))
        dead = ("invalid_auth", "token_revoked", "account_inactive", "token_expired")
        return ProbeResult(REFUSED if error in dead else UNKNOWN, f"auth.test says {error}")

    def _call(self, token: str, method: str) -> Answer:
        url = f"{self.services.settings.slack_api_url}/{method}"
        return request("POST", url, headers=bearer(token), json={})
