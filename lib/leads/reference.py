"""A lead's reference, short enough to be spoken: `ALFA-` and five characters, from its id."""

import hashlib
from collections.abc import Iterator
from uuid import UUID

PREFIX = "ALFA-"

# Distinct by ear in Indonesian and English, and in any handwriting: no 0/O, 1/I/L,
# no B D E G P T V, no M/N, no S/F.
ALPHABET = "23456789ACHJKMQRWXYZ"

# A reference that is taken gets longer, like a short commit id. Only Postgres knows: while it is
# down the visitor is given five characters, and the stored reference begins with them (one queued
# lead in 160 with 20,000 stored). The reference is fixed before the first attempt, like the id, so
# every attempt stores the one that the visitor was given.
LENGTHS = (5, 6, 8, 13)


def for_lead(lead_id: UUID, length: int = LENGTHS[0]) -> str:
    """The reference of an id. A longer one begins with the shorter ones, so each finds the lead."""
    number = int.from_bytes(hashlib.sha256(lead_id.bytes).digest())
    characters = []
    for _ in range(length):
        number, index = divmod(number, len(ALPHABET))
        characters.append(ALPHABET[index])
    return PREFIX + "".join(characters)


def candidates(ref: str, lead_id: UUID) -> Iterator[str]:
    """A reference and the longer ones to try when it is taken."""
    yield ref
    taken_length = len(ref) - len(PREFIX)
    yield from (for_lead(lead_id, length) for length in LENGTHS if length > taken_length)


def is_valid(text: str) -> bool:
    """Whether a text has the form of a reference."""
    rest = text.removeprefix(PREFIX)
    return text != rest and len(rest) in LENGTHS and not set(rest) - set(ALPHABET)
