"""Answers that the client begins, over Anthropic's API: the model goes on from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.prompt import Control
from abruzzi.protocol.variants import K2, K2_5, K2_6, K2_THINKING, Variant
from tests.conftest import Served, section
from tests.server.test_messages import ASK, CALL, TOOLS, asked, client_of, streamed

Serve = Callable[..., Served]
WRONG = section(("functions.get_weather:0", '{"location": 1}'))


def begun(text: Any) -> Any:
    return [*ASK, {"role": "assistant", "content": text}]


@pytest.mark.parametrize("cut", [list, lambda text: [text]])
@pytest.mark.parametrize("ask", [asked, streamed])
@pytest.mark.parametrize("tools", [[], TOOLS])
@pytest.mark.parametrize(
    ("variant", "end"),
    [
        (K2, "<|im_assistant|>assistant<|im_middle|>It is ("),
        (K2_THINKING, "<|im_assistant|>assistant<|im_middle|><think></think>It is ("),
        (K2_5, "<|im_assistant|>assistant<|im_middle|><think></think>It is ("),
        (K2_6, "<|im_assistant|>assistant<|im_middle|><think></think>It is ("),
    ],
)
def test_the_answer_goes_on_from_the_text(
    serve: Serve, ask: Any, tools: Any, cut: Any, variant: Variant, end: str
) -> None:
    engine = ScriptedEngine(["A) sunny."], variant=variant, cut=cut)
    message = ask(engine, serve, messages=begun("It is ("), tools=tools)
    assert [(block.type, block.text) for block in message.content] == [("text", "A) sunny.")]
    assert message.stop_reason == "end_turn" and str(engine.prompts[0]).endswith(end)


@pytest.mark.parametrize("ask", [asked, streamed])
def test_calls_come_behind_the_text_and_through_the_guard(serve: Serve, ask: Any) -> None:
    engine = ScriptedEngine([" for you." + CALL])
    message = ask(engine, serve, messages=begun("I look"), tools=TOOLS)
    assert message.content[0].text == " for you."
    assert [(block.name, block.input) for block in message.content[1:]] == [
        ("get_weather", {"location": "shanghai"}),
        ("ping", {}),
    ]
    mended = ScriptedEngine([" for you." + WRONG, 'shanghai"}<|tool_call_end|><|tool_calls_section_end|>'])
    message = ask(mended, serve, messages=begun("I look"), tools=TOOLS)
    assert message.content[0].text == " for you." and message.content[1].input == {"location": "shanghai"}
    assert "I look for you.<|tool_calls_section_begin|>" in str(mended.prompts[1])
    assert str(mended.prompts[1]).count("I look") == 1


def test_a_marker_in_the_text_stays_text(serve: Serve) -> None:
    engine = ScriptedEngine(["x"])
    message = asked(engine, serve, messages=begun("<|tool_calls_section_begin|>"), tools=TOOLS)
    assert message.content[0].text == "x"
    assert str(engine.prompts[0]).endswith("<|im_middle|><\u200b|tool_calls_section_begin|>")
    assert not [part for part in engine.prompts[0].parts[-1:] if isinstance(part, Control)]


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ({"messages": begun("")}, r"messages\[1\].content"),
        ({"messages": begun("The answer is ")}, r"messages\[1\].content"),
        ({"messages": begun([{"type": "tool_use", "id": "t", "name": "ping", "input": {}}])}, r"messages\[1\]"),
        ({"tools": TOOLS, "tool_choice": {"type": "any"}}, r"messages\[1\]"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}, r"messages\[1\]"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, r"messages\[1\]"),
    ],
)
def test_what_cant_be_gone_on_from_is_refused(serve: Serve, more: Any, path: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match=rf"\(at {path}\)"):
        asked(ScriptedEngine(["x"]), serve, **{"messages": begun("{"), **more})


def test_its_tokens_are_counted_as_they_are_read(serve: Serve) -> None:
    engine = ScriptedEngine(["x"])
    with client_of(serve(engine)) as client:
        count = client.messages.count_tokens(model="any", messages=begun("It is (")).input_tokens
        client.messages.create(model="any", max_tokens=9, messages=begun("It is ("))
    assert count == -(-len(str(engine.prompts[0])) // 4)
