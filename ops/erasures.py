"""Where a restore meets erasure: whoever was erased after a backup was taken stays erased."""

import importlib
from collections.abc import Callable
from typing import Any

from lib.services import Services
from ops.journal import Gone
from ops.steps import CouldNotVerify

MODULE = "lib.erasure"


def replay(services: Services) -> int:
    """Erase again in the restored database; how many rows. Raises CouldNotVerify."""
    count: int = _named("replay")(services)
    return count


def gone(services: Services) -> Gone:
    """Tells whether a lead of the journal is of somebody who was erased."""
    try:
        made: Gone = _named("gone")(services)
    except CouldNotVerify:
        return lambda _lead: False  # the erasures' own step says so, and does not pass
    return made


def _named(name: str) -> Callable[..., Any]:
    try:
        return getattr(importlib.import_module(MODULE), name)  # type: ignore[no-any-return]
    except (ModuleNotFoundError, AttributeError):
        raise CouldNotVerify("this version keeps no tombstones to replay") from None
