"""JSON as callers send it, strictly: no NaN, and no key twice in one object.

Of two values under one key a parser keeps the last and another the first: which one was meant is
not ours to guess.
"""

import json
from typing import Any


def parse(body: bytes) -> tuple[Any, list[str]]:
    """The value, and the keys that one object holds twice, at any depth. ValueError,
    RecursionError where it is no JSON."""
    repeated: dict[str, None] = {}

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    repeated[key] = None
                seen.add(key)
        return values

    value = json.loads(
        body.decode("utf-8"), object_pairs_hook=unique, parse_constant=_refuse_constant
    )
    return value, list(repeated)


def _refuse_constant(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are no JSON
