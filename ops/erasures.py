"""Where a restore meets erasure: whoever was erased after a backup was taken stays erased.

The only module here that knows lib/erasure_replay.py, which may not be there yet.
"""

import importlib
from datetime import datetime
from typing import Any

from lib import problems
from lib.services import Services
from ops.steps import CouldNotVerify

REPLAY = "lib.erasure_replay"


def replay(services: Services, now: datetime) -> str:
    """Erase again in the database of `services`; what was. Raises CouldNotVerify."""
    try:
        module: Any = importlib.import_module(REPLAY)
    except ModuleNotFoundError:
        raise CouldNotVerify("this version keeps no tombstones to replay") from None
    found = module.replay(services, now)
    if not found.in_redis:
        raise CouldNotVerify("Redis has the newest tombstones, and cannot be read")
    return (
        f"{found.tombstones} tombstones; erased again: {found.leads} leads, {found.spam} for"
        f" review, {found.notes} notes"
    )


def guarded(services: Services) -> dict[str, Any]:
    """What `leads.store` is given so that it refuses the leads of whoever was erased."""
    keys = getattr(services, "erasure_keys", None)
    return {} if keys is None else {"erasure_keys": keys}


def refusals() -> tuple[type[Exception], ...]:
    """How it refuses them."""
    erased = getattr(problems, "Erased", None)
    return () if erased is None else (erased,)
