from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from abruzzi import RequestError
from abruzzi.guide import accepts, compile
from abruzzi.guide.node import Node, Schema
from abruzzi.guide.parts import key_of, kind_of

DRAFT_4 = "http://json-schema.org/draft-04/schema#"
DRAFT_6 = "http://json-schema.org/draft-06/schema#"
DRAFT_7 = "http://json-schema.org/draft-07/schema#"


def of(value: Any, **beside: Any) -> dict[str, Any]:
    """A schema of objects whose member `a` is of this one."""
    return {"type": "object", "properties": {"a": value}, "required": ["a"], **beside}


def allows(schema: dict[str, Any], value: Any) -> bool:
    return accepts(schema, json.dumps({"a": value}))


def node_of_a(schema: dict[str, Any]) -> Node:
    node = Schema(schema).arguments.options[0].member("a")
    assert node is not None
    return node


@pytest.mark.parametrize("draft", [DRAFT_4, DRAFT_6, DRAFT_7])
def test_in_old_drafts_nothing_counts_beside_a_reference(draft: str) -> None:
    value = {"$ref": "#/definitions/n", "maximum": 3}
    beside: dict[str, Any] = {"definitions": {"n": {"type": "integer"}}}
    assert allows(of(value, **beside, **{"$schema": draft}), 9)
    assert not allows(of(value, **beside, **{"$schema": draft}), "x")
    assert not allows(of(value, **beside), 9)


def test_in_old_drafts_nothing_at_all_counts_beside_a_reference() -> None:
    beside: dict[str, Any] = {"definitions": {"s": {"type": "string"}, "any": {}}, "$schema": DRAFT_7}
    assert allows(of({"$ref": "#/definitions/s", "not": {}}, **beside), "x")
    assert not allows(of({"$ref": "#/definitions/s", "not": {}}, **beside), 1)
    kinds = [of({"$ref": "#/definitions/any", "const": one}) for one in (1, 2)]
    assert not allows(
        {"type": "object", "properties": {"b": {}}, "oneOf": [*kinds, of({}, required=["b"])], **beside}, 1
    )
    names = {"$ref": "#/definitions/s", "enum": ["b"]}
    assert allows(of({}, propertyNames=names, **beside), 1)


@pytest.mark.parametrize("draft", [DRAFT_4, DRAFT_6, DRAFT_7])
def test_in_old_drafts_a_list_of_items_is_of_the_first_ones(draft: str) -> None:
    schema = of({"type": "array", "items": [{"type": "integer"}], "additionalItems": False}, **{"$schema": draft})
    assert allows(schema, [1]) and allows(schema, [])
    assert not allows(schema, ["x"]) and not allows(schema, [1, 2])


def test_draft_4_has_bounds_that_exclude_by_a_boolean_and_no_integer_with_a_point() -> None:
    schema = of({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, **{"$schema": DRAFT_4})
    assert allows(schema, 2)
    assert not allows(schema, 1) and not allows(schema, 2.0)
    assert allows(of({"type": "integer"}, **{"$schema": DRAFT_6}), 2.0)


def test_what_a_draft_does_not_have_is_not_heeded() -> None:
    for draft, keyword, value, fits in (
        (DRAFT_4, "const", 1, 2),
        (DRAFT_4, "propertyNames", {"maxLength": 1}, {"xy": 1}),
        (DRAFT_6, "if", True, 1),
        (DRAFT_7, "dependentRequired", {"x": ["y"]}, {"x": 1}),
        ("https://json-schema.org/draft/2019-09/schema", "prefixItems", [{"type": "null"}], [1]),
    ):
        schema = of({keyword: value, "then": False}, **{"$schema": draft})
        assert allows(schema, fits), draft


def test_dependencies_of_old_drafts_are_held() -> None:
    schema = {"$schema": DRAFT_7, "type": "object", "dependencies": {"a": ["b"], "c": {"required": ["d"]}}}
    for value, valid in (({"a": 1}, False), ({"a": 1, "b": 1}, True), ({"c": 1}, False), ({"d": 1, "c": 1}, True)):
        assert accepts(schema, json.dumps(value)) is valid


@pytest.mark.parametrize(
    "schema",
    [
        of({"$ref": "#n"}, **{"$defs": {"n": {"$anchor": "n", "type": "integer"}}}),
        of({"$ref": "https://example.com/n"}, **{"$defs": {"n": {"$id": "https://example.com/n", "type": "integer"}}}),
        of({"$ref": "#/properties/b"}, properties={"a": {"$ref": "#/properties/b"}, "b": {"type": "integer"}}),
        of({"$dynamicRef": "#n"}, **{"$defs": {"n": {"$dynamicAnchor": "n", "type": "integer"}}}),
    ],
)
def test_references_in_any_way_hold(schema: dict[str, Any]) -> None:
    assert allows(schema, 1)
    assert not allows(schema, "x")


def test_where_only_the_whole_resolves_a_reference_the_whole_is_held() -> None:
    schema = of({"$ref": "https://example.com/n"}, **{"$defs": {"n": {"$id": "https://example.com/n", "type": "null"}}})
    assert Schema(schema).arguments.checks
    assert compile(schema).matcher().feed('{"a": null') == ""
    assert compile(schema).matcher().feed('{"a": null}') == '{"a": null}'


def test_where_a_part_resolves_it_the_part_is_held() -> None:
    schema = of(
        {"$ref": "https://example.com/#/$defs/n"}, **{"$id": "https://example.com/", "$defs": {"n": {"type": "null"}}}
    )
    assert compile(schema).matcher().feed('{"a": nul') == '{"a": '
    matcher = compile(schema).matcher()
    assert matcher.feed('{"a": 1') == '{"a": ' and matcher.feed("}") == "" and matcher.fault
    matcher.recover()
    assert matcher.feed("null}") == "null}"


@pytest.mark.parametrize(
    ("reference", "definitions"),
    [
        ("#/$defs/a%20b", {"a b": {"type": "integer"}}),
        ("#/$defs/%C3%A9~1~0%25", {"é/~%": {"type": "integer"}}),
        ("#/$defs/", {"": {"type": "integer"}}),
        ("#n", {"x": {"$anchor": "n", "type": "integer"}}),
        ("#n", {"x": {"$dynamicAnchor": "n", "type": "integer"}}),
    ],
)
def test_a_reference_into_the_schema_is_followed_however_it_is_written(reference: str, definitions: Any) -> None:
    schema = of({"$ref": reference}, **{"$defs": definitions})
    assert not node_of_a(schema).checks and not Schema(schema).arguments.checks
    assert compile(schema).matcher().feed('{"a": "') == '{"a": '
    assert allows(schema, 1) and not allows(schema, "x")


@pytest.mark.parametrize(
    ("schema", "fits", "does_not"),
    [
        ({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}}}, {}, []),
        (of({"$ref": "#/properties/a"}), {"a": 1}, {}),
        ({"allOf": [{"$ref": "#"}, {"required": ["a"]}]}, {"a": 1}, {}),
        ({"oneOf": [{"$ref": "#"}, {"required": ["a"]}]}, {}, {"a": 1}),
    ],
)
def test_a_reference_that_leads_to_itself_is_left_to_the_validator(schema: Any, fits: Any, does_not: Any) -> None:
    assert accepts(schema, json.dumps(fits))
    assert not accepts(schema, json.dumps(does_not))


def test_an_anchor_of_old_drafts_is_an_id() -> None:
    for draft, key in ((DRAFT_4, "id"), (DRAFT_6, "$id"), (DRAFT_7, "$id")):
        value = {"definitions": {"x": {key: "#n", "type": "integer"}}, "$schema": draft}
        schema = of({"$ref": "#n"}, **value)
        assert compile(schema).matcher().feed('{"a": "') == '{"a": '
        assert allows(schema, 1) and not allows(schema, "x")


def test_a_part_with_an_address_of_its_own_holds_the_whole() -> None:
    inner = {"$id": "inner", "$defs": {"n": {"type": "null"}}, "properties": {"b": {"$ref": "#/$defs/n"}}}
    schema = of(inner, **{"$defs": {"n": {"type": "string"}}})
    assert compile(schema).matcher().feed('{"a": {"b": null}') == ""
    assert allows(schema, {"b": None}) and not allows(schema, {"b": "x"})


@pytest.mark.parametrize(
    "options",
    [
        [{"type": "string"}, {"type": "integer"}],
        [{"const": "x"}, {"enum": ["y", "z"]}],
        [
            {"type": "object", "properties": {"kind": {"const": "x"}}, "required": ["kind"]},
            {"type": "object", "properties": {"kind": {"enum": ["y"]}}, "required": ["kind"]},
        ],
    ],
)
def test_options_of_a_one_of_that_exclude_each_other_are_not_held(options: list[Any]) -> None:
    assert not node_of_a(of({"oneOf": options})).checks


@pytest.mark.parametrize(
    "value",
    [
        {"oneOf": [{"type": "number"}, {"type": "integer"}]},
        {"oneOf": [{"type": "object", "properties": {"x": {"const": 1}}}, {"type": "object"}]},
        {"not": {"type": "string"}},
        {"type": "array", "contains": True},
        {"contains": False},
        {"type": "array", "uniqueItems": True},
        {"if": {"type": "string"}, "then": {"minLength": 2}},
        {"enum": [{"x": 1}]},
        {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(5)]} for i in range(4)]},
    ],
)
def test_what_cannot_be_decided_on_the_way_is_held(value: Any) -> None:
    assert node_of_a(of(value, **{"$defs": {"x": {"maxLength": 2}}})).checks


@pytest.mark.parametrize(
    "value",
    [True, {}, {"type": "array", "uniqueItems": False}, {"if": {"type": "string"}}, {"unevaluatedProperties": True}],
)
def test_what_says_nothing_is_not_held(value: Any) -> None:
    node = Schema(of(value)).arguments.options[0].member("a")
    assert node is not None and not node.checks


@pytest.mark.parametrize(
    "schema",
    [
        of(False),
        of({"not": {}}),
        of({"type": "string", "enum": [1, 2]}),
        of({"enum": ["a"], "const": "b"}),
        of({"type": "string", "minLength": 3, "maxLength": 2}),
        of({"minimum": 3, "maximum": 2, "type": "integer"}),
        of({"allOf": [{"type": "string"}, {"type": "null"}]}),
        of({"anyOf": [{"type": "string"}]}, allOf=[of({"type": "null"})]),
        of({}, maxProperties=1, minProperties=2),
        {"type": "object", "required": ["b"], "additionalProperties": False},
        {"type": "object", "required": ["ab"], "propertyNames": {"maxLength": 1}},
        {"type": "object", "minProperties": 2, "properties": {"b": {}}, "additionalProperties": False},
        of({"$ref": "#"}),
        of({"type": "array", "items": {"$ref": "#"}, "minItems": 1}),
        of({"type": "array", "prefixItems": [{}, False], "minItems": 2}),
        of({"const": {"b": 1}, "additionalProperties": False}),
        of({"oneOf": [True, True]}),
        of({"oneOf": [{}, {"description": "any"}, {"type": "string"}]}),
        of({"exclusiveMinimum": 3, "maximum": 3, "type": "number"}),
        of({"exclusiveMinimum": 3, "exclusiveMaximum": 4, "type": "integer"}),
        of({"minimum": 1.2, "maximum": 1.8, "type": "integer"}),
        of({"minimum": 1, "maximum": 9, "multipleOf": 5, "allOf": [{"multipleOf": 2}], "type": "number"}),
        of({"minimum": 10**309, "type": "integer"}),
        of({"type": "string", "minLength": 10**9}),
        of({"type": "array", "minItems": 10**9}),
        of({}, dependentRequired={"a": ["b"], "b": ["c"]}, maxProperties=2),
        of({}, dependentRequired={"a": ["b"], "b": ["c"]}, properties={"a": {}, "c": False}),
        {"not": {"type": "object"}},
        {"not": {"not": {"type": ["string", "null"]}}},
        {"not": {"anyOf": [{"type": "string"}, {"description": "any"}]}},
        {"type": "object", "not": {"properties": {}}},
        {"type": "object", "not": {"minLength": 2}},
        {"if": True, "then": False},
        {"if": {"type": "object"}, "then": {"type": "string"}},
        {"if": {"type": "string"}, "else": {"type": "string"}},
        {"oneOf": [{"type": "object"}, {"type": "object", "title": "again"}]},
        {"required": ["a"], "unevaluatedProperties": False},
        of({}, dependentSchemas={"a": False}),
        of({}, dependentSchemas={"a": {"not": {}}}),
        of({}, **{"$schema": DRAFT_7}, dependencies={"a": False}),
        {"allOf": [{"required": ["a"]}, {"not": {"required": ["a"]}}]},
        of({"const": 1, "not": {"const": 1}}),
        of(
            {"enum": [1, "x"], "allOf": [{"not": {"type": "integer"}}, {"not": {"$ref": "#/$defs/s"}}]},
            **{"$defs": {"s": {"type": "string"}}},
        ),
        of({"enum": [1, 2], "if": {"type": "number"}, "then": {"minimum": 3}}),
        of({"type": "array", "contains": False}),
        of({"type": "array", "contains": {}, "minContains": 3, "maxItems": 2}),
        of({"type": "array", "contains": {}, "minContains": 3, "maxContains": 2}),
        of({"type": "array", "items": {"type": "boolean"}, "minItems": 3, "uniqueItems": True}),
        of({"type": "array", "items": {"enum": ["x", 1, 1.0]}, "minItems": 3, "uniqueItems": True}),
        of({"type": "string", "pattern": "^a$", "minLength": 2}),
        of({"type": "string", "pattern": "^(a|bb)$", "minLength": 3}),
        {"propertyNames": {"maxLength": 0}, "minProperties": 2},
        {"propertyNames": {"pattern": "^(a|b)$"}, "minProperties": 3},
        of({"type": "number", "multipleOf": 0.5, "minimum": 0.1, "maximum": 0.4}),
    ],
)
def test_a_schema_that_nothing_satisfies_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Schema(schema)
    with pytest.raises(RequestError, match=r"no object (that a turn has room for )?satisfies it"):
        compile(schema)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"not": {"type": "string"}}, {}),
        ({"not": {"required": ["b"]}}, {"a": 1}),
        ({"if": {"required": ["a"]}, "then": False}, {}),
        ({"oneOf": [{"maxProperties": 0}, {"maxProperties": 0}, {"minProperties": 1}]}, {"a": 1}),
        ({"oneOf": [{"properties": {"a": {"const": one}}} for one in (1, True)]}, {"a": True}),
        ({"unevaluatedProperties": False}, {}),
        ({"unevaluatedProperties": False, "allOf": [of({})]}, {"a": 1}),
        ({"dependentSchemas": {"a": False}}, {"b": 1}),
        (of({"enum": [1, 2], "not": {"const": 1}}), {"a": 2}),
        (of({"contains": False}), {"a": 1}),
        (of({"contains": False, "minContains": 0}), {"a": [1]}),
        (
            of({"items": {"type": "boolean"}, "minItems": 3, "uniqueItems": True, "prefixItems": [{}]}),
            {"a": [1, True, False]},
        ),
        (of({"pattern": "^a$", "minLength": 2}), {"a": 1}),
        (of({"pattern": "^a|b$", "minLength": 2}), {"a": "ax"}),
        ({"propertyNames": {"maxLength": 0}, "minProperties": 1}, {"": 1}),
        (of({"multipleOf": 0.1, "minimum": 0.3, "maximum": 0.35}), {"a": 0.3}),
        (of({"multipleOf": 0.5, "minimum": 0.1, "maximum": 0.4}), {"a": "x"}),
    ],
)
def test_what_something_satisfies_is_never_refused(schema: dict[str, Any], value: Any) -> None:
    assert jsonschema_rs.validator_for(schema).is_valid(value)
    assert accepts(schema, json.dumps(value))


def test_bounds_that_leave_something_are_no_contradiction() -> None:
    for value, fits in (
        ({"minimum": 3, "maximum": 3, "type": "integer"}, 3),
        ({"exclusiveMinimum": 3, "exclusiveMaximum": 4, "type": "number"}, 3.5),
        ({"exclusiveMinimum": -1.5, "maximum": -0.5, "type": "integer"}, -1),
        ({"minimum": 1, "maximum": 9, "multipleOf": 3, "allOf": [{"multipleOf": 2}]}, 6),
        ({"oneOf": [True, {"type": "string"}]}, 1),
    ):
        assert allows(of(value), fits), value


def test_the_member_is_named_that_cannot_be() -> None:
    void = {"type": "integer", "minimum": 2, "maximum": 1}
    inner = {"type": "array", "minItems": 1, "items": of(void)}
    for schema, path in (
        (of(void), "parameters.properties.a"),
        (of(inner), "parameters.properties.a.items.properties.a"),
        (of({"$ref": "#/$defs/x"}, **{"$defs": {"x": of(void)}}), "parameters.properties.a"),
        (of({}, maxProperties=0), "parameters"),
    ):
        with pytest.raises(RequestError) as caught:
            compile(schema)
        assert caught.value.param == path


def test_a_member_that_nothing_satisfies_may_not_be_there() -> None:
    void = {"type": "object", "required": ["x"], "additionalProperties": False}
    for value in (False, void, {"not": {}}, {"anyOf": [False, void]}, {"type": ["object"], "allOf": [void]}):
        schema = {"type": "object", "properties": {"a": value, "b": {}}, "additionalProperties": False}
        assert Schema(schema).arguments.options[0].names == ("b",)
        assert accepts(schema, '{"b": 1}')


def test_an_option_that_nothing_satisfies_is_none() -> None:
    void = {"type": "object", "required": ["x"], "additionalProperties": False}
    node = node_of_a(of({"anyOf": [void, {"type": "string"}, {**void, "type": ["object", "null"]}]}))
    assert [set(option.kinds) for option in node.options] == [{"string"}, {"null"}]


def test_members_that_hold_their_own_kind_are_fine_where_they_need_not_be_there() -> None:
    tree = {
        "type": "object",
        "properties": {"next": {"$ref": "#"}, "v": {"type": "null"}},
        "additionalProperties": False,
    }
    assert accepts({**tree, "minProperties": 1}, '{"next": {"next": {"v": null}}}')
    assert not accepts({**tree, "minProperties": 1}, '{"next": {}}')


def test_more_alternatives_than_can_be_followed_are_checked_when_whole() -> None:
    value = {"allOf": [{"anyOf": [{"required": [f"{i}{j}"]} for j in range(5)]} for i in range(4)]}
    node = node_of_a(of(value))
    assert len(node.options) == 1 and node.checks
    assert allows(of(value), {"00": 1, "11": 1, "22": 1, "33": 1})
    assert not allows(of(value), {"00": 1, "11": 1, "22": 1})


def test_what_is_needed_by_many_ways_is_looked_at_once() -> None:
    levels: dict[str, Any] = {
        str(i): {
            "type": "object",
            "properties": {"a": {"$ref": f"#/$defs/{i + 1}"}, "b": {"$ref": f"#/$defs/{i + 1}"}},
            "required": ["a", "b"],
        }
        for i in range(60)
    }
    assert Schema(of({"$ref": "#/$defs/0"}, **{"$defs": {**levels, "60": {"type": "null"}}})).arguments.options


def test_values_are_equal_as_json_schema_has_it() -> None:
    assert key_of(1) == key_of(1.0) != key_of(True)
    assert key_of({"a": [1], "b": 0}) == key_of({"b": False - 0, "a": [1.0]})
    assert key_of([]) != key_of({}) and key_of(0) != key_of(False)
    kinds = [kind_of(value) for value in (None, True, 1, 1.5, "", [], {})]
    assert kinds == ["null", "boolean", "number", "number", "string", "array", "object"]


def test_chains_of_references_and_of_members_that_must_be_there_may_be_long() -> None:
    def chain(link: Any) -> dict[str, Any]:
        return {**{str(i): link(f"#/$defs/{i + 1}") for i in range(500)}, "500": {"type": "null"}}

    for link, text in (
        (lambda ref: {"$ref": ref}, "null"),
        (lambda ref: {"allOf": [{"$ref": ref}]}, "null"),
        (lambda ref: of({"$ref": ref}), '{"a": {"a'),
    ):
        schema = of({"$ref": "#/$defs/0"}, **{"$defs": chain(link)})
        assert compile(schema).matcher().feed(f'{{"a": {text}}}')
        optional = {**schema, "required": []}
        assert compile(optional).matcher().feed(f'{{"a": {text}}}')


def test_what_is_equal_from_here_is_followed_once() -> None:
    tree = {"$ref": "#/$defs/tree"}
    variants = [
        {"properties": {"of": {"type": "array", "items": tree}, "kind": {"const": kind}}, "required": ["of", "kind"]}
        for kind in "abcde"
    ]
    schema = of(tree, **{"$defs": {"tree": {"type": "object", "anyOf": variants}}})
    matcher = compile(schema).matcher()
    matcher.feed('{"a": ' + '{"of": [' * 40)
    assert matcher.fault is None
    matcher.feed('], "kind": "x"')
    assert matcher.fault
