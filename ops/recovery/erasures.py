"""Where a restore meets erasure: whoever was erased after a backup was taken stays erased."""

from datetime import datetime

from lib.privacy import replay as privacy_replay
from lib.services import Services
from ops.steps import CouldNotVerify


def replay(services: Services, now: datetime) -> str:
    """Erase again in the database of `services`; what was. Raises CouldNotVerify."""
    found = privacy_replay.reapply(services, now)
    if not found.in_redis:
        raise CouldNotVerify("Redis has the newest tombstones, and cannot be read")
    return (
        f"{found.tombstones} tombstones; erased again: {found.leads} leads, {found.spam} for"
        f" review, {found.notes} notes"
    )
