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
from abruzzi.guide.examples import examples
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
        ({"type": "string", "not": {"const": ""}}, "b"),
        ({"if": {"type": "string"}, "then": {"const": "x"}}, None),
        ({"enum": ["a", "b"], "const": "b"}, "b"),
        ({"type": "integer", "maximum": 2, "enum": [1.5, 2]}, 2),
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
    ],
)
def test_a_string_is_found_for_a_pattern(pattern: str) -> None:
    assert len(made(of({"type": "string", "pattern": pattern}))["a"]) < 40


def test_a_string_is_found_for_a_pattern_and_a_length() -> None:
    assert len(made(of({"type": "string", "pattern": "^[a-z][a-z0-9-]*$", "minLength": 12}))["a"]) == 12


def test_a_value_that_holds_itself_is_found_where_it_may_end() -> None:
    tree = {"type": "object", "properties": {"of": {"type": "array", "items": {"$ref": "#"}}}, "required": ["of"]}
    assert made(tree) == {"of": []}


def test_members_of_no_schema_of_their_own_become_what_the_others_ask_for() -> None:
    made({"type": "object", "required": ["a", "b"], "unevaluatedProperties": {"type": "number"}})
    made({"type": "object", "oneOf": [{"additionalProperties": False}, {}]})


def test_where_nothing_fits_nothing_is_made_up() -> None:
    assert not list(examples(Schema(of({"type": "string", "not": {"maxLength": 99}})).arguments))


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
        found = list(islice(examples(arguments._schema.arguments), 3))
        assert found, schema
        for value in found:
            assert arguments.fault(json.dumps(value)) is None, value
        count += 1
    assert count > 20
