"""The parts of a field's pydantic schema: what cleans a value before pydantic checks it, and after.

A text is cleaned first, so an empty one and its length are judged by what is left. A rule pydantic
has is left to pydantic: a function here changes values, or refuses what pydantic cannot judge.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any, LiteralString
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core import core_schema as schema

MAX_URL_CHARACTERS = 2048
MAX_EMAIL_CHARACTERS = 254
CAMPAIGN_PARAMETERS = ("gclid", "fbclid")  # beside utm_*: any other may be personal

# Unicode's direction marks and overrides, zero-width spaces and the byte order mark: invisible,
# able to disguise a text, and pasted along with numbers. Not U+200D, which joins emoji.
_INVISIBLE = dict.fromkeys(
    [0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)

# Letters and a sign by their category, and blank on every screen.
BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_NO_GLYPH = ("C", "M", "Z")  # control, format and unassigned; combining; spaces

# A number of chairs as text, for the document: the code reads the number in it.
_CHAIR_DIGITS = "^(0{0,4}[1-9]|0{0,3}[1-9][0-9]|0{0,2}[1-9][0-9]{2}|0?[1-9][0-9]{3}|10000)?$"


def field_error(error_type: LiteralString, **params: Any) -> PydanticCustomError:
    """error_type: a key of ERROR_MESSAGES. params: of its message."""
    return PydanticCustomError(error_type, error_type, params)


def text_field(
    max_length: int | None = None,
    *,
    then: Callable[[str], str | None] | None = None,
    lines: bool = False,
    json_schema: dict[str, Any] | None = None,
) -> CoreSchema:
    """An optional text. lines: line breaks stay. json_schema: limits that `then` has."""
    text: CoreSchema = schema.str_schema(max_length=max_length)
    if then is not None:
        metadata = {"pydantic_js_updates": json_schema} if json_schema else None
        text = schema.no_info_after_validator_function(then, text, metadata=metadata)
    clean = partial(_clean_text, lines=lines)
    return schema.no_info_before_validator_function(clean, schema.nullable_schema(text))


def required_text_field(min_length: int, max_length: int) -> CoreSchema:
    """A text that a person can see: not of invisible or combining characters alone."""
    text: CoreSchema = schema.str_schema(min_length=min_length, max_length=max_length)
    text = schema.no_info_after_validator_function(_reject_invisible, text)
    return schema.no_info_before_validator_function(_clean_required_line, text)


def choice_field(*choices: str, required: bool = False) -> CoreSchema:
    named = schema.custom_error_schema(
        schema.literal_schema(list(choices)),
        "literal_error",
        custom_error_context={"expected": ", ".join(choices)},
    )
    if required:
        return schema.no_info_before_validator_function(_reject_empty, named)
    nullable = schema.nullable_schema(named)
    return schema.no_info_before_validator_function(lambda v: None if v == "" else v, nullable)


def phone_field() -> CoreSchema:
    return schema.no_info_before_validator_function(normalize_phone, schema.str_schema())


def phones_field() -> CoreSchema:
    """Every number that may be meant, the likeliest first; empty for none."""
    return schema.no_info_plain_validator_function(possible_phones)


def email_field() -> CoreSchema:
    limits = {"format": "email", "maxLength": MAX_EMAIL_CHARACTERS}
    return text_field(then=normalize_email, json_schema=limits)


def consent_field() -> CoreSchema:
    return schema.no_info_before_validator_function(require_consent, schema.literal_schema([True]))


def chair_count_field() -> CoreSchema:
    """An optional whole number, or its text."""
    number = schema.custom_error_schema(
        schema.int_schema(ge=1, le=10_000), "chair_count", custom_error_message="chair_count"
    )
    return schema.no_info_before_validator_function(
        _read_number,
        schema.nullable_schema(number),
        metadata={
            "pydantic_js_updates": {"type": ["integer", "string", "null"], "pattern": _CHAIR_DIGITS}
        },
    )


def clean_line(value: object) -> object:
    return _clean_text(value, lines=False)


def _clean_required_line(value: object) -> object:
    return _reject_empty(clean_line(value))


def _clean_text(value: object, *, lines: bool) -> object:
    """Text as it is stored: NFC, trimmed, no control characters; None where nothing is left.

    No text: as it came.
    """
    if not isinstance(value, str):
        return value
    if value.isascii() and value.isprintable():
        return value.strip() or None  # nearly all
    if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
        # Postgres refuses NUL, and a lone surrogate is no character at all.
        raise field_error("unreadable")
    text = value.replace("\r\n", "\n").replace("\r", "\n").translate(_INVISIBLE)
    if not lines:
        text = text.replace("\n", " ").replace("\t", " ")
    visible = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    # Last, for what was dropped may have stood between a letter and its accent.
    return unicodedata.normalize("NFC", visible).strip() or None


def _reject_invisible(text: str) -> str:
    if not any(
        c not in BLANK_LETTERS and unicodedata.category(c)[0] not in _NO_GLYPH for c in text
    ):
        raise field_error("invisible")
    return text


def _reject_empty(value: object) -> object:
    if value is None or value == "":
        raise field_error("missing")
    return value


def _read_number(value: object) -> object:
    value = clean_line(value)
    if isinstance(value, str) and value.isdecimal() and len(value) <= 5:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)  # JSON has one kind of number: 3.0 is 3
    return value


# Indonesian mobile numbers as nearly all are written; the library reads them the same (a test).
_PHONE_SEPARATORS = dict.fromkeys(map(ord, " -.()"))
_INDONESIAN_MOBILE = re.compile(r"(?:\+?620?|0)?(8[1-35-9][0-9]{7,10})")


def normalize_phone(value: object) -> object:
    """A WhatsApp number in E.164, from whatever people write. No text: as it came."""
    text = _clean_required_line(value)
    if not isinstance(text, str):
        return text
    mobile = _INDONESIAN_MOBILE.fullmatch(text.translate(_PHONE_SEPARATORS))
    if mobile and not (_may_have_lost_plus(value) and text[0] == "8"):
        return "+62" + mobile[1]
    from lib.leads.phone import candidates  # 35 ms that only another number pays

    return candidates(text, lost_plus=_may_have_lost_plus(value))[0]


def possible_phones(value: object) -> tuple[str, ...]:
    """Every number that may be meant, the likeliest first; empty for none."""
    text = clean_line(value)
    if not isinstance(text, str):
        return ()
    from lib.leads.phone import candidates

    return tuple(candidates(text, lost_plus=_may_have_lost_plus(value)))


def renormalize_phone(stored: str) -> str:
    """A stored number as it would be stored today: older ones may hold a trunk zero."""
    if _INDONESIAN_MOBILE.fullmatch(stored):
        return stored
    from lib.leads.phone import renormalize

    return renormalize(stored)


def _may_have_lost_plus(value: object) -> bool:
    """Whether it may have begun with a +, which an unescaped query string turns into a space."""
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
_MAX_NAMED_CHARACTERS = 2048


def _is_ordinary_email(text: str) -> bool:
    """Whether it is of letters, digits, dots and dashes only, as nearly all are, and valid."""
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
    """An e-mail address in lower case, as pydantic.EmailStr takes it. The DNS is not asked."""
    if _is_ordinary_email(text):
        return text.lower()
    if len(text) > _MAX_NAMED_CHARACTERS:
        raise field_error("email")
    from email_validator import EmailNotValidError, validate_email  # 30 ms that few pay

    named = re.fullmatch(_NAME_AND_ADDRESS, text) if text.endswith(">") else None
    try:
        email = validate_email(named[1].strip() if named else text, check_deliverability=False)
    except EmailNotValidError:
        raise field_error("email") from None
    return email.normalized.lower()


def require_consent(value: object) -> bool:
    if value is not True:
        raise field_error("consent")
    return True


def strip_query(text: str) -> str | None:
    """A URL whose query keeps campaign parameters only: the rest may name a person."""
    bare = text.partition("?")[0].partition("#")[0].strip()
    try:
        parts = urlsplit(text)
        query = parse_qsl(parts.query, max_num_fields=200)
    except ValueError:
        return bare or None
    campaign = [(k, v) for k, v in query if k.startswith("utm_") or k in CAMPAIGN_PARAMETERS]
    url = f"{bare}?{urlencode(campaign)}"  # escaping may make it longer than it was
    if campaign and parts.scheme in ("http", "https") and len(url) <= MAX_URL_CHARACTERS:
        return url
    return bare or None
