from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from abruzzi import RequestError
from abruzzi.guide import compile
from abruzzi.guide.examples import examples, names
from abruzzi.guide.node import Schema


def lines(shared: Path, name: str, step: int, first: int) -> Iterator[Any]:
    """Every `step`-th line of one of the files of real schemas."""
    with lzma.open(shared / "schemas" / f"{name}.jsonl.xz", "rt") as file:
        yield from map(json.loads, islice(file, first, None, step))


def made(schema: dict[str, Any]) -> Any:
    value = next(examples(Schema(schema).arguments))
    assert jsonschema_rs.validator_for(schema, validate_formats=True).is_valid(value), value
    return value


def of(value: Any, **beside: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": value}, "required": ["a"], **beside}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, ""),
        ({"type": "integer"}, 0),
        ({"type": ["integer", "null"]}, None),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "integer", "minimum": 17, "multipleOf": 5}, 20),
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"type": "string", "format": "date"}, "2000-01-01"),
        ({"enum": ["x", "y"]}, "x"),
        ({"const": {"b": [1]}}, {"b": [1]}),
        ({"type": "array", "items": {"enum": [4, 5]}, "minItems": 2}, [4, 4]),
        ({"type": "array", "items": {"enum": [4, 5]}, "minItems": 2, "uniqueItems": True}, [4, 5]),
        ({"type": "array", "contains": {"const": 7}}, [7]),
        ({"type": "array", "prefixItems": [{"type": "string"}], "contains": {"type": "number"}}, ["", 0]),
        ({"type": "object", "minProperties": 2, "additionalProperties": {"type": "null"}}, {"a": None, "b": None}),
        ({"type": "object", "required": ["x"], "dependentRequired": {"x": ["y"]}}, {"x": "", "y": ""}),
        ({"type": "string", "not": {"const": ""}}, "a"),
        ({"if": {"type": "string"}, "then": {"const": "x"}}, None),
        ({"enum": ["a", "b"], "const": "b"}, "b"),
        ({"type": "integer", "maximum": 2, "enum": [1.5, 2]}, 2),
        ({"type": "array", "contains": {"const": 7}, "minContains": 3}, [7, 7, 7]),
        ({"type": "array", "contains": {"const": 7}, "maxContains": 1, "minItems": 3}, ["", "", 7]),
        (
            {
                "type": "array",
                "maxItems": 1,
                "allOf": [{"contains": {"minimum": 5}}, {"contains": {"type": "integer"}}],
            },
            None,
        ),
        (
            {"type": "array", "contains": {"required": ["k"], "type": "object"}, "minContains": 2, "uniqueItems": True},
            None,
        ),
        ({"type": "array", "minItems": 3, "prefixItems": [{}], "unevaluatedItems": {"const": 4}}, ["", 4, 4]),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2, "not": {"contains": {"const": ""}}}, ["a", "a"]),
        ({"type": "integer", "allOf": [{"multipleOf": 6}, {"multipleOf": 4}], "minimum": 1}, 12),
        ({"type": "number", "allOf": [{"multipleOf": 0.1}, {"multipleOf": 0.25}], "exclusiveMinimum": 0}, 0.5),
        ({"type": "number", "multipleOf": 0.1, "minimum": 0.3, "maximum": 0.3}, 0.3),
        ({"type": "integer", "minimum": 1e18}, 10**18),
        ({"type": "integer", "exclusiveMaximum": -1e25}, None),
        ({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1.0000000000000004}, 1.0000000000000002),
        ({"type": "integer", "not": {"minimum": 0, "maximum": 100}}, -1),
        ({"type": "integer", "minimum": 0, "not": {"minimum": 0, "maximum": 100}}, 101),
        ({"type": "integer", "not": {"enum": list(range(-20, 60))}}, None),
        ({"type": "string", "not": {"enum": ["", "a", "b", "c", "d", "e", "f"]}}, None),
        ({"type": "string", "not": {"pattern": "[a-z]"}, "minLength": 3}, None),
        ({"type": "string", "not": {"maxLength": 99}}, "a" * 100),
        ({"type": "object", "not": {"required": ["b"]}, "minProperties": 1}, {"a": ""}),
        ({"type": "object", "not": {"properties": {"b": {"maximum": 500}}}}, {"b": 501}),
        ({"type": "object", "required": ["b"], "dependentSchemas": {"b": {"required": ["c"]}}}, {"b": "", "c": ""}),
        ({"type": "object", "if": {"properties": {"b": {"const": 1}}}, "then": False}, {"b": ""}),
        ({"type": "object", "minProperties": 1, "unevaluatedProperties": {"type": "null"}}, {"a": None}),
        ({"type": "object", "minProperties": 1, "properties": {"b": {"pattern": "^a$", "maxLength": 0}}}, None),
        ({"type": "object", "oneOf": [{"required": ["b"]}, {"properties": {"b": {"type": "null"}}}]}, None),
        ({"not": {"type": ["string", "null", "boolean"]}}, 0),
    ],
)
def test_an_example_is_short_and_valid(schema: dict[str, Any], expected: Any) -> None:
    value = made(of(schema))["a"]
    assert value == expected or expected is None


@pytest.mark.parametrize(
    "pattern",
    [
        "OK",
        r"\d{3}-[A-Z]{2}",
        r"^.*\.[Cc][Aa][Nn]$",
        r"^content/[^/]+\.(cas|rom)$",
        r"(\d+(mm|cm))@([-+]?\d+(\.\d+)?),\d",
        r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z",
        r"^(?=.*[A-Z])(?=.*\d).{8,}$",
        r"^(https?://)?([\da-z.-]+)\.([a-z.]{2,6})([/\w .-]*)*/?$",
        "^([0-9]+y)?([0-9]+w)?.$",
        "^a+$|^b{3}$",
        "[*+?]{2}",
        r"^(a|b)\1$",
        "(?i)^abc$",
    ],
)
def test_a_string_is_found_for_a_pattern(pattern: str) -> None:
    assert len(made(of({"type": "string", "pattern": pattern}))["a"]) < 40


def test_a_string_is_found_for_a_pattern_and_a_length() -> None:
    assert len(made(of({"type": "string", "pattern": "^[a-z][a-z0-9-]*$", "minLength": 12}))["a"]) == 12


@pytest.mark.parametrize("pattern", ["^[a-f0-9]{300}$", "^(ab){500}$", r"^[A-Z]{2}\d{600}$"])
def test_a_string_is_found_for_a_long_pattern(pattern: str) -> None:
    assert len(made(of({"type": "string", "pattern": pattern}))["a"]) >= 300


@pytest.mark.parametrize(
    "rule",
    [
        {"allOf": [{"pattern": "^[a-z]"}, {"pattern": "[0-9]$"}]},
        {"allOf": [{"pattern": "^x-"}, {"pattern": "-y$", "minLength": 20}]},
        {"format": "date", "pattern": "^2024-"},
        {"format": "email", "maxLength": 5},
        {"format": "email", "minLength": 60},
    ],
)
def test_a_string_is_found_for_several_rules(rule: dict[str, Any]) -> None:
    made(of({"type": "string", **rule}))


@pytest.mark.parametrize(
    "items",
    [
        {},
        {"type": "integer"},
        {"type": "integer", "minimum": 5, "maximum": 40},
        {"enum": list(range(30))},
        {"type": "string", "minLength": 5},
        {"type": "string", "pattern": "^[a-z]{3}$"},
        *({"type": "string", "format": name} for name in ("date", "date-time", "uuid", "email", "uri", "ipv4", "ipv6")),
        {"type": "object", "properties": {"n": {"type": "integer"}}, "additionalProperties": False, "required": ["n"]},
    ],
)
def test_items_that_must_differ_do(items: dict[str, Any]) -> None:
    count = 10 if items.get("type") == "object" else 30
    made(of({"type": "array", "items": items, "uniqueItems": True, "minItems": count}))


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"propertyNames": {"pattern": "^x-[a-z]+$"}},
        {"patternProperties": {"^x-[a-z]+$": {"type": "integer"}}, "additionalProperties": False},
    ],
)
def test_many_members_have_names(schema: dict[str, Any]) -> None:
    assert len(made({"type": "object", "minProperties": 100, **schema})) == 100


def test_a_member_that_nothing_satisfies_is_not_chosen() -> None:
    bad = {"type": "string", "pattern": "^a$", "maxLength": 0}
    schema = {"type": "object", "properties": {"bad": bad, "good": {"type": "null"}}, "minProperties": 1}
    assert made(schema) == {"good": None}
    assert "bad" not in names(Schema(schema).arguments.options[0])


@pytest.mark.parametrize(
    "rule",
    [{"minimum": 1e308}, {"exclusiveMinimum": 1e308}, {"type": "integer", "minimum": 10**305}, {"maximum": -1e308}],
)
def test_a_number_is_no_longer_than_the_reader_takes(rule: dict[str, Any]) -> None:
    assert len(json.dumps(made(of({"type": "number", **rule})))) < 50


@pytest.mark.parametrize(
    ("draft", "rule"),
    [
        ("04", {"type": "integer", "minimum": 0, "exclusiveMinimum": True}),
        ("04", {"type": "number", "minimum": 1, "not": {"maximum": 5}}),
        ("04", {"type": ["string", "null"], "not": {"type": "string", "minLength": 0}}),
        ("04", {"type": "object", "not": {"properties": {"b": {"maximum": 5}}, "additionalProperties": False}}),
        ("07", {"type": "object", "required": ["b"], "dependencies": {"b": ["c"], "c": {"minProperties": 3}}}),
        ("07", {"type": "array", "items": [{"const": 1}, {"const": 2}], "minItems": 3, "uniqueItems": True}),
    ],
)
def test_older_drafts_have_examples(draft: str, rule: dict[str, Any]) -> None:
    made(of(rule, **{"$schema": f"http://json-schema.org/draft-{draft}/schema#"}))


def test_what_a_search_costs_is_bounded() -> None:
    never = {"type": "string", "pattern": "^a+$", "not": {"pattern": "a"}}
    twice = {
        "type": "object",
        "required": ["l", "r"],
        "properties": {"l": {"$ref": "#/$defs/a"}, "r": {"$ref": "#/$defs/a"}},
    }
    found = examples(Schema(of({"$ref": "#/$defs/a"}, **{"$defs": {"a": {"anyOf": [never, twice]}}})).arguments)
    assert next(found, None) is None


def test_a_value_that_holds_itself_is_found_where_it_may_end() -> None:
    tree = {"type": "object", "properties": {"of": {"type": "array", "items": {"$ref": "#"}}}, "required": ["of"]}
    assert made(tree) == {"of": []}


def test_values_are_found_far_inside_and_behind_what_has_none() -> None:
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    for _ in range(40):
        schema = of(schema)
    made(schema)
    never = {"type": "array", "contains": {}, "maxContains": 0}
    assert made({"type": "object", "minProperties": 1, "properties": {"b": never}}) == {"a": ""}


def test_members_of_no_schema_of_their_own_become_what_the_others_ask_for() -> None:
    made({"type": "object", "required": ["a", "b"], "unevaluatedProperties": {"type": "number"}})
    made({"type": "object", "oneOf": [{"additionalProperties": False}, {}]})


def test_where_nothing_fits_nothing_is_made_up() -> None:
    assert not list(examples(Schema(of({"type": "string", "pattern": "^a", "not": {"minLength": 1}})).arguments))


@pytest.mark.parametrize(("name", "step"), [("mcp_tools", 12), ("maskbench", 24), ("mfjs", 2)])
def test_examples_of_real_schemas_are_valid(shared: Path, name: str, step: int) -> None:
    count = 0
    for line in lines(shared, name, step, 1):
        if name == "mcp_tools":
            schema = line["tool"]["function"]["parameters"]
        elif name == "mfjs" and not line["valid"]:
            continue
        else:
            schema = line["schema"] if name == "maskbench" else json.loads(line["schema"])
        try:
            arguments = compile(schema)
        except RequestError:
            continue
        found = list(islice(examples(arguments.schema.arguments), 3))
        assert found, schema
        for value in found:
            assert arguments.fault(json.dumps(value)) is None, value
        count += 1
    assert count > 20
