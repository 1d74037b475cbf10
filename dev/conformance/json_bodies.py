"""Odd bodies sent as JSON: what RFC 8259 allows is read, all else is refused with words.

Each of `bodies()` is a lead written in some way; `is_lead` says whether it is one.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dev.conformance.lead_sender import Findings, LeadSender, refusal

_STEP = 7  # of the places where a body is cut


class Body(NamedTuple):
    title: str
    content: bytes
    is_lead: bool


def run(sender: LeadSender) -> Findings:
    findings = Findings()
    for body in bodies(sender):
        answer = sender.send_bytes(body.content)
        if body.is_lead:
            findings.stored += 1
            is_right = answer.status_code == 200 and bool(sender.stored(answer.json()["id"]))
        else:
            findings.refused += 1
            is_right = refusal(answer) is not None
        if not is_right:
            findings.faults.append(f"{body.title}: {answer.status_code} {answer.text[:200]}")
    return findings


def bodies(sender: LeadSender) -> Iterator[Body]:
    yield from _ways_to_write_a_lead(sender)
    for title, content in _no_json(json.dumps(sender.ordinary())):
        yield Body(title, content, is_lead=False)
    for title, value in VALUES.items():
        for name in ("message", "chair_count", "consent", "salon_type", "unknown"):
            lead = sender.ordinary()
            lead.pop(name, None)
            text = f'{json.dumps(lead)[:-1]}, "{name}": {value}}}'
            yield Body(f"{name} is {title}", text.encode("utf-8"), is_lead=False)
    for title, body in WHOLE.items():
        yield Body(f"the body is {title}", body.encode("utf-8"), is_lead=False)


VALUES = {
    "a number with an exponent too large": "1e999",
    "a negative number with an exponent too large": "-1e999",
    "a number of 5,000 digits": "9" * 5000,
    "a fraction of 5,000 digits": "0." + "3" * 5000,
    "a fraction": "1.5",
    "minus zero": "-0",
    "2 to the 64th": str(2**64),
    "an object": "{}",
    "an object of prototypes": '{"__proto__": {"consent": true}}',
    "an array": "[]",
    "a lone surrogate": r'"\ud800"',
    "two surrogates in the wrong order": r'"\udc00\ud800"',
    "NUL": r'"\u0000"',
    "NaN": "NaN",
    "Infinity": "Infinity",
    "undefined": "undefined",
    "a number with a plus": "+1",
    "a number with a leading zero": "01",
    "a number that ends in a dot": "1.",
    "a number that begins with a dot": ".5",
    "a hexadecimal number": "0x10",
    "True": "True",
    "a text in single quotes": "'a'",
    "a text that does not end": '"a',
    "a line break in a text": '"a\nb"',
    "a tabulator in a text": '"a\tb"',
    "an escape that is none": r'"\x41"',
    "half an escape": r'"\u00"',
    "10,000 arrays": "[" * 10_000 + "]" * 10_000,
    "10,000 objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "10,000 arrays without an end": "[" * 10_000,
}
"""No field takes one of them."""

WHOLE = {
    "empty": "",
    "blank": " \n\t",
    "null": "null",
    "true": "true",
    "a number": "1",
    "a text": '"lead"',
    "an array": "[]",
    "an empty object": "{}",
    "a comma": ",",
    "a brace": "{",
    "a bracket": "]",
    "two objects": "{}{}",
    "a comment": "/* */ {}",
    "NUL": "\x00",
    "a key without a value": '{"consent"}',
    "a key without quotes": "{consent: true}",
    "a key that is a number": "{1: 2}",
    "an object with a comma too many": '{"consent": true,}',
    "an object with two commas": '{"consent": true,, "city": "Medan"}',
    "one key twice": '{"consent": true, "consent": true}',
    "one key twice, once escaped": r'{"consent": true, "c\u006fnsent": true}',
    "one key twice inside": '{"message": {"a": 1, "a": 2}}',
    "a key that is empty": '{"": 1}',
    "a key of a lone surrogate": r'{"\ud800": 1}',
    "a key of NUL": r'{"\u0000": 1}',
    "an object of 6,000 keys": "{" + ", ".join(f'"k{n}": {n}' for n in range(6_000)) + "}",
    "prototypes": '{"__proto__": 1, "constructor": 2, "toString": 3}',
}


def _ways_to_write_a_lead(sender: LeadSender) -> Iterator[Body]:
    ways: dict[str, Callable[[dict[str, Any]], str]] = {
        "plain": json.dumps,
        "indented": lambda lead: json.dumps(lead, indent="\t"),
        "without a blank": lambda lead: json.dumps(lead, separators=(",", ":")),
        "with blanks around": lambda lead: f" \r\n\t{json.dumps(lead)} \r\n\t",
        "escaped": lambda lead: _escaped(json.dumps(lead)),
        "in another order": lambda lead: json.dumps(dict(reversed(lead.items()))),
        "with a whole fraction": lambda lead: json.dumps(lead | {"chair_count": 3.0}),
        "with an exponent": lambda lead: json.dumps(lead)[:-1] + ', "chair_count": 1E+2}',
        "with every null": lambda lead: json.dumps(lead | {"email": None, "message": None}),
        "with a pair of surrogates": lambda lead: json.dumps(lead | {"message": "\U0001f488"}),
    }
    for title, write in ways.items():
        yield Body(title, write(sender.ordinary()).encode("utf-8"), is_lead=True)


def _escaped(text: str) -> str:
    """Every character of a text or a key as an escape."""
    parts = text.split('"')
    parts[1::2] = ["".join(f"\\u{ord(char):04x}" for char in part) for part in parts[1::2]]
    return '"'.join(parts)


def _no_json(text: str) -> Iterator[tuple[str, bytes]]:
    for length in range(0, len(text), _STEP):
        yield f"cut after {length} characters", text[:length].encode("utf-8")
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        yield encoding, text.encode(encoding)
    yield "behind a byte order mark", b"\xef\xbb\xbf" + text.encode("utf-8")
    yield "in Latin-1", text.replace("Melati", "Mélati").encode("latin-1")
    yield "with an overlong letter", text.encode().replace(b"Melati", b"\xc0\xaf")
    yield "with an encoded surrogate", text.encode().replace(b"Melati", b"\xed\xa0\x80")
    yield "with a byte too large", text.encode().replace(b"Melati", b"\xf5\x80\x80\x80")
    yield "with something behind", text.encode("utf-8") + b"x"
    yield "with NUL behind", text.encode("utf-8") + b"\x00"
    yield "twice", text.encode("utf-8") * 2
    yield "with a comment", text.encode("utf-8") + b"// end"
