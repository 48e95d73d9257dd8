"""The schemas here are after those of OpenAI's guide, whose rules abruzzi.guide.strict names."""

from __future__ import annotations

import time
from typing import Any

import pytest

from abruzzi import RequestError
from abruzzi.guide.schema import NO_ARGUMENTS
from abruzzi.guide.strict import check_strict

TEXT = {"type": "string"}
WHERE = "tools[0].function.parameters"


def strict(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        **more,
    }


def nested(levels: int, within: str = "object") -> dict[str, Any]:
    schema: dict[str, Any] = dict(TEXT)
    for _ in range(levels):
        schema = strict({"a": schema}) if within == "object" else {"type": "array", "items": schema}
    return schema


def wide(count: int, **each: Any) -> dict[str, Any]:
    return strict({f"p{i:04}": {**TEXT, **each} for i in range(count)})


def fault(schema: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(RequestError) as caught:
        check_strict(schema, WHERE)
    assert caught.value.param is not None
    return caught.value.param.removeprefix(WHERE), str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        NO_ARGUMENTS,
        {"type": "object", "additionalProperties": False},
        strict({}, allOf=None, anyOf=None),
        strict({"city": TEXT, "unit": {"type": ["string", "null"], "enum": ["F", "C"]}}),
        strict({"s": {**TEXT, "pattern": "^@[a-z]+$"}, "t": {**TEXT, "format": "date-time"}}),
        strict({"n": {"type": "number", "minimum": 0, "exclusiveMaximum": 9, "multipleOf": 0.5}}),
        strict({"l": {"type": "array", "items": TEXT, "minItems": 1, "maxItems": 3}}),
        strict({"item": {"anyOf": [strict({"name": TEXT}), strict({"street": TEXT}), {"type": "null"}]}}),
        strict({"children": {"type": "array", "items": {"$ref": "#"}}}),
        strict(
            {"list": {"$ref": "#/$defs/node"}},
            **{"$defs": {"node": strict({"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}})}},
        ),
        strict({"allOf": TEXT, "not": TEXT, "format": TEXT, "$ref": TEXT}),
        strict({"x": {"enum": [{"type": "object"}], "default": {"allOf": 1}}}),
    ],
)
def test_what_the_guide_takes_passes(schema: dict[str, Any]) -> None:
    check_strict(schema, WHERE)


@pytest.mark.parametrize(
    ("schema", "path", "message"),
    [
        ({}, ".type", "expected type object at the root, got none"),
        ({"type": "array"}, ".type", "got 'array'"),
        ({"type": ["object", "null"]}, ".type", "got ['object', 'null']"),
        (strict({}, anyOf=[strict({})]), ".anyOf", "expected one object at the root"),
        ({"type": "object"}, ".additionalProperties", "expected additionalProperties false, got none"),
        (strict({}, additionalProperties=TEXT), ".additionalProperties", "got {'type': 'string'}"),
        (strict({"a": {"type": "object"}}), ".properties.a.additionalProperties", "got none"),
        (strict({"a": {"type": ["null", "object"]}}), ".properties.a.additionalProperties", "got none"),
        (strict({"a": {"properties": {}}}), ".properties.a.additionalProperties", "got none"),
        (strict({"a": {"items": {"type": "object"}}}), ".properties.a.items.additionalProperties", "got none"),
        (
            strict({"a": {"anyOf": [TEXT, strict({}, additionalProperties=True)]}}),
            ".properties.a.anyOf[1].additionalProperties",
            "got True",
        ),
        (strict({"a": TEXT, "b": TEXT}, required=["a"]), ".required", "'b' is missing"),
        ({k: v for k, v in strict({"a": TEXT}).items() if k != "required"}, ".required", "'a' is missing"),
        (strict({}, **{"$defs": {"d": strict({"a": TEXT}, required=[])}}), ".$defs.d.required", "'a' is missing"),
        (strict({"a": {**TEXT, "format": "uri"}}), ".properties.a.format", "got 'uri'"),
        (strict({"a": {"$ref": "#/$defs/b"}}), ".properties.a.$ref", "got '#/$defs/b'"),
        (strict({"a": {"$ref": "http://x/y"}}), ".properties.a.$ref", "got 'http://x/y'"),
        (strict({"a": {"$ref": "#/x/b"}}, x={"b": {"type": "object"}}), ".x.b.additionalProperties", "got none"),
        *(
            (strict({"a": {keyword: {}}}), f".properties.a.{keyword}", f", got {keyword}")
            for keyword in ("allOf", "not", "dependentRequired", "dependentSchemas", "if", "then", "else")
        ),
    ],
)
def test_a_fault_is_named_with_its_place(schema: dict[str, Any], path: str, message: str) -> None:
    found = fault(schema)
    assert found[0] == path
    assert message in found[1]


@pytest.mark.parametrize(
    ("most", "more", "path"),
    [
        (nested(10), nested(11), ".properties.a" * 10),
        (wide(5_000), wide(5_001), ".properties"),
        (wide(4, enum=list(range(250))), wide(4, enum=list(range(251))), ".properties.p0003.enum"),
        (
            strict({"a": {"enum": ["x" * 60] * 250}}),
            strict({"a": {"enum": ["x" * 60] * 251}}),
            ".properties.a.enum",
        ),
        (strict({"a": {"const": "x" * 119_999}}), strict({"a": {"const": "x" * 120_000}}), ".properties.a.const"),
        (
            strict({}, **{"$defs": {"x" * 120_000: TEXT}}),
            strict({}, **{"$defs": {"x" * 120_001: TEXT}}),
            ".$defs",
        ),
    ],
    ids=["levels", "properties", "enum values", "a long enum", "characters", "names of definitions"],
)
def test_a_schema_may_have_so_much_and_no_more(most: dict[str, Any], more: dict[str, Any], path: str) -> None:
    check_strict(most, WHERE)
    assert fault(more)[0] == path


def test_the_levels_of_a_definition_are_its_own() -> None:
    check_strict(strict({"a": {"$ref": "#/$defs/d"}}, **{"$defs": {"d": nested(10)}}), WHERE)


def test_the_first_fault_is_the_first_in_the_schema() -> None:
    schema = strict({"a": {"$ref": "#/$defs/d"}, "b": {"not": {}}}, **{"$defs": {"d": {"if": {}}}})
    assert fault(schema)[0] == ".properties.b.not"


def test_a_deep_schema_takes_neither_the_stack_nor_long() -> None:
    schema = strict({"a": nested(100_000, "array")})
    began = time.perf_counter()
    check_strict(schema, WHERE)
    assert time.perf_counter() - began < 5
