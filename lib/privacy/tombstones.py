"""Marks of who was erased: keyed hashes, so that nobody without ERASURE_KEY can guess who.

A tombstone is a mark and a moment: whatever of that person was taken up to it may not come back,
from the queue, the journal, a mail or a backup. What they send afterwards is new.
"""

import hmac
from collections.abc import Iterable
from uuid import UUID

from lib.leads.validators import renormalize_phone


def hashes(
    keys: Iterable[bytes],
    *,
    email: str | None = None,
    phone: str | None = None,
    lead_id: UUID | str | None = None,
) -> list[str]:
    """The marks of an address, of a number and of a single lead, under each key, in hex.

    A number that is stored in an older form has the marks of both: a copy may hold either.
    """
    keys = list(keys)
    given = [("email", email), ("phone", phone), ("lead", lead_id and str(lead_id))]
    if keys and phone and (today := renormalize_phone(phone)) != phone:
        given.append(("phone", today))
    named = [f"{kind}:{value}".encode() for kind, value in given if value]
    return [hmac.digest(key, text, "sha256").hex() for key in keys for text in named]
