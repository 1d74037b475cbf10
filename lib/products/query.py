"""The query parameters of GET /api/products, their validation and the cursor.

`parse` reports every error at once. The rule a newcomer would break: two addresses that ask the
same have the same `cache_key`, whatever the order, repetition or case of their parameters.
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

# Letters that Unicode does not decompose, as people type them.
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
    """The sort key of a page's last product; it stays right when products are inserted."""

    rank: int
    name_key: str
    slug: str


class Query(NamedTuple):
    """A valid query. Filters are sorted, without repetition, in the case they are compared in.

    q: folded, None when nothing was typed. limit: None for the bare list. fields: in FIELDS'
    order. slug: one product; there are no filters beside it.
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
        """A hash of everything that was asked."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:32]

    @property
    def is_unfiltered(self) -> bool:
        """Whether it lists every product that there is."""
        filters = (self.brands, self.categories, self.functions, self.audiences)
        return not any(filters) and (self.q, self.slug, self.after) == (None, None, None)

    def _search_hash(self) -> str:
        search = [self.brands, self.categories, self.functions, self.audiences, self.q, self.sort]
        return hashlib.sha256(json.dumps(search).encode()).hexdigest()[:10]

    def encode_cursor(self, position: CursorPosition) -> str:
        """The cursor of the page after `position`, valid in this search alone."""
        parts = [self._search_hash(), *position]
        text = json.dumps(parts, separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(text).decode().rstrip("=")

    def decode_cursor(self, cursor: str) -> CursorPosition | None:
        """None when it is not a cursor of this search."""
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        except (ValueError, RecursionError):
            return None
        match parts:
            case [str(search), int(rank), str(name_key), str(slug)]:
                position = CursorPosition(rank, name_key, slug)
            case _:
                return None
        folded = fold(name_key) == name_key and fold(slug) == slug.replace("-", " ")
        valid = search == self._search_hash() and type(rank) is int and abs(rank) < 2**62 and folded
        # Byte for byte as it was encoded: another spelling would be another cache entry.
        return position if valid and self.encode_cursor(position) == cursor else None


@dataclass(slots=True)
class _Parser:
    """The parameters given, and the errors found so far."""

    parameters: dict[str, list[str]]
    locale: str
    errors: Details = field(default_factory=dict)

    def add_error(self, name: str, code: str) -> None:
        messages = self.errors.setdefault(name, [])
        if (message := ERROR_MESSAGES[code][self.locale]) not in messages:
            messages.append(message)

    def check(self, name: str, values: list[str]) -> None:
        """What holds for every parameter."""
        if name not in (*FILTERS, *SINGLE_VALUED):
            self.add_error(name[:MAX_CHARACTERS], "unknown")
            return
        limit = {"cursor": 600, "fields": 3 * MAX_CHARACTERS}.get(name, MAX_CHARACTERS)
        for value in values:
            if len(value) > limit:
                self.add_error(name, "long")
            categories = map(unicodedata.category, value)
            if "\ufffd" in value or not {"Cc", "Cs"}.isdisjoint(categories):
                self.add_error(name, "unreadable")
        if "slug" in self.parameters and name not in ALLOWED_WITH_SLUG:
            self.add_error(name, "beside_slug")

    def single(self, name: str) -> str | None:
        values = sorted(set(self.parameters.get(name, ())))
        if len(values) > 1:
            self.add_error(name, "repeated")
        return values[0] if values else None

    def multiple(self, name: str) -> tuple[str, ...]:
        given = self.parameters.get(name, ())
        values = {value.strip() for value in given} - {""}
        if len(values) > MAX_VALUES:
            self.add_error(name, "many")
        if name == "audience":
            values = {value.upper() for value in values}
            if values - {"SALON", "BARBER"}:
                self.add_error(name, "audience")
            return tuple(sorted(values))
        if name == "brand":
            values = {spelling for value in given for spelling in _plus_spellings(value)} - {""}
        return tuple(sorted({value.lower() for value in values}))

    def flag(self, name: str) -> bool:
        text = self.single(name)
        value = None if text is None else query_parameters.parse_flag(text)
        if text is not None and value is None:
            self.add_error(name, "flag")
        return bool(value)

    def choice(self, name: str, choices: tuple[str, ...], default: str) -> str:
        text = self.single(name)
        if text is not None and text not in choices:
            self.add_error(name, name)
        return text if text in choices else default

    def choices(self, name: str, text: str, choices: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `choices` that a comma-separated text names."""
        chosen = {part.strip() for part in text.split(",")}
        if chosen - set(choices):
            self.add_error(name, name)
        return tuple(choice for choice in choices if choice in chosen)

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
        flag = query_parameters.parse_flag(text)
        if flag is not None:
            return FILTERS if flag else ()
        return self.choices("facets", text, FILTERS)

    def fields(self) -> tuple[str, ...]:
        text = self.single("fields")
        return FIELDS if text is None else self.choices("fields", text, FIELDS)

    def q(self) -> str | None:
        text = self.single("q")
        if text is None or not text.strip():
            return None
        return fold(text) or "?"  # signs alone match no product


def _plus_spellings(value: str) -> Iterable[str]:
    """A brand as given, and with any of its spaces as pluses: an address typed by hand says
    `brand=Gamma+`, which arrives as a space."""
    words = value.split(" ")
    if len(words) > MAX_BRAND_SPACES + 1:
        return (value.strip(), value.replace(" ", "+"))
    separators = itertools.product(" +", repeat=len(words) - 1)
    return {
        "".join(map("".join, zip(words, (*chosen, ""), strict=True))).strip()
        for chosen in separators
    }


def parse(pairs: Iterable[tuple[str, str]], locale: str) -> Query:
    """The query in a query string's pairs.

    Raises Invalid, with every error in the language of the parameter `locale`, else of `locale`.
    """
    parameters: dict[str, list[str]] = {}
    for name, value in pairs:
        parameters.setdefault(name, []).append(value)
    parameters = query_parameters.drop_empty(parameters)
    locale = next((value for value in parameters.get("locale", ()) if value in LOCALES), locale)
    parser = _Parser(parameters, locale)
    for name, values in parameters.items():
        parser.check(name, values)
    query = _build_query(parser)
    cursor = parser.single("cursor")
    if cursor is not None:
        query = query._replace(after=query.decode_cursor(cursor))
        if query.after is None:
            parser.add_error("cursor", "cursor")
    if parser.errors:
        raise Invalid(parser.errors)
    return query


def _build_query(parser: _Parser) -> Query:
    q = parser.q()
    limit = parser.limit()
    if limit is None and {"cursor", "facets", "total"} & set(parser.parameters):
        limit = DEFAULT_LIMIT
    slug = parser.single("slug")
    return Query(
        brands=parser.multiple("brand"),
        categories=parser.multiple("category"),
        functions=parser.multiple("function"),
        audiences=parser.multiple("audience"),
        q=q,
        slug=None if slug is None else slug.strip().lower(),
        sort=parser.choice("sort", SORTS, "name" if q is None else "relevance"),
        limit=limit,
        facets=parser.facets(),
        total=parser.flag("total"),
        fields=parser.fields(),
        locale=parser.choice("locale", LOCALES, LOCALES[0]),
    )
