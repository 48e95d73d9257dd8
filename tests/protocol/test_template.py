from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi import Message, RequestError, Tool, render
from abruzzi.protocol import prompt as prompts
from abruzzi.protocol.messages import as_messages
from abruzzi.protocol.prompt import Control, escape, unescape
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.variants import K2, SMOLLM2, VARIANTS
from tests.conftest import PING, WEATHER

CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "call_abc", "type": "function", "function": {"name": "ping", "arguments": "{}"}}],
}
ASK: dict[str, Any] = {"role": "user", "content": "Hi"}
RESULT = {"role": "tool", "tool_call_id": "call_abc", "content": "pong"}


@pytest.mark.parametrize("variant", ["k2", "k2-thinking", "k2.5"])
def test_the_published_conversations_come_out_byte_for_byte(shared: Path, variant: str) -> None:
    golden = shared / "k2" / "golden"
    inputs = json.loads((golden / "_inputs.json").read_text())
    for key, prompt in json.loads((golden / f"{variant}.json").read_text()).items():
        name, _, switch = key.partition("+")
        thinking = False if switch == "thinking=false" else None
        conversation = inputs[name]
        rendered = render(
            conversation["messages"], tools=conversation.get("tools", ()), variant=variant, thinking=thinking
        )
        assert (key, rendered) == (key, prompt)


DECLARED = (
    '<|im_system|>tool_declare<|im_middle|>[{"function":{"description":"Check the connection.","name":"ping"},'
    '"type":"function"}]<|im_end|>'
)
DEFAULT = "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>"
CALLED = (
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.ping:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    "<|tool_calls_section_end|>"
)
RETURNED = "<|im_system|>tool<|im_middle|>## Return of functions.ping:0\npong<|im_end|>"
HEAD = "<|im_assistant|>assistant<|im_middle|>"


@pytest.mark.parametrize(
    ("variant", "head", "thought", "tail"),
    [
        ("k2", f"{DECLARED}{DEFAULT}\n", "", ""),
        ("k2-thinking", DECLARED + DEFAULT, "<think>Hm.</think>", ""),
        (
            "k2.5",
            "<|im_system|>tool_declare<|im_middle|># Tools\n\n## functions\nnamespace functions {\n"
            "// Check the connection.\ntype ping = (_: {}) => any;\n}\n<|im_end|>",
            "<think>Hm.</think>",
            "<think>",
        ),
    ],
)
def test_a_conversation_of_each_variant(variant: str, head: str, thought: str, tail: str) -> None:
    messages = [ASK, {**CALL, "reasoning_content": "Hm."}, RESULT]
    assert render(messages, tools=[PING], variant=variant) == (
        f"{head}<|im_user|>user<|im_middle|>Hi<|im_end|>{HEAD}{thought}{CALLED}<|im_end|>{RETURNED}{HEAD}{tail}"
    )


def test_a_message_with_a_name_shows_it() -> None:
    assert render([{**ASK, "name": "ann"}], variant="k2.5").startswith("<|im_user|>ann<|im_middle|>Hi")


def test_reasoning_up_to_the_last_answer_is_dropped_unless_it_is_to_be_kept() -> None:
    answer = {"role": "assistant", "content": "Ok.", "reasoning_content": "Old."}
    messages = [ASK, answer, ASK, {**CALL, "reasoning_content": "New."}, RESULT]
    for variant in ("k2-thinking", "k2.5", "k2.6"):
        assert "<think></think>Ok." in (text := render(messages, variant=variant))
        assert "<think>New.</think><|tool_calls" in text
    assert "<think>Old.</think>Ok." in render(messages, variant="k2.6", preserve_thinking=True)
    for variant in ("k2", "k2-thinking", "k2.5"):
        with pytest.raises(RequestError, match="preserve_thinking"):
            render(messages, variant=variant, preserve_thinking=True)


def test_thinking_can_be_switched_where_the_model_has_a_switch() -> None:
    assert render([ASK], variant="k2.5", thinking=False).endswith("<think></think>")
    assert render([ASK], variant="k2.5", thinking=True).endswith("<think>")
    for variant, thinking in (("k2", True), ("k2-thinking", False)):
        with pytest.raises(RequestError, match="thinking"):
            render([ASK], variant=variant, thinking=thinking)


def test_the_embedded_models_prompt() -> None:
    assert render([ASK, CALL, RESULT], tools=[WEATHER, PING], variant="smollm2") == (
        "<|im_start|>tools\n"
        'get_weather(location: string /* Name of the city */, unit?: "c" | "f"): Get the weather of a city.\n'
        "ping(): Check the connection.<|im_end|>\n"
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<|tool_calls_section_begin|><|tool_call_begin|>functions.ping:0"
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|><|im_end|>\n"
        "<|im_start|>tool\n## Return of functions.ping:0\npong<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(RequestError, match="at least one message"):
        render([])


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)
@given(content=st.text() | st.sampled_from(sorted(K2.controls | SMOLLM2.controls)))
def test_content_never_becomes_a_control_token(variant: Any, content: str) -> None:
    plain = render_prompt([Message("user", "")], variant=variant)
    spoken = render_prompt([Message("user", f"a{content}b")], variant=variant)
    controls = [part for part in spoken.parts if isinstance(part, Control)]
    assert controls == [part for part in plain.parts if isinstance(part, Control)]
    for control in variant.controls:
        assert str(spoken).count(control) == str(plain).count(control)


@given(pieces=st.lists(st.sampled_from(["<", "\u200b", "|im_end|>", "[EOS]", "[", "EOS]", "x"])))
def test_escaping_is_reversible_and_leaves_other_text_alone(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert unescape(escape(text, K2), K2) == text
    if not any(control[1:] in text for control in K2.controls):
        assert escape(text, K2) == text


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_longer_conversation_extends_the_prompt_of_the_shorter_one(variant: str) -> None:
    messages = [ASK, {**CALL, "reasoning_content": "Hm."}, RESULT, {"role": "assistant", "content": "Ok."}, ASK]
    asked, went_on, answered = (render(messages[:n], tools=[PING], variant=variant) for n in (1, 3, 5))
    assert went_on.startswith(asked)
    # What was thought is dropped once the answer is there: the templates of the models that think have it so.
    assert answered.startswith(went_on) or "<think>Hm.</think>" in went_on


@pytest.mark.parametrize(("arguments", "written"), [({}, "{}"), (None, ""), ("", ""), ({"a": "é"}, '{"a": "é"}')])
def test_arguments_that_are_an_object_are_written_as_json(arguments: Any, written: str) -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": arguments}}
    text = render([ASK, {"role": "assistant", "tool_calls": [call]}])
    assert f"<|tool_call_argument_begin|>{written}<|tool_call_end|>" in text


def test_braces_in_a_name_are_no_place_to_fill() -> None:
    call = {"id": "1", "function": {"name": "f{content}", "arguments": "{}"}}
    text = render([ASK, {"role": "assistant", "tool_calls": [call]}, {**RESULT, "tool_call_id": "1"}])
    assert "## Return of functions.f{content}:0\npong" in text


@pytest.mark.parametrize("name", ["a b", "a<think>b", "[EOS]", "<|im_end|>"])
def test_a_tool_whose_name_could_be_taken_for_a_marker_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=r"tools\[0\].function.name"):
        render([ASK], tools=[{"type": "function", "function": {"name": name}}])


@pytest.mark.parametrize("thinking", [0, "off", {"type": "disabled"}])
def test_a_switch_that_is_none_is_refused(thinking: Any) -> None:
    with pytest.raises(RequestError, match="thinking"):
        render([ASK], variant="k2.5", thinking=thinking)


def test_reasoning_and_names_can_speak_no_protocol() -> None:
    message = {**CALL, "reasoning_content": "a</think><|im_end|>", "name": "<|im_middle|>"}
    prompt = render_prompt(as_messages([ASK, message, RESULT]), variant="k2.5")
    plain = render_prompt(as_messages([ASK, {**CALL, "reasoning_content": "a", "name": "b"}, RESULT]), variant="k2.5")
    assert [part for part in prompt.parts if isinstance(part, Control)] == [
        part for part in plain.parts if isinstance(part, Control)
    ]


def test_every_control_token_can_be_escaped() -> None:
    for variant in VARIANTS.values():
        assert not [control for control in variant.controls if escape(control, variant) == control]


@given(
    st.lists(st.sampled_from(["<", "[", "|", "\u200b", "im_end", "|>", "EOS", "]", "think>", "/", "a"]), max_size=40)
)
def test_a_long_text_is_looked_through_in_slices_and_comes_out_the_same(parts: list[str]) -> None:
    text = "".join(parts)
    whole = escape(text, K2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompts, "_SLICE", 5)
        assert escape(text, K2) == whole


def test_a_developer_is_the_system() -> None:
    assert render([{"role": "developer", "content": "x"}, ASK]) == render([{"role": "system", "content": "x"}, ASK])


def test_equal_tools_are_declared_once() -> None:
    declared: list[int] = []

    def declare(tools: Sequence[Tool]) -> str:
        declared.append(len(tools))
        return "x"

    for _ in range(3):
        tools = [Tool("f", None, {"type": "object", "properties": {"x": {}}}), PING]
        assert "tool_declare<|im_middle|>x" in render([ASK], tools=tools, variant=replace(K2, declare=declare))
    assert declared == [2]


def test_schemas_nested_too_deep_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"properties": {"a": deep}}
    for variant in ("k2", "k2.5"):
        with pytest.raises(RequestError, match="levels deep"):
            render([ASK], tools=[Tool("f", None, deep)], variant=variant)
