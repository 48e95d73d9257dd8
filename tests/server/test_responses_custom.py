"""Custom tools, whose input is free text, on a real socket and with the official client."""

from __future__ import annotations

from typing import Any

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import section
from tests.server.openapi import openais
from tests.server.responding import ASK, TOOLS, Serve, client_of, events, get, lasting, post

PATCH: Any = {"type": "custom", "name": "patch", "description": "Changes files.", "format": {"type": "text"}}
TEXT = '*** Begin\n+ "é" \\ 😀\n'
WRITTEN = '{ "input" : "*** Begin\\n+ \\"\\u00e9\\" \\\\ \\ud83d\\ude00\\n"}'
CALL = section(("functions.patch:0", WRITTEN), ("functions.ping:1", "{}"))
BODY: Any = {"input": ASK, "tools": [PATCH, *TOOLS]}


@pytest.mark.parametrize("cut", [lambda text: [text], list])
def test_the_input_is_what_the_model_wrote_streamed_or_not(serve: Serve, cut: Any) -> None:
    served = serve(ScriptedEngine(["See:" + CALL], cut=cut))
    status, whole = post(served, BODY)
    assert status == 200
    openais().check("Response", whole)
    assert whole["tools"][0] == PATCH
    called = [(item["type"], item["name"], item.get("input")) for item in whole["output"][1:]]
    assert called == [("custom_tool_call", "patch", TEXT), ("function_call", "ping", None)]
    streamed = events(served, BODY)
    for event in streamed:
        openais().check("ResponseStreamEvent", event)
    assert lasting(streamed[-1]["response"]) == lasting(whole)
    told = {event["type"]: event for event in streamed if "custom_tool_call_input" in event["type"]}
    assert told["response.custom_tool_call_input.delta"]["delta"] == TEXT
    assert told["response.custom_tool_call_input.done"]["input"] == TEXT


@pytest.mark.parametrize("stores", [True, False])
def test_a_round_with_the_official_client(serve: Serve, stores: bool) -> None:
    engine = ScriptedEngine([section(("functions.patch:0", WRITTEN)), "Done."])
    served = serve(engine)
    with client_of(served) as client:
        first = client.responses.create(model="any", input=ASK, tools=[PATCH], store=stores)
        (call,) = first.output
        assert call.type == "custom_tool_call" and call.input == TEXT
        result: Any = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "It fits."}
        if stores:
            last = client.responses.create(model="any", input=[result], tools=[PATCH], previous_response_id=first.id)
            openais().check("ResponseItemList", get(served, f"{last.id}/input_items")[1])
        else:
            items: Any = [{"role": "user", "content": ASK}, call.to_dict(), result]
            last = client.responses.create(model="any", input=items, tools=[PATCH], store=False)
    assert last.output_text == "Done."
    shown, call_shown = str(engine.prompts[1]), 'functions.patch:0<|tool_call_argument_begin|>{"input": "*** Begin\\n'
    assert 0 < shown.find(call_shown) < shown.find("It fits")


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "custom", "name": "patch"},
        {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "patch"}]},
    ],
)
def test_one_can_be_chosen(serve: Serve, choice: Any) -> None:
    body = {**BODY, "tool_choice": choice, "parallel_tool_calls": False}
    status, answer = post(serve(ScriptedEngine([CALL])), body)
    assert (status, [item["type"] for item in answer["output"]]) == (200, ["custom_tool_call"])


def test_a_call_that_the_limit_cuts_is_no_item(serve: Serve) -> None:
    served = serve(ScriptedEngine([CALL[: CALL.index("ud83d")]], finish_reason="length", cut=list))
    assert post(served, BODY)[1]["output"] == []
    streamed = events(served, BODY)
    assert streamed[-1]["response"]["output"] == [] and streamed[-1]["type"] == "response.incomplete"
    assert not [event for event in streamed if event["type"] == "response.output_item.done"]


def test_an_input_is_text_whatever_the_model_writes(serve: Serve) -> None:
    """Half of a surrogate pair is none, and JSON can't hold it."""
    half = section(("functions.patch:0", '{"input": "\\ud83d"}'))
    status, answer = post(serve(ScriptedEngine([half, section(("functions.patch:0", WRITTEN))])), BODY)
    assert status == 200
    assert all(item["input"].encode() for item in answer["output"] if item["type"] == "custom_tool_call")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{**PATCH, "format": {"type": "grammar", "syntax": "lark"}}]}, "tools[0].format.type"),
        ({"tools": [{**PATCH, "format": "text"}]}, "tools[0].format"),
        ({"tools": [{"type": "custom"}]}, "tools[0].name"),
        ({"tools": [PATCH, {**TOOLS[0], "name": "patch"}]}, "tools[1].name"),
        ({"tool_choice": {"type": "function", "name": "patch"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "custom", "name": "ping"}}, "tool_choice.name"),
        ({"input": [{"type": "custom_tool_call", "call_id": "a", "name": "patch"}]}, "input[0].input"),
        ({"input": [{"type": "custom_tool_call_output", "call_id": "a", "output": "x"}]}, "input[0].call_id"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(serve: Serve, change: Any, param: str) -> None:
    status, body = post(serve(ScriptedEngine([CALL])), {**BODY, **change})
    assert (status, body["error"]["param"]) == (400, param)
