"""What a rotation needs, found out before it asks, changes or raises anything.

The rule a newcomer would break: every missing option is named in one message, so that on a bad
night the command is run twice at most.
"""

import sys
from contextlib import closing

from lib.problems import NotConfigured
from ops.command import Args, Failed
from ops.keys.key_types import KeyType
from ops.keys.rotation import describe_changes, other_changes
from ops.keys.rotation_store import RotationStore
from ops.settings import OperatorServices
from ops.vendors.http import ApiError
from ops.vendors.vercel import Vercel


def check(services: OperatorServices, key_type: KeyType, args: Args) -> None:
    """Raises NotConfigured, or Failed (status 2) with every option that is missing.

    ApiError where a vendor cannot be asked; not after a leak, whose Sev1 must not wait for one.
    """
    if not services.settings.key_fingerprint_pepper:
        raise NotConfigured("KEY_FINGERPRINT_PEPPER", "is not set")
    try:
        missing = _missing_options(services, key_type, args)
    except ApiError:
        if not args.leak:
            raise
        missing = []
    if missing:
        name = key_type.key.name
        words = f"{name} is not rotated, and nothing was changed. Add to the command:"
        raise Failed("\n  ".join([words, *missing]), status=2)


def _missing_options(services: OperatorServices, key_type: KeyType, args: Args) -> list[str]:
    settings, key = services.settings, key_type.key
    can_ask = sys.stdin.isatty() and not args.yes
    missing = [] if args.yes or can_ask else ["--yes (there is no terminal to ask at)"]
    with (
        closing(Vercel(settings)) as vercel,
        RotationStore(settings.database_direct_url, key.name, locked=False) as store,
    ):
        record = store.find_open(key.name)
        if record is None and (option := key_type.missing_option(store.last_facts(key.name))):
            missing.append(option)
        agreed = {} if record is None else record.facts.get("agreed", {})
        changes = {} if args.with_changes or can_ask else other_changes(vercel, key, agreed)
    if changes:
        listed = ", ".join(describe_changes(changes))
        missing.append(f"--with-changes (--yes does not cover other variables at Vercel: {listed})")
    return missing
