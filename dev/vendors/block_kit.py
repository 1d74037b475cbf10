"""Block Kit's published limits (docs.slack.dev/reference/block-kit/blocks, read 2026-11), for the
blocks we send: what Slack would refuse as `invalid_blocks`."""

from collections.abc import Iterator
from typing import Any

BLOCKS = 50
TEXT = {"header": 150, "section": 3000}
ELEMENTS, ELEMENT_TEXT, FIELDS, FIELD_TEXT = 10, 3000, 10, 2000
MESSAGE_TEXT = 40_000


def validate(fields: dict[str, Any]) -> list[str]:
    """What is wrong with a message's text and blocks; empty when nothing is."""
    return list(_validate(fields))


def _validate(fields: dict[str, Any]) -> Iterator[str]:
    if len(str(fields.get("text", ""))) > MESSAGE_TEXT:
        yield "text is too long"
    blocks = fields.get("blocks") or []
    if not isinstance(blocks, list):
        yield "blocks is no list"
        return
    if len(blocks) > BLOCKS:
        yield f"{len(blocks)} blocks"
    for at, block in enumerate(blocks):
        for fault in _block(block):
            yield f"blocks[{at}]: {fault}"


def _block(block: Any) -> Iterator[str]:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "divider":
        return
    if kind == "context":
        elements = block.get("elements") or []
        if not 1 <= len(elements) <= ELEMENTS:
            yield f"{len(elements)} elements"
        for element in elements:
            yield from _text(element, ELEMENT_TEXT)
    elif kind in TEXT:
        text = block.get("text")
        if kind == "header" and (text or {}).get("type") != "plain_text":
            yield "a header is plain_text"
        if text is not None or not block.get("fields"):
            yield from _text(text, TEXT[kind])
        fields = block.get("fields") or []
        if len(fields) > FIELDS:
            yield f"{len(fields)} fields"
        for field in fields:
            yield from _text(field, FIELD_TEXT)
    else:
        yield f"{kind!r} is no block we know"


def _text(text: Any, most: int) -> Iterator[str]:
    if not isinstance(text, dict) or text.get("type") not in ("plain_text", "mrkdwn"):
        yield "no text object"
    elif not 1 <= len(str(text.get("text", ""))) <= most:
        yield f"text of {len(str(text.get('text', '')))} characters"
