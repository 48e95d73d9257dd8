"""The libraries that engines have for it compile our grammars with K2's real vocabulary, and hold to them.

Which library in which version: that of the environment. `nox -s grammars` makes one with TensorRT-LLM's pins (xgrammar
0.1.32, llguidance 0.7.29) and one with the newest, and runs this and test_xgrammar.py in both.
"""

from __future__ import annotations

import importlib.util
import json
import lzma
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import tiktoken
from llguidance import LLMatcher, LLTokenizer
from llguidance.tiktoken import lltokenizer_from_encoding

from abruzzi import Tool
from abruzzi.guide.examples import examples
from abruzzi.guide.grammar import Grammar
from abruzzi.guide.node import Schema
from abruzzi.guide.schema import arguments_schema
from abruzzi.protocol.tokens import Tokenizer
from tests.conftest import PING, WEATHER, section
from tests.engines.standins.vocabulary import EOS, SIZE, ids_of

OLD = version("llguidance").startswith("0.")
XGRAMMAR = importlib.util.find_spec("xgrammar") and version("xgrammar")
# One of so many tools of MCP servers is looked at: xgrammar 0.1.32 takes a third of a second for each.
STEP = 40

Accepts = Callable[[list[int]], bool]
Compile = Callable[[Grammar], Accepts]


@pytest.fixture(scope="module")
def k2(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "k2")


@pytest.fixture(scope="module", params=["lark_tokens", "structural_tag", "structural_tag of ids"])
def compile(request: pytest.FixtureRequest, k2: Tokenizer) -> Compile:
    """A way to spell a grammar, and the library that reads it."""
    if request.param == "lark_tokens":
        return lambda grammar: lark_accepts(lltokenizer(k2), grammar)
    if not XGRAMMAR:
        pytest.skip("xgrammar isn't installed")
    if request.param == "structural_tag":
        return lambda grammar: tag_accepts(k2, grammar, None)
    if XGRAMMAR.startswith("0.1"):
        pytest.skip(f"xgrammar {XGRAMMAR} has no token form")
    return lambda grammar: tag_accepts(k2, grammar, {str(spelling): id for spelling, id in k2.controls.items()})


def encoding(k2: Tokenizer, longest: int = 256) -> tiktoken.Encoding:
    """K2's, where ordinary tokens that are longer stand for what no text has."""
    ranks = k2._encoding._mergeable_ranks
    return tiktoken.Encoding(
        "k2",
        pat_str=k2._encoding._pat_str,
        mergeable_ranks={token if len(token) <= longest else b"\xff%d" % id: id for token, id in ranks.items()},
        special_tokens={str(spelling): id for spelling, id in k2.controls.items()},
    )


@cache
def lltokenizer(k2: Tokenizer) -> LLTokenizer:
    return lltokenizer_from_encoding(encoding(k2, 254 if OLD else 256), n_vocab=SIZE, eos_token=EOS)


def lark_accepts(tokenizer: LLTokenizer, grammar: Grammar) -> Accepts:
    text = LLMatcher.grammar_from_lark(grammar.lark_tokens)

    def accepts(ids: list[int]) -> bool:
        matcher = LLMatcher(tokenizer, text)
        assert not matcher.is_error(), matcher.get_error()
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())

    return accepts


@cache
def xgrammar_compiler(k2: Tokenizer) -> Any:
    import xgrammar

    vocabulary = [b""] * SIZE
    for token, id in (
        *k2._encoding._mergeable_ranks.items(),
        *((str(one).encode(), id) for one, id in k2.controls.items()),
    ):
        vocabulary[id] = token
    info = xgrammar.TokenizerInfo(vocabulary, vocab_type=xgrammar.VocabType.RAW, vocab_size=SIZE, stop_token_ids=[EOS])
    return xgrammar.GrammarCompiler(info, cache_enabled=False)


def tag_accepts(k2: Tokenizer, grammar: Grammar, control_ids: Mapping[str, int] | None) -> Accepts:
    import xgrammar

    compiled = xgrammar_compiler(k2).compile_structural_tag(grammar.structural_tag(control_ids))

    def accepts(ids: list[int]) -> bool:
        matcher = xgrammar.GrammarMatcher(compiled)
        return all(matcher.accept_token(id) for id in (*ids, EOS))

    return accepts


TOOLS = [WEATHER, PING, Tool("查询天气")]
SHANGHAI = '{"location": "shanghai"}'
CALL = section(("functions.get_weather:0", SHANGHAI))
TWO = section(("functions.get_weather:0", SHANGHAI), ("functions.查询天气:1", "{}"))
# What no turn is, whatever is asked for: another index, tool, argument, order of markers, or something behind it.
NEVER = [
    section(("functions.ping:0", "{}"), ("functions.ping:0", "{}")),
    section(("functions.ping:1", "{}")),
    section(("functions.pong:0", "{}")),
    section(("ping:0", "{}")),
    section(("functions.ping", "{}")),
    section(("functions.get_weather:0", "{}")),
    section(("functions.get_weather:0", '{"location": 1}')),
    section(("functions.get_weather:0", '{"location": "x", "unit": "k"}')),
    section(("functions.get_weather:0", '{"location": "x", "invented": 1}')),
    section(("functions.get_weather:0", '{"location": "x"')),
    section(("functions.get_weather:0", '{"location": "a\nb"}')),
    section(("functions.ping:0", "true")),
    section(("functions.ping:0", '"{}"')),
    section(),
    CALL[:-1],
    CALL.removesuffix("<|tool_calls_section_end|>"),
    CALL.replace("<|tool_call_argument_begin|>", ""),
    CALL + "Done.",
    CALL + CALL,
    CALL + "<|im_end|>",
]


@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        ({}, ["", "Is a < b, or b << a?", CALL, "Let me see." + CALL, TWO], []),
        ({"tool_choice": "required"}, [CALL, TWO], ["", "Hm.", "Hm." + CALL]),
        ({"tool_choice": "ping", "first_index": 7}, [section(("functions.ping:7", "{}"))], ["", CALL]),
        ({"parallel_tool_calls": False}, [CALL], [TWO]),
        ({"answer": WEATHER.parameters}, [SHANGHAI, CALL, TWO], ["", "Hm.", '{"location": 1}', SHANGHAI + CALL]),
        (
            {"variant": "k2.5", "tool_choice": "required"},
            ["Hm.</think>" + CALL, "</think>" + TWO],
            [CALL, "Hm.</think>x"],
        ),
        ({"variant": "k2.5", "thinking": False}, [CALL, "Hm."], []),
        ({"variant": "k2-thinking"}, ["<think>Hm.</think>x" + CALL, "<think></think>"], [CALL, "Hm.</think>"]),
    ],
)
def test_a_turn_is_held_to_its_form(
    compile: Compile, k2: Tokenizer, options: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    accepts = compile(Grammar.for_turn(TOOLS, **options))
    assert [text for text in (*good, *bad, *NEVER) if accepts(ids_of(k2, text))] == good


def test_only_control_tokens_are_markers_where_the_library_knows_tokens(
    compile: Compile, k2: Tokenizer, request: pytest.FixtureRequest
) -> None:
    knows_none = request.node.callspec.params["compile"] == "structural_tag"
    required, text = (Grammar.for_turn(TOOLS, tool_choice=choice) for choice in ("required", "none"))
    assert compile(required)(k2.encode(CALL)) is knows_none
    assert compile(text)(ids_of(k2, CALL)) is knows_none
    assert compile(text)(ids_of(k2, "Hm."))


def tools(shared: Path) -> Iterator[Tool]:
    with lzma.open(shared / "schemas" / "mcp_tools.jsonl.xz", "rt") as lines:
        yield from (Tool.from_openai(json.loads(line)["tool"]) for line in islice(lines, 0, None, STEP))


def written(name: str, arguments: Any) -> str:
    return section((f"functions.{name}:0", json.dumps(arguments, ensure_ascii=False)))


def in_order(schema: Mapping[str, Any], value: dict[str, Any]) -> bool:
    """Whether the members are declared ones and come in the order in which they are: grammars take no others."""
    known = list(schema.get("properties", ()))
    return all(name in known for name in value) and list(value) == sorted(value, key=known.index)


def test_real_tools_are_called_rightly_or_not_at_all(compile: Compile, k2: Tokenizer, shared: Path) -> None:
    right = 0
    for tool in tools(shared):
        schema = arguments_schema(tool)
        validator = jsonschema_rs.validator_for(schema)
        accepts = compile(Grammar.for_turn([tool], tool_choice=tool.name))
        for value in islice(examples(Schema(schema).arguments), 4):
            if in_order(schema, value):
                right += 1
                assert accepts(ids_of(k2, written(tool.name, value))), (tool, value)
            wrong = [{**value, name: 7 if isinstance(one, dict) else {"q": 1}} for name, one in value.items()]
            for one in (value | {"q": 1}, {}, *wrong):
                if not validator.is_valid(one):
                    assert not accepts(ids_of(k2, written(tool.name, one))), (tool, one)
            for text in (written(tool.name, [value]), written(f"{tool.name}x", value)):
                assert not accepts(ids_of(k2, text)), tool
    assert right > 50


@pytest.mark.skipif(not OLD, reason="llguidance 1 takes it")
def test_llguidance_0_7_29_takes_no_vocabulary_that_has_k2s_longest_tokens(k2: Tokenizer) -> None:
    # 256 blanks and 256 asterisks. So `guided_decoding_backend: llguidance` fails for K2 on TensorRT-LLM.
    with pytest.raises(BaseException, match="num_parents < 0xff"):
        lltokenizer_from_encoding(encoding(k2), n_vocab=SIZE, eos_token=EOS)
