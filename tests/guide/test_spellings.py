"""The languages in which engines are told a turn, where their own libraries aren't needed to see it."""

from __future__ import annotations

import json
import lzma
import re
import time
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from abruzzi import Tool
from abruzzi.guide import xgrammar
from abruzzi.guide.gbnf import quoted
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.markers import MARKERS, THINK_BEGIN, THINK_END
from abruzzi.protocol.tokens import Tokenizer
from tests.conftest import PING, WEATHER, section

TOOLS = [WEATHER, PING, Tool("查询天气")]
SHANGHAI = '{"location": "shanghai"}'
CALL = section(("functions.get_weather:0", SHANGHAI))
TWO = section(("functions.get_weather:0", SHANGHAI), ("functions.查询天气:1", "{}"))
IDS = {marker: 900 + i for i, marker in enumerate((*MARKERS, THINK_BEGIN, THINK_END))}


class K2:
    """K2's own vocabulary, with its markers as control tokens."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_folder(folder)
        encoding, controls = self.tokenizer._encoding, self.tokenizer.controls
        self.vocabulary = LLTokenizer.from_tiktoken(  # type: ignore[attr-defined]
            encoder=encoding._mergeable_ranks,
            special_tokens=dict(controls),
            pattern=encoding._pat_str,
            eos_token=controls["<|im_end|>"],
            n_vocab=163_840,
        )
        self.split = re.compile("(" + "|".join(map(re.escape, (*IDS, "<|im_user|>"))) + ")")

    def matcher(self, grammar: Grammar) -> LLMatcher:
        matcher = LLMatcher(self.vocabulary, LLMatcher.grammar_from_lark(grammar.lark_tokens))
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def ids(self, text: str) -> list[int]:
        controls = self.tokenizer.controls
        parts = self.split.split(text)
        return [id for part in parts for id in ([controls[part]] if part in controls else self.tokenizer.encode(part))]

    def accepts(self, grammar: Grammar, ids: list[int]) -> bool:
        matcher = self.matcher(grammar)
        return matcher.try_consume_tokens(ids) == len(ids) and bool(matcher.is_accepting())


@pytest.fixture(scope="module")
def k2(shared: Path) -> K2:
    return K2(shared / "k2")


def test_control_tokens_are_markers_and_nothing_else(k2: K2) -> None:
    auto, required = Grammar.for_turn(TOOLS), Grammar.for_turn(TOOLS, tool_choice="required")
    for text in ("", "<b> is <| bold", CALL, "<i>Let me see." + CALL, TWO):
        assert k2.accepts(auto, k2.ids(text)), text
        assert k2.accepts(required, k2.ids(text)) == text.startswith("<|tool"), text
    for text in ("a<|im_user|>b", "a<think>b", CALL + "x", section(("functions.ping:1", "{}"))):
        assert not k2.accepts(auto, k2.ids(text)), text
    assert not k2.accepts(required, k2.tokenizer.encode(CALL))


def test_all_of_a_call_but_its_values_is_forced(k2: K2) -> None:
    forced = k2.matcher(Grammar.for_turn(TOOLS, tool_choice="get_weather")).compute_ff_tokens()
    assert k2.tokenizer.decode(forced) == CALL[: CALL.index(' "shanghai')]


def test_thinking_comes_first_in_tokens_too(k2: K2) -> None:
    begun = Grammar.for_turn(TOOLS, tool_choice="required", variant="k2.5")
    whole = Grammar.for_turn(TOOLS, tool_choice="required", variant="k2-thinking")
    assert k2.accepts(begun, k2.ids("Hm.\n</think>" + CALL))
    assert not k2.accepts(begun, k2.ids("Hm." + CALL))
    assert k2.accepts(whole, k2.ids("<think></think>" + CALL))
    assert not k2.accepts(whole, k2.ids("Hm.</think>" + CALL))


def test_a_structural_tag_holds_markers_to_tokens_where_it_is_told_their_ids() -> None:
    grammar = Grammar.for_turn(TOOLS)
    text, tokens = json.dumps(grammar.structural_tag()), json.dumps(grammar.structural_tag(IDS))
    assert MARKERS[0] in text and '"token"' not in text
    assert "<|" not in tokens and '{"type": "token", "token": 902}' in tokens
    assert grammar.structural_tag({MARKERS[0]: 900}) == grammar.structural_tag()


def test_many_tools_stand_once_each_in_a_structural_tag() -> None:
    def count(number: int) -> int:
        tools = [Tool(f"f{i}") for i in range(number)]
        return json.dumps(Grammar.for_turn(tools).structural_tag()).count('"json_schema": {')

    assert count(16) == 16 * 8
    assert count(100) == 100


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "string", "maxLength": 5}, {"type": "string"}),
        ({"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"}, {"type": "string", "pattern": "^[A-Z]{3}-[0-9]+$"}),
        ({"type": "string", "pattern": "^[ -~]+$"}, {"type": "string"}),
        ({"type": "string", "pattern": "a.c", "format": "city"}, {"type": "string"}),
        ({"type": "number", "minimum": 0}, {"type": "number"}),
        ({"type": "integer", "minimum": 0.5, "exclusiveMaximum": 9}, {"type": "integer", "minimum": 1, "maximum": 8}),
        ({"type": "integer", "minimum": 5, "maximum": 1}, {"type": "integer"}),
        ({"enum": []}, {}),
        ({"$ref": "#/$defs/gone"}, {}),
        ({"$ref": "https://example.org/x"}, {}),
        ({"type": "array", "minItems": 1}, {"type": "array", "minItems": 1, "items": {}}),
        ({"type": "object", "required": ["a"]},
         {"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": True}),
        ({"oneOf": [{"type": "null"}, False, {"type": "string"}]}, {"anyOf": [{"type": "null"}, {"type": "string"}]}),
        ({"type": ["string", "null"], "allOf": [{"type": "string"}, {"enum": ["a"]}]},
         {"type": ["string"], "enum": ["a"]}),
    ],
)  # fmt: skip
def test_what_xgrammar_would_refuse_or_misread_is_loosened(schema: Any, expected: Any) -> None:
    whole = xgrammar.followed({"type": "object", "properties": {"x": schema}, "additionalProperties": False})
    assert whole == {"type": "object", "properties": {"x": expected}, "additionalProperties": False}


def test_references_stay_where_they_lead_somewhere_for_xgrammar() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
    loop = {"$ref": "#/$defs/loop"}
    whole = xgrammar.followed(
        {"properties": {"a": {"$ref": "#/$defs/node"}, "b": loop}, "$defs": {"node": node, "loop": loop}}
    )
    assert whole["properties"] == {"a": {"$ref": "#/$defs/node"}, "b": {}}
    assert whole["$defs"]["node"] == node


def test_a_name_with_a_quote_in_it_opens_its_object_for_xgrammar() -> None:
    schema = {"properties": {'a"b': {}, "c": {}}, "required": ['a"b'], "additionalProperties": False}
    assert xgrammar.followed(schema) == {
        "type": "object",
        "properties": {"c": {}},
        "additionalProperties": True,
    }


def test_gbnf_spells_a_turn_as_rules() -> None:
    rules = Grammar.for_turn([WEATHER], tool_choice="required", parallel_tool_calls=False, first_index=3).gbnf
    assert rules.splitlines()[:2] == [
        'root ::= "<|tool_calls_section_begin|>" call-0',
        'call-0 ::= "<|tool_call_begin|>functions." ("get_weather:3<|tool_call_argument_begin|>" arguments-0)'
        ' "<|tool_call_end|>" "<|tool_calls_section_end|>"',
    ]
    assert 'arguments-0-value-1 ::= "\\"c\\"" | "\\"f\\""' in rules


def test_every_rule_that_gbnf_uses_is_there() -> None:
    node: dict[str, Any] = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}
    values = {
        "a": {"$ref": "#/$defs/node"},
        "b": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}, "minItems": 1, "maxItems": 2},
        "c": {"type": "string", "format": "uuid"},
        "d": {"type": "string", "minLength": 2, "maxLength": 4},
        "e": {"type": "object", "additionalProperties": {"type": "number"}},
    }
    tool = Tool("f", None, {"type": "object", "properties": values, "$defs": {"node": node}})
    for variant in ("k2", "k2-thinking"):
        rules = Grammar.for_turn([tool, *TOOLS], variant=variant).gbnf
        bare = re.sub(r'"(?:[^"\\]|\\.)*"|\[(?:[^\]\\]|\\.)*\]|\{[\d,]*\}', "", rules)
        defined = re.findall(r"^([\w-]+) ::=", bare, re.MULTILINE)
        assert len(defined) == len(set(defined))
        assert set(re.findall(r"[a-z][\w-]*", bare)) == set(defined)


def test_gbnf_knows_fewer_escapes_than_json() -> None:
    assert quoted('a"\\b\b\f\n\x7f é') == r'"a\"\\b\x08\x0C\n\x7F é"'


def test_a_turn_of_the_same_content_is_spelled_once() -> None:
    def turn() -> Grammar:
        return Grammar.for_turn([Tool(tool.name, None, tool.parameters) for tool in TOOLS], variant="k2.5")

    first, again = turn(), turn()
    assert first == again
    assert first.lark is again.lark and first.gbnf is again.gbnf and first.lark_tokens is again.lark_tokens
    assert first.structural_tag(IDS) is again.structural_tag(IDS)
    other = Grammar.for_turn([PING], variant="k2.5")
    assert other != first and other.lark != first.lark


def test_a_hundred_real_tools_are_spelled_in_no_time(shared: Path) -> None:
    with lzma.open(shared / "schemas" / "github_mcp_tools.json.xz", "rt") as file:
        tools = [Tool.from_openai(tool) for tool in json.load(file)[:100]]
    start = time.perf_counter()
    assert Grammar.for_turn(tools, first_index=17).lark
    between = time.perf_counter()
    assert Grammar.for_turn(tools, first_index=17).lark
    assert between - start < 2 and time.perf_counter() - between < 0.02  # the aims, with room for a busy machine
