from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from abruzzi import RequestError, Tool
from abruzzi.guide import accepts, compile
from abruzzi.guide.grammar import Grammar
from abruzzi.guide.schema import Schemas, arguments_schema, closed
from tests.conftest import PING, WEATHER


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ('{"location": "Rome"}', None),
        ('{"location": "Rome", "unit": "c"}', None),
        ("{}", "location"),
        ('{"location": 1}', r"\$\.location"),
        ('{"location": "Rome", "unit": "k"}', r"\$\.unit"),
        ('["Rome"]', "expected an object"),
        ('{"location": NaN}', "NaN"),
        ('{"location"', "expected JSON"),
        ('{"location": "Rome", "location": 1}', "two values for one name"),
        ('{"location": "Rome", "x": 1e999}', "no double"),
    ],
)
def test_the_fault_of_arguments_is_named_with_its_place(arguments: str, fault: str | None) -> None:
    found = Schemas([WEATHER]).fault("get_weather", arguments)
    if fault is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(fault, found)


def test_a_tool_without_parameters_takes_the_empty_object_only() -> None:
    schemas = Schemas([PING])
    assert schemas.fault("ping", "{}") is None
    assert schemas.fault("ping", '{"a": 1}')


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"type": "object", "properties": {"a": {"type": "strin"}}}, "tools[0].function.parameters.properties.a.type"),
        ({"type": "array"}, "tools[0].function.parameters.type"),
        (
            {"type": "object", "properties": {"a": {"$ref": "#/$defs/gone"}}},
            "tools[0].function.parameters.properties.a.$ref",
        ),
        (
            {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}},
            "tools[0].function.parameters.properties.a.$ref",
        ),
        ({"type": "object", "$ref": "file:///etc/hostname"}, "tools[0].function.parameters.$ref"),
    ],
)
def test_what_is_no_schema_is_refused_with_the_path_of_the_fault(parameters: dict[str, Any], place: str) -> None:
    with pytest.raises(RequestError) as caught:
        Schemas([Tool("f", None, parameters)])
    assert caught.value.param == place


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/draft", "file:///etc/hostname", "foo", "", 3])
def test_a_schema_of_ones_own_is_not_looked_up(address: Any) -> None:
    parameters = {"$schema": address, "type": "object", "properties": {"a": {"type": "integer"}}}
    assert Schemas([Tool("f", None, parameters)]).fault("f", '{"a": "x"}')


@pytest.mark.parametrize("odd", [{"required": None}, {"properties": None}, {"type": ["object", "null"]}])
def test_what_clients_send_and_no_draft_has_is_taken(odd: dict[str, Any]) -> None:
    assert Schemas([Tool("f", None, {"type": "object", **odd})]).fault("f", "{}") is None


@pytest.mark.parametrize("keyword", ["description", "enum", "format", "required", "items", "anyOf"])
def test_a_null_for_a_keyword_is_no_keyword_at_any_depth(keyword: str) -> None:
    odd = {"type": "array", "items": {"anyOf": [{"type": "string", keyword: None}]}}
    schemas = Schemas([Tool("f", None, {"type": "object", "properties": {"a": odd}})])
    assert schemas.fault("f", '{"a": ["x"]}') is None
    assert schemas.fault("f", '{"a": [1]}')


def test_a_null_that_is_data_stays() -> None:
    value = {"enum": [{"k": None}], "default": None, "examples": [{"k": None}]}
    schemas = Schemas([Tool("f", None, {"type": "object", "properties": {"a": value, "b": {"const": None}}})])
    assert schemas.fault("f", '{"a": {"k": null}, "b": null}') is None
    assert schemas.fault("f", '{"b": 1}')


def test_what_is_referred_to_must_be_a_schema_wherever_it_stands() -> None:
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "$defs": {"x": {"exclusiveMinimum": 3}}}
    for beside in ({"$ref": "#/$defs/x", **old}, {"$ref": "#/parts/x", "parts": {"x": {"minimum": "3"}}}):
        with pytest.raises(RequestError, match="no JSON Schema"):
            compile({"type": "object", "properties": {"a": beside}, **beside})


def test_names_of_members_are_no_keywords() -> None:
    for keyword, needed in (("dependentRequired", ["b"]), ("dependentSchemas", {"required": ["b"]})):
        schema = {"type": "object", keyword: {"$schema": needed, "default": needed}}
        assert not accepts(schema, '{"$schema": 1}')
        assert accepts(schema, '{"$schema": 1, "b": 2}')
    old = {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "dependencies": {"$schema": ["b"]}}
    assert not accepts(old, '{"$schema": 1}')


def test_a_pattern_may_be_large_and_one_that_is_too_large_is_told_of() -> None:
    def schema(pattern: str) -> dict[str, Any]:
        return {"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}

    assert accepts(schema(r"^\p{L}{1,500}$"), '{"a": "é"}')
    assert not accepts(schema(r"^\p{L}{1,500}$"), '{"a": "1"}')
    for pattern in ("(", "^.{1,100000}$"):
        with pytest.raises(RequestError, match="no regular expression, or one too large to be used") as caught:
            compile(schema(pattern))
        assert caught.value.param == "parameters.properties.a.pattern"


@pytest.mark.parametrize(("keyword", "most"), [("properties", 124), ("allOf", 124), ("not", 249)])
def test_a_schema_that_is_too_deep_is_told_of(keyword: str, most: int) -> None:
    for depth in (most, most + 6, 450):
        schema: dict[str, Any] = {"type": "object"}
        for _ in range(depth):
            below = {"properties": {"a": schema}, "allOf": [schema], "not": {"required": ["a"], **schema}}
            schema = {"type": "object", keyword: below[keyword]}
        if depth == most:
            compile(schema)
            continue
        with pytest.raises(RequestError, match="nested too deep: expected at most 250 objects and lists") as caught:
            compile(schema)
        assert caught.value.param == "parameters"


def test_a_schema_that_the_validator_would_not_be_done_with_is_refused() -> None:
    def diamonds(count: int) -> dict[str, Any]:
        both = {str(i): {"allOf": [{"$ref": f"#/$defs/{i + 1}"}] * 2} for i in range(count)}
        return {"type": "object", "$ref": "#/$defs/0", "$defs": {**both, str(count): {"required": ["a"]}}}

    assert accepts(diamonds(10), '{"a": 1}')
    with pytest.raises(RequestError, match="more than 1,000,000 schemas for one value"):
        compile(diamonds(30))


def test_schemas_that_hold_themselves_are_ordinary() -> None:
    kinds = [{"$ref": f"#/$defs/{name}"} for name in "abcdefgh"]
    members = {name: {"anyOf": kinds} for name in "xyz"}
    definitions = {name: {"properties": {**members, "k": {"const": name}}, "required": ["k"]} for name in "abcdefgh"}
    schema = {"type": "object", "anyOf": kinds, "$defs": definitions}
    assert accepts(schema, '{"x": {"y": {"z": {"k": "a"}, "k": "b"}, "k": "c"}, "k": "d"}')


def test_formats_are_checked() -> None:
    schemas = Schemas([Tool("f", None, {"type": "object", "properties": {"a": {"type": "string", "format": "date"}}})])
    assert schemas.fault("f", '{"a": "2024-02-29"}') is None
    assert schemas.fault("f", '{"a": "2023-02-29"}')


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(RequestError, match=r"tools\[1\]"):
        Schemas([PING, PING])


def test_objects_that_say_nothing_about_other_properties_are_shut() -> None:
    inner = {"type": "object", "properties": {"b": {}}}
    shut = closed({"type": "object", "properties": {"a": inner, "properties": {"type": "string"}}})
    assert shut["additionalProperties"] is False
    assert shut["properties"]["a"]["additionalProperties"] is False
    assert shut["properties"].keys() == {"a", "properties"}
    assert shut["properties"]["properties"] == {"type": "string"}
    for said in ({"additionalProperties": True}, {"allOf": [inner]}, {"$ref": "#"}, {"required": ["b"]}):
        assert closed({"properties": {}, **said}) == {"properties": {}, **said}


INNER: dict[str, Any] = {"type": "object", "properties": {"b": {}}}
SHUT = {**INNER, "additionalProperties": False}


@pytest.mark.parametrize(
    "put",
    [
        lambda inner: {"$defs": {"I": inner}},
        lambda inner: {"definitions": {"I": inner}},
        lambda inner: {"properties": {"a": {"anyOf": [inner, {"type": "null"}]}}, "additionalProperties": False},
        lambda inner: {"properties": {"a": {"allOf": [inner]}}, "additionalProperties": False},
        lambda inner: {"additionalProperties": inner},
        lambda inner: {"additionalProperties": {"prefixItems": [inner]}},
        lambda inner: {"oneOf": [inner, inner]},
    ],
)
def test_objects_are_shut_wherever_they_stand_for_a_whole(put: Callable[[Any], dict[str, Any]]) -> None:
    assert closed(put(INNER)) == put(SHUT)


@pytest.mark.parametrize(
    "pieced",
    [
        {"allOf": [INNER, {"$ref": "#/$defs/I"}], "$defs": {"I": INNER}},
        {"properties": {"a": {}}, "anyOf": [{"$ref": "#/$defs/I"}], "$defs": {"I": INNER}},
        {"properties": {"a": {}}, "$ref": "#/definitions/I", "definitions": {"I": INNER}},
        {"anyOf": [INNER], "oneOf": [INNER]},
        {"const": {"properties": {"b": {}}}},
    ],
)
def test_parts_of_objects_are_left_open(pieced: dict[str, Any]) -> None:
    assert closed(pieced) == pieced


def test_a_member_may_be_called_like_a_keyword() -> None:
    title = {"$ref": "#/properties/x", "not": {"const": "q"}}
    schema = {"properties": {"x": {"type": "string"}, "title": title}}
    assert accepts(schema, '{"title": "z"}')
    assert not accepts(schema, '{"title": "q"}')


@pytest.mark.parametrize("schema", [False, [], "object", 5])
def test_what_is_no_object_is_no_schema_of_arguments(schema: Any) -> None:
    with pytest.raises(RequestError):
        compile(schema)
    assert accepts(True, "{}")  # type: ignore[arg-type]


def test_what_is_no_text_is_not_accepted() -> None:
    assert not accepts({"type": "object"}, '{"a": "\ud800"}')
    assert not accepts({"type": "object"}, '{"a":' * 2000 + "1" + "}" * 2000)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a b": {"$ref": "#nope"}}}, ".properties.a b.$ref"),
        ({"allOf": [{"$ref": "other.json#/x"}]}, ".allOf[0].$ref"),
        ({"properties": {"a": {"$dynamicRef": "#nope"}}}, ".properties.a.$dynamicRef"),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"items": {"$ref": "#/$defs/a%20b"}}}}, ".$defs.x.items.$ref"),
        ({"$ref": "http://x.y/a/", "$defs": {"x": {"$id": "http://x.y/a/", "$ref": "c.json"}}}, ".$defs.x.$ref"),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(RequestError) as caught:
        compile(schema)
    assert caught.value.param == f"parameters{path}"


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"a": {"minimum": float("nan")}}}, ".properties.a.minimum"),
        ({"minProperties": float("-inf")}, ".minProperties"),
        ({"properties": {1: {}}}, ".properties"),
        ({"properties": {"a": {"enum": {"x"}}}}, ".properties.a.enum"),
        ({"required": ["a", b"b"]}, ".required[1]"),
        ({"properties": {"a": {"const": object()}}}, ".properties.a.const"),
    ],
)
def test_what_json_does_not_have_is_refused(schema: dict[str, Any], path: str) -> None:
    with pytest.raises(RequestError, match="is no JSON: expected") as caught:
        compile(schema)
    assert caught.value.param == f"parameters{path}"


def test_a_tuple_is_a_list() -> None:
    assert not accepts({"required": ("a",)}, "{}")


STRINGS = {"type": "array", "items": [{"type": "string"}]}


@pytest.mark.parametrize(
    ("value", "good", "bad"),
    [
        (STRINGS, '["x", 1]', "[1]"),
        ({**STRINGS, "additionalItems": False}, '["x"]', '["x", 1]'),
        ({"anyOf": [{"type": "null"}, STRINGS]}, '["x"]', "[1]"),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, "2", "1"),
        ({"type": "number", "maximum": 1, "exclusiveMaximum": True}, "0.5", "1"),
        ({"allOf": [{"$ref": "#/definitions/s"}]}, '["x"]', "[1]"),
    ],
)
def test_an_old_form_without_a_draft_is_read_as_its_draft(value: Any, good: str, bad: str) -> None:
    plain = {"type": "object", "properties": {"a": value}, "definitions": {"s": STRINGS}}
    for schema in (plain, {"$schema": "http://example.com/own", **plain}):
        assert accepts(schema, f'{{"a": {good}}}') and not accepts(schema, f'{{"a": {bad}}}')
        tool = Tool("f", None, schema)
        assert "draft-0" in arguments_schema(tool)["$schema"]
        assert not Grammar.for_turn([tool]).loose


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": STRINGS, "b": {"prefixItems": [{}]}}},
        {"properties": {"a": {"minimum": 1, "exclusiveMinimum": True}, "b": {"const": 1}}},
        {"properties": {"a": STRINGS}, "$defs": {}},
    ],
)
def test_what_is_of_two_drafts_is_of_none(schema: Any) -> None:
    with pytest.raises(RequestError, match="is no JSON Schema"):
        compile(schema)


def test_names_and_values_tell_of_no_draft() -> None:
    for schema in ({"properties": {"items": {"enum": [{"items": []}]}}}, {"definitions": {}, "id": "x"}):
        assert "$schema" not in arguments_schema(Tool("f", None, schema))


def test_a_member_that_nothing_satisfies_costs_no_request_its_grammar() -> None:
    old = {"$ref": "#/$defs/never"}
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "old": old}, "$defs": {"never": False}}
    assert accepts(schema, '{"a": "x"}') and not accepts(schema, '{"old": 1}')
    assert Grammar.for_turn([Tool("f", None, schema)]).loose
