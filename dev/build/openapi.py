"""Writes into public/openapi.json the schemas that the code has models of.

The prose is the document's own: descriptions and examples are edited there and stay. Types, limits
and names are the models', and an edit of them there is lost. A test holds the two in step.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from lib.leads import submission
from lib.problems import Problem
from lib.products.catalogue import Product
from lib.vitals import beacon, samples

FILE = Path("public/openapi.json")
CHALLENGE_FIELD = "cf-turnstile-response"  # taken out of the body before a lead is read
PROSE = ("description", "examples")
OLDER_NAMES = ("name", "value", "id", "page", "device_type")

type Schema = dict[str, Any]


class JsonSchema(GenerateJsonSchema):
    """JSON Schema as the document writes it: no titles, and null as one more type."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return _or_null(self.generate_inner(schema["schema"]))

    def union_schema(self, schema: core_schema.UnionSchema) -> JsonSchemaValue:
        choices = [self.generate_inner(choice) for choice in schema["choices"]]  # type: ignore[arg-type]
        return {"type": [choice["type"] for choice in choices]}

    def chain_schema(self, schema: core_schema.ChainSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["steps"][0])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _or_null(schema: Schema) -> Schema:
    enum = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [schema["type"], "null"], **enum}


def json_schema(schema: CoreSchema) -> Schema:
    return JsonSchema().generate(schema, mode="validation")


def lead() -> Schema:
    schema = json_schema(submission.SCHEMA)
    schema["properties"][CHALLENGE_FIELD] = {"type": ["string", "null"]}
    return schema


def lead_form() -> Schema:
    schema = lead()
    fields: Schema = {
        name: {"$ref": f"#/components/schemas/Lead/properties/{name}"}
        for name in schema["properties"]
    }
    fields["consent"] = {"type": "string", "enum": list(submission.CHECKBOX_VALUES)}
    return schema | {"properties": fields | {"redirect": {"type": "string"}}}


def vital() -> Schema:
    return json_schema(beacon.item_schema(tuple(samples.METRICS)))


def older_vital() -> Schema:
    schema = vital()
    older = {name: beacon.NAMES[name][:2][-1] for name in OLDER_NAMES}
    return schema | {
        "properties": {older[name]: schema["properties"][name] for name in OLDER_NAMES},
        "required": [older[name] for name in schema["required"]],
    }


def product() -> Schema:
    schema = json_schema(TypeAdapter(Product).core_schema)
    image = schema.pop("$defs")["Image"]
    schema["properties"]["image"] = image | {"additionalProperties": False}
    schema["properties"]["audience"]["minItems"] = 1  # as the table has it
    return schema | {"additionalProperties": False, "minProperties": 1}


def problem_kinds() -> list[Schema]:
    """The codes of each status."""
    codes: dict[int, list[str]] = {}
    for kind in Problem.__subclasses__():
        codes.setdefault(kind.status, []).append(kind.code)
    return [
        {"properties": {"status": {"const": status}, "error": {"enum": codes[status]}}}
        for status in sorted(codes)
    ]


def render(text: str) -> str:
    """The document with its models' schemas as the code has them now."""
    document = json.loads(text)
    schemas = document["components"]["schemas"]
    models = {
        "Lead": lead(),
        "LeadForm": lead_form(),
        "Vital": vital(),
        "OlderVital": older_vital(),
        "Product": product(),
    }
    for name, model in models.items():
        schemas[name] = _with_prose(model, schemas[name])
    schemas["Problem"]["oneOf"] = problem_kinds()
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write(root: Path) -> Path:
    file = root / FILE
    file.write_text(render(file.read_text("utf-8")), encoding="utf-8")
    return file


def _with_prose(model: Schema, documented: Schema) -> Schema:
    """The model's schema with the document's prose, in the document's order.

    Of an object whose other members are ignored, the documented ones stay.
    """
    merged = {name: value for name, value in model.items() if name != "title"}
    if "properties" in model:
        fields = documented.get("properties", {})
        merged["properties"] = {
            name: _with_prose(field, fields.get(name, {}))
            for name, field in model["properties"].items()
        }
        if model.get("additionalProperties") is not False:
            merged["properties"] = fields | merged["properties"]
    merged |= {name: documented[name] for name in PROSE if name in documented}
    return {name: merged[name] for name in documented if name in merged} | merged
