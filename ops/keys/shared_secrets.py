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

from lib.encryption import Vault
from lib.leads import canary
from lib.leads.queue import DEAD, QUEUE
from lib.problems import Unreadable
from lib.settings import keys
from lib.vitals import drain
from ops.keys.key_types import ACCEPTED, REFUSED, UNKNOWN, Kind, Probe, asked, by_status


class Token(Kind):
    """While NAME_PREVIOUS is set, both are taken."""

    two_deployments = True

    def create(self, mark: str) -> str:
        return secrets.token_urlsafe(32)

    def overlap(self, new: str) -> dict[str, str]:
        return {self.key.previous: self.old, self.key.name: new}

    def alone(self, new: str) -> dict[str, str | None]:
        return {self.key.name: new, self.key.previous: None}

    def probe(self, value: str) -> Probe:
        site = self.services.settings.site_url
        bearer = {"Authorization": f"Bearer {value}"}
        if self.key.name == "CANARY_SECRET":
            return self._send_canary(value)
        if self.key.name == "RUM_DRAIN_SECRET":
            signature = hmac.new(value.encode(), b"[]", hashlib.sha1).hexdigest()
            signed = {drain.SIGNATURE_HEADER: signature, "Content-Type": "application/json"}
            answer = asked("POST", f"{site}/api/rum", content=b"[]", headers=signed)
            return by_status(answer)
        path = {
            "CRON_SECRET": "/api/cron/watch",
            "HEALTH_CHECK_TOKEN": "/api/health?deep=true",
            "LEADS_ADMIN_TOKEN": "/api/leads/export?limit=1",
        }[self.key.name]
        method = "HEAD" if self.key.name == "LEADS_ADMIN_TOKEN" else "GET"
        answer = asked(method, f"{site}{path}", headers=bearer)
        if answer is not None and answer.status_code == 503 and "services" in answer.text:
            return Probe(ACCEPTED, "deep health answered")
        return by_status(answer)

    def _send_canary(self, value: str) -> Probe:
        """A wrong signature is refused; one that is taken is a lead to be removed."""
        now = datetime.now(UTC)
        body = json.dumps(canary.form(now)).encode()
        answer = asked(
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
            canary.remove(self.services.database.run, self.services.cache.run_all, lead_id)
        return by_status(answer)


JOURNAL = "journal:*"  # lib.leads.queue.journal_key of any lead

# Written back only where nothing changed meanwhile: a drain may have taken it.
RESEAL_FIELD = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then
  return redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
end
return -1
"""
RESEAL_KEY = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
end
return -1
"""


class Seal(Kind):
    """The first key of the list seals, all open. What is sealed with the old one is sealed anew,
    so that the old key need not stay for as long as the journal does."""

    two_deployments = True
    reseals = True

    def create(self, mark: str) -> str:
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()

    def overlap(self, new: str) -> dict[str, str]:
        return {self.key.name: f"{new},{self.old}"}

    def alone(self, new: str) -> dict[str, str | None]:
        return {self.key.name: new}

    def kept(self, new: str) -> str:
        """Operators keep the old ones too: mails of an outage may be sealed with them."""
        return f"{new},{self.old}"

    def reseal(self, new: str) -> int:
        """How many were sealed anew."""
        alone, both = Vault(keys(new)), Vault(keys(f"{new},{self.old}"))
        done, run = 0, self.services.cache.run
        for where, field, sealed in self._sealed():
            if _opens(alone, sealed) or not _opens(both, sealed):
                continue
            fresh = alone.seal(both.open(sealed))
            if field:
                run("EVAL", RESEAL_FIELD, 1, where, field, sealed, fresh)
            else:
                run("EVAL", RESEAL_KEY, 1, where, sealed, fresh)
            done += 1
        return done

    def probe(self, value: str) -> Probe:
        """Refused when the old key opens nothing any more."""
        old = Vault(keys(value))
        left = sum(_opens(old, sealed) for _, _, sealed in self._sealed())
        if left:
            return Probe(ACCEPTED, f"it opens {left} sealed leads")
        return Probe(REFUSED, "it opens nothing that is kept in Redis")

    def _sealed(self) -> Iterator[tuple[str, str, str]]:
        """(key, field, sealed) of everything in Redis."""
        run = self.services.cache.run
        for where in (QUEUE, DEAD):
            for field, sealed in run("HGETALL", where).items():
                yield where, field, sealed
        cursor = "0"
        while True:
            cursor, found = run("SCAN", cursor, "MATCH", JOURNAL, "COUNT", 500)
            for where in found:
                if sealed := run("GET", where):
                    yield where, "", sealed
            if str(cursor) == "0":
                return


def _opens(vault: Vault, sealed: str) -> bool:
    try:
        vault.open(sealed)
    except Unreadable:
        return False
    return True


class ByHand(Kind):
    """A person makes it, puts it into the file as NAME__NEW, and revokes the old one."""

    def create(self, mark: str) -> str:
        return self.offered()

    def probe(self, value: str) -> Probe:
        settings = self.services.settings
        bearer = {"Authorization": f"Bearer {value}"}
        answer: httpx.Response | None
        if self.key.name == "WATCH_TOKEN":
            answer = asked("GET", f"{settings.site_url}/api/cron/watch", headers=bearer)
        elif self.key.name == "VERCEL_API_TOKEN":
            answer = asked("GET", f"{settings.vercel_api_url}/v2/user", headers=bearer)
        elif self.key.name == "SLACK_WEBHOOK_URL":
            answer = asked("POST", value, json={})  # no text: 400 no_text, and nothing is posted
            return by_status(answer, refused=(403, 404, 410))
        else:
            return Probe(UNKNOWN, "nobody can be asked: look at the vendor's page")
        return by_status(answer)
