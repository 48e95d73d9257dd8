"""Custom tools of the chat API, whose input is free text, on a real socket and with the official client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import section
from tests.server.asking import Serve, ask
from tests.server.openapi import openais
from tests.server.test_app import ASK, client_of
from tests.server.test_responses_custom import CALL, TEXT, WRITTEN

PING: Any = {"type": "function", "function": {"name": "ping"}}
PATCH: Any = {
    "type": "custom",
    "custom": {"name": "patch", "description": "Changes files.", "format": {"type": "text"}},
}
BODY: Any = {"messages": ASK, "tools": [PATCH, PING]}
PATCHED: Any = {"id": "c1", "type": "custom", "custom": {"name": "patch", "input": TEXT}}


@pytest.mark.parametrize("cut", [lambda text: [text], list])
def test_the_input_is_what_the_model_wrote_streamed_or_not(serve: Serve, cut: Any) -> None:
    served = serve(ScriptedEngine([CALL], cut=cut))
    whole = ask(served, body=BODY).json
    openais().check("CreateChatCompletionResponse", whole)
    (patch, ping), reason = whole["choices"][0]["message"]["tool_calls"], whole["choices"][0]["finish_reason"]
    assert (patch, reason) == ({**PATCHED, "id": "functions.patch:0"}, "tool_calls")
    assert ping["function"] == {"name": "ping", "arguments": "{}"}
    frames = ask(served, body={**BODY, "stream": True}).body.decode().split("\n\n")
    choices = [json.loads(frame.removeprefix("data: "))["choices"] for frame in frames if frame.startswith("data: {")]
    calls = [one for (choice,) in choices for one in choice["delta"].get("tool_calls", ())]
    begun = {"type": "custom", "custom": {"name": "patch", "input": ""}}
    assert calls[:2] == [
        {"index": 0, "id": "functions.patch:0", **begun},
        {"index": 0, "custom": {"input": TEXT}},
    ]
    assert {call["index"] for call in calls[2:]} == {1}
    assert "".join(call["function"]["arguments"] for call in calls[2:]) == "{}"


def test_several_answers_have_their_inputs_apart(serve: Serve) -> None:
    outputs = [section(("functions.patch:0", json.dumps({"input": text}))) for text in ("one", "two")]
    with client_of(serve(ScriptedEngine(outputs, cut=list))) as client:
        chunks = client.chat.completions.create(model="any", messages=ASK, tools=[PATCH], n=2, stream=True)
        choices = [choice for chunk in chunks for choice in chunk.choices]
    inputs: dict[int, str] = {0: "", 1: ""}
    for choice in choices:
        for call in choice.delta.tool_calls or ():
            inputs[choice.index] += call.to_dict()["custom"]["input"]  # type: ignore[index]
    assert sorted(inputs.values()) == ["one", "two"]


def test_a_round_with_the_official_client(serve: Serve) -> None:
    engine = ScriptedEngine([section(("functions.patch:0", WRITTEN)), "Done."])
    with client_of(serve(engine)) as client:
        first = client.chat.completions.create(model="any", messages=ASK, tools=[PATCH]).choices[0].message
        (call,) = first.tool_calls or ()
        assert call.type == "custom" and call.custom.input == TEXT
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "It fits."}
        history: Any = [*ASK, first.to_dict(), result]
        last = client.chat.completions.create(model="any", messages=history, tools=[PATCH])
    assert last.choices[0].message.content == "Done."
    shown, call_shown = str(engine.prompts[1]), 'functions.patch:0<|tool_call_argument_begin|>{"input": "*** Begin\\n'
    assert 0 < shown.find(call_shown) < shown.find("It fits")


NAMED: Any = {"type": "custom", "custom": {"name": "patch"}}


@pytest.mark.parametrize(
    "choice", [NAMED, {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}]
)
def test_one_can_be_chosen(serve: Serve, choice: Any) -> None:
    body = {**BODY, "tool_choice": choice, "parallel_tool_calls": False}
    answer = ask(serve(ScriptedEngine([CALL])), body=body)
    assert [call["type"] for call in answer.json["choices"][0]["message"]["tool_calls"]] == ["custom"]


def test_a_call_that_the_limit_cuts_has_no_input(serve: Serve) -> None:
    served = serve(ScriptedEngine([CALL[: CALL.index("ud83d")]], finish_reason="length", cut=list))
    choice = ask(served, body=BODY).json["choices"][0]
    assert (choice["finish_reason"], "tool_calls" in choice["message"]) == ("length", False)
    assert b"Begin" not in ask(served, body={**BODY, "stream": True}).body


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "tools[0].custom.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "a b"}}]}, "tools[0].custom.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "a", "description": 1}}]}, "tools[0].custom.description"),
        (
            {"tools": [{"type": "custom", "custom": {"name": "a", "format": {"type": "grammar", "grammar": {}}}}]},
            "tools[0].custom.format.type",
        ),
        ({"tool_choice": {"type": "custom", "custom": {"name": "ping"}}}, "tool_choice.custom.name"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "patch"}}}, "tool_choice.function.name"),
        (
            {"messages": [*ASK, {"role": "assistant", "tool_calls": [{**PATCHED, "custom": {"name": "patch"}}]}]},
            "messages[1].tool_calls[0].custom.input",
        ),
        (
            {"messages": [*ASK, {"role": "assistant", "tool_calls": [{**PATCHED, "custom": {"input": "x"}}]}]},
            "messages[1].tool_calls[0].custom.name",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(serve: Serve, change: Any, param: str) -> None:
    answer = ask(serve(ScriptedEngine([CALL])), body={**BODY, **change})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
