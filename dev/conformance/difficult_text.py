"""Difficult texts through every field of a lead: stored as documented, or refused with words.

What is expected is written here anew, from public/openapi.json and not from lib/leads: a rule that
is changed there alone is a finding here.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import httpx

from dev import tools
from dev.conformance.lead_sender import Findings, LeadSender, refusal

NAMES = {"business_name": 255, "contact_name": 255, "city": 80}
LINES = {
    "specialization": 200,
    "current_brands_used": 200,
    "monthly_spend_range": 80,
    "utm_source": 200,
    "utm_medium": 200,
    "utm_campaign": 200,
    "utm_term": 200,
    "utm_content": 200,
    "consent_version": 80,
}
URLS = {"page_url_initial": 2048, "page_url_current": 2048, "referrer": 2048}
LENGTHS = {**NAMES, **LINES, **URLS, "message": 2000, "company": 2000}
OTHERS = ("phone_whatsapp", "email", "salon_type", "chair_count", "locale", "consent", "redirect")
"""Fields with a form of their own: a text is refused, or stored in that form."""

_INVISIBLE = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_BLANK_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"

OURS = (
    "",
    " ",
    "\u00e9 and e\u0301",  # one letter, composed and not
    "\u1112\u1161\u11ab\uae00",  # Hangul in parts
    "\u212b \u2126 \ufb01",  # signs that NFC changes, and a ligature that it keeps
    "a\u0315\u0300\u05ae\u0301b",  # marks that NFC puts in order
    "a\u200d\u0301b",
    "e\u200b\u0301",  # an accent behind what is dropped
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466",
    "\U0001f1ee\U0001f1e9 \U0001f9d1\U0001f3fd\u200d\U0001f33e",
    "\U000e0041\U000e0042\U000e007f",  # tags
    "\U0010ffff \ufdd0 \uffff",  # no characters
    "\ue000 \U000f0000",  # private ones
    "\u3164\u3164",
    "\u2800\u2800\u2800",
    "\u00ad\u00ad",
    "\u202egnp.exe",
    "\ufeffSalon",
    "Salon\x00Melati",
    "Salon\ud800",
    "\x01\x02\x1b[31mmerah\x1b[0m\x7f\x85",
    "baris\r\nbaris\rbaris\u2028baris\u2029baris\x0bbaris\x0cbaris",
    "\u1680\u2003\u3000Salon\u00a0Melati\u205f",
    "=HYPERLINK(1)|@SUM(1)|+1|-1",
    "\r\nBcc: a@example.com\r\n\r\n",
    "<b>&amp;</b>",
    "{{7*7}} ${7*7} %s %(id)s {0} {id}",
    "\\u0000 \\x00 %00 &#0;",
    "null",
    "undefined",
    "[]",
    "1e999",
    "\u0661\u0662",  # digits of another script
    "0" * 400,
    "Z" + "\u0301" * 500,
    "\ufdfa" * 80,  # eighteen letters each in another form of Unicode
    "\u0958" * 60,  # twice as long in NFC
    "a" * 3000,
    "a?" + "&".join(f"utm_source={n}" for n in range(300)),
    "http://[::1",
    "https://example.com/a?utm_source=x&email=a@example.com#b",
)


def strings() -> list[str]:
    """The public list and ours. tools.Missing when the public one cannot be installed."""
    public = json.loads(tools.ensure_difficult_strings().read_text("utf-8"))
    return list(dict.fromkeys([*public, *OURS]))


def run(sender: LeadSender, texts: Iterable[str], *, as_form: bool = False) -> Findings:
    """Each text through every field."""
    findings = Findings()
    for text in texts:
        if as_form and not _is_encodable(text):
            continue
        _check_plain_fields(sender, text, as_form, findings)
        _check_honeypot(sender, text, as_form, findings)
        _check_other_fields(sender, text, as_form, findings)
        _check_as_name(sender, text, as_form, findings)
    return findings


def is_storable(name: str, text: str) -> bool:
    """Whether a field of free text may hold it."""
    if "\x00" in text or not _is_encodable(text):
        return False
    clean = cleaned(name, text)
    if name in NAMES and (len(clean) < 2 or not _is_visible(clean)):
        return False
    return len(clean) <= LENGTHS[name]


def cleaned(name: str, text: str) -> str:
    """NFC, trimmed, without control and invisible characters; `message` keeps its lines."""
    text = re.sub("\r\n?", "\n", text)
    if name != "message":
        text = re.sub("[\n\t]", " ", text)
    text = _INVISIBLE.sub("", re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text))
    return unicodedata.normalize("NFC", text).strip()


def is_as_promised(name: str, text: str, stored: Any) -> bool:
    """Whether this may be stored of that text."""
    clean = cleaned(name, text)
    if name == "consent_version" and not clean:
        return bool(stored)  # the current version is recorded in its place
    if name not in URLS or not re.search("[?#]", clean):
        return bool(stored == (clean or None))
    bare = re.split("[?#]", clean)[0].strip()
    if not bare:
        return stored is None
    tail = re.escape(bare) + r"(\?((utm_\w+|gclid|fbclid)=[^&]*&?)+)?"
    return isinstance(stored, str) and re.fullmatch(tail, stored) is not None


def _is_encodable(text: str) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _is_visible(text: str) -> bool:
    return any(c not in _BLANK_LETTERS and unicodedata.category(c)[0] not in "CMZ" for c in text)


def _check_plain_fields(sender: LeadSender, text: str, as_form: bool, findings: Findings) -> None:
    """The text in all fields at once; where some refuse it, once more in the others."""
    fields = [name for name in LENGTHS if name != "company"]
    storable = [name for name in fields if is_storable(name, text)]
    if len(storable) < len(fields):
        answer = sender.send(sender.ordinary() | dict.fromkeys(fields, text), as_form=as_form)
        _expect_refusal(answer, {*fields} - {*storable}, text, findings)
    if storable:
        lead = sender.ordinary() | dict.fromkeys(storable, text)
        _expect_stored(sender, sender.send(lead, as_form=as_form), storable, text, findings)


def _check_honeypot(sender: LeadSender, text: str, as_form: bool, findings: Findings) -> None:
    answer = sender.send(sender.ordinary() | {"company": text}, as_form=as_form)
    if not is_storable("company", text):
        _expect_refusal(answer, {"company"}, text, findings)
    else:
        _expect_stored(sender, answer, ["company"], text, findings)


def _check_other_fields(sender: LeadSender, text: str, as_form: bool, findings: Findings) -> None:
    for name in OTHERS:
        answer = sender.send(sender.ordinary() | {name: text}, as_form=as_form)
        if answer.status_code == 200:
            findings.stored += 1
        else:
            _expect_refusal(answer, {name}, text, findings)


def _check_as_name(sender: LeadSender, text: str, as_form: bool, findings: Findings) -> None:
    """The text as the name of a field, which is unknown."""
    answer = sender.send(sender.ordinary() | {f"{text}?": "x"}, as_form=as_form)
    words = refusal(answer)
    if words is None or len(words) != 1:
        findings.faults.append(_fault("a field's name", text, answer))
    findings.refused += 1


def _expect_refusal(
    answer: httpx.Response, fields: set[str], text: str, findings: Findings
) -> None:
    findings.refused += 1
    words = refusal(answer)
    if words is None or {*words} != fields:
        differing = ", ".join(sorted({*(words or {})} ^ fields))
        findings.faults.append(_fault(differing or "no words", text, answer))


def _expect_stored(
    sender: LeadSender, answer: httpx.Response, fields: list[str], text: str, findings: Findings
) -> None:
    findings.stored += 1
    if answer.status_code != 200:
        findings.faults.append(_fault(", ".join(fields), text, answer))
        return
    row = sender.stored(answer.json()["id"])
    for name in fields:
        value = row.get(name)
        if not is_as_promised(name, text, value):
            findings.faults.append(f"{name} of {ascii(text)[:80]} is {ascii(value)[:80]}")


def _fault(where: str, text: str, answer: httpx.Response) -> str:
    return f"{where}: {ascii(text)[:80]}: {answer.status_code} {ascii(answer.text)[:200]}"
