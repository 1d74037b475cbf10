"""A telephone number as people write it, parsed with libphonenumber into E.164.

Of several candidates a valid one wins; where none is valid, the possible one as typed is taken, for
a new prefix must not cost a lead. validators.py parses ordinary Indonesian mobile numbers without
this module: loading the library takes longer than storing a lead.
"""

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

import phonenumbers

from lib.leads.validators import BLANK_LETTERS, field_error

COUNTRY_CODE = "62"
MIN_DIGITS, MAX_DIGITS = 10, 15  # with the country's
MAX_TEXT_CHARACTERS = 4096  # a link with a long text in it
MAX_NUMBER_CHARACTERS = 256  # most of them invisible

# Ways to dial abroad: of Indonesia's networks, of the world, of North America and Australia.
INTERNATIONAL_PREFIXES = ("01017", "001", "007", "008", "009", "00", "0011", "011")
# Without spaces these may be 00 and another country; Indonesia and its neighbours are meant.
NEIGHBOUR_PREFIXES = ("00862", "00160", "00165")

# An area code of 62x (North Sumatra) never has numbers this long, with or without their trunk
# zero, though libphonenumber calls them valid: there 62 is the country's code once more.
MIN_DIGITS_AFTER_DOUBLED_CODE = 11

MOBILE_TYPES = (
    phonenumbers.PhoneNumberType.MOBILE,
    phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE,
)

WHATSAPP_LINK = re.compile(
    r"(?:\bwa\.me/|(?:\bwhatsapp\.com|\bwhatsapp:/)/send/?\?(?:[^#\s]*&)?phone=)([^?&/#]*)", re.I
)
# RFC 3966, and what is written like it.
PHONE_URI = re.compile(
    r"\W*(?:tel|callto|sms|whatsapp):(?P<number>[^;?]*)(?P<more>(?:;[a-z-]+(?:=[^;?]*)?)*)\W*", re.I
)
PHONE_CONTEXT = re.compile(r";phone-context=(\+[0-9.()-]+)", re.I)
EXTENSION = re.compile(r";ext=", re.I)
# What people write before or after their number.
LABEL_BEFORE = re.compile(
    r"[^\w+]*(?:(?:no|nomor|nomer|number|wa|whatsapp|hp|handphone|ponsel|tel|telp|tlp|telepon|phone"
    r"|mobile)[^\w+]*)+(?=[+\d])",
    re.I,
)
LABEL_AFTER = re.compile(r"\b(?:wa|whatsapp|hp)\W{0,3}\Z", re.I)
NUMBER_SEPARATOR = re.compile(r"[,;/|\\&~#*]")  # may separate a second number or an extension


def candidates(text: str, *, lost_plus: bool = False) -> list[str]:
    """Every number that may be meant, in E.164, the likeliest first; at least one.

    lost_plus: it may have begun with a +. Raises PydanticCustomError.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise field_error("phone")
    number, is_link = _extract_number(text)
    if len(number) > MAX_NUMBER_CHARACTERS:
        raise field_error("phone")
    written = _to_ascii(number)
    if any(c.isalpha() for c in written):
        raise field_error("phone_digits")
    first, *others = NUMBER_SEPARATOR.split(written, maxsplit=1)
    if others and re.search(r"\d", others[0]) and _valid_and_possible(first, lost_plus=False)[0]:
        raise field_error("phone_digits")
    if is_link and re.match(r"\D*[1-9]", written):
        written = f"+{written}"  # as WhatsApp reads it
    valid, possible = _valid_and_possible(written, lost_plus=lost_plus)
    if not valid and not possible:
        raise field_error("phone")
    return valid or possible[:1]


def renormalize(number: str) -> str:
    """A stored number as it would be stored today.

    Older ones may hold a trunk zero, or the last digit of 001, 007, 008 or 009.
    """
    digits = number.removeprefix("+")
    numbers = [digits, *_strip_international_prefix(f"00{digits}", "")]
    return (
        next(iter(_distinct(map(_best_valid, numbers))), None) or _possible_e164(digits) or number
    )


def national_number(number: str) -> str:
    """A stored number without its country's code and trunk zero, as a sentence may hold it."""
    parsed = _parse(number.removeprefix("+"))
    return number if parsed is None else phonenumbers.national_significant_number(parsed)


def _extract_number(text: str) -> tuple[str, bool]:
    """The number in a link, a `tel:` address or a text; whether it was a link."""
    link = WHATSAPP_LINK.search(text)
    if link:
        return unquote(link[1]), True
    scheme = PHONE_URI.fullmatch(text)
    if scheme is None:
        return text if "%" not in text else unquote(text), False
    if EXTENSION.search(scheme["more"]):
        raise field_error("phone_digits")
    number, context = unquote(scheme["number"]), PHONE_CONTEXT.search(scheme["more"])
    return (number if context is None or "+" in number else context[1] + number), False


def _to_ascii(text: str) -> str:
    """ASCII digits, + where one is meant, and separators; no label, nothing invisible."""
    plain = "".join(map(_to_ascii_character, text))
    label = LABEL_BEFORE.match(plain)
    return LABEL_AFTER.sub("", plain[label.end() :] if label else plain)


def _to_ascii_character(character: str) -> str:
    decimal = unicodedata.decimal(character, None)
    if decimal is not None:
        return str(decimal)
    kind = unicodedata.category(character)
    if character in BLANK_LETTERS or kind in ("Cc", "Cf", "Mn", "Me"):
        return ""
    if kind in ("No", "Nl"):
        raise field_error("phone_digits")  # ², ½: which digits are they?
    if kind == "Pd" or character == "\u30fc":
        return "-"
    return "+" if character == "\u2795" else unicodedata.normalize("NFKC", character)


def _valid_and_possible(written: str, *, lost_plus: bool) -> tuple[list[str], list[str]]:
    """Every valid number, every possible one, the likeliest first."""
    before, plus, digits = "".join(re.findall(r"[0-9+]", written)).rpartition("+")
    before = before.replace("+", "")
    if before:
        # A second + after a country's code that a form had filled in, or after 00.
        if before not in (COUNTRY_CODE, "0", *INTERNATIONAL_PREFIXES):
            raise field_error("phone_digits")
        if before == COUNTRY_CODE and _valid_e164(before + digits) and _valid_e164(digits):
            raise field_error("phone_digits")
    if not digits or len(digits) > 2 * MAX_DIGITS:
        return [], []
    if plus and digits[0] != "0":
        numbers = [digits]
    else:
        numbers = _with_country_code(digits, re.findall(r"\d+", written)[0])
    valid = _distinct(_best_valid(number) for number in numbers)
    if digits.startswith("00"):
        national = _best_valid(numbers[-1])  # but no national number begins with two zeros
        valid = [number for number in valid if number != national] or valid
    if lost_plus and not plus and (international := _best_valid(digits)):
        number_type = phonenumbers.number_type(phonenumbers.parse(international))
        is_first = number_type in MOBILE_TYPES or not valid
        valid = _distinct([international, *valid] if is_first else [*valid, international])
    return valid, _distinct(_possible_e164(number) for number in _as_typed(numbers, digits))


def _distinct(numbers: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(number for number in numbers if number))


def _with_country_code(digits: str, first_group: str) -> list[str]:
    """Digits without a + as numbers with a country's code, the likeliest first."""
    national = COUNTRY_CODE + digits.lstrip("0")
    if digits[0] == "0":
        return [*_strip_international_prefix(digits, first_group), national]
    if digits.startswith(COUNTRY_CODE):
        # 0622 and the like without their zero. 0628 is left out: a mobile number lacks a digit.
        return [digits] if digits.startswith("628") else [digits, national]
    if digits[0] == "8" and len(digits) <= 12:
        return [national, digits]  # 812…: the leading zero is often left off on a phone
    return [digits, national]


def _strip_international_prefix(digits: str, first_group: str) -> list[str]:
    """What follows each international prefix: the one written apart first, then the likeliest."""

    def rank(prefix: str) -> int:
        if prefix == first_group:
            return 0
        if prefix in ("001", "008") and digits.startswith(NEIGHBOUR_PREFIXES):
            return 1
        return 2 if prefix == "00" else 3

    prefixes = sorted((p for p in INTERNATIONAL_PREFIXES if digits.startswith(p)), key=rank)
    return [digits[len(prefix) :] for prefix in prefixes]


def _as_typed(numbers: list[str], digits: str) -> list[str]:
    """The numbers to try where none is valid: of the international prefixes only 00 is removed."""
    if digits.startswith("00"):
        return [digits[2:], numbers[-1]]
    return numbers[-1:] if digits[0] == "0" else numbers


def _best_valid(digits: str) -> str | None:
    """The valid number, where the country's code may stand twice; None if there is none."""
    rest = digits.removeprefix(COUNTRY_CODE).lstrip("0")
    if digits.startswith(COUNTRY_CODE) and rest.startswith(COUNTRY_CODE):
        once, twice = _valid_e164(digits), _valid_e164(rest)
        return twice or once if len(rest) >= MIN_DIGITS_AFTER_DOUBLED_CODE else once or twice
    return _valid_e164(digits)


def _valid_e164(digits: str) -> str | None:
    number = _parse(digits)
    if number is None:
        return None
    if not phonenumbers.is_valid_number(number):
        # A trunk zero where the country has none.
        number = phonenumbers.PhoneNumber(number.country_code, number.national_number)
    return _format_e164(number) if phonenumbers.is_valid_number(number) else None


def _possible_e164(digits: str) -> str | None:
    number = _parse(digits)
    return _format_e164(number) if number and phonenumbers.is_possible_number(number) else None


def _parse(digits: str) -> phonenumbers.PhoneNumber | None:
    try:
        return phonenumbers.parse("+" + digits)
    except phonenumbers.NumberParseException:
        return None


def _format_e164(number: phonenumbers.PhoneNumber) -> str | None:
    text: str = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return text if MIN_DIGITS <= len(text) - 1 <= MAX_DIGITS else None
