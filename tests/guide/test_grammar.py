from __future__ import annotations

import ast
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from abruzzi import RequestError, Tool, parse
from abruzzi.guide.grammar import Grammar, ToolFormat
from abruzzi.protocol.variants import K2_6
from tests.conftest import PING, WEATHER, section

BYTES = LLTokenizer("byte")
TOOLS = [WEATHER, PING, Tool("查询天气")]
SHANGHAI = '{"location": "shanghai"}'


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether the whole text is an output of the grammar."""
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_lark(grammar.lark))
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


AUTO = Grammar.for_turn(TOOLS)
REQUIRED = Grammar.for_turn(TOOLS, tool_choice="required")
ANSWER = Grammar.for_turn(TOOLS, answer=WEATHER.parameters)
CALL = section(("functions.get_weather:0", SHANGHAI))


@pytest.mark.parametrize(
    ("grammar", "text", "expected"),
    [
        (AUTO, "", True),
        (AUTO, "Is a < b, or b << a?", True),
        (AUTO, "<|tool", False),
        (AUTO, CALL, True),
        (AUTO, "Let me see." + CALL, True),
        (AUTO, CALL + "Done.", False),
        (AUTO, section(("functions.查询天气:0", "{}")), True),
        (AUTO, section(("functions.get_weather:0", SHANGHAI), ("functions.ping:1", "{}")), True),
        (AUTO, section(("functions.get_weather:0", SHANGHAI), ("functions.ping:0", "{}")), False),
        (AUTO, section(("functions.get_weather:1", SHANGHAI)), False),
        (AUTO, section(("functions.unknown:0", "{}")), False),
        (AUTO, section(("functions.get_weather:0", "{}")), False),
        (AUTO, section(("functions.get_weather:0", '{"location": 1}')), False),
        (AUTO, section(("functions.get_weather:0", '{"location": "x", "unit": "k"}')), False),
        (AUTO, section(("functions.get_weather:0", '{"location": "x", "invented": 1}')), False),
        (AUTO, section(("functions.get_weather:0", '{"location":\n"x"}')), False),
        (REQUIRED, CALL, True),
        (REQUIRED, "It is sunny.", False),
        (REQUIRED, "", False),
        (Grammar.for_turn(TOOLS, tool_choice="ping"), CALL, False),
        (Grammar.for_turn(TOOLS, tool_choice="ping"), section(("functions.ping:0", "{}")), True),
        (Grammar.for_turn(TOOLS, tool_choice="none"), CALL, False),
        (Grammar.for_turn(TOOLS, tool_choice="none"), "It is sunny.", True),
        (Grammar.for_turn(TOOLS, first_index=4), section(("functions.ping:4", "{}")), True),
        (Grammar.for_turn(TOOLS, first_index=4), section(("functions.ping:0", "{}")), False),
        (ANSWER, SHANGHAI, True),
        (ANSWER, CALL, True),
        (ANSWER, "It is sunny.", False),
        (ANSWER, '{"location": 1}', False),
        (ANSWER, SHANGHAI + CALL, False),
        (Grammar.for_turn([], answer=WEATHER.parameters), SHANGHAI, True),
        (Grammar.for_turn([], answer=WEATHER.parameters), "", False),
        (Grammar.for_turn([], answer=WEATHER.parameters), CALL, False),
        (Grammar.for_turn(TOOLS, answer=WEATHER.parameters, tool_choice="none"), CALL, False),
        (Grammar.for_turn(TOOLS, answer=WEATHER.parameters, tool_choice="required"), SHANGHAI, False),
        (
            Grammar.for_turn(TOOLS, parallel_tool_calls=False),
            section(("functions.ping:0", "{}"), ("functions.ping:1", "{}")),
            False,
        ),
    ],
)
def test_what_a_turn_may_be(grammar: Grammar, text: str, expected: bool) -> None:
    assert accepts(grammar, text) is expected


@pytest.mark.parametrize(
    ("variant", "thinking", "good", "bad"),
    [
        ("k2.5", None, ["Hm.</think>" + CALL, "</think>" + CALL, "a <b> </th\n</think>" + CALL], [CALL, "Hm." + CALL]),
        ("k2.5", False, [CALL], ["Hm.</think>" + CALL]),
        ("k2-thinking", None, ["<think>Hm.</think>" + CALL], [CALL, "Hm.</think>" + CALL]),
        ("k2", True, [CALL], ["Hm.</think>" + CALL]),
    ],
)
def test_a_variant_that_thinks_does_so_before_its_calls(
    variant: str, thinking: bool | None, good: list[str], bad: list[str]
) -> None:
    grammar = Grammar.for_turn(TOOLS, tool_choice="required", variant=variant, thinking=thinking)
    assert [text for text in (*good, *bad) if accepts(grammar, text)] == good


def test_what_follows_the_thinking_is_text_or_calls_as_ever() -> None:
    auto, none = (Grammar.for_turn(TOOLS, tool_choice=choice, variant=K2_6) for choice in ("auto", "none"))
    for text in ("", "It is sunny.", "Let me see." + CALL, CALL):
        assert accepts(auto, "Hm.</think>" + text)
        assert accepts(none, "Hm.</think>" + text) == (CALL not in text)
    assert not accepts(auto, "It is sunny.")
    pythonic = Grammar.for_turn(TOOLS, tool_choice="required", variant=K2_6, tool_format="pythonic")
    assert accepts(pythonic, "Hm.</think>[ping()]") and not accepts(pythonic, "[ping()]")


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer", "minimum": 1, "maximum": 5},
        "tags": {"type": "array", "items": {"$ref": "#/$defs/tag"}, "maxItems": 2},
        "where": {"type": "object", "properties": {"x": {"type": "number"}, "y": {"type": ["number", "null"]}}},
        "mode": {"enum": ["a", 1, None, True]},
    },
    "required": ["name"],
    "$defs": {"tag": {"type": "string", "maxLength": 3}},
}
PYTHONIC = Grammar.for_turn([Tool("f", None, SCHEMA), PING], tool_format="pythonic")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ping()]", True),
        ("[f(name='x')]", True),
        ("[f(name='a, b(c)\\'', count=5), ping()]", True),
        ("[f(name='x', tags=['abc', 'd'], where={'x': 1.5, 'y': None}, mode=None)]", True),
        ("Hello [there].", True),
        ("", True),
        ("[f()]", False),
        ("[f(count=1)]", False),
        ("[f(name='x', count=6)]", False),
        ("[f(name='x', count=1, name='y')]", False),
        ("[f(name='x', tags=['abcd'])]", False),
        ("[f(name='x', tags=['a', 'b', 'c'])]", False),
        ("[f(name='x', where={'z': 1})]", False),
        ("[f(name='x', mode='b')]", False),
        ("[f(name=x)]", False),
        ("[g()]", False),
        ("[ping()", False),
        ("[ping()] and more", False),
    ],
)
def test_what_a_pythonic_turn_may_be(text: str, expected: bool) -> None:
    assert accepts(PYTHONIC, text) is expected


def test_a_schema_that_refers_to_itself_compiles_in_both_formats() -> None:
    node: dict[str, Any] = {
        "type": "object",
        "properties": {"value": {"type": "string"}, "next": {"$ref": "#/$defs/node"}},
        "required": ["value"],
    }
    tool = Tool(
        "f", None, {"type": "object", "properties": {"list": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
    )
    value = {"list": {"value": "a", "next": {"value": "b"}}}
    assert accepts(Grammar.for_turn([tool]), section(("functions.f:0", json.dumps(value))))
    assert accepts(Grammar.for_turn([tool], tool_format="pythonic"), f"[f(list={value['list']!r})]")


def test_what_a_grammar_cannot_say_is_known_to_be_loose() -> None:
    unique = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}
    grammar = Grammar.for_turn([Tool("f", None, unique), PING])
    assert grammar.loose == {"f"}
    assert accepts(grammar, section(("functions.f:0", '{"a": [1, 2]}')))


PARTS = {"allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]},
                   {"properties": {"b": {"type": "string"}}, "required": ["b"]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("parameters", "good", "bad"),
    [
        (PARTS, '{"a": "x", "b": "y"}', '{"a": "x"}'),
        ({"properties": {"a": {"type": "string", "maxLength": 10.0}, "b": {"type": "integer"}}, "required": ["b"]},
         '{"a": "x", "b": 1}', '{"a": "x", "b": "y"}'),
        ({"properties": {"a": {"type": "string", "pattern": "^(?=x)"}, "b": {"enum": [1]}}}, '{"b": 1}', '{"b": 2}'),
        ({"properties": {"a": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}}},
         '{"a": "x"}', '{"a": 1}'),
    ],
)  # fmt: skip
def test_one_detail_beyond_the_grammar_does_not_cost_the_rest(parameters: dict[str, Any], good: str, bad: str) -> None:
    grammar = Grammar.for_turn([Tool("f", None, {"type": "object", **parameters})])
    assert accepts(grammar, section(("functions.f:0", good)))
    assert not accepts(grammar, section(("functions.f:0", bad)))


@pytest.mark.parametrize("tool_format", ["k2", "pythonic"])
@pytest.mark.parametrize("value", [{"enum": []}, {"type": "integer", "minimum": 5, "maximum": 1}, False])
def test_what_nothing_can_satisfy_is_refused_with_the_place(value: Any, tool_format: ToolFormat) -> None:
    tool = Tool("f", None, {"type": "object", "properties": {"a": value}, "required": ["a"]})
    with pytest.raises(RequestError, match="nothing can satisfy") as caught:
        Grammar.for_turn([PING, tool], tool_format=tool_format)
    assert caught.value.param == "tools[1].function.parameters"


PLACE = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
NAMED = {"type": "object", "properties": {"n": {"type": "string"}}, "required": ["n"]}
EITHER = {"properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("parameters", "good", "bad"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": PLACE}}, ["x=1"], ["", "x='1'", "y=1"]),
        ({"allOf": [PLACE, NAMED]}, ["x=1, n='a'"], ["", "x=1", "n='a'"]),
        ({"allOf": [{"$ref": "#/$defs/A"}], **EITHER, "$defs": {"A": PLACE}}, ["x=1", "a=1, x=1"], ["a=1"]),
        ({"anyOf": [PLACE, NAMED]}, ["x=1", "n='a'"], ["", "x=1, n='a'"]),
        ({**EITHER, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, ["a=1", "b=1"], ["", "a='x'", "c=1"]),
        ({"allOf": [{"properties": {"a": {"type": ["string", "number"]}}}, {"properties": {"a": {"type": "integer"}}}],
          "required": ["a"]}, ["a=1"], ["", "a='x'", "a=1.5"]),
        ({"additionalProperties": {"type": "string"}, "minProperties": 1}, ["k='v'", "a='b', c='d'"], ["", "k=1"]),
        ({**EITHER, "minProperties": 2}, ["a=1, b=2"], ["", "a=1", "b=1"]),
        ({**EITHER, "additionalProperties": {"type": "string"}},
         ["", "a=1, c='x'", "c='x'"], ["a='x'", "c='x', a=1", "c=1"]),
        ({"required": ["a"]}, ["a=1"], [""]),
        ({"properties": {"a": False, "b": {"enum": ["x", None], "type": "string"}}}, ["b='x'"], ["a=1", "b=None"]),
        ({"properties": {"a": {"additionalProperties": {"type": "integer"}, "type": "object"}}},
         ["a={}", "a={'k': 1, 'l': 2}"], ["a={'k': 'v'}"]),
        ({"properties": {"a": {**PLACE, "additionalProperties": {"type": "string"}}}},
         ["a={'x': 1}", "a={'x': 1, 'y': 'z'}"], ["a={'x': 1, 'x': 'z'}", "a={'y': 'z'}"]),
        ({"properties": {"a": {"oneOf": [PLACE, {"type": "null"}], "description": "?"}}}, ["a={'x': 1}", "a=None"],
         ["a={}"]),
    ],
)  # fmt: skip
def test_pythonic_arguments_follow_references_and_combinations(
    parameters: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    grammar = Grammar.for_turn([Tool("f", None, {"type": "object", **parameters})], tool_format="pythonic")
    assert [text for text in (*good, *bad) if accepts(grammar, f"[f({text})]")] == good


@pytest.mark.parametrize(
    ("value", "good", "bad"),
    [
        ({"pattern": "^[A-Z]{3}-[0-9]{4}$"}, '"ABC-1234"', '"abc"'),
        ({"pattern": r"^[\w\"']+$"}, '"\\"a\\"\'"', '"a b"'),
        ({"format": "date"}, '"2024-02-29"', '"2024-13-01"'),
        ({"format": "date-time"}, '"2024-02-29T10:00:00Z"', '"2024-02-29"'),
        ({"format": "uuid"}, '"123e4567-e89b-12d3-a456-426614174000"', '"123"'),
        ({"format": "email"}, '"a@b.org"', '"a"'),
        ({"format": "ipv4"}, '"10.0.0.1"', '"10.0.0"'),
        ({"pattern": "^a+$", "maxLength": 2}, '"aa"', '"aaa"'),
        ({"pattern": "^(?=a)", "format": "date"}, '"2024-02-29"', '"a"'),
        ({"pattern": "^(?=a)"}, "'abc'", "1"),
        ({"format": "city", "maxLength": 3}, "'abc'", "'abcd'"),
        ({"type": "integer", "minimum": 10, "multipleOf": 5}, "15", "16"),
    ],
)
def test_pythonic_patterns_and_formats_hold(value: dict[str, Any], good: str, bad: str) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string", **value}, "b": {"enum": ["x"]}}}
    grammar = Grammar.for_turn([Tool("f", None, parameters)], tool_format="pythonic")
    assert accepts(grammar, f"[f(a={good}, b='x')]")
    assert not accepts(grammar, f"[f(a={bad}, b='x')]")
    (call,) = parse(f"[f(a={good})]", tools=None, tool_format="pythonic").tool_calls
    assert json.loads(call.function.arguments) == {"a": ast.literal_eval(good)}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 1}, "[1]"),
        ({"type": "string", "maxLength": 10.0}, "'x'"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "'x'"),
        ({"type": "integer", "minimum": 5, "maximum": 1}, "1"),
    ],
)
def test_the_pythonic_grammar_takes_odd_bounds_and_one_call(value: Any, text: str) -> None:
    tool = Tool("f", None, {"type": "object", "properties": {"a": value, "b c": {}}})
    grammar = Grammar.for_turn([tool], tool_format="pythonic", parallel_tool_calls=False)
    assert accepts(grammar, f"[f(a={text}, b c='$')]")
    assert not accepts(grammar, "[f(), f()]")


def test_a_name_that_the_pythonic_format_cannot_carry_is_refused() -> None:
    for tool in (Tool("a(b"), Tool("f", None, {"type": "object", "properties": {"a=b": {}}})):
        with pytest.raises(RequestError, match="can't be written"):
            Grammar.for_turn([tool], tool_format="pythonic")


def real_tools(shared: Path) -> list[Tool]:
    with lzma.open(shared / "schemas" / "mcp_tools.jsonl.xz", "rt") as lines:
        return [Tool.from_openai(json.loads(line)["tool"]) for line in lines]


def test_every_real_tool_gets_a_grammar_and_nearly_all_an_exact_one(shared: Path) -> None:
    tools = real_tools(shared)
    loose = 0
    for start in range(0, len(tools), 200):
        grammar = Grammar.for_turn(tools[start : start + 200], parallel_tool_calls=False)
        assert not LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar.lark))
        loose += sum(not one.exact for one in grammar.signatures)
    assert loose < 10


def test_every_real_tool_compiles_in_the_pythonic_format(shared: Path) -> None:
    for tool in real_tools(shared)[::20]:
        lark = Grammar.for_turn([tool], tool_format="pythonic").lark
        assert not LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(lark)), tool.name


def test_numbers_that_no_64_bits_hold_and_odd_names_are_no_hindrance() -> None:
    values = {"größe": {"type": "integer", "maximum": 10**30}, "\"'\\": {"const": "\ud83d\ude00 \x7f"}}
    tool = Tool("größe.messen-2", None, {"type": "object", "properties": values})
    text = section(("functions.größe.messen-2:0", json.dumps({"größe": 5}, ensure_ascii=False)))
    assert accepts(Grammar.for_turn([tool]), text)


def test_more_tools_than_llguidance_can_hold_get_a_looser_grammar(shared: Path) -> None:
    with lzma.open(shared / "schemas" / "maskbench.jsonl.xz", "rt") as lines:
        schemas = [json.loads(line)["schema"] for line in lines]
    tools = [
        Tool(f"f{i}", None, schema) for i, schema in enumerate(schemas) if "object" in schema.get("type", "object")
    ]
    grammar = Grammar.for_turn([*tools[:800], WEATHER])
    assert "INDEX" in grammar.lark and '{"type": "object"}' in grammar.lark
    assert accepts(grammar, CALL)
