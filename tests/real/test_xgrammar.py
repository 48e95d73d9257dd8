"""xgrammar itself compiles what is made for it. It brings torch along, so it is nobody's dependency: `nox -s grammars`
runs this in an environment that has 0.1.32, and in one that has the newest.
"""

from __future__ import annotations

import json
import lzma
import re
from pathlib import Path
from typing import Any

import pytest

from abruzzi import Tool
from abruzzi.guide.grammar import Grammar
from abruzzi.guide.schema import arguments_schema
from abruzzi.guide.xgrammar import followed
from abruzzi.protocol.markers import MARKERS, THINK_BEGIN, THINK_END
from tests.conftest import PING, WEATHER, section

xgrammar = pytest.importorskip("xgrammar")

CONTROLS = (*MARKERS, THINK_BEGIN, THINK_END)
IDS = {marker: 256 + i for i, marker in enumerate(CONTROLS)}
END = 256 + len(CONTROLS)
SPLIT = re.compile("(" + "|".join(map(re.escape, CONTROLS)) + ")")
TOOLS = [WEATHER, PING, Tool("查询天气")]
CALL = section(("functions.get_weather:0", '{"location": "x"}'))
TWO = section(("functions.get_weather:0", '{"location": "x"}'), ("functions.查询天气:1", "{}"))
REPEATED = section(("functions.ping:0", "{}"), ("functions.ping:0", "{}"))
WRONG = section(("functions.get_weather:0", '{"location": 1}'))


@pytest.fixture(scope="module")
def compiler() -> Any:
    vocabulary = [bytes([byte]) for byte in range(256)] + [text.encode() for text in (*CONTROLS, "<|im_end|>")]
    info = xgrammar.TokenizerInfo(
        vocabulary, vocab_type=xgrammar.VocabType.RAW, vocab_size=len(vocabulary), stop_token_ids=[END]
    )
    return xgrammar.GrammarCompiler(info, cache_enabled=False)


def accepts(compiled: Any, text: str, tokens: bool) -> bool:
    matcher = xgrammar.GrammarMatcher(compiled)
    if not tokens:
        return bool(matcher.accept_string(text) and matcher.accept_token(END))
    ids = [id for part in SPLIT.split(text) for id in ([IDS[part]] if part in IDS else part.encode())]
    return all(matcher.accept_token(id) for id in (*ids, END))


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(
    ("options", "good", "bad"),
    [
        ({}, ["", "a < b <| c", CALL, "Hm." + CALL, TWO], [REPEATED, WRONG, CALL + "x"]),
        ({"tool_choice": "required"}, [CALL, TWO], ["", "Hm.", REPEATED, WRONG]),
        ({"tool_choice": "ping", "first_index": 7}, [section(("functions.ping:7", "{}"))], [CALL]),
        ({"tool_choice": "none"}, ["", "Hm."], []),
        ({"parallel_tool_calls": False}, [CALL], [TWO]),
        (
            {"answer": WEATHER.parameters},
            ['{"location": "x"}', CALL, TWO],
            ["", "Hm.", '{"location": 1}', "Hm." + CALL],
        ),
        ({"tool_choice": "required", "variant": "k2.5"}, ["Hm.</think>" + CALL], [CALL, "Hm.</think>x"]),
        ({"variant": "k2-thinking"}, ["<think>Hm.</think>x" + CALL, "<think></think>"], [CALL, "Hm.</think>"]),
    ],
)
def test_a_structural_tag_holds_the_turn(
    compiler: Any, options: dict[str, Any], good: list[str], bad: list[str], tokens: bool
) -> None:
    if tokens and not hasattr(xgrammar.structural_tag, "TokenFormat"):
        pytest.skip("this xgrammar has no token form")
    tag = Grammar.for_turn(TOOLS, **options).structural_tag(IDS if tokens else None)
    compiled = compiler.compile_structural_tag(tag)
    assert [text for text in (*good, *bad) if accepts(compiled, text, tokens)] == good


def test_tokens_cannot_be_spelled(compiler: Any) -> None:
    if not hasattr(xgrammar.structural_tag, "TokenFormat"):
        pytest.skip("this xgrammar has no token form")
    tag = Grammar.for_turn(TOOLS, tool_choice="required").structural_tag(IDS)
    matcher = xgrammar.GrammarMatcher(compiler.compile_structural_tag(tag))
    assert not matcher.accept_token(ord("<"))


@pytest.mark.parametrize(("name", "key"), [("mcp_tools", "tool"), ("maskbench", "schema")])
def test_no_real_schema_is_refused(compiler: Any, shared: Path, name: str, key: str) -> None:
    with lzma.open(shared / "schemas" / f"{name}.jsonl.xz", "rt") as lines:
        found = [json.loads(line)[key] for line in lines]
    for value in found[::3]:
        tool = Tool.from_openai(value) if key == "tool" else Tool("f", None, value)
        schema = {"type": "json_schema", "json_schema": followed(arguments_schema(tool))}
        compiler.compile_structural_tag({"type": "structural_tag", "format": schema})


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"type": "string", "maxLength": 9}, r'"a\n\"b\""'),
        ({"type": "string", "pattern": "^a.c$"}, r'"a\"c"'),
        ({"type": "number", "minimum": 0}, "0.5"),
        ({"enum": ["é", 'a"b', None, 1.5]}, '"é"'),
        ({"type": "string", "format": "date-time"}, '"2024-02-29T10:00:00Z"'),
    ],
)
def test_what_is_valid_can_be_written(compiler: Any, schema: Any, text: str) -> None:
    tool = Tool("f", None, {"type": "object", "properties": {"x": schema}, "required": ["x"]})
    compiled = compiler.compile_structural_tag(Grammar.for_turn([tool], tool_choice="f").structural_tag())
    assert accepts(compiled, section(("functions.f:0", f'{{"x": {text}}}')), tokens=False)
