from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi import Tool
from abruzzi.protocol.declare import json_declaration, signatures
from tests.conftest import PING, WEATHER

A = {"type": "object", "properties": {"a": {"type": "string", "description": "An a"}}, "required": ["a"]}
B = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(0, 1), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(), _VALUES, max_size=3), max_size=3))
def test_json_is_written_as_python_writes_it(schemas: list[dict[str, Any]]) -> None:
    tools = [Tool("f", "g", schema) for schema in schemas]
    told = [tool.to_openai() for tool in tools]
    try:
        written = json.dumps(told, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    except TypeError:  # names of different types
        with pytest.raises(TypeError):
            json_declaration(tools)
    else:
        assert json_declaration(tools) == written


def test_a_tool_is_a_line() -> None:
    assert signatures([WEATHER, PING]) == (
        'get_weather(location: string /* Name of the city */, unit?: "c" | "f"): Get the weather of a city.\n'
        "ping(): Check the connection."
    )


def test_a_schema_that_refers_to_itself_often_stays_short() -> None:
    node = {"$ref": "#/$defs/N"}
    names = {name: {"anyOf": [node, {"type": "array", "items": node}]} for name in "abcdefgh"}
    assert (
        len(signatures([Tool("f", None, {**node, "$defs": {"N": {"type": "object", "properties": names}}})])) < 60_000
    )


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": A}}, "a: string /* An a */"),
        ({"allOf": [A, B]}, "a: string /* An a */, b: integer"),
        ({"properties": {"c": {}}, "allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": A}},
         "c?: any, a: string /* An a */"),
        ({"anyOf": [A, B]}, "a?: string /* An a */, b?: integer"),
        ({"oneOf": [A, {"allOf": [A, B]}]}, "a: string /* An a */, b?: integer"),
        ({"anyOf": [B, {"properties": {"b": {"type": "string"}}}]}, "b?: integer | string"),
        ({"additionalProperties": {"type": "string"}, "minProperties": 1}, "[name: string]: string"),
        ({"required": ["x"]}, "x: any"),
        ({"properties": {"a": {"type": "array", "items": {"$ref": "#/properties/b/anyOf/1"}},
                         "b": {"anyOf": [{"type": "null"}, {"type": "number"}]}}}, "a?: number[], b?: null | number"),
        ({"properties": {"a": {**A, "anyOf": [{"required": ["x"]}]}}}, "a?: {a: string, x: any}"),
        ({"properties": {"a": {"$ref": "#/properties/a"}}}, "a?: any"),
        ({"properties": {"a": {"allOf": 3, "anyOf": None, "required": "x"}}, "required": None}, "a?: any"),
    ],
)  # fmt: skip
def test_parameters_are_shown_wherever_the_schema_has_them(parameters: dict[str, Any], shown: str) -> None:
    assert signatures([Tool("f", None, {"type": "object", **parameters})]) == f"f({shown})"
