"""Keys that a vendor makes, keeps and deletes; several are good at once.

Formats as documented (read 2026-11-24, never tried on a live account): Resend's OpenAPI file,
Supabase's management API as its own CLI knows it, Upstash's developer API and `ACL` commands.
"""

from contextlib import closing
from typing import Any

from ops.keys.key_types import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    KeyType,
    ProbeResult,
    probe_by_status,
    request,
)
from ops.vendors.http import ApiError, JsonApi


class ResendKey(KeyType):
    """Resend never says which key has which value: the old one is known by its id."""

    def prepare(self, last: dict[str, Any]) -> None:
        listed = {one["id"]: one for one in self._request("GET", "/api-keys")["data"]}
        old = self.old_id or last.get("new_id")
        if old in listed:
            self.facts["old_id"] = old
            return
        told = ", ".join(f"{one['id']} ({one['name']})" for one in listed.values())
        raise ApiError(0, "which", f"which key is the old one? --old-id, one of: {told}")

    def create(self, mark: str) -> str:
        for one in self._request("GET", "/api-keys")["data"]:
            if one["name"] == mark:
                self._delete(one["id"])
        body = {"name": mark, "permission": "sending_access"}
        made = self._request("POST", "/api-keys", body)
        self.facts["new_id"] = made["id"]
        return str(made["token"])

    def revoke(self) -> None:
        self._delete(self.facts["old_id"])

    def probe(self, value: str) -> ProbeResult:
        """An empty mail: 422 from whoever may send, and nothing is sent."""
        answer = request(
            "POST",
            f"{self.services.settings.resend_api_url}/emails",
            headers={"Authorization": f"Bearer {value}"},
            json={},
        )
        return probe_by_status(answer)

    def _delete(self, key_id: str) -> None:
        try:
            self._request("DELETE", f"/api-keys/{key_id}")
        except ApiError as refused:
            if refused.status != 404:
                raise

    def _request(self, method: str, path: str, body: Any = None) -> Any:
        settings = self.services.settings
        api = JsonApi("Resend", settings.resend_api_url, token=settings.resend_admin_key)
        with closing(api):
            once = method == "POST"
            return (
                api.request(method, path, body=body)
                if once
                else api.request_with_retries(method, path)
            )


class SupabaseKey(KeyType):
    """A legacy service_role key cannot be made anew: it is replaced by a secret key, once."""

    def prepare(self, last: dict[str, Any]) -> None:
        if self.old.startswith("eyJ"):
            words = "is a legacy JWT, which cannot be rotated: make a secret key at Supabase first"
            raise ApiError(0, "legacy", f"{self.key.name} {words}, and disable the legacy keys")
        for one in self._request("GET"):
            if one["type"] == "secret" and self.old.startswith(one["prefix"]):
                self.facts["old_id"] = one["id"]
                return
        raise ApiError(0, "unknown", f"Supabase has no key that begins as {self.key.name} does")

    def create(self, mark: str) -> str:
        name = mark.replace("-", "_")
        for one in self._request("GET"):
            if one["name"] == name:
                self._delete(one["id"])
        made = self._request("POST", "", {"type": "secret", "name": name}, reveal="true")
        self.facts["new_id"] = made["id"]
        return str(made["api_key"])

    def revoke(self) -> None:
        self._delete(self.facts["old_id"])

    def probe(self, value: str) -> ProbeResult:
        url = f"{self.services.settings.supabase_url}/rest/v1/"
        return probe_by_status(request("GET", url, headers={"apikey": value}))

    def _delete(self, key_id: str) -> None:
        try:
            self._request("DELETE", f"/{key_id}", reason="rotation")
        except ApiError as refused:
            if refused.status != 404:
                raise

    def _request(self, method: str, path: str = "", body: Any = None, **query: str) -> Any:
        settings = self.services.settings
        api = JsonApi("Supabase", settings.supabase_api_url, token=settings.supabase_access_token)
        path = f"/v1/projects/{settings.supabase_project_ref}/api-keys{path}"
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
        other = self.USERS[1] if self.facts["old_user"] == self.USERS[0] else self.USERS[0]
        admin = self._admin_token()
        token = str(self._command(admin, "ACL", "GENTOKEN", other))
        rights = ("on", "allkeys", "allchannels", "allcommands", f">{token}")
        self._command(admin, "ACL", "SETUSER", other, "reset", *rights)
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

    def _send_command(self, token: str, *words: str) -> Any:
        url = self.services.settings.upstash_redis_rest_url
        return request("POST", url, headers={"Authorization": f"Bearer {token}"}, json=list(words))

    def _command(self, token: str, *words: str) -> Any:
        answer = self._send_command(token, *words)
        if answer is None or not answer.is_success:
            status = 0 if answer is None else answer.status_code
            raise ApiError(status, "redis", f"Upstash refused {' '.join(words[:2])} ({status})")
        return answer.json()["result"]


class SlackBot(KeyType):
    """Slack gives an installed app one token, so two apps take turns; a person installs the other
    (in the channel, same scopes) and puts its token into the file as SLACK_BOT_TOKEN__NEW."""

    def create(self, mark: str) -> str:
        return self.operator_value()

    def revoke(self) -> None:
        if self.probe(self.old).outcome != REFUSED:
            self._call(self.old, "auth.revoke")

    def probe(self, value: str) -> ProbeResult:
        answer = self._call(value, "auth.test")
        if answer is None:
            return ProbeResult(UNKNOWN, "no answer")
        if answer.get("ok"):
            return ProbeResult(ACCEPTED, "auth.test says ok")
        error = str(answer.get("error"))
        dead = ("invalid_auth", "token_revoked", "account_inactive", "token_expired")
        return ProbeResult(REFUSED if error in dead else UNKNOWN, f"auth.test says {error}")

    def _call(self, token: str, method: str) -> Any:
        url = f"{self.services.settings.slack_api_url}/{method}"
        answer = request("POST", url, headers={"Authorization": f"Bearer {token}"}, json={})
        return answer.json() if answer is not None and answer.is_success else None
