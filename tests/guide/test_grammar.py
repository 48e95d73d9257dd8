from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from abruzzi import Tool
from abruzzi.guide.grammar import Grammar
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
        (
            Grammar.for_turn(TOOLS, parallel_tool_calls=False),
            section(("functions.ping:0", "{}"), ("functions.ping:1", "{}")),
            False,
        ),
    ],
)
def test_what_a_turn_may_be(grammar: Grammar, text: str, expected: bool) -> None:
    assert accepts(grammar, text) is expected


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


def test_every_real_tool_compiles_in_both_formats(shared: Path) -> None:
    with lzma.open(shared / "schemas" / "mcp_tools.jsonl.xz", "rt") as lines:
        tools = [Tool.from_openai(json.loads(line)["tool"]) for line in lines][::20]
    for tool in tools:
        for grammar in (Grammar.for_turn([tool]), Grammar.for_turn([tool], tool_format="pythonic")):
            assert not LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar.lark)), tool.name
