"""A cached answer, and its encoding in Redis. What cannot be decoded is a miss, never an error."""

import base64
import json
import zlib
from datetime import UTC, datetime
from typing import NamedTuple

from lib.products.catalogue import PublishedSlugs, RenderedAnswer


class Entry(NamedTuple):
    """made_at: time.time(); cost_s: how long the answer took to make.

    version: the catalogue's version in Redis at that time.
    """

    answer: RenderedAnswer
    made_at: float
    cost_s: float = 0.0
    version: str = ""


def encode(entry: Entry, key: str) -> str:
    """A line of JSON and the body, compressed: the whole list takes a fifth of its size."""
    answer = entry.answer
    fields = [key, entry.made_at, entry.cost_s, entry.version, answer.changed_at.timestamp(),
              answer.next_cursor, answer.slugs]  # fmt: skip
    head = json.dumps(fields, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(head + b"\n" + answer.body, 6)).decode()


def decode(text: object, key: str) -> Entry | None:
    """None when it is damaged, of another format or the answer to another query."""
    try:
        # zlib verifies a checksum.
        head, _, body = zlib.decompress(base64.b64decode(str(text), validate=True)).partition(b"\n")
        stored_key, made_at, cost_s, version, changed_at, next_cursor, slugs = json.loads(head)
        moment = datetime.fromtimestamp(changed_at, UTC)
        answer = RenderedAnswer(body, tuple(slugs), moment, next_cursor)
    except (ValueError, TypeError, OverflowError, OSError, zlib.error):
        return None
    return Entry(answer, made_at, cost_s, version) if stored_key == key and body else None


def encode_published(published: PublishedSlugs) -> str:
    facts = [published.read_at, published.changed_at.timestamp(), sorted(published.slugs)]
    return json.dumps(facts, separators=(",", ":"))


def decode_published(text: object) -> PublishedSlugs | None:
    """None when there is none, or it is damaged."""
    try:
        read_at, changed_at, slugs = json.loads(str(text))
        return PublishedSlugs(frozenset(slugs), datetime.fromtimestamp(changed_at, UTC), read_at)
    except (ValueError, TypeError, OverflowError, OSError):
        return None
