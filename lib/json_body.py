"""Strict JSON: no NaN, and no key twice in one object.

Some parsers keep the first of two values under one key and some the last, so neither is taken.
"""

import json
from collections import Counter
from typing import Any


def parse(body: bytes) -> tuple[Any, list[str]]:
    """The value, and the keys that one object holds twice, at any depth.

    Raises ValueError or RecursionError where it is no JSON.
    """
    repeated: list[str] = []

    def collect_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            repeated.extend(key for key, count in counts.items() if count > 1)
        return values

    value = json.loads(
        body.decode("utf-8"), object_pairs_hook=collect_repeated, parse_constant=_reject_constant
    )
    return value, list(dict.fromkeys(repeated))


def _reject_constant(constant: str) -> Any:
    raise ValueError(constant)  # NaN and Infinity are no JSON
