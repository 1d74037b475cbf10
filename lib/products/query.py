"""What a caller may ask of the catalogue: every parameter, its rule, the words for each fault.

`read` names every fault at once. Two addresses that ask the same have the same `key`, whatever
the order, repetition or case of their parameters: caches stand on that.
"""

import base64
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from lib import query_parameters
from lib.language import LOCALES as LOCALES
from lib.problems import Details, Invalid

FILTERS = ("brand", "category", "function", "audience")
SORTS = ("name", "-name", "newest")
FIELDS = ("slug", "name", "brand", "audience", "functions", "categories", "summary", "benefits",
          "howToUse", "image")  # fmt: skip
SINGLE_VALUED = ("q", "limit", "cursor", "facets", "total", "sort", "fields", "locale", "slug")
ALLOWED_WITH_SLUG = {"slug", "fields", "locale"}

MAX_LIMIT = 100
DEFAULT_LIMIT = 24
MAX_VALUES = 30
MAX_BRAND_SPACES = 4  # of a brand, each of which may have been a plus
MAX_CHARACTERS = 100

ERROR_MESSAGES = {
    "unknown": {"id": "Parameter ini tidak dikenal.", "en": "This parameter is not known."},
    "repeated": {
        "id": "Diberikan lebih dari sekali dengan isi berbeda.",
        "en": "Given more than once with different values.",
    },
    "unreadable": {
        "id": "Berisi karakter yang tidak dapat dibaca.",
        "en": "This contains characters that cannot be read.",
    },
    "long": {"id": "Maksimal 100 karakter.", "en": "At most 100 characters."},
    "many": {"id": "Maksimal 30 nilai.", "en": "At most 30 values."},
    "limit": {
        "id": "Isi dengan bilangan bulat dari 1 sampai 100.",
        "en": "Give a whole number from 1 to 100.",
    },
    "flag": {"id": "Isi dengan 1 atau 0.", "en": "Give 1 or 0."},
    "facets": {
        "id": "Isi dengan 1, atau daftar dari brand, category, function, audience.",
        "en": "Give 1, or a list of brand, category, function, audience.",
    },
    "audience": {"id": "Pilih SALON atau BARBER.", "en": "Choose SALON or BARBER."},
    "sort": {"id": "Pilih name, -name atau newest.", "en": "Choose name, -name or newest."},
    "fields": {"id": "Ada nama isian yang tidak dikenal.", "en": "A field's name is not known."},
    "locale": {"id": "Pilih id atau en.", "en": "Choose id or en."},
    "cursor": {
        "id": "Kursor ini tidak berasal dari pencarian yang sama.",
        "en": "This cursor does not come from the same search.",
    },
    "beside_slug": {
        "id": "Tidak dapat dipakai bersama slug.",
        "en": "This cannot be used together with slug.",
    },
}

# What normalising leaves whole although people type it as plain letters.
_LETTER_REPLACEMENTS = str.maketrans(
    {"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}
)


def fold(text: str) -> str:
    """Lower case, without accents, words of a-z and 0-9: as the database's function of that name.

    >>> fold("Dénuée, Oil+Colour")
    'denuee oil colour'
    """
    plain = unicodedata.normalize("NFKD", text.casefold()).translate(_LETTER_REPLACEMENTS)
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    return re.sub(r"[^a-z0-9]+", " ", plain).strip()


class CursorPosition(NamedTuple):
    """Where a page ended: the last product's place in its order. It survives inserts."""

    rank: int
    name_key: str
    slug: str


class Query(NamedTuple):
    """One question. Filters are sorted, without repetition, in the case they are compared in.

    q: folded, None when nothing was typed. limit: None for the bare list. fields: in FIELDS'
    order. Only `slug`: one product.
    """

    brands: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    audiences: tuple[str, ...] = ()
    q: str | None = None
    slug: str | None = None
    sort: str = "name"
    limit: int | None = None
    after: CursorPosition | None = None
    facets: tuple[str, ...] = ()
    total: bool = False
    fields: tuple[str, ...] = FIELDS
    locale: str = LOCALES[0]

    @property
    def cache_key(self) -> str:
        """The same for everything that asks the same, and for nothing else."""
        after = self.after and (self.after.rank, self.after.name_key, self.after.slug)
        asked = [*self._search_parameters(), self.slug, self.limit, after, self.facets, self.total,
                 self.fields, self.locale]  # fmt: skip
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]

    @property
    def is_unfiltered(self) -> bool:
        """Whether it is of every product that there is."""
        filters = (self.brands, self.categories, self.functions, self.audiences)
        return not any(filters) and (self.q, self.slug, self.after) == (None, None, None)

    def encode_cursor(self, place: CursorPosition) -> str:
        """What leads on from `place`, in this search alone."""
        parts = [self._search_hash(), place.rank, place.name_key, place.slug]
        text = json.dumps(parts, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=")

    def _search_parameters(self) -> list[object]:
        return [self.brands, self.categories, self.functions, self.audiences, self.q, self.sort]

    def _search_hash(self) -> str:
        return hashlib.sha256(json.dumps(self._search_parameters()).encode()).hexdigest()[:10]

    def decode_cursor(self, cursor: str) -> CursorPosition | None:
        """Where `cursor` leads; None when it is none of this search's."""
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except (ValueError, RecursionError):
            return None
        match parts:
            case [str(mark), int(rank), str(name_key), str(slug)] if mark == self._search_hash():
                place = CursorPosition(rank, name_key, slug)
                plain = fold(name_key) == name_key and fold(slug) == slug.replace("-", " ")
                sound = type(rank) is int and abs(rank) < 2**62 and plain
                # What we wrote, to the letter: another spelling would be another cache entry.
                return place if sound and self.encode_cursor(place) == cursor else None
        return None


@dataclass(slots=True)
class _Parser:
    """Parameters on their way to a Query, with the faults found so far."""

    parameters: dict[str, list[str]]
    locale: str
    errors: Details = field(default_factory=dict)

    def add_error(self, name: str, code: str) -> None:
        said = self.errors.setdefault(name, [])
        if (text := ERROR_MESSAGES[code][self.locale]) not in said:
            said.append(text)

    def single(self, name: str) -> str | None:
        values = set(self.parameters.get(name, ()))
        if len(values) > 1:
            self.add_error(name, "repeated")
        return next(iter(sorted(values)), None)

    def multiple(self, name: str) -> tuple[str, ...]:
        values = {value.strip() for value in self.parameters.get(name, ())} - {""}
        if len(values) > MAX_VALUES:
            self.add_error(name, "many")
        if name == "audience":
            values = {value.upper() for value in values}
            if values - {"SALON", "BARBER"}:
                self.add_error(name, "audience")
            return tuple(sorted(values))
        if name == "brand":
            values = {
                each for value in self.parameters.get(name, ()) for each in _plus_spellings(value)
            }
            values -= {""}
        return tuple(sorted({value.lower() for value in values}))

    def flag(self, name: str) -> bool:
        text = self.single(name)
        given = None if text is None else query_parameters.parse_flag(text)
        if text is not None and given is None:
            self.add_error(name, "flag")
        return bool(given)

    def choice(self, name: str, known: tuple[str, ...], default: str) -> str:
        text = self.single(name)
        if text is not None and text not in known:
            self.add_error(name, name)
        return text if text in known else default

    def limit(self) -> int | None:
        text = self.single("limit")
        if text is None:
            return None
        number = int(text) if re.fullmatch(r"[0-9]{1,3}", text, re.ASCII) else 0
        if not 1 <= number <= MAX_LIMIT:
            self.add_error("limit", "limit")
        return number

    def facets(self) -> tuple[str, ...]:
        text = (self.single("facets") or "0").lower()
        everything = query_parameters.parse_flag(text)
        if everything is not None:
            return FILTERS if everything else ()
        asked = {part.strip() for part in text.split(",")}
        if asked - set(FILTERS):
            self.add_error("facets", "facets")
        return tuple(name for name in FILTERS if name in asked)

    def fields(self) -> tuple[str, ...]:
        text = self.single("fields")
        if text is None:
            return FIELDS
        asked = {part.strip() for part in text.split(",")}
        if asked - set(FIELDS):
            self.add_error("fields", "fields")
        return tuple(name for name in FIELDS if name in asked)

    def q(self) -> str | None:
        text = self.single("q")
        if text is None or not text.strip():
            return None
        return fold(text) or "?"  # signs alone are in no product


def _plus_spellings(value: str) -> Iterable[str]:
    """A brand as it was given, and each way of reading its spaces as pluses: an address typed by
    hand says `brand=Gamma+`, which arrives as a space."""
    words = value.split(" ")
    if len(words) > MAX_BRAND_SPACES + 1:
        return (value.strip(), value.replace(" ", "+"))
    joints = itertools.product(" +", repeat=len(words) - 1)
    return {
        (words[0] + "".join(map("".join, zip(chosen, words[1:], strict=True)))).strip()
        for chosen in joints
    }


def parse(pairs: Iterable[tuple[str, str]], spoken: str) -> Query:
    """The question in a query string's pairs; faults in the language `spoken`, or in `locale`.

    Raises Invalid, naming every fault.
    """
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        given.setdefault(name, []).append(value)
    given = query_parameters.drop_empty(given)
    spoken = next((each for each in given.get("locale", ()) if each in LOCALES), spoken)
    reading = _Parser(given, spoken)
    for name, values in given.items():
        _check_parameter(reading, name, values)
    query = _build_query(reading)
    cursor = reading.single("cursor")
    after = query.decode_cursor(cursor) if cursor is not None else None
    if cursor is not None and after is None:
        reading.add_error("cursor", "cursor")
    if reading.errors:
        raise Invalid(reading.errors)
    return query._replace(after=after)


def _check_parameter(reading: _Parser, name: str, values: list[str]) -> None:
    if name not in (*FILTERS, *SINGLE_VALUED):
        reading.add_error(name[:MAX_CHARACTERS], "unknown")
        return
    most = 600 if name == "cursor" else 3 * MAX_CHARACTERS if name == "fields" else MAX_CHARACTERS
    for value in values:
        if len(value) > most:
            reading.add_error(name, "long")
        if any(
            letter == "\ufffd" or unicodedata.category(letter) in ("Cc", "Cs") for letter in value
        ):
            reading.add_error(name, "unreadable")
    if "slug" in reading.parameters and name not in ALLOWED_WITH_SLUG:
        reading.add_error(name, "beside_slug")


def _build_query(reading: _Parser) -> Query:
    q = reading.q()
    limit = reading.limit()
    facets, total = reading.facets(), reading.flag("total")
    if limit is None and {"cursor", "facets", "total"} & set(reading.parameters):
        limit = DEFAULT_LIMIT
    slug = reading.single("slug")
    return Query(
        brands=reading.multiple("brand"),
        categories=reading.multiple("category"),
        functions=reading.multiple("function"),
        audiences=reading.multiple("audience"),
        q=q,
        slug=None if slug is None else slug.strip().lower(),
        sort=reading.choice("sort", SORTS, "name" if q is None else "relevance"),
        limit=limit,
        facets=facets,
        total=total,
        fields=reading.fields(),
        locale=reading.choice("locale", LOCALES, LOCALES[0]),
    )
