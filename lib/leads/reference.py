"""The code people say to each other about a lead: `ALFA-` and five characters drawn from its id."""

import hashlib
from collections.abc import Iterator
from uuid import UUID

PREFIX = "ALFA-"

# Told apart by ear in Indonesian and English, and by eye in any handwriting: no 0/O, 1/I/L,
# no B D E G P T V, no M/N, no S/F.
ALPHABET = "23456789ACHJKMQRWXYZ"

# A code that is taken grows, like a short commit id. Postgres finds that out; a lead it could not
# be asked about was told the five, which are then the beginning of what is kept (one queued lead
# in 160 with 20,000 stored). The code is fixed before the first attempt, like the id, so that
# whichever attempt comes through keeps what was told.
LENGTHS = (5, 6, 8, 13)


def for_lead(identity: UUID, length: int = LENGTHS[0]) -> str:
    """The code of an id. Longer ones begin with the shorter ones, so either finds the lead."""
    number = int.from_bytes(hashlib.sha256(identity.bytes).digest())
    drawn = []
    for _ in range(length):
        number, index = divmod(number, len(ALPHABET))
        drawn.append(ALPHABET[index])
    return PREFIX + "".join(drawn)


def candidates(code: str, identity: UUID) -> Iterator[str]:
    """A code and the longer ones to try when it is taken."""
    yield code
    drawn = len(code) - len(PREFIX)
    yield from (for_lead(identity, length) for length in LENGTHS if length > drawn)


def is_valid(text: str) -> bool:
    """Whether a text has the shape of a code."""
    drawn = text.removeprefix(PREFIX)
    return text != drawn and len(drawn) in LENGTHS and not set(drawn) - set(ALPHABET)
