"""The contract's table of a lead's fields, said with pydantic and the whole libraries.

What ships (lib/leads/submission.py) reads by hand, for speed; test_submission.py holds the two
equal in what they accept, keep and refuse.
"""

import unicodedata
from typing import Annotated, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from lib.leads import phone
from lib.leads.submission import ERROR_MESSAGES, ErrorTypes
from lib.leads.validators import FieldError

_ADDRESS = TypeAdapter(EmailStr)
MAX_LINK = 2048  # characters
KEPT_PARAMETERS = ("gclid", "fbclid")  # beside utm_*: the rest of a query string may be personal

# Unicode's direction marks and overrides, zero-width spaces and the byte order mark: invisible,
# able to disguise a text, and pasted along with numbers. Not U+200D, which joins emoji.
_INVISIBLE = dict.fromkeys(
    [0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)


def _clean(value: object, *, lines: bool) -> object:
    """Text as we keep it: NFC, trimmed, no control characters. Anything else as it came."""
    if not isinstance(value, str):
        return value
    if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
        # Postgres refuses NUL, and a lone surrogate is no character at all.
        raise PydanticCustomError("unreadable", "unreadable")
    text = value.replace("\r\n", "\n").replace("\r", "\n").translate(_INVISIBLE)
    kept = "\n\t" if lines else ""
    spaced = (" " if char in "\n\t" and not lines else char for char in text)
    shown = "".join(c for c in spaced if c in kept or unicodedata.category(c) != "Cc")
    # Last, for what was dropped may have stood between a letter and its accent.
    return unicodedata.normalize("NFC", shown).strip()


def _clean_line(value: object) -> object:
    return _clean(value, lines=False)


def _clean_lines(value: object) -> object:
    return _clean(value, lines=True)


def _or_none(value: object) -> object:
    """An optional field left empty is a field not given."""
    return None if value == "" else value


def _given(value: object) -> object:
    """A required field left empty is a field missing."""
    if value is None or value == "":
        raise PydanticCustomError("missing", "missing")
    return value


def _phone(value: object) -> object:
    """With the library for every number; lib/leads/validators.py spares it for ordinary ones."""
    typed = _given(_clean_line(value))
    if not isinstance(typed, str):
        return typed  # pydantic's own fault
    try:
        return phone.candidates(typed, lost_plus=isinstance(value, str) and value.startswith(" "))[
            0
        ]
    except FieldError as fault:
        raise PydanticCustomError(fault.error_type, fault.error_type) from None


def _address(text: str) -> str:
    try:
        return _ADDRESS.validate_python(text).lower()
    except ValidationError:
        raise PydanticCustomError("email", "email") from None


def _chairs(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, str) and value.isdecimal() and len(value) <= 5:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise PydanticCustomError("chair_count", "chair_count")
    return value


def _agreed(value: object) -> object:
    if value is not True:
        raise PydanticCustomError("consent", "consent")
    return value


def _campaign_only(text: str) -> str | None:
    """An address whose query string keeps campaign marks alone: the rest may name a person."""
    bare = text.partition("?")[0].partition("#")[0].strip()
    try:
        parts = urlsplit(text)
        query = parse_qsl(parts.query, max_num_fields=200)
    except ValueError:
        return bare or None
    kept = [(k, v) for k, v in query if k.startswith("utm_") or k in KEPT_PARAMETERS]
    # Writing a parameter out may make it longer than it was; and what is no web address has none.
    tidied = f"{bare}?{urlencode(kept)}"
    is_web = parts.scheme in ("http", "https") and bool(kept)
    return (tidied if is_web and len(tidied) <= MAX_LINK else bare) or None


# Validators written later run earlier: clean first, then see whether anything is left.
_REQUIRED = (BeforeValidator(_given), BeforeValidator(_clean_line))
_OPTIONAL = (BeforeValidator(_or_none), BeforeValidator(_clean_line))

Name = Annotated[str, StringConstraints(min_length=2, max_length=255), *_REQUIRED]
Short = Annotated[str | None, StringConstraints(max_length=80), *_OPTIONAL]
Middle = Annotated[str | None, StringConstraints(max_length=200), *_OPTIONAL]
Link = Annotated[
    str | None,
    StringConstraints(max_length=MAX_LINK),
    AfterValidator(lambda text: text and _campaign_only(text)),
    *_OPTIONAL,
]


class Submission(BaseModel):
    """One accepted form, normalised. Field by field the contract's table."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    business_name: Name
    contact_name: Name
    phone_whatsapp: Annotated[str, BeforeValidator(_phone)]
    city: Annotated[str, StringConstraints(min_length=2, max_length=80), *_REQUIRED]
    salon_type: Annotated[
        Literal["SALON", "BARBER", "BRIDAL", "UNISEX", "OTHER"], BeforeValidator(_given)
    ]
    consent: Annotated[Literal[True], BeforeValidator(_agreed)]
    email: Annotated[
        str | None, AfterValidator(lambda text: text and _address(text)), *_OPTIONAL
    ] = None
    chair_count: Annotated[int | None, BeforeValidator(_chairs), *_OPTIONAL] = None
    specialization: Middle = None
    current_brands_used: Middle = None
    monthly_spend_range: Short = None
    message: Annotated[
        str | None,
        StringConstraints(max_length=2000),
        BeforeValidator(_or_none),
        BeforeValidator(_clean_lines),
    ] = None
    page_url_initial: Link = None
    page_url_current: Link = None
    referrer: Link = None
    utm_source: Middle = None
    utm_medium: Middle = None
    utm_campaign: Middle = None
    utm_term: Middle = None
    utm_content: Middle = None
    locale: Annotated[Literal["id", "en"] | None, BeforeValidator(_or_none)] = None
    consent_version: Short = None
    company: Annotated[str | None, StringConstraints(max_length=2000), *_OPTIONAL] = None


def kinds(fault: ValidationError) -> ErrorTypes:
    """The faults as lib.leads.submission.ValidationError names them."""
    found: ErrorTypes = {}
    for error in fault.errors(include_url=False, include_input=False):
        field = str(error["loc"][0]).encode("utf-8", "replace").decode()[:100]
        kind = error["type"] if error["type"] in ERROR_MESSAGES else "unreadable"
        if (field, kind) == ("consent", "missing"):
            kind = "consent"  # an unticked box is not sent at all
        facts = dict(error.get("ctx", {}))
        if kind == "literal_error":
            facts["expected"] = facts["expected"].replace("'", "").replace(" or ", ", ")
        found.setdefault(field, []).append((kind, facts))
    return found
