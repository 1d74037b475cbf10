"""Reads a catalogue in JSON: labels, synonyms and products, each with only what the file has.

A key that is absent leaves what is stored; null empties it.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from ops.products import model
from ops.products.model import CatalogueFile, ProductEntry
from ops.products.sheet import parse_time

KEYS = ("brands", "categories", "functions", "synonyms", "products")
# Key of a product -> its column; of a text in two languages, the beginning of its columns.
PLAIN_KEYS = {"slug": "slug", "name": "name", "brand": "brand", "audience": "audience",
              "categories": "categories", "functions": "functions", "published": "published",
              "createdAt": "created_at"}  # fmt: skip
TEXT_KEYS = {"summary": "summary", "benefits": "benefits", "howToUse": "how_to_use"}
IMAGE_TEXT_KEYS = {"alt": "image_alt", "caption": "image_caption"}
LOCALES = ("id", "en")
FIRST_CHARACTER = re.compile(r"[^\s,]")  # of an item of a JSON array


class DuplicateKey(ValueError):
    """An object has a key twice: which of the values holds cannot be told."""


def _check_label(label: dict[str, str]) -> dict[str, str]:
    if set(label) - {*LOCALES} or not all(label.values()):
        raise PydanticCustomError("label", "an object with a text for id and en")
    return label


class _Brand(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    name: Annotated[model.Text, StringConstraints(min_length=1, max_length=80)]


class _Label(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    code: Annotated[str, StringConstraints(pattern=model.CODE_PATTERN)]
    label: Annotated[dict[str, model.Text], AfterValidator(_check_label)] = {}


class _Synonym(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    term: Annotated[model.Text, StringConstraints(min_length=1)]
    sameAs: Annotated[model.Text, StringConstraints(min_length=1)]  # noqa: N815 - as the file has it


MODELS: dict[str, type[BaseModel]] = {
    "brands": _Brand, "categories": _Label, "functions": _Label, "synonyms": _Synonym,
}  # fmt: skip


def read(text: str, file: CatalogueFile) -> None:
    """Fill the file's contents and errors."""
    try:
        document = json.loads(text, object_pairs_hook=_refuse_duplicates)
    except DuplicateKey as duplicate:
        file.errors.append(f"{duplicate} is there twice in one object")
        return
    except (ValueError, RecursionError) as error:
        file.errors.append(f"line {getattr(error, 'lineno', 1)}: this is no JSON")
        return
    if isinstance(document, list):
        document = {"products": document}
    file.errors += [f"line 1: {name!r} is not known" for name in document if name not in KEYS]
    for name in KEYS:
        if not isinstance(document.get(name, []), list):
            file.errors.append(f"line 1: {name}: a list is wanted")
            document[name] = []
    for table in MODELS:
        _read_labels(table, document.get(table, []), file)
    lines = _product_lines(text)
    for index, product in enumerate(document.get("products", [])):
        place = f"line {lines[index] if index < len(lines) else 1}"
        file.products.append(_read_product(product, place))


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise DuplicateKey(repr(next(name for name in names if names.count(name) > 1)))
    return values


def _read_labels(table: str, items: list[Any], file: CatalogueFile) -> None:
    rows = []
    for number, item in enumerate(items, 1):
        try:
            rows.append(MODELS[table].model_validate(item).model_dump())
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                field = ".".join(map(str, error["loc"]))
                words = error["msg"].removeprefix("Input should be ")
                file.errors.append(f"{table}, number {number}: {field or 'it'}: {words}")
    if table == "synonyms":
        file.synonyms = [{"term": row["term"], "same_as": row["sameAs"]} for row in rows]
    elif table == "brands":
        file.labels[table] = rows
    else:
        file.labels[table] = [
            {"code": row["code"]}
            | {f"label_{locale}": text for locale, text in row["label"].items()}
            for row in rows
        ]


def _read_product(product: object, place: str) -> ProductEntry:
    if not isinstance(product, dict):
        return ProductEntry(place, {}, ["a product is an object"])
    known_keys = {*PLAIN_KEYS, *TEXT_KEYS, "image"}
    faults = [f"{name!r} is not known" for name in product if name not in known_keys]
    values = {column: product[key] for key, column in PLAIN_KEYS.items() if key in product}
    if isinstance(values.get("created_at"), str):
        values["created_at"] = parse_time(values["created_at"])
    faults += _read_texts(product, TEXT_KEYS, values)
    if "image" in product:
        faults += _read_image(product["image"], values)
    return ProductEntry(place, values, faults)


def _read_image(image: object, values: dict[str, Any]) -> list[str]:
    if image is None:
        image = {"url": None, "alt": None, "caption": None}
    if not isinstance(image, dict):
        return ["image: an object with url, alt and caption"]
    if "url" in image:
        values["image_url"] = image["url"]
    unknown = sorted(set(image) - {"url", *IMAGE_TEXT_KEYS})
    return [f"'image.{name}' is not known" for name in unknown] + _read_texts(
        image, IMAGE_TEXT_KEYS, values
    )


def _read_texts(
    source: Mapping[str, Any], keys: Mapping[str, str], values: dict[str, Any]
) -> list[str]:
    """Put the texts in two languages into `values`; the faults."""
    faults = []
    for key, column in keys.items():
        if key not in source:
            continue
        texts = dict.fromkeys(LOCALES) if source[key] is None else source[key]
        if not isinstance(texts, dict) or set(texts) - {*LOCALES}:
            faults.append(f"{key}: an object with id and en")
            continue
        values |= {f"{column}_{locale}": text for locale, text in texts.items()}
    return faults


def _product_lines(text: str) -> list[int]:
    """The line on which each product begins."""
    array = re.search(r'"products"\s*:\s*\[', text) or re.match(r"\s*\[", text)
    decoder, lines = json.JSONDecoder(), []
    at, counted, line = array.end() if array else len(text), 0, 1
    while (start := FIRST_CHARACTER.search(text, at)) and start.group() != "]":
        line += text.count("\n", counted, start.start())
        counted = start.start()
        lines.append(line)
        _, at = decoder.raw_decode(text, start.start())
    return lines
