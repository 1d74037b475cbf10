"""The contract's table of a lead's fields, in pydantic and with the whole libraries.

What ships (lib/leads/submission.py) validates by hand, for speed; test_submission.py holds the two
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

_EMAIL = TypeAdapter(EmailStr)
MAX_URL_CHARACTERS = 2048
CAMPAIGN_PARAMETERS = ("gclid", "fbclid")  # beside utm_*: any other may be personal

# Unicode's direction marks and overrides, zero-width spaces and the byte order mark: invisible,
# able to disguise a text, and pasted along with numbers. Not U+200D, which joins emoji.
_INVISIBLE = dict.fromkeys(
    [0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)


def _clean_text(value: object, *, lines: bool) -> object:
    """Text as it is stored: NFC, trimmed, no control characters. No text: as it came."""
    if not isinstance(value, str):
        return value
    if "\x00" in value or any("\ud800" <= char <= "\udfff" for char in value):
        # Postgres refuses NUL, and a lone surrogate is no character at all.
        raise PydanticCustomError("unreadable", "unreadable")
    text = value.replace("\r\n", "\n").replace("\r", "\n").translate(_INVISIBLE)
    allowed = "\n\t" if lines else ""
    spaced = (" " if char in "\n\t" and not lines else char for char in text)
    visible = "".join(c for c in spaced if c in allowed or unicodedata.category(c) != "Cc")
    # Last, for what was dropped may have stood between a letter and its accent.
    return unicodedata.normalize("NFC", visible).strip()


def _clean_single_line(value: object) -> object:
    return _clean_text(value, lines=False)


def _clean_multiline(value: object) -> object:
    return _clean_text(value, lines=True)


def _empty_to_none(value: object) -> object:
    """An optional field left empty is a field not given."""
    return None if value == "" else value


def _reject_empty(value: object) -> object:
    """A required field left empty is a field missing."""
    if value is None or value == "":
        raise PydanticCustomError("missing", "missing")
    return value


def _normalize_phone(value: object) -> object:
    """With the library for every number; lib/leads/validators.py spares it for ordinary ones."""
    typed = _reject_empty(_clean_single_line(value))
    if not isinstance(typed, str):
        return typed  # pydantic's own error
    try:
        return phone.candidates(typed, lost_plus=isinstance(value, str) and value.startswith(" "))[
            0
        ]
    except FieldError as error:
        raise PydanticCustomError(error.error_type, error.error_type) from None


def _normalize_email(text: str) -> str:
    try:
        return _EMAIL.validate_python(text).lower()
    except ValidationError:
        raise PydanticCustomError("email", "email") from None


def _parse_chair_count(value: object) -> object:
    if value is None:
        return None
    if isinstance(value, str) and value.isdecimal() and len(value) <= 5:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise PydanticCustomError("chair_count", "chair_count")
    return value


def _require_consent(value: object) -> object:
    if value is not True:
        raise PydanticCustomError("consent", "consent")
    return value


def _strip_query(text: str) -> str | None:
    """A URL whose query keeps campaign parameters only: the rest may name a person."""
    bare = text.partition("?")[0].partition("#")[0].strip()
    try:
        parts = urlsplit(text)
        query = parse_qsl(parts.query, max_num_fields=200)
    except ValueError:
        return bare or None
    campaign = [(k, v) for k, v in query if k.startswith("utm_") or k in CAMPAIGN_PARAMETERS]
    # Writing a parameter out may make it longer than it was; and what is no web address has none.
    url = f"{bare}?{urlencode(campaign)}"
    is_web = parts.scheme in ("http", "https") and bool(campaign)
    return (url if is_web and len(url) <= MAX_URL_CHARACTERS else bare) or None


# Validators written later run earlier: clean first, then see whether anything is left.
_REQUIRED = (BeforeValidator(_reject_empty), BeforeValidator(_clean_single_line))
_OPTIONAL = (BeforeValidator(_empty_to_none), BeforeValidator(_clean_single_line))

Name = Annotated[str, StringConstraints(min_length=2, max_length=255), *_REQUIRED]
ShortText = Annotated[str | None, StringConstraints(max_length=80), *_OPTIONAL]
Text = Annotated[str | None, StringConstraints(max_length=200), *_OPTIONAL]
Url = Annotated[
    str | None,
    StringConstraints(max_length=MAX_URL_CHARACTERS),
    AfterValidator(lambda text: text and _strip_query(text)),
    *_OPTIONAL,
]


class Submission(BaseModel):
    """One accepted form, normalised. Field by field the contract's table."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    business_name: Name
    contact_name: Name
    phone_whatsapp: Annotated[str, BeforeValidator(_normalize_phone)]
    city: Annotated[str, StringConstraints(min_length=2, max_length=80), *_REQUIRED]
    salon_type: Annotated[
        Literal["SALON", "BARBER", "BRIDAL", "UNISEX", "OTHER"], BeforeValidator(_reject_empty)
    ]
    consent: Annotated[Literal[True], BeforeValidator(_require_consent)]
    email: Annotated[
        str | None, AfterValidator(lambda text: text and _normalize_email(text)), *_OPTIONAL
    ] = None
    chair_count: Annotated[int | None, BeforeValidator(_parse_chair_count), *_OPTIONAL] = None
    specialization: Text = None
    current_brands_used: Text = None
    monthly_spend_range: ShortText = None
    message: Annotated[
        str | None,
        StringConstraints(max_length=2000),
        BeforeValidator(_empty_to_none),
        BeforeValidator(_clean_multiline),
    ] = None
    page_url_initial: Url = None
    page_url_current: Url = None
    referrer: Url = None
    utm_source: Text = None
    utm_medium: Text = None
    utm_campaign: Text = None
    utm_term: Text = None
    utm_content: Text = None
    locale: Annotated[Literal["id", "en"] | None, BeforeValidator(_empty_to_none)] = None
    consent_version: ShortText = None
    company: Annotated[str | None, StringConstraints(max_length=2000), *_OPTIONAL] = None


def error_types(error: ValidationError) -> ErrorTypes:
    """The errors as lib.leads.submission.ValidationError names them."""
    by_field: ErrorTypes = {}
    for entry in error.errors(include_url=False, include_input=False):
        field = str(entry["loc"][0]).encode("utf-8", "replace").decode()[:100]
        error_type = entry["type"] if entry["type"] in ERROR_MESSAGES else "unreadable"
        if (field, error_type) == ("consent", "missing"):
            error_type = "consent"  # an unticked box is not sent at all
        params = dict(entry.get("ctx", {}))
        if error_type == "literal_error":
            params["expected"] = params["expected"].replace("'", "").replace(" or ", ", ")
        by_field.setdefault(field, []).append((error_type, params))
    return by_field
