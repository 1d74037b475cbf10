"""Validators of the form's fields: each cleans a value, checks it and returns it as it is stored.

A text is cleaned first, so an empty one and its length are judged by what is left.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

MAX_URL_CHARACTERS = 2048
NO_LIMIT = 1 << 31  # the `then` of the field limits it
CAMPAIGN_PARAMETERS = ("gclid", "fbclid")  # beside utm_*: any other may be personal

# Unicode's direction marks and overrides, zero-width spaces and the byte order mark: invisible,
# able to disguise a text, and pasted along with numbers. Not U+200D, which joins emoji.
_INVISIBLE = dict.fromkeys(
    [0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)


class FieldError(Exception):
    """error_type: a key of ERROR_MESSAGES. params: of its message."""

    def __init__(self, error_type: str, **params: Any) -> None:
        super().__init__(error_type)
        self.error_type = error_type
        self.params = params


type Validator = Callable[[object], Any]
"""A value as it came -> as it is stored. Raises FieldError."""


def text_field(
    max_length: int,
    min_length: int = 0,
    then: Callable[[str], str | None] | None = None,
    *,
    lines: bool = False,
) -> Validator:
    """An optional text; empty is not given. lines: line breaks stay."""

    def validate(value: object) -> str | None:
        text = _clean_text(value, lines=lines)
        if text is None or text == "":
            return None
        if not isinstance(text, str):
            raise FieldError("string_type")
        if len(text) < min_length:
            raise FieldError("string_too_short", min_length=min_length)
        if len(text) > max_length:
            raise FieldError("string_too_long", max_length=max_length)
        return text if then is None else then(text)

    return validate


def choice_field(*choices: str) -> Validator:
    def validate(value: object) -> str | None:
        if value is None or value == "":
            return None
        if not isinstance(value, str) or value not in choices:
            raise FieldError("literal_error", expected=", ".join(choices))
        return value

    return validate


def required(validate: Validator) -> Validator:
    def validate_given(value: object) -> Any:
        result = validate(value)
        if result is None:
            raise FieldError("missing")
        return result

    return validate_given


def _clean_text(value: object, *, lines: bool) -> object:
    """Text as it is stored: NFC, trimmed, no control characters. No text: as it came."""
    if not isinstance(value, str):
        return value
    if value.isascii() and value.isprintable():
        return value.strip()  # nearly all
    if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
        # Postgres refuses NUL, and a lone surrogate is no character at all.
        raise FieldError("unreadable")
    text = value.replace("\r\n", "\n").replace("\r", "\n").translate(_INVISIBLE)
    if not lines:
        text = text.replace("\n", " ").replace("\t", " ")
    visible = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
    # Last, for what was dropped may have stood between a letter and its accent.
    return unicodedata.normalize("NFC", visible).strip()


# Indonesian mobile numbers as nearly all are written; the library reads them the same (a test).
_PHONE_SEPARATORS = dict.fromkeys(map(ord, " -.()"))
_INDONESIAN_MOBILE = re.compile(r"(?:\+?620?|0)?(8[1-35-9][0-9]{7,10})")


def normalize_phone(value: object) -> str | None:
    """A WhatsApp number in E.164, from whatever people write."""
    text = _phone_text(value)
    if text is None:
        return None
    mobile = _INDONESIAN_MOBILE.fullmatch(text.translate(_PHONE_SEPARATORS))
    if mobile and not (_may_have_lost_plus(value) and text[0] == "8"):
        return "+62" + mobile[1]
    from lib.leads.phone import candidates  # 35 ms that only another number pays

    return candidates(text, lost_plus=_may_have_lost_plus(value))[0]


def possible_phones(value: object) -> tuple[str, ...]:
    """Every number that may be meant, the likeliest first; empty for none."""
    text = _phone_text(value)
    if text is None:
        return ()
    from lib.leads.phone import candidates

    return tuple(candidates(text, lost_plus=_may_have_lost_plus(value)))


def renormalize_phone(stored: str) -> str:
    """A stored number as it would be stored today: older ones may hold a trunk zero."""
    if _INDONESIAN_MOBILE.fullmatch(stored):
        return stored
    from lib.leads.phone import renormalize

    return renormalize(stored)


_phone_text = text_field(NO_LIMIT)


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
        raise FieldError("email")
    from email_validator import EmailNotValidError, validate_email  # 30 ms that few pay

    named = re.fullmatch(_NAME_AND_ADDRESS, text) if text.endswith(">") else None
    try:
        email = validate_email(named[1].strip() if named else text, check_deliverability=False)
    except EmailNotValidError:
        raise FieldError("email") from None
    return email.normalized.lower()


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
