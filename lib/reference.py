"""The code people say to each other about a lead: `ALFA-` and five characters drawn from its id."""

import hashlib
from uuid import UUID

PREFIX = "ALFA-"

# Told apart by ear in Indonesian and English, and by eye in any handwriting: no 0/O, 1/I/L,
# no B D E G P T V, no M/N, no S/F.
ALPHABET = "23456789ACHJKMQRWXYZ"

LENGTHS = (5, 6, 8, 13)  # a code that is taken grows, like a short commit id

# Where Postgres cannot be asked whether a code is free, it must be free by chance: 20^8 codes.
UNASKED = 8


def of(identity: UUID, length: int = LENGTHS[0]) -> str:
    """The code of an id. Longer ones begin with the shorter ones, so either finds the lead."""
    number = int.from_bytes(hashlib.sha256(identity.bytes).digest())
    drawn = []
    for _ in range(length):
        number, index = divmod(number, len(ALPHABET))
        drawn.append(ALPHABET[index])
    return PREFIX + "".join(drawn)


def grown(code: str, identity: UUID) -> list[str]:
    """A code and the longer ones to try when it is taken."""
    drawn = len(code) - len(PREFIX)
    return [code, *(of(identity, length) for length in LENGTHS if length > drawn)]


def is_one(text: str) -> bool:
    """Whether a text has the shape of a code."""
    drawn = text.removeprefix(PREFIX)
    return text != drawn and len(drawn) in LENGTHS and not set(drawn) - set(ALPHABET)
