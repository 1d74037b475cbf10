"""Keys that we make ourselves (tokens that callers present, the key that encrypts leads), and keys
that a person makes at a vendor.

Only our own deployments know the former, so an old one is revoked by deploying without it.
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
from lib.leads.queue import DEAD_LETTERS, QUEUE, journal_key, scan_keys
from lib.problems import DecryptionError
from lib.settings import encryption_keys
from lib.vitals import drain
from ops.keys.key_types import (
    ACCEPTED,
    REFUSED,
    KeyType,
    ProbeResult,
    bearer,
    probe_by_status,
    request,
)

# The request that shows whether our site accepts a token.
SITE_PROBES = {
    "CRON_SECRET": ("GET", "/api/cron/watch"),
    "WATCH_TOKEN": ("GET", "/api/cron/watch"),
    "HEALTH_CHECK_TOKEN": ("GET", "/api/health?deep=true"),
    "LEADS_ADMIN_TOKEN": ("HEAD", "/api/leads/export?limit=1"),
}


class SharedToken(KeyType):
    """While NAME_PREVIOUS is set, both values are accepted."""

    needs_two_deployments = True

    def create(self, mark: str) -> str:
        return secrets.token_urlsafe(32)

    def overlap_variables(self, new: str) -> dict[str, str]:
        return {self.key.previous_variable: self.old, self.key.name: new}

    def final_variables(self, new: str) -> dict[str, str | None]:
        return {self.key.name: new, self.key.previous_variable: None}

    def probe(self, value: str) -> ProbeResult:
        if self.key.name == "CANARY_SECRET":
            return _send_canary(self, value)
        if self.key.name == "RUM_DRAIN_SECRET":
            signature = hmac.new(value.encode(), b"[]", hashlib.sha1).hexdigest()
            headers = {drain.SIGNATURE_HEADER: signature, "Content-Type": "application/json"}
            url = f"{self.services.settings.site_url}/api/rum"
            return probe_by_status(request("POST", url, content=b"[]", headers=headers))
        return _probe_site(self, value)


class ManualKey(KeyType):
    """A person makes it, puts it into the file as NAME__NEW, and revokes the old one."""

    revoked_by_person = True

    def probe(self, value: str) -> ProbeResult:
        if self.key.name in SITE_PROBES:
            return _probe_site(self, value)
        if self.key.name == "VERCEL_API_TOKEN":
            url = f"{self.services.settings.vercel_api_url}/v2/user"
            return probe_by_status(request("GET", url, headers=bearer(value)))
        if self.key.name == "SLACK_WEBHOOK_URL":
            # Without a text Slack answers 400 no_text and posts nothing.
            return probe_by_status(request("POST", value, json={}), refused=(403, 404, 410))
        return super().probe(value)


def _probe_site(key_type: KeyType, value: str) -> ProbeResult:
    method, path = SITE_PROBES[key_type.key.name]
    url = f"{key_type.services.settings.site_url}{path}"
    response = request(method, url, headers=bearer(value))
    if (
        isinstance(response, httpx.Response)
        and response.status_code == 503
        and "services" in response.text
    ):
        return ProbeResult(ACCEPTED, "deep health answered")
    return probe_by_status(response)


def _send_canary(key_type: KeyType, value: str) -> ProbeResult:
    """A wrong signature is refused; a lead that is accepted is removed again."""
    services, now = key_type.services, datetime.now(UTC)
    body = json.dumps(canary.payload(now)).encode()
    headers = {"Content-Type": "application/json", canary.HEADER: canary.sign(value, body, now)}
    url = f"{services.settings.site_url}/api/leads"
    response = request("POST", url, content=body, headers=headers)
    if isinstance(response, httpx.Response) and response.is_success:
        lead_id = UUID(response.json()["id"])
        canary.remove(services.database.run, services.cache.pipeline, lead_id)
    return probe_by_status(response)


# Written back only where nothing changed meanwhile: a drain may have removed it.
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
    """The first key of the list encrypts, all decrypt. What the old one encrypted is encrypted
    anew, so that the old key need not stay for as long as the journal does."""

    needs_two_deployments = True
    reencrypts = True

    def create(self, mark: str) -> str:
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()

    def overlap_variables(self, new: str) -> dict[str, str]:
        return {self.key.name: f"{new},{self.old}"}

    def final_variables(self, new: str) -> dict[str, str | None]:
        return {self.key.name: new}

    def file_value(self, new: str) -> str:
        """Operators keep the old keys too: mails of an outage may be encrypted with them."""
        return f"{new},{self.old}"

    def reencrypt(self, new: str) -> int:
        new_cipher = SecretBoxCipher(encryption_keys(new))
        both = SecretBoxCipher(encryption_keys(f"{new},{self.old}"))
        count, execute = 0, self.services.cache.execute
        for key, field, sealed in self._iter_encrypted():
            if _can_decrypt(new_cipher, sealed) or not _can_decrypt(both, sealed):
                continue
            fresh = new_cipher.encrypt(both.decrypt(sealed))
            if field:
                execute("EVAL", REPLACE_HASH_FIELD, 1, key, field, sealed, fresh)
            else:
                execute("EVAL", REPLACE_KEY, 1, key, sealed, fresh)
            count += 1
        return count

    def probe(self, value: str) -> ProbeResult:
        """Refused when the old key decrypts nothing any more."""
        cipher = SecretBoxCipher(encryption_keys(value))
        left = sum(_can_decrypt(cipher, sealed) for _, _, sealed in self._iter_encrypted())
        if left:
            return ProbeResult(ACCEPTED, f"it decrypts {left} leads")
        return ProbeResult(REFUSED, "it decrypts nothing in Redis")

    def _iter_encrypted(self) -> Iterator[tuple[str, str, str]]:
        """(key, field, ciphertext) of everything in Redis; no field where the key is no hash."""
        execute = self.services.cache.execute
        for key in (QUEUE, DEAD_LETTERS):
            for field, sealed in execute("HGETALL", key).items():
                yield key, field, sealed
        for key in scan_keys(execute, journal_key("*")):
            if sealed := execute("GET", key):
                yield key, "", sealed


def _can_decrypt(cipher: SecretBoxCipher, sealed: str) -> bool:
    try:
        cipher.decrypt(sealed)
    except DecryptionError:
        return False
    return True
