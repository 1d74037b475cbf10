"""A catalogue file as it was read, and what pydantic asks of each product in it.

The rule a newcomer would break: a value that a file leaves out is absent from `values`, and None
there means that the file empties it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

UNSTORABLE_CHARACTERS = re.compile("[\x00\ud800-\udfff]")
CODE_PATTERN = r"^[a-z0-9]+(-[a-z0-9]+)*$"
MAX_SHOWN_CHARACTERS = 60

# By field: what is wanted, where pydantic's own words would be no help.
RULES = {
    "slug": "a-z, 0-9 and single hyphens, at most 100",
    "name": "1 to 160 characters",
    "brand": "the name of a brand",
    "audience": "SALON, BARBER or both",
    "categories": "at least one, each by its code, none twice",
    "functions": "codes, none twice",
    "published": "true or false",
    "image_url": "an https address, or a path of this site",
    "created_at": "a day such as 2026-11-28, or a time with its zone: 2026-11-28T09:00:00+07:00",
    "summary": "in one language at least",
    "benefits_id": "a list of texts",
    "benefits_en": "a list of texts",
}


class InvalidCatalogue(Exception):
    """A file that cannot be imported; `errors` has a line for each fault, with its place."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(f"{len(errors)} errors")
        self.errors = errors


class ProductEntry(NamedTuple):
    """A product of a file. place: `row 7` of a sheet, `line 7` of JSON.

    values: by column, those that the file has. missing_cells: columns after the row's last cell.
    """

    place: str
    values: dict[str, Any]
    faults: list[str]
    missing_cells: tuple[str, ...] = ()


@dataclass(slots=True)
class CatalogueFile:
    """A file's contents. labels: by table (brands, categories, functions), in the file's order.

    encoding: of the bytes; characters it lacks may have become question marks when it was saved.
    """

    description: str
    encoding: str
    products: list[ProductEntry] = field(default_factory=list)
    labels: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    synonyms: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.products and not any(self.labels.values()) and not self.synonyms


def _check_storable(text: str) -> str:
    if UNSTORABLE_CHARACTERS.search(text):
        raise PydanticCustomError("words", "characters that cannot be stored")
    return text


def _check_not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("rule", "blank")
    return text


def _check_address(text: str) -> str:
    if not re.match(r"(https://|/(?!/))", text):
        raise PydanticCustomError("rule", "address")
    return text


def _check_items(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("rule", "repeated")
    return values


def _check_not_empty(values: list[str]) -> list[str]:
    if not values:
        raise PydanticCustomError("rule", "empty")
    return values


def _check_known(text: str, info: ValidationInfo) -> str:
    names = info.context[info.field_name] if info.context and info.field_name else ()
    if text not in names:
        raise PydanticCustomError("words", "{text} is not known", {"text": repr(text)})
    return text


Text = Annotated[str, AfterValidator(_check_storable)]
KnownName = Annotated[str, AfterValidator(_check_known)]


class Product(BaseModel):
    """Columns as in the table. The context has the names of brands, categories and functions."""

    model_config = ConfigDict(extra="forbid", strict=True)

    slug: Annotated[str, StringConstraints(pattern=CODE_PATTERN, max_length=100)]
    name: Annotated[
        Text, StringConstraints(min_length=1, max_length=160), AfterValidator(_check_not_blank)
    ]
    brand: KnownName
    audience: Annotated[
        list[Literal["SALON", "BARBER"]],
        AfterValidator(_check_items),
        AfterValidator(_check_not_empty),
    ]
    categories: Annotated[
        list[KnownName], AfterValidator(_check_items), AfterValidator(_check_not_empty)
    ]
    functions: Annotated[list[KnownName], AfterValidator(_check_items)]
    summary_id: Text | None
    summary_en: Text | None
    benefits_id: list[Text] | None
    benefits_en: list[Text] | None
    how_to_use_id: Text | None
    how_to_use_en: Text | None
    image_url: Annotated[Text, AfterValidator(_check_address)] | None
    image_alt_id: Text | None
    image_alt_en: Text | None
    image_caption_id: Text | None
    image_caption_en: Text | None
    published: bool
    created_at: AwareDatetime | None


class _Summary(BaseModel):
    """Apart from Product, whose own check of the whole would be left out beside a field's fault."""

    summary_id: Any
    summary_en: Any

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if not any(str(text or "").strip() for text in (self.summary_id, self.summary_en)):
            raise PydanticCustomError("rule", "summary")
        return self


def find_faults(
    row: Mapping[str, Any], names: Mapping[str, Iterable[str]]
) -> Iterator[tuple[str, str]]:
    """Every fault of a row: its column (`summary` for both), and the words that name it."""
    for model in (Product, _Summary):
        values = row if model is Product else {name: row[name] for name in model.model_fields}
        try:
            model.model_validate(values, context=names)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                column = str(error["loc"][0]) if error["loc"] else "summary"
                yield column, _describe(column, error, row)


def _describe(column: str, error: ErrorDetails, row: Mapping[str, Any]) -> str:
    if error["type"] == "words":
        return f"{column}: {error['msg']}"
    rule = RULES.get(column, "a text")
    value = row.get(column)
    if column == "summary":
        return f"summary: {rule}"
    if value in (None, "", []):
        return f"{column}: empty or missing; wanted: {rule}"
    return f"{column}: {rule}; not {format_value(value)}"


def format_value(value: object, limit: int = MAX_SHOWN_CHARACTERS) -> str:
    """A value as a person reads it, cut after `limit` characters."""
    text = value.isoformat() if isinstance(value, datetime) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
