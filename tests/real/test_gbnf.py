"""llama.cpp itself keeps to what is made for it."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from abruzzi import Message, Tool, parse
from abruzzi.guide import accepts
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.template import render_prompt
from tests.conftest import PING, WEATHER

NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}
ENDLESS = Tool(
    "f", None, {"properties": {"tree": {"$ref": "#/$defs/node"}}, "required": ["tree"], "$defs": {"node": NODE}}
)
ODD = Tool(
    "größe.messen-2",
    None,
    {
        "type": "object",
        "properties": {
            "a\"b'": {"enum": ['é\n"\\', None, 1.5]},
            "when": {"type": "string", "format": "date-time"},
            "count": {"type": "integer", "minimum": 2, "maximum": 4},
            "names": {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 5}, "maxItems": 2},
        },
        "required": ["a\"b'", "when", "count", "names"],
    },
)


def generate(embedded: Any, grammar: Grammar, prompt: str, **options: Any) -> str:
    """What llama.cpp writes when it is left alone with the grammar."""
    pieces: list[str] = []

    def on_chunk(chunk: dict[str, Any]) -> bool:
        pieces.append(f"{chunk['error']}" if "error" in chunk else chunk["choices"][0]["text"])
        return "error" in chunk

    ids = embedded._tokenizer.encode(render_prompt([Message("user", prompt)], tools=[], variant="smollm2"))
    request = {"prompt": ids, "n_predict": 300, "stream": True, "temperature": 1.0, "seed": 5, "grammar": grammar.gbnf}
    embedded._server.handle_completions({**request, **options}, on_chunk)
    return "".join(pieces)


@pytest.mark.parametrize("tool", [WEATHER, PING, ODD])
def test_llama_cpp_writes_a_valid_call(embedded: Any, tool: Tool) -> None:
    grammar = Grammar.for_turn([WEATHER, PING, ODD], tool_choice=tool.name, parallel_tool_calls=False, first_index=4)
    text = generate(embedded, grammar, "The weather in Rome?")
    (call,) = parse(text, tools=[tool]).tool_calls
    assert call.id == f"functions.{tool.name}:4"


def test_llama_cpp_writes_an_answer_of_a_form_of_its_own(embedded: Any) -> None:
    grammar = Grammar.for_turn([], answer=ODD.parameters)
    text = generate(embedded, grammar, "The weather in Rome?")
    assert accepts(ODD.parameters, text), text
    calling = Grammar.for_turn([WEATHER], answer=ODD.parameters, tool_choice="required", parallel_tool_calls=False)
    assert parse(generate(embedded, calling, "The weather in Rome?"), tools=[WEATHER]).tool_calls


def test_llama_cpp_follows_a_schema_that_refers_to_itself(embedded: Any) -> None:
    text = generate(embedded, Grammar.for_turn([ENDLESS], tool_choice="f"), "Hi", n_predict=80)
    assert '{"tree": {"next": {"next": {"next": ' in text


def test_llama_cpp_may_answer_and_may_not(embedded: Any) -> None:
    # What the model would rather do is its own affair: here it can't begin a marker.
    auto, none = (Grammar.for_turn([PING], tool_choice=choice) for choice in ("auto", "none"))
    kept = {"temperature": 0.0, "n_predict": 20, "logit_bias": [["<", False], ["<|", False]]}
    answered = generate(embedded, auto, "Say hello.", **kept)
    assert answered and "<" not in answered
    assert "<|tool" not in generate(embedded, none, "Call ping.", temperature=0.0, n_predict=20)


def test_llama_cpp_thinks_first(embedded: Any) -> None:
    grammar = Grammar.for_turn([PING], tool_choice="required", variant="k2-thinking")
    assert generate(embedded, grammar, "Hi", n_predict=8).startswith("<think>")


def test_llama_cpp_takes_the_grammar_of_a_hundred_real_tools(embedded: Any, shared: Path) -> None:
    with lzma.open(shared / "schemas" / "github_mcp_tools.json.xz", "rt") as file:
        tools = [Tool.from_openai(tool) for tool in json.load(file)]
    text = generate(embedded, Grammar.for_turn(tools, tool_choice="required"), "Hi", n_predict=12)
    assert text.startswith("<|tool_calls_section_begin|>"[:12])
