"""Keys that we make ourselves: tokens that callers present, and the one that seals leads.

Nobody but our own deployments knows them, so an old one is revoked by deploying without it.
"""

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import httpx

from lib.encryption import SecretBoxCipher
from lib.leads import canary
from lib.leads.queue import DEAD_LETTERS, QUEUE
from lib.problems import DecryptionError
from lib.settings import encryption_keys
from lib.vitals import drain
from ops.keys.key_types import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    KeyType,
    ProbeResult,
    probe_by_status,
    request,
)


class SharedToken(KeyType):
    """While NAME_PREVIOUS is set, both are taken."""

    needs_two_deployments = True

    def create(self, mark: str) -> str:
        return secrets.token_urlsafe(32)

    def overlap_variables(self, new: str) -> dict[str, str]:
        return {self.key.previous_variable: self.old, self.key.name: new}

    def final_variables(self, new: str) -> dict[str, str | None]:
        return {self.key.name: new, self.key.previous_variable: None}

    def probe(self, value: str) -> ProbeResult:
        site = self.services.settings.site_url
        bearer = {"Authorization": f"Bearer {value}"}
        if self.key.name == "CANARY_SECRET":
            return self._send_canary(value)
        if self.key.name == "RUM_DRAIN_SECRET":
            signature = hmac.new(value.encode(), b"[]", hashlib.sha1).hexdigest()
            signed = {drain.SIGNATURE_HEADER: signature, "Content-Type": "application/json"}
            answer = request("POST", f"{site}/api/rum", content=b"[]", headers=signed)
            return probe_by_status(answer)
        path = {
            "CRON_SECRET": "/api/cron/watch",
            "HEALTH_CHECK_TOKEN": "/api/health?deep=true",
            "LEADS_ADMIN_TOKEN": "/api/leads/export?limit=1",
        }[self.key.name]
        method = "HEAD" if self.key.name == "LEADS_ADMIN_TOKEN" else "GET"
        answer = request(method, f"{site}{path}", headers=bearer)
        if answer is not None and answer.status_code == 503 and "services" in answer.text:
            return ProbeResult(ACCEPTED, "deep health answered")
        return probe_by_status(answer)

    def _send_canary(self, value: str) -> ProbeResult:
        """A wrong signature is refused; one that is taken is a lead to be removed."""
        now = datetime.now(UTC)
        body = json.dumps(canary.payload(now)).encode()
        answer = request(
            "POST",
            f"{self.services.settings.site_url}/api/leads",
            content=body,
            headers={
                "Content-Type": "application/json",
                canary.HEADER: canary.sign(value, body, now),
            },
        )
        if answer is not None and answer.is_success:
            lead_id = UUID(answer.json()["id"])
            canary.remove(self.services.database.run, self.services.cache.pipeline, lead_id)
        return probe_by_status(answer)


JOURNAL_PATTERN = "journal:*"  # lib.leads.queue.journal_key of any lead

# Written back only where nothing changed meanwhile: a drain may have taken it.
REPLACE_HASH_FIELD = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return -1
"""
REPLACE_KEY = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
end
return -1
"""


class EncryptionKey(KeyType):
    """The first key of the list seals, all open. What is sealed with the old one is sealed anew,
    so that the old key need not stay for as long as the journal does."""

    needs_two_deployments = True
    reencrypts = True

    def create(self, mark: str) -> str:
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()

    def overlap_variables(self, new: str) -> dict[str, str]:
        return {self.key.name: f"{new},{self.old}"}

    def final_variables(self, new: str) -> dict[str, str | None]:
        return {self.key.name: new}

    def file_value(self, new: str) -> str:
        """Operators keep the old ones too: mails of an outage may be sealed with them."""
        return f"{new},{self.old}"

    def reencrypt(self, new: str) -> int:
        """How many were sealed anew."""
        alone, both = (
            SecretBoxCipher(encryption_keys(new)),
            SecretBoxCipher(encryption_keys(f"{new},{self.old}")),
        )
        done, run = 0, self.services.cache.execute
        for where, field, sealed in self._iter_encrypted():
            if _can_decrypt(alone, sealed) or not _can_decrypt(both, sealed):
                continue
            fresh = alone.encrypt(both.decrypt(sealed))
            if field:
                run("EVAL", REPLACE_HASH_FIELD, 1, where, field, sealed, fresh)
            else:
                run("EVAL", REPLACE_KEY, 1, where, sealed, fresh)
            done += 1
        return done

    def probe(self, value: str) -> ProbeResult:
        """Refused when the old key opens nothing any more."""
        old = SecretBoxCipher(encryption_keys(value))
        left = sum(_can_decrypt(old, sealed) for _, _, sealed in self._iter_encrypted())
        if left:
            return ProbeResult(ACCEPTED, f"it opens {left} sealed leads")
        return ProbeResult(REFUSED, "it opens nothing that is kept in Redis")

    def _iter_encrypted(self) -> Iterator[tuple[str, str, str]]:
        """(key, field, sealed) of everything in Redis."""
        run = self.services.cache.execute
        for where in (QUEUE, DEAD_LETTERS):
            for field, sealed in run("HGETALL", where).items():
                yield where, field, sealed
        cursor = "0"
        while True:
            cursor, found = run("SCAN", cursor, "MATCH", JOURNAL_PATTERN, "COUNT", 500)
            for where in found:
                if sealed := run("GET", where):
                    yield where, "", sealed
            if str(cursor) == "0":
                return


def _can_decrypt(vault: SecretBoxCipher, sealed: str) -> bool:
    try:
        vault.decrypt(sealed)
    except DecryptionError:
        return False
    return True


class ManualKey(KeyType):
    """A person makes it, puts it into the file as NAME__NEW, and revokes the old one."""

    def create(self, mark: str) -> str:
        return self.operator_value()

    def probe(self, value: str) -> ProbeResult:
        settings = self.services.settings
        bearer = {"Authorization": f"Bearer {value}"}
        answer: httpx.Response | None
        if self.key.name == "WATCH_TOKEN":
            answer = request("GET", f"{settings.site_url}/api/cron/watch", headers=bearer)
        elif self.key.name == "VERCEL_API_TOKEN":
            answer = request("GET", f"{settings.vercel_api_url}/v2/user", headers=bearer)
        elif self.key.name == "SLACK_WEBHOOK_URL":
            answer = request("POST", value, json={})  # no text: 400 no_text, and nothing is posted
            return probe_by_status(answer, refused=(403, 404, 410))
        else:
            return ProbeResult(UNKNOWN, "nobody can be asked: look at the vendor's page")
        return probe_by_status(answer)
