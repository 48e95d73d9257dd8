from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.guide import accepts, compile, threads
from abruzzi.guide import matcher as matchers
from abruzzi.guide.matcher import Matcher

PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer"},
    },
    "required": ["city"],
    "additionalProperties": False,
}


def of(value: Any, **beside: Any) -> dict[str, Any]:
    """A schema of objects whose one member `a` is of this one."""
    return {"type": "object", "properties": {"a": value}, "additionalProperties": False, **beside}


def matcher_at(schema: dict[str, Any], text: str) -> Matcher:
    matcher = compile(schema).matcher()
    matcher.feed(text)
    return matcher


def ended(matcher: Matcher) -> str:
    for _ in range(400):
        if matcher.whole:
            return matcher.text
        matcher.feed(matcher.step())
        matcher.recover()
    raise AssertionError(f"no end of {matcher.text}")


# Where a text is cut


@pytest.mark.parametrize(
    ("schema", "stands", "rest"),
    [
        (PLACE, "", "x"),
        (PLACE, "", "[]"),
        (PLACE, "{", "}"),
        (PLACE, "{", ","),
        (PLACE, "{", "'city'"),
        (PLACE, '{"', 'town": 1}'),
        (PLACE, '{"c', 'ountry": 1}'),
        (PLACE, '{"city', 'x": 1}'),
        (PLACE, '{"city" ', '"x"}'),
        (PLACE, '{"city": ', "1}"),
        (PLACE, '{"city": ', "null}"),
        (PLACE, '{"city": "a', "\n"),
        (PLACE, '{"city": "a', '\\x"'),
        (PLACE, '{"city": "a"', "]"),
        (PLACE, '{"city": "a"', '"'),
        (PLACE, '{"city": "a"', ",}"),
        (PLACE, '{"city": "a" ', ", ,"),
        (PLACE, '{"city": "a", "', 'city": "b"}'),
        (PLACE, '{"unit": "', 'kelvin"}'),
        (PLACE, '{"unit": "celsius', '!"}'),
        (PLACE, '{"unit": "c', '"}'),
        (PLACE, '{"unit": "celsius"', "}"),
        (PLACE, '{"city": "a", "days": ', "1.5}"),
        (PLACE, '{"city": "a", "days": -', "}"),
        (PLACE, '{"city": "a", "days": ', "01}"),
        (PLACE, '{"city": "a"}', "}"),
        (PLACE, '{"city": "a"} \n', "x"),
        (of({"type": "boolean"}), '{"a": tr', "Ue}"),
        (of({"type": "boolean"}), '{"a": ', "True}"),
        (of({"const": None}), '{"a": ', "true}"),
        (of({"enum": [True, "x"]}), '{"a": ', "false}"),
        (of({"type": "array", "maxItems": 1}), '{"a": [""', ",1]}"),
        (of({"type": "array", "maxItems": 0}), '{"a": [', "1]}"),
        (of({"type": "array", "minItems": 2}), '{"a": [""', "]}"),
        (of({"type": "array"}), '{"a": [""', ", ]}"),
        (of({"type": "array", "prefixItems": [{"type": "null"}], "items": False}), '{"a": [null', ",1]}"),
        (of({"type": "array", "items": {"type": "string"}}), '{"a": ["x", ', "null]}"),
        (of({"type": "string", "maxLength": 2}), '{"a": "xy', 'z"}'),
        (of({"type": "string", "maxLength": 2}), '{"a": "x\\u00e9', 'z"}'),
        (of({"type": "string", "maxLength": 1}), '{"a": "\\ud83d\\ude00', 'z"}'),
        (of({"type": "string", "minLength": 2}), '{"a": "x', '"}'),
        (of({"type": "string", "maxLength": 1}), '{"a": "', '\\q"}'),
        (of({}, minProperties=1), "{", "}"),
        ({"type": "object", "maxProperties": 1}, '{"a": ""', ","),
        ({"type": "object", "additionalProperties": {"type": "null"}}, '{"a": ', "1}"),
        ({"type": "object", "patternProperties": {"^n": {"type": "null"}}}, '{"no": ', "1}"),
        ({"type": "object", "required": ["b"], "maxProperties": 1}, '{"', 'a": 1}'),
        ({"type": "object", "dependentRequired": {"a": ["b"]}}, '{"a": ""', "}"),
        ({"type": "object", "dependentRequired": {"a": ["b"], "b": ["c"]}, "maxProperties": 2}, '{"a', '": 1'),
        (of(False), "{", '"a": 1}'),
        (of(True), '{"a": [{"x": ""}', "}"),
    ],
)
def test_a_text_is_cut_exactly_before_what_no_valid_one_has(schema: dict[str, Any], stands: str, rest: str) -> None:
    for pieces in ([stands + rest], [stands, rest], [*stands, *rest]):
        matcher = compile(schema).matcher()
        out = ""
        for piece in pieces:
            out += matcher.feed(piece)
            if matcher.fault:
                break
        assert matcher.fault
        held = matcher.pending
        assert stands.startswith(out + held)
        # A number and a member's name tell at their end, and are let go.
        assert out + held == stands or rest[0] in '123456789"', (out, held)


@pytest.mark.parametrize(
    ("value", "text", "valid"),
    [
        ({"type": "number", "minimum": 10}, "9", False),
        ({"type": "number", "minimum": 10}, "1e1", True),
        ({"type": "integer", "multipleOf": 5}, "12", False),
        ({"type": "integer"}, "1.0", True),
        ({"enum": [1, 2]}, "1.0", True),
        ({"enum": [1, 2]}, "12", False),
        ({"const": 0}, "-0", True),
        ({"type": "number"}, "1e999", False),
        ({"type": "number"}, "1" * 301, False),
        ({"type": "string", "format": "date"}, '"2023-02-29"', False),
        ({"type": "string", "format": "date"}, '"2024-02-29"', True),
        ({"type": "string", "format": "email"}, '"a"', False),
        ({"type": "string", "pattern": "^(?!x)"}, '"x"', False),
        ({"type": "string", "format": "of my own"}, '"x"', True),
        ({"type": "array", "uniqueItems": True}, "[1, 1.0]", False),
        ({"type": "array", "uniqueItems": True}, '[1, true, "1"]', True),
        ({"not": {"type": "string"}}, '"x"', False),
        ({"not": {"required": ["x"]}}, '{"x": 1}', False),
        ({"not": {"required": ["x"]}}, '{"y": 1}', True),
        ({"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"type": "null"}}, '"x"', False),
        ({"if": {"type": "string"}, "then": {"minLength": 2}, "else": {"type": "null"}}, "null", True),
        ({"type": "array", "contains": {"type": "null"}}, "[1, 2]", False),
        ({"type": "array", "contains": {"type": "null"}, "maxContains": 1}, "[null, 1]", True),
        ({"type": "array", "contains": {"type": "null"}, "maxContains": 1}, "[null, null]", False),
        ({"dependentSchemas": {"x": {"required": ["y"]}}, "type": "object"}, '{"x": 1}', False),
        ({"dependentSchemas": {"x": {"required": ["y"]}}, "type": "object"}, '{"y": 1, "x": 1}', True),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "1", False),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "1.5", True),
        ({"oneOf": [{"required": ["x"]}, {"required": ["y"]}], "type": "object"}, '{"x": 1, "y": 1}', False),
        ({"oneOf": [{"required": ["x"]}, {"required": ["y"]}], "type": "object"}, '{"y": 1}', True),
        ({"allOf": [{"properties": {"x": {}}}], "unevaluatedProperties": False, "type": "object"}, '{"y": 1}', False),
        ({"allOf": [{"properties": {"x": {}}}], "unevaluatedProperties": False, "type": "object"}, '{"x": 1}', True),
        ({"enum": [{"x": [1, 2]}, 3]}, '{"x": [1]}', False),
        ({"enum": [{"x": [1, 2]}, 3]}, '{"x": [1, 2]}', True),
        ({"type": "object", "propertyNames": {"pattern": "^[ab]$"}}, '{"c": 1}', None),
    ],
)
def test_what_only_the_whole_tells_goes_out_when_it_is_whole_and_right(
    value: Any, text: str, valid: bool | None
) -> None:
    head = '{"a": '
    matcher = compile(of(value)).matcher()
    out = "".join(matcher.feed(character) for character in head + text)
    if valid is None:  # held is a name, before its value
        assert out == '{"a": {' and matcher.fault
        return
    assert matcher.fault or out == head or valid
    assert accepts(of(value), head + text + "}") is valid
    out += matcher.feed("}") if matcher.fault is None else ""
    if valid:
        assert out == head + text + "}"
        return
    assert matcher.fault
    assert out == head
    matcher.recover()
    assert ended(matcher).startswith(head)


def test_a_value_inside_a_held_one_is_dropped_alone() -> None:
    matcher = matcher_at(of({"type": "array", "uniqueItems": True, "items": {"multipleOf": 2}}), '{"a": [2, 3]')
    assert matcher.fault
    assert (matcher.text, matcher.pending) == ('{"a": ', "[2, ")
    matcher.recover()
    assert matcher.feed("4]}") == "[2, 4]}"


def test_the_whole_is_asked_before_its_last_character_goes_out() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "not": {"required": ["b"]}}
    assert matcher_at(schema, '{"a": null, "b": 1').text == ""
    matcher = matcher_at(schema, '{"a": null, "b": 1}')
    assert matcher.fault and matcher.text == "" and not matcher.whole


def test_a_key_that_only_its_end_decides_is_held_with_its_comma() -> None:
    schema = {"type": "object", "patternProperties": {"^(x|y)$": {"type": "null"}}, "additionalProperties": False}
    matcher = matcher_at(schema, '{"x": null , "')
    assert (matcher.text, matcher.pending) == ('{"x": null ', ', "')
    matcher.feed('z"')
    assert matcher.fault and matcher.pending == ""
    matcher.recover()
    assert matcher.feed("}") == "}"
    first = matcher_at(schema, '{ "z"')
    assert first.fault and first.text == "{ "
    first.recover()
    assert first.feed("}") == "}"


# How a text is spelled

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3).filter(str.isascii), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from("abc"), VALUES), st.randoms(use_true_random=False), st.sampled_from([None, 0, 2])
)
def test_an_open_schema_takes_any_json_object_however_it_comes(
    value: dict[str, Any], rng: random.Random, indent: int | None
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=rng.random() < 0.5)
    for size in (1, rng.randint(2, 9), len(text)):
        matcher = compile({"type": "object"}).matcher()
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        assert "".join(map(matcher.feed, pieces)) == text
        assert matcher.whole and matcher.fault is None


@pytest.mark.parametrize(
    "written",
    ['"é"', r'"\u00e9"', r'"\u00E9"', '"\\ud83d\\ude00"', '"😀"', r'"\uD83D\uDE00"', r'"\/"', r'"\b\f\n\r\t\\\""'],
)
def test_an_escape_counts_as_what_it_stands_for_however_it_is_cut(written: str) -> None:
    text = f'{{"a": {written}}}'
    for value in ({"const": json.loads(written)}, {"type": "string", "maxLength": len(json.loads(written))}):
        for cut in range(len(text)):
            matcher = compile(of(value)).matcher()
            assert matcher.feed(text[:cut]) + matcher.feed(text[cut:]) == text
        assert "".join(map(matcher_at(of(value), "").feed, text)) == text


@pytest.mark.parametrize(
    "written",
    [r'"\ud83d"', r'"\ud83dx"', r'"\ud83d\n"', r'"\ud83d\u0041"', r'"\ude00"', r'"\u00g0"', r'"\U0041"', '"\x00"'],
)
def test_lone_surrogates_and_what_is_no_escape_are_refused(written: str) -> None:
    assert not accepts({"type": "object"}, f'{{"a": {written}}}')
    assert not accepts({"type": "object"}, f"{{{written}: 1}}")


def test_a_lone_surrogate_that_is_not_escaped_is_no_text() -> None:
    assert not accepts(of({"type": "string", "pattern": "^.$"}), '{"a": "\ud83d"}')


def test_a_name_may_be_escaped_and_is_the_same_name() -> None:
    assert accepts(PLACE, r'{"\u0063ity": "x"}')
    assert not accepts(PLACE, r'{"city": "x", "\u0063ity": "y"}')


def test_white_space_is_bounded_and_stands_up_to_there() -> None:
    matcher = matcher_at(PLACE, "{" + " \n" * 400)
    assert matcher.fault and matcher.text == "{" + " \n" * 250
    assert accepts(PLACE, "{" + " " * 500 + '"city"' + "\t" * 500 + ': ""' + "\r\n" * 250 + "}")
    assert not accepts(PLACE, '{\u00a0"city": ""}')


def test_members_come_in_any_order_each_once_and_the_required_ones_come() -> None:
    assert accepts(PLACE, '{"days": 1, "unit": "celsius", "city": "x"}')
    assert not accepts(PLACE, '{"days": 1, "unit": "celsius"}')
    assert not accepts(PLACE, '{"city": "x", "days": 1, "days": 1}')
    assert not accepts({"type": "object"}, '{"x": {"y": 1, "y": 1}}')


def test_a_string_of_which_the_end_alone_tells_is_cut_when_it_gets_too_long() -> None:
    matcher = matcher_at(of({"type": "string", "pattern": "x$"}), '{"a": "')
    for _ in range(30):
        matcher.feed("y" * 10_000)
    assert matcher.fault


def test_what_is_as_deep_as_json_cannot_be_read_raises_nothing() -> None:
    assert not accepts({"type": "object"}, '{"a": ' + "[" * 20_000)


# What schemas say


@pytest.mark.parametrize(
    ("value", "good", "bad"),
    [
        ({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "null"}}]}, ["x", [None]], [1, [1]]),
        ({"type": ["string", "null"]}, ["x", None], [True]),
        ({"allOf": [{"minLength": 2}, {"type": "string", "maxLength": 3}]}, ["ab", "abc"], ["a", "abcd", 1]),
        ({"anyOf": [{"required": ["x"]}, {"required": ["y"]}], "type": "object"}, [{"x": 1}, {"y": 1}], [{}]),
        (
            {
                "type": "object",
                "oneOf": [
                    {"properties": {"k": {"const": "p"}, "v": {"type": "null"}}, "required": ["k", "v"]},
                    {"properties": {"k": {"const": "q"}, "v": {"type": "string"}}, "required": ["k", "v"]},
                ],
            },
            [{"k": "p", "v": None}, {"v": "x", "k": "q"}],
            [{"k": "p", "v": "x"}, {"v": None, "k": "q"}, {"k": "q"}],
        ),
        ({"$ref": "#/$defs/tree"}, [{}, {"of": [{"of": []}]}], [{"of": [1]}, []]),
        ({"$ref": "#/$defs/tree", "minProperties": 1}, [{"of": []}], [{}]),
        ({"type": "object", "patternProperties": {"^n_": {"type": "number"}}}, [{"n_x": 1, "y": "z"}], [{"n_x": "z"}]),
        (
            {"type": "object", "patternProperties": {"^n": True}, "additionalProperties": {"type": "null"}},
            [{"n": 1, "x": None}],
            [{"x": 1}],
        ),
        ({"type": "object", "propertyNames": {"enum": ["x", "y"]}}, [{}, {"x": 1, "y": 2}], [{"z": 1}]),
        ({"type": "object", "propertyNames": {"maxLength": 2}}, [{"xy": 1}], [{"xyz": 1}]),
        ({"type": "object", "propertyNames": False}, [{}], [{"x": 1}]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, [{"x": 1}], [{"x": "1"}]),
        ({"type": "object", "minProperties": 1, "maxProperties": 2}, [{"x": 1}], [{}, dict.fromkeys("xyz")]),
        ({"type": "object", "dependentRequired": {"x": ["y"]}}, [{}, {"y": 1}, {"y": 1, "x": 1}], [{"x": 1}]),
        (
            {"type": "array", "prefixItems": [{"type": "null"}, {"type": "string"}], "items": {"type": "number"}},
            [[], [None, "x", 1]],
            [["x"], [None, 1], [None, "x", "y"]],
        ),
        ({"type": "array", "prefixItems": [{"type": "null"}], "items": False}, [[], [None]], [[None, None]]),
        ({"type": "array", "minItems": 1, "maxItems": 2}, [[1], [1, 2]], [[], [1, 2, 3]]),
        (True, [None, {}, [1]], []),
        ({}, [None, {}, [1]], []),
        ({"enum": ["a", 1, None, [1], {"b": 2}]}, ["a", 1, None, [1], {"b": 2}], ["b", True, [], {"b": 3}]),
        ({"type": "string", "minLength": 1, "maxLength": 2}, ["é", "😀😀"], ["", "abc"]),
    ],
)
def test_schemas_hold_in_all_their_forms(value: Any, good: list[Any], bad: list[Any]) -> None:
    tree = {"type": "object", "properties": {"of": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}
    schema = of(value, **{"$defs": {"tree": tree}})
    for one in good:
        assert accepts(schema, json.dumps({"a": one})), one
    for one in bad:
        assert not accepts(schema, json.dumps({"a": one})), one


# What must follow


@pytest.mark.parametrize(
    ("schema", "text", "forced"),
    [
        (PLACE, "", "{"),
        (PLACE, "{", '"'),
        (PLACE, '{"c', 'ity"'),
        (PLACE, '{"city"', ": "),
        (PLACE, '{"city": ', '"'),
        (PLACE, '{"city": "x', ""),
        (PLACE, '{"city": "x"', ""),
        (PLACE, '{"unit": "f', 'ahrenheit"'),
        (PLACE, '{"unit": "', ""),
        (PLACE, '{"unit": "celsius"', ', "city"'),
        (PLACE, '{"city": "x", "unit": "celsius", "days": 1 ', "}"),
        (PLACE, '{"city": "x", "unit": "celsius", ', '"'),
        (of({"type": "boolean"}), '{"a": t', "rue"),
        (of({"const": {"b": 1}}), '{"a": ', '{"b": 1}'),
        (of({"const": 'q"é'}), '{"a": ', '"q\\"é"'),
        (of({"const": 'q"é'}), '{"a": "q', '\\"é"'),
        (of({"type": "null"}), '{"a": ', "null"),
        (of({"type": "array", "maxItems": 0}), '{"a": [', "]"),
        (of({"type": "array", "minItems": 2}), '{"a": [1 ', ", "),
        (of({"enum": ["abc", "abd"]}), '{"a": "', "ab"),
        (of({}, required=["a"]), "{", '"a"'),
        (of(False), "{", "}"),
    ],
)
def test_what_must_follow_is_known(schema: dict[str, Any], text: str, forced: str) -> None:
    matcher = matcher_at(schema, text)
    assert matcher.forced() == forced
    if forced:
        matcher.feed(matcher.forced())
        assert matcher.fault is None


INSTANCES: list[tuple[dict[str, Any], Any]] = [
    (PLACE, {"unit": "celsius", "city": 'x "y" é😀', "days": -12}),
    (of({"type": "array", "minItems": 2, "items": {"type": "number", "minimum": 100}}), {"a": [100.5, 1e3]}),
    (of({"type": "array", "uniqueItems": True, "minItems": 2}), {"a": [1, {"b": [2]}, "x"]}),
    (of({"type": "string", "format": "date-time"}), {"a": "2024-02-29T10:00:00Z"}),
    (of({"type": "string", "pattern": "^[a-z]+@[a-z]+\\.com$"}), {"a": "me@home.com"}),
    (of({"const": {"b": [1, {"c": None}]}}), {"a": {"b": [1, {"c": None}]}}),
    (of({"not": {"type": "string"}}), {"a": [True, None]}),
    (of({"anyOf": [{"type": "integer", "minimum": 7}, {"enum": ["low", "lower"]}]}), {"a": "lower"}),
    ({"type": "object", "propertyNames": {"minLength": 3}, "minProperties": 1}, {"abc": 1, "abcd": {"x": 1}}),
    ({"type": "object", "patternProperties": {"^(x|yy)$": {}}, "additionalProperties": False}, {"yy": 1, "x": 2}),
    ({"type": "object", "dependentRequired": {"a": ["b"], "b": ["c"]}, "maxProperties": 3}, {"a": 1, "c": 1, "b": 1}),
    ({"type": "object", "required": ["z"], "maxProperties": 2}, {"y": 1, "z": 1}),
    ({"type": "object", "if": {"required": ["p"]}, "then": {"required": ["q"]}}, {"p": 1, "q": 1}),
]


@pytest.mark.parametrize(("schema", "value"), INSTANCES)
def test_from_every_point_of_a_valid_text_steps_lead_to_a_valid_end(schema: dict[str, Any], value: Any) -> None:
    arguments = compile(schema)
    text = json.dumps(value)
    for end in range(len(text) + 1):
        matcher = arguments.matcher()
        out = matcher.feed(text[:end])
        assert matcher.fault is None
        whole = ended(matcher)
        assert whole.startswith(out)
        assert arguments.fault(whole) is None


def test_a_step_drops_what_is_held_where_nothing_leads_on() -> None:
    schema = of({"enum": [{"b": {"c": 1}}]}, required=["a"])
    assert ended(matcher_at(schema, '{"a": {"x": [{"y": ')) == '{"a": {"b": {"c": 1}}}'


# Nothing is both, which is not seen at once.
VOID = {"type": "string", "minLength": 3, "pattern": "^[ab]$"}


@pytest.mark.parametrize(
    ("schema", "text", "end"),
    [
        (of(VOID), '{"a": "', "{}"),
        (of(VOID), '{ "a"', "{ }"),
        (of({"type": "array", "items": VOID}), '{"a": ["', '{"a": []}'),
        (of({"type": "array", "prefixItems": [{"type": "null"}], "items": VOID}), '{"a": [null, "a', '{"a": [null]}'),
        ({"type": "object", "properties": {"a": VOID, "b": {}}}, '{"b": 1, "a": "aa', '{"b": 1}'),
    ],
)
def test_a_member_or_item_of_which_no_value_is_known_is_held_with_its_comma(
    schema: dict[str, Any], text: str, end: str
) -> None:
    for begun in (text, text[:-1]):
        matcher = matcher_at(schema, begun)
        matcher.recover()
        assert ended(matcher) == end


def test_a_list_whose_first_item_is_wrong_may_stay_empty() -> None:
    for begun in ("007", '"'):
        matcher = matcher_at(of({"type": "array", "items": {"type": "number"}}), f'{{"a": [{begun}')
        assert matcher.fault
        matcher.recover()
        assert matcher.feed("]}") == "]}"


def test_a_member_that_is_held_with_its_comma_comes_out_when_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "examples", lambda node: iter(()))
    matcher = matcher_at(
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^x+$"}}}, '{"b": 1, "a": "xx'
    )
    assert matcher.text == '{"b": 1'
    assert matcher.feed('"') == ', "a": "xx"'
    assert matcher.feed("}") == "}"


def test_what_the_reader_refuses_of_a_step_ends_in_no_loop() -> None:
    class Refusing(Matcher):
        def __init__(self) -> None:
            super().__init__(compile(PLACE).schema, lambda text: "never")

    matcher = Refusing()
    with pytest.raises(LookupError):
        ended(matcher)


def test_where_a_member_must_come_that_cannot_be_no_others_come() -> None:
    schema = {"type": "object", "properties": {"b": VOID}, "required": ["a"], "dependentRequired": {"a": ["b"]}}
    with pytest.raises(LookupError):
        ended(matcher_at(schema, '{"a": 1, "c": 2'))


def test_a_value_that_the_reader_would_refuse_is_no_way_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matchers, "examples", lambda node: iter([10**305]))
    with pytest.raises(LookupError):
        ended(matcher_at(of({"type": "integer"}, required=["a"]), '{"a": '))


def test_words_are_found_among_many() -> None:
    words = [f"{i:05}" for i in range(10_000)] + ["0000", "é", "😀", "\U0010ffff\U0010ffff"]
    schema = of({"enum": words})
    for word in (words[0], words[7_777], *words[-4:]):
        assert accepts(schema, json.dumps({"a": word})) and accepts(schema, f'{{"a": "{word}"}}')
    for word in ("", "0", "00", "000000", "10000", "e", "\U0010ffff"):
        assert not accepts(schema, f'{{"a": "{word}"}}')
    assert matcher_at(schema, '{"a": "é').forced() == '"'


def test_where_no_value_is_found_that_is_told() -> None:
    with pytest.raises(LookupError, match=r"\$\.a"):
        ended(matcher_at(of(VOID, required=["a"]), '{"a": '))


def test_a_fault_says_what_was_expected_where() -> None:
    for text, told in [
        ('{"unit": "k', r"""expected what the string may go on with, got 'k' (at $.unit)"""),
        ('{"days": "', r"""expected number that its schema allows, got '"' (at $.days)"""),
        ('{"days": 1}', r"""expected the member 'city', got '}' (at $.)"""),
    ]:
        fault = matcher_at(PLACE, text).fault
        assert fault is not None
        assert fault.startswith(told.split(" (at")[0])


def test_what_is_refused_inside_may_be_right_further_out() -> None:
    schema = of({"items": {"const": [{"c": 2}]}}, required=["a"])
    assert ended(matcher_at(schema, '{"a": [[{ ')) == '{"a": []}'


def test_what_was_forced_and_refused_is_not_forced_again() -> None:
    cell = {"enum": [{"x": 1, "y": 2}, {"x": 2, "y": 1}]}
    matcher = matcher_at({"type": "object", "properties": {"cell": cell}, "required": ["cell"]}, '{"cell": ')
    assert matcher.forced() == "{"
    matcher.feed('{"z": 1}')
    assert matcher.fault
    matcher.recover()
    assert matcher.forced() == ""
    assert json.loads(ended(matcher)) == {"cell": {"x": 1, "y": 2}}


def test_a_step_that_stood_is_made_again_where_what_followed_it_spoiled_it() -> None:
    matcher = compile({"type": "object", "properties": {"v": {"type": "integer"}}, "required": ["v"]}).matcher()
    matcher.feed('{"v": ')
    assert matcher.feed(matcher.step()) == ""
    matcher.feed("0")  # 00 is no number
    assert matcher.fault is not None
    matcher.recover()
    while not matcher.whole:
        matcher.feed(matcher.step())
        matcher.recover()
    assert matcher.text == '{"v": 0}'
