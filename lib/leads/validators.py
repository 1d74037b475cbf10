"""How one field of the form is read: tidied, checked, or refused by the name of its fault.

A text is cleaned first; then it is asked whether anything is left, and whether it keeps its rule.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

MAX_URL_CHARACTERS = 2048  # characters
NO_LIMIT = 1 << 31  # a rule of its own says how long
CAMPAIGN_PARAMETERS = (
    "gclid",
    "fbclid",
)  # beside utm_*: the rest of a query string may be personal

# Unicode's direction marks and overrides, zero-width spaces and the byte order mark: invisible,
# able to disguise a text, and pasted along with numbers. Not U+200D, which joins emoji.
_INVISIBLE = dict.fromkeys(
    [0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)


class FieldError(Exception):
    """kind: a key of FAULTS; facts: what its words need."""

    def __init__(self, kind: str, **facts: Any) -> None:
        super().__init__(kind)
        self.error_type = kind
        self.params = facts


def _clean_text(value: object, *, lines: bool) -> object:
    """Text as we keep it: NFC, trimmed, no control characters. Anything else as it came."""
    if not isinstance(value, str):
        return value
    if value.isascii() and value.isprintable():
        return value.strip()  # as nearly all are
    if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
        # Postgres refuses NUL, and a lone surrogate is no character at all.
        raise FieldError("unreadable")
    text = value.replace("\r\n", "\n").replace("\r", "\n").translate(_INVISIBLE)
    kept = "\n\t" if lines else ""
    spaced = (" " if char in "\n\t" and not lines else char for char in text)
    shown = "".join(c for c in spaced if c in kept or unicodedata.category(c) != "Cc")
    # Last, for what was dropped may have stood between a letter and its accent.
    return unicodedata.normalize("NFC", shown).strip()


# Indonesian mobile numbers as nearly all are written. What the library calls valid, and reads as
# this does: a test asks it.
_PHONE_SEPARATORS = dict.fromkeys(map(ord, " -.()"))
_INDONESIAN_MOBILE = re.compile(r"(?:\+?620?|0)?(8[1-35-9][0-9]{7,10})")


def normalize_phone(value: object) -> str | None:
    """A WhatsApp number in E.164, from whatever people write."""
    typed = _text_or_none(value)
    if typed is None:
        return None
    lost_plus = _may_have_lost_plus(value)
    mobile = _INDONESIAN_MOBILE.fullmatch(typed.translate(_PHONE_SEPARATORS))
    if mobile and not (lost_plus and typed[0] == "8"):
        return "+62" + mobile[1]
    from lib.leads.phone import normalize  # 35 ms that only another number pays

    return normalize(typed, lost_plus=lost_plus)


def possible_phones(value: object) -> tuple[str, ...]:
    """Every number that may be meant, the likeliest first; empty for none."""
    typed = _text_or_none(value)
    if typed is None:
        return ()
    from lib.leads.phone import candidates

    return tuple(candidates(typed, lost_plus=_may_have_lost_plus(value)))


def renormalize_phone(stored: str) -> str:
    """A stored number as it would be stored today: older ones may hold a trunk zero."""
    if _INDONESIAN_MOBILE.fullmatch(stored):
        return stored
    from lib.leads.phone import renormalize

    return renormalize(stored)


def _text_or_none(value: object) -> str | None:
    typed = _clean_text(value, lines=False)
    if typed is not None and not isinstance(typed, str):
        raise FieldError("string_type")
    return typed or None


def _may_have_lost_plus(value: object) -> bool:
    """Whether a + may have stood before it: in a query string or a form it arrives as a space."""
    return isinstance(value, str) and value.startswith(" ")


_LOCAL_PART_CHARACTERS = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+"
)
_DOMAIN_CHARACTERS = _LOCAL_PART_CHARACTERS - {"_", "+"}
_RESERVED_DOMAINS = ("arpa", "invalid", "local", "localhost", "onion", "test")
# "Sri Wahyuni <sri@example.com>", as pydantic has it. Compiled when it is needed: that takes 11 ms.
_NAME_AND_ADDRESS = (
    r"\s*(?:(?:[\w.!#$%&'*+\-/=?^_`{|}~]+\s+)*[\w.!#$%&'*+\-/=?^_`{|}~]+|\"(?:[^\"]|\")+\")?"
    r"\s*<(.+)>\s*"
)
_MAX_NAMED_CHARACTERS = 2048  # characters


def _is_ordinary_email(text: str) -> bool:
    """Whether it is an address as nearly all are: dots, letters, digits, nothing to think about."""
    local, _, domain = text.partition("@")
    labels = domain.split(".")
    return (
        len(text) <= 254
        and len(local) <= 64
        and len(labels) > 1
        and all(part and _LOCAL_PART_CHARACTERS.issuperset(part) for part in local.split("."))
        and all(part and _DOMAIN_CHARACTERS.issuperset(part) for part in labels)
        and not any(len(part) > 63 or part[0] == "-" or part[-1] == "-" for part in labels)
        and "--" not in domain
        and labels[-1].isalpha()
        and labels[-1].lower() not in _RESERVED_DOMAINS
    )


def normalize_email(text: str) -> str:
    """An e-mail address in lower case, as pydantic.EmailStr takes it. Nobody asks the DNS."""
    if _is_ordinary_email(text):
        return text.lower()
    if len(text) > _MAX_NAMED_CHARACTERS:
        raise FieldError("email")
    from email_validator import EmailNotValidError, validate_email  # 30 ms that few pay

    named = re.fullmatch(_NAME_AND_ADDRESS, text) if text.endswith(">") else None
    try:
        found = validate_email(named[1].strip() if named else text, check_deliverability=False)
    except EmailNotValidError:
        raise FieldError("email") from None
    return found.normalized.lower()


def parse_chair_count(value: object) -> int | None:
    value = _clean_text(value, lines=False)
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isdecimal() and len(value) <= 5:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # JSON has one kind of number: 3.0 is 3
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise FieldError("chair_count")
    return value


def require_consent(value: object) -> bool:
    if value is not True:
        raise FieldError("consent")
    return True


def strip_query(text: str) -> str | None:
    """An address whose query string keeps campaign marks alone: the rest may name a person."""
    bare = text.partition("?")[0].partition("#")[0].strip()
    try:
        parts = urlsplit(text)
        query = parse_qsl(parts.query, max_num_fields=200)
    except ValueError:
        return bare or None
    kept = [(k, v) for k, v in query if k.startswith("utm_") or k in CAMPAIGN_PARAMETERS]
    # Writing a parameter out may make it longer than it was; and what is no web address has none.
    tidied = f"{bare}?{urlencode(kept)}"
    is_web = parts.scheme in ("http", "https") and bool(kept)
    return (tidied if is_web and len(tidied) <= MAX_URL_CHARACTERS else bare) or None


type Validator = Callable[[object], Any]
"""A value as it came -> as it is kept. Raises Fault."""


def text_field(
    most: int,
    least: int = 0,
    then: Callable[[str], str | None] | None = None,
    *,
    lines: bool = False,
) -> Validator:
    """An optional text; empty is not given."""

    def read(value: object) -> str | None:
        kept = _clean_text(value, lines=lines)
        if kept is None or kept == "":
            return None
        if not isinstance(kept, str):
            raise FieldError("string_type")
        if len(kept) < least:
            raise FieldError("string_too_short", min_length=least)
        if len(kept) > most:
            raise FieldError("string_too_long", max_length=most)
        return kept if then is None else then(kept)

    return read


def required(read: Validator) -> Validator:
    def read_given(value: object) -> Any:
        kept = read(value)
        if kept is None:
            raise FieldError("missing")
        return kept

    return read_given


def choice_field(*choices: str) -> Validator:
    def read(value: object) -> str | None:
        if value is None or value == "":
            return None
        if not isinstance(value, str) or value not in choices:
            raise FieldError("literal_error", expected=", ".join(choices))
        return value

    return read
