"""The Responses API on a real socket, with the official client: its answers, whole and streamed."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from abruzzi import EngineError
from abruzzi.engines.base import Piece
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.variants import K2, K2_5, K2_THINKING
from tests.conftest import section
from tests.server.openapi import openais
from tests.server.responding import (
    ASK,
    CALLS,
    NAMESPACE,
    THOUGHT,
    TOOLS,
    Serve,
    ask,
    client_of,
    events,
    get,
    lasting,
    post,
)

# Answers


def test_an_answer_of_text(serve: Serve) -> None:
    engine = ScriptedEngine(["Hello."])
    with client_of(serve(engine)) as client:
        answer = client.responses.create(model="any", input="Hi!", instructions="Be brief.", metadata={"a": "b"})
    assert answer.output_text == "Hello."
    assert (answer.status, answer.model, answer.instructions) == ("completed", "scripted", "Be brief.")
    assert answer.metadata == {"a": "b"}
    assert answer.usage is not None and answer.usage.output_tokens == len("Hello.")
    assert str(engine.prompts[0]).startswith("<|im_system|>system<|im_middle|>Be brief.<|im_end|><|im_user|>")


def test_an_answer_with_calls(serve: Serve) -> None:
    with client_of(serve(ScriptedEngine(["Let me see." + CALLS]))) as client:
        answer = client.responses.create(model="any", input=ASK, tools=TOOLS)
    message, *calls = answer.output
    assert message.type == "message" and message.id.startswith("msg_")
    told = [(c.call_id, c.name, c.arguments, c.status) for c in calls if c.type == "function_call"]
    assert told == [
        ("functions.get_weather:0", "get_weather", '{"location": "shanghai"}', "completed"),
        ("functions.ping:1", "ping", "{}", "completed"),
    ]
    assert answer.to_dict()["abruzzi"]["guarantee"] == "validated"  # type: ignore[index]


def test_reasoning_is_an_item_of_its_own(serve: Serve) -> None:
    with client_of(serve(ScriptedEngine([THOUGHT], variant=K2_5))) as client:
        answer = client.responses.create(model="any", input=ASK, tools=TOOLS)
    assert [item.type for item in answer.output] == ["reasoning", "message", "function_call", "function_call"]
    reasoning = answer.output[0]
    assert reasoning.type == "reasoning" and reasoning.content is not None
    assert (reasoning.content[0].text, reasoning.encrypted_content) == ("I look.", None)
    assert answer.usage is not None and 0 < answer.usage.output_tokens_details.reasoning_tokens < 10


def test_the_async_client_streams(serve: Serve) -> None:
    served = serve(ScriptedEngine([THOUGHT], variant=K2_5, cut=list))

    async def stream() -> tuple[Response, list[str]]:
        kinds: list[str] = []
        async with (
            openai.AsyncOpenAI(base_url=served.base_url, api_key="none", max_retries=0) as client,
            client.responses.stream(model="any", input=ASK, tools=TOOLS) as stream,
        ):
            async for event in stream:
                kinds.append(event.type)
            return await stream.get_final_response(), kinds

    answer, kinds = asyncio.run(stream())
    assert answer.output_text == "Let me see."
    assert [kind for kind, _ in itertools.groupby(kinds)] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        *(
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
        )
        * 2,
        "response.completed",
    ]


def test_a_form_is_parsed_by_the_official_client(serve: Serve) -> None:
    form: Any = {
        "type": "json_schema",
        "name": "place",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    }
    with client_of(serve(ScriptedEngine(['Rome"}']))) as client:
        answer = client.responses.create(model="any", input="Where?", text={"format": form})
    assert json.loads(answer.output_text) == {"city": "Rome"}
    assert answer.text is not None and answer.text.format is not None and answer.text.format.type == "json_schema"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_bare_openai_is_told_nothing_else(serve: Serve, stream: bool) -> None:
    body = {"input": ASK, "tools": TOOLS, "abruzzi": False, "stream": stream}
    _, data = ask(serve(ScriptedEngine([CALLS])), "POST", "/v1/responses", body)
    assert b'"usage"' in data and b"abruzzi" not in data


# Streams

BODY = {"input": ASK, "tools": TOOLS, "include": ["reasoning.encrypted_content"], "temperature": 0.5}
OUTPUTS = [
    (K2, "Hello."),
    (K2, "Let me see." + CALLS + " "),
    (K2, CALLS.replace("shanghai", '\\u00e9\\n"').replace('"}', "}")),
    (K2, ""),
    (K2_5, THOUGHT),
    (K2_5, "Hm.</think>"),
    (K2_THINKING, "<think>" + THOUGHT),
]


@pytest.mark.parametrize(("variant", "text"), OUTPUTS)
@pytest.mark.parametrize("cut", [lambda text: [text], list])
def test_streamed_equals_not_streamed(serve: Serve, variant: Any, text: str, cut: Any) -> None:
    status, whole = post(serve(ScriptedEngine([text], variant=variant)), BODY)
    streamed = events(serve(ScriptedEngine([text], variant=variant, cut=cut)), BODY)
    assert status == 200
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    assert lasting(streamed[-1]["response"]) == lasting(whole)
    assert summed(streamed) == streamed[-1]["response"]["output"]


@pytest.mark.parametrize(("variant", "text"), OUTPUTS)
def test_streamed_equals_not_streamed_wherever_the_limit_cuts(serve: Serve, variant: Any, text: str) -> None:
    texts = [text[:end] for end in range(1, len(text), 3)]
    options: Any = {"variant": variant, "finish_reason": "length"}
    one, other = serve(ScriptedEngine(texts, **options)), serve(ScriptedEngine(texts, **options, cut=list))
    for cut in texts:
        status, whole = post(one, {**BODY, "store": False})
        streamed = events(other, {**BODY, "store": False})
        assert lasting(streamed[-1]["response"]) == lasting(whole), cut
        assert summed(streamed) == streamed[-1]["response"]["output"]
        assert (status, whole["status"], streamed[-1]["type"]) == (200, "incomplete", "response.incomplete")
        assert whole["incomplete_details"] == {"reason": "max_output_tokens"}
        for item in whole["output"]:
            if item["type"] == "function_call":
                assert json.loads(item["arguments"]) is not None and item["status"] == "completed"


def summed(streamed: list[Any]) -> list[Any]:
    """The items that a stream's events add up to, checked against what their last events say."""
    items: dict[int, Any] = {}
    done: dict[int, Any] = {}
    for event in streamed:
        kind = event["type"].removeprefix("response.")
        item: Any = items.get(event.get("output_index", -1))
        if "item_id" in event:
            assert event["item_id"] == item["id"]
        if kind == "output_item.added":
            assert event["output_index"] == len(items) and event["item"]["status"] == "in_progress"
            items[event["output_index"]] = event["item"]
        elif kind == "content_part.added":
            item["content"].append(event["part"])
        elif kind in ("output_text.delta", "reasoning_text.delta"):
            item["content"][event["content_index"]]["text"] += event["delta"]
        elif kind in ("output_text.done", "reasoning_text.done"):
            assert item["content"][event["content_index"]]["text"] == event["text"]
        elif kind == "content_part.done":
            assert item["content"][event["content_index"]] == event["part"]
        elif kind == "function_call_arguments.delta":
            item["arguments"] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert (item["arguments"], item["name"]) == (event["arguments"], event["name"])
        elif kind == "output_item.done":
            last = {key: event["item"][key] for key in ("status", "encrypted_content") if key in event["item"]}
            assert {**item, **last} == event["item"]
            done[event["output_index"]] = event["item"]
    return list(done.values())


def test_a_call_that_the_limit_cuts_is_no_item_of_the_response(serve: Serve) -> None:
    text = section(("functions.get_weather:0", '{"location": "shanghai", "unit": "c"}')).split(', "unit')[0]
    engine = ScriptedEngine(["Yes." + text], finish_reason="length", cut=list)
    with client_of(serve(engine)) as client:
        with client.responses.stream(model="any", input=ASK, tools=TOOLS) as stream:
            kinds = [(event.type, getattr(event, "item", None)) for event in stream]
        answer = client.responses.create(model="any", input=ASK, tools=TOOLS)
    assert [item.type for item in answer.output] == ["message"] and answer.status == "incomplete"
    assert answer.output[0].status == "completed"  # type: ignore[union-attr]
    assert [item.type for kind, item in kinds if kind == "response.output_item.done" and item] == ["message"]
    assert kinds[-1][0] == "response.incomplete"


def test_a_call_that_goes_wrong_at_the_limit_leaves_what_is_before_it_whole(serve: Serve) -> None:
    text = "Hm.</think>" + section(("functions.get_weather:0", '{"location": "x", "unit": 5}'))
    body = {**BODY, "max_output_tokens": 5}
    _, whole = post(serve(ScriptedEngine([text], variant=K2_5)), body)
    streamed = events(serve(ScriptedEngine([text], variant=K2_5, cut=list)), body)
    assert [(item["type"], item["status"]) for item in whole["output"]] == [("reasoning", "completed")]
    assert lasting(streamed[-1]["response"]["output"]) == lasting(whole["output"])
    assert [problem["kind"] for problem in whole["abruzzi"]["problems"]] == ["truncated"]


class Failing(ScriptedEngine):
    """Says a word and breaks off."""

    async def complete(self, *arguments: Any) -> AsyncGenerator[Piece, None]:
        async for piece in super().complete(*arguments):
            if piece.finish_reason:
                raise EngineError("the engine died")
            yield piece


def test_a_stream_that_breaks_off_says_so_and_ends(serve: Serve) -> None:
    served = serve(Failing(["Hm.</think>Hello"], variant=K2_5, cut=list))
    last = events(served, {"input": ASK})[-1]
    openais().check("ResponseStreamEvent", last)
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": "server_error", "message": "the engine died"}
    assert [item["type"] for item in last["response"]["output"]] == ["reasoning"]
    status, body = post(served, {"input": ASK})
    assert (status, body["error"]["message"]) == (502, "the engine died")
    openais().check("ErrorResponse", body)
    assert get(served, last["response"]["id"])[0] == 404


@pytest.mark.parametrize(("variant", "text"), OUTPUTS)
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_answers_are_what_openais_description_says(
    serve: Serve, shared: Path, variant: Any, text: str, finish_reason: str
) -> None:
    served = serve(ScriptedEngine([text], variant=variant, finish_reason=finish_reason, cut=list))  # type: ignore[arg-type]
    full = {
        **BODY,
        "instructions": "Be brief.",
        "reasoning": {"effort": "low", "summary": "auto"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tools": [*TOOLS, NAMESPACE, {"type": "web_search"}],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "ping"}]},
        "max_output_tokens": 1000,
        "metadata": {"a": "b"},
        "user": "me",
        "service_tier": "auto",
        "truncation": "auto",
    }
    text_is_free = "<|tool_call" not in text
    for body in (BODY, {"input": "x"}, full) if text_is_free else (BODY,):
        status, answer = post(served, body)
        assert status == 200, answer
        openais().check("Response", answer)
        for event in events(served, body):
            openais().check("ResponseStreamEvent", event)
        stored = get(served, answer["id"])
        assert stored == (200, answer)
        openais().check("ResponseItemList", get(served, f"{answer['id']}/input_items")[1])


# Tools


def test_a_namespace_is_the_clients_and_not_the_models(serve: Serve) -> None:
    """Codex sends the tools of each MCP server in one."""
    text = section(("functions.mcp__files__ping:0", "{}"), ("functions.ping:1", "{}"))
    engine = ScriptedEngine([text], cut=list)
    served = serve(engine)
    body = {"input": ASK, "tools": [*TOOLS, NAMESPACE]}
    _, answer = post(served, body)
    openais().check("Response", answer)
    called = [(item["call_id"], item.get("namespace"), item["name"]) for item in answer["output"]]
    assert called == [("functions.mcp__files__ping:0", "mcp__files", "ping"), ("functions.ping:1", None, "ping")]
    assert lasting(events(served, body)[-1]["response"]) == lasting(answer)
    results = [{"type": "function_call_output", "call_id": id, "output": "x"} for id, _, _ in called]
    post(served, {**body, "input": [{"role": "user", "content": ASK}, *answer["output"], *results]})
    assert text in str(engine.prompts[-1])


def test_tools_that_openai_runs_are_left_out_where_agents_send_them_unasked(serve: Serve) -> None:
    engine = ScriptedEngine(["Yes."])
    _, answer = post(
        serve(engine), {"input": ASK, "tools": [{"type": "web_search"}, *TOOLS, {**NAMESPACE, "tools": []}]}
    )
    assert [tool["name"] for tool in answer["tools"]] == ["get_weather", "ping"]
    assert "web_search" not in str(engine.prompts[0])


def test_a_request_of_codexs_is_taken(serve: Serve) -> None:
    """With the members that version 0.171 sends, most of which mean nothing here."""
    engine = ScriptedEngine(["Yes."], variant=K2_5)
    body = {
        "model": "kimi-k2.5",
        "instructions": "You are a coding agent.",
        "input": [
            {"type": "message", "id": "msg_1", "role": "developer", "content": [{"type": "input_text", "text": "A"}]},
            {"type": "message", "id": "msg_2", "role": "user", "content": [{"type": "input_text", "text": "B"}]},
        ],
        "tools": [{**TOOLS[0], "strict": False}, NAMESPACE, {"type": "web_search", "external_web_access": True}],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "x",
        "client_metadata": {"session_id": "x"},
    }
    last = events(serve(engine), body)[-1]
    assert last["type"] == "response.completed"
    assert last["response"]["usage"]["total_tokens"] > 0
    assert last["response"]["output"][0]["encrypted_content"]


@pytest.mark.parametrize(
    ("choice", "calls"),
    [
        ("none", []),
        ("required", ["get_weather"]),
        ({"type": "function", "name": "ping"}, ["ping"]),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "ping"}]}, ["ping"]),
    ],
)
def test_a_choice_holds(serve: Serve, choice: Any, calls: list[str]) -> None:
    texts = {"get_weather": section(("functions.get_weather:0", '{"location": "shanghai"}')), "none": "Hi."}
    texts["ping"] = section(("functions.ping:0", "{}"))
    for text in texts.values():
        body = {"input": ASK, "tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
        status, answer = post(serve(ScriptedEngine([text, texts[calls[0] if calls else "none"]])), body)
        assert (status, answer["tool_choice"]) == (200, choice)
        called = [item["name"] for item in answer["output"] if item["type"] == "function_call"]
        assert len(called) == len(calls) and (choice == "required" or called == calls)


@pytest.mark.parametrize(
    ("variant", "effort", "is_off"),
    [
        (K2_5, "none", True),
        (K2_5, "minimal", True),
        (K2_5, "high", False),
        (K2_THINKING, "none", False),
        (K2, "none", False),
    ],
)
def test_an_effort_of_none_switches_thinking_off_where_there_is_a_switch(
    serve: Serve, variant: Any, effort: str, is_off: bool
) -> None:
    engine = ScriptedEngine(["Hi."], variant=variant)
    status, answer = post(serve(engine), {"input": ASK, "reasoning": {"effort": effort}})
    assert (status, answer["reasoning"]["effort"]) == (200, effort)
    assert str(engine.prompts[0]).endswith("<think></think>") is is_off


def test_the_limit_reaches_the_engine(serve: Serve) -> None:
    engine = ScriptedEngine(["Hi."])
    post(serve(engine), {"input": ASK, "max_output_tokens": 7, "temperature": 0, "top_p": 0.5})
    params = engine.params[0]
    assert (params.max_tokens, params.temperature, params.top_p) == (7, 0, 0.5)
