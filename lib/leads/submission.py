"""What a visitor may send: the lead's fields, their rules, and the message of each error.

`parse` finds every error at once. A rule that is not here does not exist: the form's own checks
only save a round trip. The rules are pydantic's schemas, checked by its engine alone: a BaseModel
costs a cold start 60 ms more. `python3 -m dev openapi` writes them into public/openapi.json.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, Self

import pydantic_core
from pydantic_core import CoreSchema, SchemaValidator, core_schema

from lib.leads.validators import (
    MAX_URL_CHARACTERS,
    chair_count_field,
    choice_field,
    consent_field,
    email_field,
    phone_field,
    phones_field,
    required_text_field,
    strip_query,
    text_field,
)
from lib.problems import Details

# Keys are pydantic's error types and ours.
ERROR_MESSAGES: dict[str, dict[str, str]] = {
    "missing": {"id": "Wajib diisi.", "en": "This is required."},
    "string_type": {"id": "Harus berupa teks.", "en": "This must be text."},
    "string_too_short": {
        "id": "Minimal {min_length} karakter.",
        "en": "At least {min_length} characters.",
    },
    "string_too_long": {
        "id": "Maksimal {max_length} karakter.",
        "en": "At most {max_length} characters.",
    },
    "literal_error": {"id": "Pilih salah satu: {expected}.", "en": "Choose one of: {expected}."},
    "extra_forbidden": {"id": "Isian ini tidak dikenal.", "en": "This field is not known."},
    "truncated": {
        "id": "Kiriman tidak sampai utuh. Silakan kirim lagi.",
        "en": "The submission did not arrive whole. Please send it again.",
    },
    "unreadable": {
        "id": "Berisi karakter yang tidak dapat disimpan.",
        "en": "This contains characters that cannot be stored.",
    },
    "invisible": {
        "id": "Tulis dengan huruf yang terlihat.",
        "en": "Write it in letters that can be seen.",
    },
    "phone": {
        "id": "Nomor WhatsApp tidak valid. Contoh: 0812 3456 7890.",
        "en": "Not a valid WhatsApp number. Example: +62 812 3456 7890.",
    },
    "phone_digits": {
        "id": "Ketik satu nomor saja dengan angka, tanpa huruf atau ekstensi. "
        "Contoh: 0812 3456 7890.",
        "en": "Give one number in digits, without letters or an extension. "
        "Example: +62 812 3456 7890.",
    },
    "phone_unclear": {
        "id": "Dapat dibaca sebagai {readings}. Tulis dengan + dan kode negara (di URL: %2B).",
        "en": "This can be read as {readings}. Write it with + and its country's code"
        " (in a URL: %2B).",
    },
    "email": {
        "id": "Alamat email tidak valid. Contoh: nama@example.com.",
        "en": "Not a valid e-mail address. Example: name@example.com.",
    },
    "email_space": {
        "id": "Ada spasi di depan: di URL, + ditulis %2B.",
        "en": "There is a space before it: in a URL, + is written %2B.",
    },
    "consent": {
        "id": "Persetujuan diperlukan agar kami boleh menghubungi Anda.",
        "en": "We need your consent before we may contact you.",
    },
    "chair_count": {
        "id": "Isi dengan bilangan bulat dari 1 sampai 10000.",
        "en": "Enter a whole number from 1 to 10000.",
    },
    "repeated": {"id": "Dikirim lebih dari sekali.", "en": "Given more than once."},
    "file": {"id": "Berkas tidak diterima.", "en": "Files are not accepted."},
    "flag": {"id": "Isi dengan 1 atau 0.", "en": "Give 1 or 0."},
    "nobody": {"id": "Sebutkan email atau phone.", "en": "Give email or phone."},
    "not_an_object": {
        "id": "Isi permintaan harus berupa objek JSON.",
        "en": "The body must be a JSON object.",
    },
}


Name = Annotated[str, required_text_field(2, 255)]
OptionalText = Annotated[str | None, text_field(200)]
OptionalShortText = Annotated[str | None, text_field(80)]
OptionalUrl = Annotated[str | None, text_field(MAX_URL_CHARACTERS, then=strip_query)]


class Submission(NamedTuple):
    """One accepted form, normalised by `parse`: each field with its pydantic schema.

    The one list of a lead's fields, in the order in which they are stored and hashed. A field
    without a default is required.
    """

    business_name: Name
    contact_name: Name
    phone_whatsapp: Annotated[str, phone_field()]
    city: Annotated[str, required_text_field(2, 80)]
    salon_type: Annotated[
        str, choice_field("SALON", "BARBER", "BRIDAL", "UNISEX", "OTHER", required=True)
    ]
    consent: Annotated[bool, consent_field()]
    email: Annotated[str | None, email_field()] = None
    chair_count: Annotated[int | None, chair_count_field()] = None
    specialization: OptionalText = None
    current_brands_used: OptionalText = None
    monthly_spend_range: OptionalShortText = None
    message: Annotated[str | None, text_field(2000, lines=True)] = None
    page_url_initial: OptionalUrl = None
    page_url_current: OptionalUrl = None
    referrer: OptionalUrl = None
    utm_source: OptionalText = None
    utm_medium: OptionalText = None
    utm_campaign: OptionalText = None
    utm_term: OptionalText = None
    utm_content: OptionalText = None
    locale: Annotated[str | None, choice_field("id", "en")] = None
    consent_version: OptionalShortText = None
    company: Annotated[str | None, text_field(2000)] = None  # the honeypot

    @classmethod
    def from_stored(cls, **values: Any) -> Self:
        """One that was checked when it was taken; what this version does not know is left out."""
        return cls(**{name: value for name, value in values.items() if name in cls._fields})

    def to_dict(self, *, exclude_none: bool = False) -> dict[str, Any]:
        values = self._asdict()
        return {k: v for k, v in values.items() if v is not None} if exclude_none else values

    def to_json(self, *, exclude_none: bool = False) -> str:
        """Never change a byte of it: a submission's hash is made of it."""
        values = self.to_dict(exclude_none=exclude_none)
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _fields_schema(schemas: Mapping[str, CoreSchema], required: tuple[str, ...]) -> CoreSchema:
    """An object of these fields and no others; JSON's types are taken as they are."""
    fields = {
        name: core_schema.typed_dict_field(field, required=name in required)
        for name, field in schemas.items()
    }
    return core_schema.typed_dict_schema(
        fields, config=core_schema.CoreConfig(strict=True, extra_fields_behavior="forbid")
    )


SCHEMA = _fields_schema(
    {name: field.__metadata__[0] for name, field in Submission.__annotations__.items()},
    required=Submission._fields[: -len(Submission._field_defaults)],
)
_SUBMISSION = SchemaValidator(SCHEMA)
_PERSON = SchemaValidator(
    _fields_schema({"email": email_field(), "phone": phones_field()}, required=())
)


class Person(NamedTuple):
    """Who a privacy request is about: an address, a number or both, normalised as in a lead.

    other_phones: the other numbers that may be meant.
    """

    email: str | None = None
    phone: str | None = None
    other_phones: tuple[str, ...] = ()


CHECKBOX_VALUES = {"on": True, "true": True, "1": True}  # what browsers send for a ticked box


def from_form(fields: Mapping[str, str]) -> dict[str, object]:
    """A form's texts as the values JSON would have carried."""
    values: dict[str, object] = dict(fields)
    if "consent" in values:
        values["consent"] = CHECKBOX_VALUES.get(fields["consent"].strip().lower(), False)
    return values


type ErrorTypes = dict[str, list[tuple[str, dict[str, Any]]]]
"""Errors by field: each one's type, a key of ERROR_MESSAGES, and the parameters of its message."""


class ValidationError(Exception):
    """A form with errors, in no language yet."""

    def __init__(self, error_types: ErrorTypes) -> None:
        super().__init__("the form has errors")
        self.error_types = error_types

    def details(self, locale: str) -> Details:
        """Every error as a message: `{field: [message, ...]}`."""
        return {
            field: [ERROR_MESSAGES[name][locale].format(**params) for name, params in errors]
            for field, errors in self.error_types.items()
        }


def parse(values: object, ambiguous: Mapping[str, str] = {}) -> Submission:
    """A submission from decoded JSON or `from_form`. Raises ValidationError with every error.

    ambiguous: fields whose value is not certain -> why, a key of ERROR_MESSAGES. Errors as well.
    """
    if not isinstance(values, dict):
        raise ValidationError({"_": [("not_an_object", {})]})
    fields, errors = _validate(_SUBMISSION, values)
    errors |= {_printable_name(name): [(reason, {})] for name, reason in ambiguous.items()}
    if errors:
        raise ValidationError(errors)
    return Submission(**fields)


def parse_person(values: Mapping[str, str], *, certain: bool = False) -> Person:
    """Who is meant. Raises ValidationError with every error, also when nobody is named.

    certain: what may be somebody else's is an error too.
    """
    fields, errors = _validate(_PERSON, values)
    if errors:
        raise ValidationError(errors)
    email: str | None = fields.get("email")
    numbers: tuple[str, ...] = fields.get("phone", ())
    if certain and values.get("email", "").startswith(" "):
        errors["email"] = [("email_space", {})]  # +andi@… is another address than andi@…
    if certain and len(numbers) > 1:
        errors["phone"] = [("phone_unclear", {"readings": ", ".join(numbers)})]
    if email is None and not numbers and not errors:
        errors.setdefault("_", [("nobody", {})])
    if errors:
        raise ValidationError(errors)
    return Person(email, numbers[0] if numbers else None, numbers[1:])


def _validate(
    validator: SchemaValidator, values: Mapping[str, object]
) -> tuple[dict[str, Any], ErrorTypes]:
    """The fields as they are stored, or every error."""
    printable = {_printable_name(str(name)): value for name, value in values.items()}
    try:
        return validator.validate_python(printable), {}
    except pydantic_core.ValidationError as invalid:
        return {}, _error_types(invalid)


def _error_types(invalid: pydantic_core.ValidationError) -> ErrorTypes:
    by_field: ErrorTypes = {}
    for error in invalid.errors(include_url=False, include_input=False):
        field = str(error["loc"][0])
        error_type = error["type"] if error["type"] in ERROR_MESSAGES else "unreadable"
        if (field, error_type) == ("consent", "missing"):
            error_type = "consent"  # an unticked box is not sent at all
        by_field.setdefault(field, []).append((error_type, error.get("ctx", {})))
    return by_field


def _printable_name(name: str) -> str:
    """A field's name fit to be repeated to the caller, who may have sent anything as one."""
    return name.encode("utf-8", "replace").decode()[:100]
