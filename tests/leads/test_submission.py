"""The form's rules: whatever is sent is read as a lead or refused by name, and tidied once."""

import json
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from typing import Any

import phonenumbers
import pydantic
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic_core import PydanticCustomError

from lib.leads import phone, submission, validators
from lib.leads.submission import Submission, ValidationError
from tests.conftest import LEAD

EMAIL = pydantic.TypeAdapter(pydantic.EmailStr)
FIELDS = sorted(Submission._fields)
TEXTS = sorted(set(FIELDS) - {"consent", "chair_count", "salon_type", "locale"})
LINES = {"message"}

many = settings(max_examples=300, deadline=None, derandomize=True, database=None)
few = settings(many, max_examples=100)

# Half characters (lone surrogates) are legal in JSON's escapes.
texts = st.text(st.characters(), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)

# What people and programs put into forms, and what is awkward about Unicode and addresses.
awkward = st.lists(
    st.sampled_from(
        ["Ayu", "e", "\u0301", "\u202a", "\u202c", "\ufeff", "\u200e", "\x07", "\x85", "\x1c",
         " ", "\t", "\n", "\r\n", "\u00a0", "\u2028", "\u0130", "\u1e9e", "\ufb01", "\u212b",
         "\U0001f487"]
    ),
    max_size=12,
).map("".join)  # fmt: skip
links = st.lists(
    st.sampled_from(
        ["https://", "http:", "//", "/", "alfa.example", "[", "]", "::1", ":80", "@", "?", "#", "&",
         "=", ";", "%", "%25", "%C3%A9", "é", "+", " ", "utm_source", "gclid", "name", "ig", "\t"]
    ),
    max_size=14,
).map("".join)  # fmt: skip
numbers = st.from_regex(r"\A(\+|00|)( ?\(?0?\)?)?[0-9][0-9 ().-]{5,17}\Z")
addresses = st.emails() | st.builds(
    "{}@{}".format, st.text(st.characters(), min_size=1, max_size=8), st.just("Example.CO.ID")
)
# Addresses nearly as people have them.
endings = "(xn--|a)?[A-Za-z0-9-]{1,5}|local|test|localhost|INVALID|onion|arpa|[0-9.]{1,7}"
plain = (
    st.from_regex(rf"\A[A-Za-z0-9._+@-]{{1,12}}@([A-Za-z0-9_-]{{1,9}}\.){{0,3}}({endings})\Z")
    | st.from_regex(r"\A[A-Za-z\" .]{0,9} ?<[A-Za-z.]{1,5}@[a-z]{1,5}\.id>?\Z")
) | st.builds("{}@{}.id".format, st.text("ab.", min_size=60, max_size=67), st.text("ab-."))


def parse_or_none(values: object) -> Submission | None:
    """None when refused; fails when it is refused without a word, or in any other way."""
    try:
        return submission.parse(values)
    except ValidationError as error:
        for locale in ("id", "en"):
            details = error.details(locale)
            assert details
            assert all(messages and all(messages) for messages in details.values())
            json.dumps(details).encode()
        return None


def is_clean(text: str, *, lines: bool) -> bool:
    allowed = "\n\t" if lines else ""
    controls = [c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in allowed]
    return not controls and unicodedata.is_normalized("NFC", text) and text == text.strip()


@given(field=st.sampled_from(FIELDS), value=json_values)
@many
def test_any_json_value_in_any_field_is_accepted_or_a_named_error(
    field: str, value: object
) -> None:
    form = parse_or_none({**LEAD, field: value})
    if form is not None:
        value = getattr(form, field)
        assert not isinstance(value, str) or is_clean(value, lines=field in LINES), ascii(value)


@given(value=json_values)
@few
def test_any_json_value_as_the_whole_body_is_refused(value: object) -> None:
    assert parse_or_none(value) is None


@given(name=texts, value=json_values)
@few
def test_an_unknown_field_is_the_only_error(name: str, value: object) -> None:
    if name not in FIELDS:
        with pytest.raises(ValidationError) as refused:
            submission.parse({**LEAD, name: value})
        assert len(refused.value.details("en")) == 1


@given(fields=st.dictionaries(st.sampled_from(FIELDS) | texts, json_values, max_size=4))
@many
def test_every_faulty_field_of_a_body_is_named_at_once(fields: dict[str, Any]) -> None:
    """Those, and in their order, that each is named for alone."""
    alone = [name for name, value in fields.items() if parse_or_none({**LEAD, name: value}) is None]
    try:
        submission.parse({**LEAD, **fields})
        named: list[str] = []
    except ValidationError as error:
        named = list(error.error_types)
    printable = [name.encode("utf-8", "replace").decode()[:100] for name in alone]
    assert sorted(named) == sorted(set(printable))


@given(field=st.sampled_from(TEXTS), text=awkward | links | numbers | addresses | plain)
@many
def test_any_text_is_accepted_or_a_named_error(field: str, text: str) -> None:
    parse_or_none({**LEAD, field: text})


@given(number=numbers | st.from_regex(r"\A(0|62|\+62|8)[0-9]{5,16}\Z"))
@many
def test_any_number_is_parsed_as_by_the_library(number: str) -> None:
    """Most are not looked up in it."""

    def outcome(read: Callable[[], object]) -> object:
        try:
            return read()
        except PydanticCustomError as error:
            return error.type

    def whole() -> object:
        return phone.candidates(number.strip(), lost_plus=number[:1] == " ")[0]

    assert outcome(lambda: validators.normalize_phone(number)) == outcome(whole)


@given(address=addresses | plain)
@many
def test_any_address_is_parsed_as_by_pydantic(address: str) -> None:
    """Most are not looked at by the library. One with NUL is refused before."""
    if "\x00" in address:
        assert parse_or_none({**LEAD, "email": address}) is None
        return
    text = validators.clean_line(address)
    try:
        address_by_pydantic: object = EMAIL.validate_python(text).lower()
    except pydantic.ValidationError:
        address_by_pydantic = None
    form = parse_or_none({**LEAD, "email": address}) if text else None
    assert (form and form.email) == address_by_pydantic


# As in the table of docs: a field's longest text.
LONGEST = {"business_name": 255, "contact_name": 255, "city": 80, "monthly_spend_range": 80,
           "consent_version": 80, "message": 2000, "company": 2000, "specialization": 200,
           "current_brands_used": 200, "utm_source": 200, "utm_medium": 200, "utm_campaign": 200,
           "utm_term": 200, "utm_content": 200, "page_url_initial": 2048,
           "page_url_current": 2048, "referrer": 2048}  # fmt: skip


@pytest.mark.parametrize("field", LONGEST)
def test_a_text_has_its_field_s_limit(field: str) -> None:
    longest = LONGEST[field]
    for character in ("a", "é", "\U0001f487"):
        assert parse_or_none({**LEAD, field: character * longest}) is not None
        with pytest.raises(ValidationError) as refused:
            submission.parse({**LEAD, field: character * (longest + 1)})
        assert refused.value.error_types == {field: [("string_too_long", {"max_length": longest})]}


def test_an_address_has_at_most_254_characters() -> None:
    domain = ".".join(["d" * 60] * 3) + ".co.id"
    longest = f"{'a' * (254 - len(domain) - 1)}@{domain}"
    assert submission.parse({**LEAD, "email": longest}).email == longest
    assert parse_or_none({**LEAD, "email": f"a{longest}"}) is None


def test_a_lead_loads_pydantic_s_engine_alone() -> None:
    """A cold start waits for what is imported here; the rest of pydantic takes 60 ms more."""
    code = """
import sys
from lib.leads import submission
assert "pydantic_core" in sys.modules
assert not {"pydantic", "email_validator", "phonenumbers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@given(field=st.sampled_from(TEXTS), text=awkward)
@example("business_name", "Salon e\u202a\u0301")
@example("message", "e\x07\u0301")
@example("city", "\u0085 Medan \x1c")
@many
def test_accepted_text_is_clean_and_parsing_it_again_changes_nothing(field: str, text: str) -> None:
    form = parse_or_none({**LEAD, field: text})
    if form is not None:
        value = getattr(form, field)
        assert value is None or is_clean(value, lines=field in LINES), ascii(value)
        assert submission.parse(form.to_dict()) == form


@given(link=links)
@example("https://alfa.example/?utm_source=" + "é" * 500)
@example("//")
@example("?name=Ayu")
@many
def test_a_url_keeps_no_parameter_that_may_name_a_person(link: str) -> None:
    form = parse_or_none({**LEAD, "page_url_current": link})
    if form is not None:
        assert submission.parse(form.to_dict()) == form
        query = (form.page_url_current or "").partition("?")[2]
        assert all(
            part.startswith(("utm_", "gclid", "fbclid")) for part in query.split("&") if part
        )
        assert "#" not in (form.page_url_current or "")


@given(number=numbers)
@example("+62 00812 3456 789")
@many
def test_an_accepted_number_is_e164_and_parsing_it_again_changes_nothing(number: str) -> None:
    form = parse_or_none({**LEAD, "phone_whatsapp": number})
    if form is not None:
        digits = form.phone_whatsapp.removeprefix("+")
        assert form.phone_whatsapp == f"+{digits}"
        assert digits.isascii()
        assert digits.isdigit()
        assert 10 <= len(digits) <= 15
        assert not digits.startswith("0")
        assert submission.parse(form.to_dict()) == form


@given(address=addresses)
@many
def test_an_accepted_address_is_lower_case_and_parsing_it_again_changes_nothing(
    address: str,
) -> None:
    form = parse_or_none({**LEAD, "email": address})
    if form is not None and form.email is not None:
        assert form.email == form.email.lower()
        assert submission.parse(form.to_dict()) == form


def test_ordinary_mobile_numbers_are_parsed_as_by_the_library() -> None:
    """Each of them spares a first lead the library's loading."""
    for prefix in range(80, 100):
        for digit in "0159":
            for length in range(8, 14):
                number = f"{prefix}{digit}4567890123"[:length]
                for form in ("0{}", "{}", "62{}", "+62{}", "+62 0{}", "620{}", " 0{}", " 62{}",
                             " {}", "(0{})", "+62-{}", "0.{}"):  # fmt: skip
                    typed = form.format(number)
                    try:
                        whole: object = phone.candidates(typed, lost_plus=typed[0] == " ")[0]
                    except PydanticCustomError as fault:
                        whole = fault.type
                    try:
                        quick: object = validators.normalize_phone(typed)
                    except PydanticCustomError as fault:
                        quick = fault.type
                    assert quick == whole, typed


def test_an_ordinary_mobile_number_does_not_load_the_library() -> None:
    code = """
import sys
from lib.leads import validators
for typed in ("0812-3456-7890", "+62 812 3456 7890", "6281234567890", "81234567890",
              " 0812.3456.7890 ", "+62 (0)811 123 456", "0859 1234 5678 9"):
    assert validators.normalize_phone(typed).startswith("+628")
assert "phonenumbers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


WRITTEN = (
    phonenumbers.PhoneNumberFormat.E164,
    phonenumbers.PhoneNumberFormat.INTERNATIONAL,
    phonenumbers.PhoneNumberFormat.RFC3966,
)


@pytest.mark.parametrize("region", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_a_number_of_any_country_is_stored_as_the_library_has_it(region: str) -> None:
    """In every form it is usually written, and with a trunk zero where the country has one."""
    prefix = phonenumbers.ndd_prefix_for_region(region, True)
    for kind in (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE):
        number = phonenumbers.example_number_for_type(region, kind)
        if number is None:
            continue
        stored = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
        if not 10 <= len(stored) - 1 <= 15:
            continue
        national = phonenumbers.national_significant_number(number)
        code = number.country_code
        forms = [phonenumbers.format_number(number, number_format) for number_format in WRITTEN]
        forms += [f"00 {code} {national}", f"https://wa.me/{code}{national}"]
        if prefix == "0":
            forms += [f"+{code} (0){national}", f"+{code} 0{national}", f"00 {code} 0{national}"]
        for typed in forms:
            assert validators.normalize_phone(typed) == stored, typed


@given(text=st.text(st.characters(), max_size=30) | numbers)
@many
def test_an_accepted_number_is_the_only_candidate_of_itself(text: str) -> None:
    try:
        read = validators.possible_phones(text)
    except PydanticCustomError:
        return
    for number in read:
        assert validators.normalize_phone(number) == number == validators.renormalize_phone(number)


def test_an_erasure_takes_only_an_unambiguous_number() -> None:
    for typed in ("81234567890", "622 7552123", "001 65 9234 5678", " 819012345699"):
        assert submission.parse_person({"phone": typed}).phone
        with pytest.raises(ValidationError) as refused:
            submission.parse_person({"phone": typed}, certain=True)
        for locale in ("id", "en"):
            (words,) = refused.value.details(locale)["phone"]
            assert words.count("+") >= 3, words
    for typed in ("0812 3456 7890", "62 21 5551234", "0062 812 3456 7890", "+819012345699",
                  "062 812 3456 7890", "008 62 812 3456 7890", " 6281234567890"):  # fmt: skip
        assert submission.parse_person({"phone": typed}, certain=True).phone


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("0812-3456-789O", "letters"),
        ("021 5551234 ext 5", "extension"),
        ("021 5551234/35", "one number"),
        ("12", "+62 812"),
    ],
)
def test_the_message_of_a_refused_number_says_what_to_type(typed: str, words: str) -> None:
    with pytest.raises(ValidationError) as refused:
        submission.parse({**LEAD, "phone_whatsapp": typed})
    (english,) = refused.value.details("en")["phone_whatsapp"]
    (indonesian,) = refused.value.details("id")["phone_whatsapp"]
    assert words in english
    assert "Contoh: 0812 3456 7890" in indonesian


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        (6, 6),
        (3.0, 3),
        (1e4, 10_000),
        ("6", 6),
        ("0010", 10),
        (1, 1),
        (10_000, 10_000),
        ("", None),
        (None, None),
    ],
)
def test_a_chair_count_is_a_number_or_its_digits(typed: object, stored: int | None) -> None:
    assert submission.parse({**LEAD, "chair_count": typed}).chair_count == stored


def test_a_length_is_counted_in_characters_after_cleaning() -> None:
    longest: dict[str, Any] = {
        "business_name": " " + "e\u0301" * 255 + " ",
        "city": "\U0001f487" * 80,
    }
    form = submission.parse({**LEAD, **longest})
    assert (len(form.business_name), len(form.city)) == (255, 80)
    with pytest.raises(ValidationError):
        submission.parse({**LEAD, "business_name": "\u202a\u202aA\u202c"})


def test_a_ticked_box_of_a_form_is_consent_and_any_other_value_is_not() -> None:
    form = {**{name: str(value) for name, value in LEAD.items()}}
    for ticked in ("on", "true", "1", "ON", " True "):
        assert submission.parse(submission.from_form({**form, "consent": ticked})).consent is True
    for other in ("", "off", "0", "false", "yes"):
        with pytest.raises(ValidationError) as refused:
            submission.parse(submission.from_form({**form, "consent": other}))
        assert list(refused.value.details("en")) == ["consent"]
