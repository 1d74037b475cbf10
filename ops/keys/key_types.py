"""What a kind of key must know how to do; the steps themselves are in rotation.py."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx

from lib.services import Services
from ops.keys.inventory import Secret
from ops.keys.key_file import NEW_SUFFIX, KeyFile

REFUSED, ACCEPTED, UNKNOWN = "refused", "accepted", "unknown"
PROBE_TIMEOUT_S = 10.0


class ProbeResult(NamedTuple):
    """What became of a key that was tried: refused, accepted or unknown, and what was seen."""

    outcome: str
    message: str


@dataclass(slots=True)
class KeyType:
    """One key on its way. old: the value that is in use; facts: kept between runs, never a value.

    two_deployments: revoking means deploying once more, without the old one.
    """

    key: Secret
    services: Services
    old: str
    file: KeyFile
    facts: dict[str, Any] = field(default_factory=dict)
    old_id: str | None = None
    needs_two_deployments = False
    reencrypts = False

    def prepare(self, last: dict[str, Any]) -> None:
        """Before anything is changed: find at the vendor what will be revoked. Raises Refused."""

    def create(self, mark: str) -> str:
        """A new value. What an earlier try left behind under `mark` is taken away first."""
        raise NotImplementedError

    def overlap_variables(self, new: str) -> dict[str, str]:
        """Production's variables while both are good."""
        return {self.key.name: new}

    def final_variables(self, new: str) -> dict[str, str | None]:
        """Production's variables once the old one is gone; None: none at all."""
        return dict(self.overlap_variables(new))

    def revoke(self) -> None:
        """At the vendor; safe to repeat."""

    def probe(self, value: str) -> ProbeResult:
        """Whether a value works. It changes nothing."""
        return ProbeResult(UNKNOWN, "nobody can be asked")

    def file_value(self, new: str) -> str:
        """What the operator's own file holds afterwards."""
        return new

    def operator_value(self) -> str:
        """A value that a person put into the file as NAME__NEW."""
        return self.file.read().get(self.key.name + NEW_SUFFIX, "")


def request(method: str, url: str, **options: Any) -> httpx.Response | None:
    """One question; None when nothing answers."""
    try:
        return httpx.request(method, url, timeout=PROBE_TIMEOUT_S, trust_env=False, **options)
    except httpx.TransportError:
        return None


def probe_by_status(
    answer: httpx.Response | None, *, refused: tuple[int, ...] = (401, 403)
) -> ProbeResult:
    """A probe where the status alone tells."""
    if answer is None:
        return ProbeResult(UNKNOWN, "no answer")
    if answer.status_code in refused:
        return ProbeResult(REFUSED, f"answered {answer.status_code}")
    if answer.status_code == 429 or answer.status_code >= 500:
        return ProbeResult(UNKNOWN, f"answered {answer.status_code}")
    return ProbeResult(ACCEPTED, f"answered {answer.status_code}")
