"""One item of a browser's beacon, as pydantic reads it.

Imported when the first beacon is parsed, after its answer: pydantic's engine takes a third of a
cold start, and reading the report needs none of it.
"""

from collections.abc import Callable
from typing import NotRequired, TypedDict

import pydantic_core
from pydantic_core import CoreSchema, SchemaValidator, core_schema

MAX_ID_CHARACTERS = 128
MAX_VALUE = 600_000

# web-vitals' own name first, then the older ones; the first that is not null counts.
NAMES = {
    "name": ("name", "metric_name"),
    "value": ("value",),
    "id": ("id", "metric_id"),
    "page": ("page", "page_url_current", "url", "navigationURL"),
    "timestamp": ("timestamp",),
    "device_type": ("device_type",),
}


class Item(TypedDict):
    name: str
    value: float
    id: str
    page: NotRequired[str | None]
    timestamp: NotRequired[float | str | None]
    device_type: NotRequired[str | None]


def _optional(schema: CoreSchema) -> CoreSchema:
    """None where the value is of another kind: it costs no report."""
    return core_schema.with_default_schema(schema, default=None, on_error="default")


def _aliases(name: str) -> list[list[str | int]]:
    return [[alias] for alias in NAMES[name]]


def item_schema(metrics: tuple[str, ...]) -> CoreSchema:
    """The schema of an item; what it does not name is ignored."""
    number, text = core_schema.float_schema(allow_inf_nan=False), core_schema.str_schema()
    schemas = {
        "name": core_schema.chain_schema(
            [core_schema.str_schema(to_upper=True), core_schema.literal_schema(list(metrics))]
        ),
        "value": core_schema.float_schema(ge=0, le=MAX_VALUE, allow_inf_nan=False),
        "id": core_schema.str_schema(min_length=1, max_length=MAX_ID_CHARACTERS),
        "page": _optional(text),
        "timestamp": _optional(core_schema.union_schema([number, text])),
        "device_type": _optional(text),
    }
    fields = {
        name: core_schema.typed_dict_field(
            schema,
            required=name in Item.__required_keys__,
            validation_alias=_aliases(name),
        )
        for name, schema in schemas.items()
    }
    return core_schema.typed_dict_schema(fields, config=core_schema.CoreConfig(strict=True))


def item_parser(metrics: tuple[str, ...]) -> Callable[[object], Item | None]:
    """A function from an item as it came to the item; None where it is no report of a vital."""
    validator = SchemaValidator(item_schema(metrics))

    def parse(item: object) -> Item | None:
        if not isinstance(item, dict) or item.get("webdriver") is True:
            return None
        present = {name: value for name, value in item.items() if value is not None}
        try:
            parsed: Item = validator.validate_python(present)
        except pydantic_core.ValidationError:
            return None
        return parsed

    return parse
