"""What a visitor may send: the lead's fields, their rules, and the words for each fault.

`read` finds every fault at once; it never stops at the first. A rule that is not here does
not exist: the form's own checks only save a round trip.

By hand, for pydantic takes longer to load than a lead to be stored: tests/leads/contract.py has the
same with it, and a property test holds the two equal.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Self

from lib.leads.validators import (
    MAX_URL_CHARACTERS,
    NO_LIMIT,
    FieldError,
    Validator,
    choice_field,
    normalize_email,
    normalize_phone,
    parse_chair_count,
    possible_phones,
    require_consent,
    required,
    strip_query,
    text_field,
)
from lib.problems import Details

# What a fault is called, in the caller's language. Keys are pydantic's error types and ours.
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
    "unreadable": {
        "id": "Berisi karakter yang tidak dapat disimpan.",
        "en": "This contains characters that cannot be stored.",
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


# Field by field the contract's table.
_VALIDATORS: dict[str, Validator] = {
    "business_name": required(text_field(255, 2)),
    "contact_name": required(text_field(255, 2)),
    "phone_whatsapp": required(normalize_phone),
    "city": required(text_field(80, 2)),
    "salon_type": required(choice_field("SALON", "BARBER", "BRIDAL", "UNISEX", "OTHER")),
    "consent": require_consent,
    "email": text_field(NO_LIMIT, then=normalize_email),
    "chair_count": parse_chair_count,
    "specialization": text_field(200),
    "current_brands_used": text_field(200),
    "monthly_spend_range": text_field(80),
    "message": text_field(2000, lines=True),
    "page_url_initial": text_field(MAX_URL_CHARACTERS, then=strip_query),
    "page_url_current": text_field(MAX_URL_CHARACTERS, then=strip_query),
    "referrer": text_field(MAX_URL_CHARACTERS, then=strip_query),
    "utm_source": text_field(200),
    "utm_medium": text_field(200),
    "utm_campaign": text_field(200),
    "utm_term": text_field(200),
    "utm_content": text_field(200),
    "locale": choice_field("id", "en"),
    "consent_version": text_field(80),
    "company": text_field(2000),
}
_REQUIRED = ("business_name", "contact_name", "phone_whatsapp", "city", "salon_type", "consent")


class Submission(NamedTuple):
    """One accepted form, normalised: `read` makes it. In the order it is stored and hashed."""

    business_name: str
    contact_name: str
    phone_whatsapp: str
    city: str
    salon_type: str
    consent: bool
    email: str | None = None
    chair_count: int | None = None
    specialization: str | None = None
    current_brands_used: str | None = None
    monthly_spend_range: str | None = None
    message: str | None = None
    page_url_initial: str | None = None
    page_url_current: str | None = None
    referrer: str | None = None
    utm_source: str | None = None
    utm_medium: str | None = None
    utm_campaign: str | None = None
    utm_term: str | None = None
    utm_content: str | None = None
    locale: str | None = None
    consent_version: str | None = None
    company: str | None = None

    @classmethod
    def from_stored(cls, **values: Any) -> Self:
        """One that was checked when it was taken; what this version does not know is left out."""
        return cls(**{name: value for name, value in values.items() if name in _VALIDATORS})

    def to_dict(
        self, *, exclude: Collection[str] = (), exclude_none: bool = False
    ) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in _VALIDATORS if name not in exclude}
        if exclude_none:
            return {name: value for name, value in values.items() if value is not None}
        return values

    def to_json(self, *, exclude_none: bool = False) -> str:
        """Byte for byte what it was before: a submission's hash is made of it."""
        values = self.to_dict(exclude_none=exclude_none)
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


_PERSON_VALIDATORS: dict[str, Validator] = {
    "email": text_field(NO_LIMIT, then=normalize_email),
    "phone": possible_phones,
}


class Person(NamedTuple):
    """Who a request is about: an address, a number or both, normalised as in a lead.

    other_phones: what the number may be read as instead.
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
"""Faults by field: each one's kind, a key of FAULTS, and the facts its words need."""


class ValidationError(Exception):
    """A submission with faults: `kinds` names them by field, free of language."""

    def __init__(self, kinds: ErrorTypes) -> None:
        super().__init__("faulty submission")
        self.error_types = kinds

    def details(self, locale: str) -> Details:
        """Every fault in words: `{field: [message, ...]}`."""
        return {
            field: [ERROR_MESSAGES[kind][locale].format(**facts) for kind, facts in kinds]
            for field, kinds in self.error_types.items()
        }


def parse(values: object, ambiguous: Mapping[str, str] = {}) -> Submission:
    """A submission from decoded JSON or `from_form`. Raises Faulty with every fault.

    ambiguous: fields whose value is not certain -> why, a key of FAULTS. They are faults, too.
    """
    if not isinstance(values, dict):
        raise ValidationError({"_": [("not_an_object", {})]})
    if not ambiguous:
        return Submission(**_validate(values, _VALIDATORS, _REQUIRED))
    kinds: ErrorTypes = {_printable_name(name): [(kind, {})] for name, kind in ambiguous.items()}
    try:
        _validate(values, _VALIDATORS, _REQUIRED)
    except ValidationError as faulty:
        kinds = faulty.error_types | kinds
    raise ValidationError(kinds)


def parse_person(values: Mapping[str, str], *, certain: bool = False) -> Person:
    """Who is meant. Raises Faulty with every fault, also when nobody is named.

    certain: whoever may be somebody else is a fault too.
    """
    kept = _validate(values, _PERSON_VALIDATORS, ())
    numbers: tuple[str, ...] = kept.get("phone", ())
    unclear: ErrorTypes = {}
    if certain and values.get("email", "").startswith(" "):
        unclear["email"] = [("email_space", {})]  # +andi@… is another address than andi@…
    if certain and len(numbers) > 1:
        unclear["phone"] = [("phone_unclear", {"readings": ", ".join(numbers)})]
    if unclear:
        raise ValidationError(unclear)
    person = Person(kept.get("email"), numbers[0] if numbers else None, numbers[1:])
    if person.email is None and person.phone is None:
        raise ValidationError({"_": [("nobody", {})]})
    return person


def _validate(
    values: Mapping[str, object], rules: Mapping[str, Validator], wanted: Collection[str]
) -> dict[str, Any]:
    """Every field as it is kept. Raises Faulty with every fault."""
    kept: dict[str, Any] = {}
    kinds: ErrorTypes = {}
    for name, rule in rules.items():
        try:
            if name in values:
                kept[name] = rule(values[name])
            elif name in wanted:
                # An unticked box is not sent at all.
                raise FieldError("consent" if name == "consent" else "missing")
        except FieldError as fault:
            kinds[name] = [(fault.error_type, fault.params)]
    for name in values:
        if name not in rules:
            kinds.setdefault(_printable_name(str(name)), []).append(("extra_forbidden", {}))
    if kinds:
        raise ValidationError(kinds)
    return kept


def _printable_name(name: str) -> str:
    """A field's name fit to be repeated to the caller, who may have sent anything as one."""
    return name.encode("utf-8", "replace").decode()[:100]
