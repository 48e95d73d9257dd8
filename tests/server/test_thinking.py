"""Reasoning in OpenAI's chat API: switched off, left out of the answer, and in the history."""

from __future__ import annotations

from typing import Any

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.variants import K2, K2_5, K2_6, K2_THINKING, Variant
from tests.conftest import section
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask, streamed

CALL = section(("functions.ping:0", "{}"))
TOOLS: Any = [{"type": "function", "function": {"name": "ping"}}]


@pytest.mark.parametrize(
    ("asked", "is_off"),
    [
        ({}, False),
        ({"chat_template_kwargs": {"thinking": False}}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, True),
        ({"chat_template_kwargs": {"thinking": True, "enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}, False),
        ({"thinking": {"type": "disabled"}}, True),
        ({"reasoning_effort": "minimal"}, True),
        ({"reasoning_effort": "low"}, False),
    ],
)
def test_thinking_is_switched_off_where_the_model_has_a_switch(serve: Serve, asked: Any, is_off: bool) -> None:
    engine = ScriptedEngine(["Yes."], variant=K2_5)
    assert ask(serve(engine), body={**HELLO, **asked}).status == 200
    assert str(engine.prompts[0]).endswith("<think></think>") is is_off


@pytest.mark.parametrize("variant", [K2, K2_THINKING])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("kind", ["enabled", "disabled"])
def test_a_switch_that_a_model_hasnt_got_changes_nothing(serve: Serve, variant: Variant, path: str, kind: str) -> None:
    engine = ScriptedEngine(["Yes."], variant=variant)
    served, body = serve(engine), {**HELLO, "max_tokens": 50}
    for more in ({}, {"thinking": {"type": kind}}):
        assert ask(served, path, {**body, **more}).status == 200
    assert str(engine.prompts[0]) == str(engine.prompts[1])


def test_reasoning_is_left_out_where_it_is_not_wanted(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hm.</think>Yes." + CALL], variant=K2_5, cut=list))
    asked = {"tools": TOOLS, "include_reasoning": False}
    message = ask(served, body={**HELLO, **asked}).json["choices"][0]["message"]
    assert "reasoning_content" not in message
    assert (message["content"], len(message["tool_calls"])) == ("Yes.", 1)
    body = ask(served, body=streamed(**asked)).body
    assert b"reasoning" not in body and b'"content":"Y"' in body and b'"name":"ping"' in body
    assert "Hm." in ask(served).json["choices"][0]["message"]["reasoning_content"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_comes_back_under_either_name(serve: Serve, name: str) -> None:
    engine = ScriptedEngine(["Done."], variant=K2_THINKING)
    call = {"id": "c", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
    asked = {"role": "assistant", "content": None, name: "I must ask.", "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c", "content": "pong"}
    body = {"messages": [*HELLO["messages"], asked, result], "tools": TOOLS}
    assert ask(serve(engine), body=body).status == 200
    assert "<think>I must ask.</think>" in str(engine.prompts[0])


@pytest.mark.parametrize(
    "keeps", [{"chat_template_kwargs": {"preserve_thinking": True}}, {"thinking": {"type": "enabled", "keep": "all"}}]
)
@pytest.mark.parametrize(("variant", "is_kept"), [(K2_6, True), (K2_5, False)])
def test_the_reasoning_of_all_turns_is_kept_where_it_can_be(
    serve: Serve, keeps: Any, variant: Variant, is_kept: bool
) -> None:
    engine = ScriptedEngine(["Done.</think>"], variant=variant)
    said = {"role": "assistant", "content": "Yes.", "reasoning_content": "Long ago."}
    body = {"messages": [*HELLO["messages"], said, *HELLO["messages"]], **keeps}
    assert ask(serve(engine), body=body).status == 200
    assert ("Long ago." in str(engine.prompts[0])) is is_kept
