"""What each type of key must know how to do; the steps themselves are in rotation.py."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from ops import connections
from ops.keys.inventory import Secret
from ops.keys.key_file import NEW_SUFFIX, KeyFile
from ops.settings import OperatorServices

REFUSED, ACCEPTED, UNKNOWN = "refused", "accepted", "unknown"
PROBE_TIMEOUT_S = 10.0


type Answer = httpx.Response | httpx.TransportError  # the error where nothing answers


class ProbeResult(NamedTuple):
    """What happened to a value that was tried: refused, accepted or unknown, and how it showed."""

    outcome: str
    message: str


@dataclass(slots=True)
class KeyType:
    """One key under rotation. old: the value in use; facts: kept between runs, never a value.

    needs_two_deployments: it is revoked by deploying once more, without the old value.
    reencrypts: data encrypted with the old key is re-encrypted. revoked_by_person: at the vendor.
    """

    key: Secret
    services: OperatorServices
    old: str
    file: KeyFile
    facts: dict[str, Any] = field(default_factory=dict)
    old_id: str | None = None
    needs_two_deployments = False
    reencrypts = False
    revoked_by_person = False

    def missing_option(self, last: dict[str, Any]) -> str:
        """An option without which `prepare` cannot tell what will be revoked, and why; "" if none.

        last: facts of the rotation before.
        """
        return ""

    def prepare(self, last: dict[str, Any]) -> None:
        """Before any change: find at the vendor what will be revoked. Raises ApiError."""

    def create(self, mark: str) -> str:
        """A new value; by default the one a person made. Removes what an earlier try under `mark`
        left at the vendor. Empty while there is none."""
        return self.operator_value()

    def overlap_variables(self, new: str) -> dict[str, str]:
        """Production's variables while both values are valid."""
        return {self.key.name: new}

    def final_variables(self, new: str) -> dict[str, str | None]:
        """Production's variables without the old value; None: delete the variable."""
        return dict(self.overlap_variables(new))

    def revoke(self) -> None:
        """At the vendor; safe to repeat."""

    def probe(self, value: str) -> ProbeResult:
        """Whether a value works. It changes nothing."""
        return ProbeResult(UNKNOWN, "nothing can be asked")

    def file_value(self, new: str) -> str:
        """What the operator's own file holds afterwards."""
        return new

    def operator_value(self) -> str:
        """A value that a person put into the file as NAME__NEW."""
        return self.file.read().get(self.key.name + NEW_SUFFIX, "")

    def reencrypt(self, new: str) -> int:
        """Encrypt anew what the old key encrypted; how many."""
        return 0


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def request(method: str, url: str, **options: Any) -> Answer:
    """One request."""
    try:
        return httpx.request(method, url, timeout=PROBE_TIMEOUT_S, trust_env=False, **options)
    except httpx.TransportError as error:
        return error


def probe_by_status(response: Answer, *, refused: tuple[int, ...] = (401, 403)) -> ProbeResult:
    """A probe whose status alone decides."""
    if isinstance(response, httpx.TransportError):
        return ProbeResult(UNKNOWN, connections.explain(response))
    status = response.status_code
    if status in refused:
        outcome = REFUSED
    elif status == 429 or status >= 500:
        outcome = UNKNOWN
    else:
        outcome = ACCEPTED
    return ProbeResult(outcome, f"answered {status}")
