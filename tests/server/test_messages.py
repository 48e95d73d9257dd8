"""Anthropic's dialect on a real socket, with the official client."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import http.client
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import anthropic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi import EngineError, EngineTimeout, EngineUnavailable, RequestError
from abruzzi.chat import ChatRequest
from abruzzi.engines.base import Capabilities, Piece
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.errors import AbruzziError, OutputError, PromptTooLong
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.variants import K2, K2_5, K2_THINKING, Variant
from abruzzi.server.message_count import count_tokens
from abruzzi.server.message_events import error_body
from abruzzi.server.messages import Messages
from tests.conftest import PING, WEATHER, Served, section

Serve = Callable[..., Served]
LOCATION: Any = WEATHER.parameters
TOOLS: Any = [
    {"name": "get_weather", "description": WEATHER.description, "input_schema": LOCATION},
    {"name": "ping", "input_schema": {"type": "object"}},
]
ASK: Any = [{"role": "user", "content": "Weather in Shanghai?"}]
CALL = section(("functions.get_weather:0", '{"location": "shanghai"}'), ("functions.ping:1", "{}"))
WRONG = section(("functions.get_weather:0", '{"location": "shanghai", "unit": "k"}'))
REST = 'c"}<|tool_call_end|><|tool_calls_section_end|>'


def client_of(served: Served) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=f"http://127.0.0.1:{served.port}", api_key="none", max_retries=0)


def asked(engine: Any, serve: Serve, **more: Any) -> Any:
    with client_of(serve(engine)) as client:
        return client.messages.create(**{"model": "any", "max_tokens": 1000, "messages": ASK, **more})


def streamed(engine: Any, serve: Serve, **more: Any) -> Any:
    with (
        client_of(serve(engine)) as client,
        client.messages.stream(**{"model": "any", "max_tokens": 1000, "messages": ASK, **more}) as stream,
    ):
        return stream.get_final_message()


def told(message: Any) -> Any:
    """All of a message but what is new in each."""
    value = message.to_dict()
    assert re.fullmatch("msg_[a-zA-Z0-9]+", value.pop("id"))
    for block in value["content"]:
        if block["type"] == "tool_use":
            assert re.fullmatch("toolu_[a-zA-Z0-9]+", block.pop("id"))
    return value


def post(served: Served, body: Any, path: str = "/v1/messages") -> tuple[int, dict[str, Any]]:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        data = body if isinstance(body, bytes) else json.dumps(body)
        connection.request("POST", path, data, {"Content-Type": "application/json"})
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())


def events_of(served: Served, body: Any) -> list[tuple[str, Any]]:
    """The events of a stream, each with its name."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        connection.request("POST", "/v1/messages", json.dumps({**body, "stream": True}))
        with connection.getresponse() as response:
            blocks = response.read().decode().split("\n\n")
    found = [re.fullmatch(r"event: (\w+)\ndata: (.*)", block) for block in blocks[:-1]]
    return [(one[1], json.loads(one[2])) for one in found if one]


def decoded(variant: Variant = K2, **body: Any) -> ChatRequest:
    return Messages(variant).decode({"max_tokens": 10, "messages": ASK, **body}, "any").request


# Answers


def test_a_text(serve: Serve) -> None:
    engine = ScriptedEngine(["Hello."])
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 5}  # which newer clients don't name any more
    answer = asked(engine, serve, max_tokens=7, stop_sequences=["###"], extra_body=sampling)
    assert told(answer) == {
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [{"type": "text", "text": "Hello."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": len(str(engine.prompts[0])),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 6,
        },
        "abruzzi": answer.to_dict()["abruzzi"],
    }
    (params,) = engine.params
    assert (params.max_tokens, params.temperature, params.top_p, params.stop) == (7, 0.5, 0.9, ("###",))


def test_calls_with_tools(serve: Serve) -> None:
    answer = asked(ScriptedEngine(["Let me see." + CALL]), serve, tools=TOOLS)
    text, weather, ping = answer.content
    assert (text.text, weather.name, weather.input) == ("Let me see.", "get_weather", {"location": "shanghai"})
    assert (ping.name, ping.input, answer.stop_reason) == ("ping", {}, "tool_use")
    assert weather.id != ping.id


@pytest.mark.parametrize("variant", [K2, K2_THINKING, K2_5], ids=lambda row: row.name)
@pytest.mark.parametrize("cut", [list, lambda text: [text]], ids=["by character", "at once"])
@pytest.mark.parametrize(
    "outputs",
    [
        ["Hello."],
        ["Let me see." + CALL],
        [CALL + " and more " + CALL],
        ["<think>a</think>b<think>c</think>d" + CALL + "<think>x</think>y"],
        ["Hm.</think>\n\n" + CALL],
        [WRONG, REST],
        [""],
    ],
)
def test_streamed_equals_not_streamed(serve: Serve, outputs: list[str], cut: Any, variant: Any) -> None:
    for tools in (TOOLS, None):
        whole = asked(ScriptedEngine(outputs, variant=variant, cut=cut), serve, tools=tools)
        stream = streamed(ScriptedEngine(outputs, variant=variant, cut=cut), serve, tools=tools)
        left = told(stream)
        assert left.pop("abruzzi", None) is None  # the client's own sum of a stream forgets what it doesn't know
        assert left == {key: value for key, value in told(whole).items() if key != "abruzzi"}


def test_the_events_of_a_stream(serve: Serve) -> None:
    engine = ScriptedEngine(["Hm.</think>See:" + section(("functions.ping:0", "{}"))], variant=K2_5)
    events = events_of(serve(engine), {"max_tokens": 99, "messages": ASK, "tools": TOOLS})
    assert all(name == event["type"] for name, event in events)
    kinds = [(event.get("index"), event.get("delta", {}).get("type") or name) for name, event in events]
    assert kinds == [
        (None, "message_start"),
        (0, "content_block_start"),
        (0, "thinking_delta"),
        (0, "signature_delta"),
        (0, "content_block_stop"),
        (1, "content_block_start"),
        (1, "text_delta"),
        (1, "content_block_stop"),
        (2, "content_block_start"),
        (2, "input_json_delta"),
        (2, "content_block_stop"),
        (None, "message_delta"),
        (None, "message_stop"),
    ]
    last = events[-2][1]
    assert last["delta"] == {"stop_reason": "tool_use", "stop_sequence": None, "stop_details": None}
    assert last["usage"]["input_tokens"] == len(str(engine.prompts[0])) and last["usage"]["output_tokens"] > 0
    assert last["abruzzi"]["guarantee"] == "validated"


def test_a_stop_sequence_is_told(serve: Serve) -> None:
    for stream in (False, True):
        with client_of(serve(ScriptedEngine(["One. ### Two."]))) as client:
            options: Any = {"model": "any", "max_tokens": 99, "messages": ASK, "stop_sequences": ["###"]}
            if stream:
                with client.messages.stream(**options) as events:
                    message = events.get_final_message()
            else:
                message = client.messages.create(**options)
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "###")


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_of_bare_anthropic_is_told_nothing_else(serve: Serve, stream: bool) -> None:
    body = {"max_tokens": 99, "messages": ASK, "tools": TOOLS, "abruzzi": False}
    served = serve(ScriptedEngine([WRONG, REST]))
    assert "abruzzi" not in str(events_of(served, body) if stream else post(served, body))


def test_a_call_that_the_limit_cuts_is_none(serve: Serve) -> None:
    cut = "See:" + CALL[: CALL.index("hai")]
    whole = asked(ScriptedEngine([cut], finish_reason="length"), serve, tools=TOOLS)
    assert (whole.stop_reason, [block.type for block in whole.content]) == ("max_tokens", ["text"])
    engine = ScriptedEngine([cut], finish_reason="length", cut=list)
    events = events_of(serve(engine), {"max_tokens": 999, "messages": ASK, "tools": TOOLS})
    (begun,) = [event for _, event in events if event.get("content_block", {}).get("type") == "tool_use"]
    (text,) = ["".join(event["delta"]["partial_json"] for _, event in events if "partial_json" in str(event))]
    assert '{"location": "shanghai"}'.startswith(text) and text
    assert [(name, event.get("index")) for name, event in events[-3:]] == [
        ("content_block_stop", begun["index"]),
        ("message_delta", None),
        ("message_stop", None),
    ]
    assert events[-2][1]["delta"]["stop_reason"] == "max_tokens"


def test_a_call_that_the_limit_cuts_before_its_arguments_is_in_no_stream(serve: Serve) -> None:
    cut = "See:" + CALL[: CALL.index('{"location')]
    engine = ScriptedEngine([cut], finish_reason="length", cut=list)
    message = streamed(engine, serve, tools=TOOLS)  # it would be one with an input of {}
    assert (message.stop_reason, [block.type for block in message.content]) == ("max_tokens", ["text"])


def test_arguments_stay_as_they_were_written(serve: Serve) -> None:
    tools = [{"name": "add", "input_schema": {"type": "object", "properties": {"n": {"type": "number"}}}}]
    served = serve(ScriptedEngine([section(("functions.add:0", '{"n": 12345678901234567890.5}'))]))
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        connection.request("POST", "/v1/messages", json.dumps({"max_tokens": 9, "messages": ASK, "tools": tools}))
        assert b'"input":{"n": 12345678901234567890.5}' in connection.getresponse().read()


# Round trips


@pytest.mark.parametrize("ask", [asked, streamed])
def test_a_round_trip_of_parallel_calls(serve: Serve, ask: Any) -> None:
    engine = ScriptedEngine([CALL, "24 degrees."], cut=list)
    answer = ask(engine, serve, tools=TOOLS)
    weather, ping = answer.content
    results = [
        {"type": "tool_result", "tool_use_id": ping.id, "content": [{"type": "text", "text": "pong"}]},
        {"type": "tool_result", "tool_use_id": weather.id, "content": "24", "is_error": False},
        {"type": "text", "text": "And now?"},
    ]
    history = [*ASK, {"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    assert ask(engine, serve, tools=TOOLS, messages=history).content[0].text == "24 degrees."
    prompt = str(engine.prompts[1])
    assert CALL in prompt
    order = ["## Return of functions.ping:1\npong", "## Return of functions.get_weather:0\n24", "And now?"]
    assert sorted(order, key=prompt.index) == order


@pytest.mark.parametrize("variant", [K2_THINKING, K2_5], ids=lambda row: row.name)
@pytest.mark.parametrize("ask", [asked, streamed])
def test_thinking_and_its_way_back(serve: Serve, variant: Any, ask: Any) -> None:
    opening = "" if variant.opens_thinking else "<think>"
    engine = ScriptedEngine([f"{opening}I must ask.</think>{CALL}", f"{opening}Good.</think>24."], variant=variant)
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = ask(engine, serve, tools=TOOLS, thinking=thinking)
    thought, weather, ping = answer.content
    assert (thought.type, thought.thinking) == ("thinking", "I must ask.") and thought.signature
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "x"} for call in (weather, ping)]
    content = [{"type": "redacted_thinking", "data": "?"}, *(block.to_dict() for block in answer.content)]
    history = [*ASK, {"role": "assistant", "content": content}, {"role": "user", "content": results}]
    last = ask(engine, serve, tools=TOOLS, thinking=thinking, messages=history)
    assert [block.type for block in last.content] == ["thinking", "text"]
    assert "<think>I must ask.</think>" in str(engine.prompts[1])


def test_the_async_client(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Let me see." + CALL], cut=list))

    async def ask() -> Any:
        url = f"http://127.0.0.1:{served.port}"
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
            options: Any = {"model": "any", "max_tokens": 99, "messages": ASK, "tools": TOOLS}
            whole = await client.messages.create(**options)
            async with client.messages.stream(**options) as stream:
                texts = [text async for text in stream.text_stream]
                return whole, texts, await stream.get_final_message()

    whole, texts, last = asyncio.run(ask())
    assert "".join(texts) == "Let me see." == whole.content[0].text
    assert [block.type for block in last.content] == ["text", "tool_use", "tool_use"]


def test_the_clients_own_loop_of_tools(serve: Serve) -> None:
    engine = ScriptedEngine([section(("functions.add:0", '{"a": 2, "b": 3}')), "It is 5."])

    @anthropic.beta_tool
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    with client_of(serve(engine)) as client:
        runner = client.beta.messages.tool_runner(model="any", max_tokens=99, messages=ASK, tools=[add])
        last: Any = runner.until_done()
    assert last.content[0].text == "It is 5."
    assert "## Return of functions.add:0\n5" in str(engine.prompts[1])


def test_a_conversation_isnt_kept_and_the_client_is_told_how_it_knows(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    status, body = post(served, {"max_tokens": 9, "messages": ASK, "thread": {"type": "create"}})
    assert (status, body["error"]["details"]["error_code"]) == (400, "thread_unsupported_request")


def test_an_answer_of_a_form(serve: Serve) -> None:
    schema: Any = {"type": "object", "properties": {"days": {"type": "integer"}}, "required": ["days"]}
    schema["additionalProperties"] = False
    engine = ScriptedEngine(["many}", "12}"])  # what it begins with isn't asked for
    answer = asked(engine, serve, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert json.loads(answer.content[0].text) == {"days": 12}
    engine = ScriptedEngine(["many}", "12}"])
    early = {"output_format": {"type": "json_schema", "schema": schema}}  # the beta's name for it
    status, body = post(serve(engine), {"max_tokens": 99, "messages": ASK, **early})
    assert (status, json.loads(body["content"][0]["text"])) == (200, {"days": 12})


CLAUDE_CODE: Any = {
    "model": "claude-opus-4-5",
    "max_tokens": 32000,
    "stream": True,
    "temperature": 1,
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.100.7b4; cc_entrypoint=cli; cch=eb6c6;"},
        {"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "\nYou are an agent.", "cache_control": {"type": "ephemeral"}},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>\nToday is Thursday.\n</system-reminder>\n"},
                {"type": "text", "text": "list the files", "cache_control": {"type": "ephemeral"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "I list them.", "signature": "x"},
                {"type": "redacted_thinking", "data": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_01", "name": "Bash", "input": {"command": "ls"}},
                {"type": "tool_use", "id": "functions.Bash:1", "name": "Bash", "input": {"command": "rm"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_01",
                    "content": [
                        {"type": "text", "text": "a.py"},
                        {"type": "text", "text": "\nb.py"},
                        {"type": "tool_reference", "tool_name": "Other"},
                    ],
                    "is_error": False,
                },
                {"type": "tool_result", "tool_use_id": "functions.Bash:1", "content": "not allowed", "is_error": True},
                {"type": "text", "text": "<system-reminder>\nBe brief.\n</system-reminder>"},
            ],
        },
        {"role": "system", "content": "The mode is: plan."},
        {"role": "user", "content": "Go on."},
    ],
    "tools": [
        {"name": "DeferredToolPlaceholder", "input_schema": {"type": "object"}, "defer_loading": True},
        {
            "name": "Bash",
            "description": "Runs a command. " * 500,
            "input_schema": {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "type": "object",
                "properties": {
                    "command": {"type": "string", "description": "The command"},
                    "timeout": {"type": "number", "maximum": 600000},
                    "options": {"type": "array", "items": {"enum": ["a", "b"]}},
                },
                "required": ["command"],
                "additionalProperties": False,
            },
            "strict": True,
            "cache_control": {"type": "ephemeral"},
            "eager_input_streaming": True,
        },
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "metadata": {"user_id": "user_1_account__session_2"},
    "thinking": {"type": "adaptive", "display": "summarized"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high", "format": None},
    "service_tier": "auto",
    "stop_sequences": ["###"],
    "top_k": 5,
    "top_p": 0.95,
    "speed": None,
    "betas": ["claude-code-20250219"],
    "abruzzi": True,
}


def test_what_claude_code_sends(serve: Serve) -> None:
    engine = ScriptedEngine([section(("functions.Bash:2", '{"command": "cat a.py"}'))], cut=list)
    with client_of(serve(engine)) as client, client.beta.messages.stream(**parameters_of(CLAUDE_CODE)) as stream:
        answer: Any = stream.get_final_message()
    (call,) = answer.content
    assert (call.name, call.input, answer.stop_reason) == ("Bash", {"command": "cat a.py"}, "tool_use")
    prompt = str(engine.prompts[0])
    for text in (
        "<|im_system|>system<|im_middle|>You are Claude Code.\nYou are an agent.<|im_end|>",
        "</system-reminder>\nlist the files<|im_end|>",
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.Bash:0<|tool_call_argument_begin|>"
        '{"command": "ls"}<|tool_call_end|>',
        "## Return of functions.Bash:0\na.py\nb.pyOther can be called now.\n<|im_end|>",
        "## Return of functions.Bash:1\nError: not allowed<|im_end|>",
        "<|im_system|>system<|im_middle|>The mode is: plan.<|im_end|>",
        "<|im_user|>user<|im_middle|>Go on.<|im_end|>",
    ):
        assert text in prompt
    assert "billing" not in prompt and "Placeholder" not in prompt


def parameters_of(body: Any) -> Any:
    """A body as the parameters of the client, which doesn't name all of them, or no longer."""
    unnamed = ("abruzzi", "temperature", "top_k", "top_p")
    parameters = {key: value for key, value in body.items() if key not in ("stream", *unnamed)}
    # A name of Anthropic's own has the client warn of its retirement.
    return {**parameters, "model": "any", "extra_body": {key: body[key] for key in unnamed}}


# What a body becomes


def test_messages_of_one_role_in_a_row_are_one_turn() -> None:
    request = decoded(
        messages=[
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
            {"role": "assistant", "content": []},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "x", "name": "ping", "input": {}}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "y", "name": "ping", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "y"}]},
            {
                "role": "user",
                "content": [{"type": "text", "text": "d"}, {"type": "tool_result", "tool_use_id": "x", "content": ""}],
            },
        ]
    )
    turns = [(one.role, one.content, [call.id for call in one.tool_calls]) for one in request.messages]
    assert turns == [
        ("user", "a\n\nbc", []),
        ("assistant", None, ["x", "y"]),
        ("tool", "", []),
        ("tool", "", []),
        ("user", "d", []),
    ]
    assert [one.tool_call_id for one in request.messages[2:4]] == ["y", "x"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ("auto", True)),
        ({"type": "auto"}, ("auto", True)),
        ({"type": "any"}, ("required", True)),
        ({"type": "none"}, ("none", True)),
        ({"type": "tool", "name": "ping"}, ("ping", True)),
        ({"type": "tool", "name": "ping", "disable_parallel_tool_use": True}, ("ping", False)),
        ({"type": "any", "disable_parallel_tool_use": True}, ("required", False)),
    ],
)
def test_choices(choice: Any, expected: Any) -> None:
    request = decoded(tools=TOOLS, tool_choice=choice)
    assert (request.tool_choice, request.parallel_tool_calls) == expected


def test_a_deferred_tool_is_shown_when_a_search_has_found_it() -> None:
    search = {"name": "search", "input_schema": {"type": "object"}}
    tools = [{**search, "name": "other", "defer_loading": True}, search, {**TOOLS[0], "defer_loading": True}]
    assert [tool.name for tool in decoded(tools=tools).tools] == ["search"]
    found = {**RESULT, "content": [{"type": "tool_reference", "tool_name": "get_weather"}]}
    request = decoded(tools=tools, messages=talk("x", [{**TOOL_USE, "name": "search"}], [found]))
    assert [tool.name for tool in request.tools] == ["search", "get_weather"]
    assert request.messages[-1].content == "get_weather can be called now.\n"
    with pytest.raises(RequestError, match=r"tools\[1\]"):  # the client's count, not the model's
        decoded(tools=[tools[0], {"name": "f", "input_schema": {"type": 1}}])


def test_tools_are_those_of_every_dialect() -> None:
    assert decoded(tools=TOOLS).tools == (WEATHER, Tool("ping", None, {"type": "object"}))
    assert decoded(tools=[{**TOOLS[0], "strict": True, "type": "custom"}]).tools == (WEATHER,)
    assert PING.parameters is None  # which Anthropic's tools can't say


@pytest.mark.parametrize(
    ("thinking", "variant", "expected"),
    [
        (None, K2_5, None),
        ({"type": "enabled", "budget_tokens": 1024}, K2, None),
        ({"type": "adaptive"}, K2_5, None),
        ({"type": "disabled"}, K2_5, False),
        ({"type": "disabled"}, K2, None),
        ({"type": "disabled"}, K2_THINKING, None),
    ],
)
def test_thinking_is_asked_for_where_it_can_be(thinking: Any, variant: Variant, expected: bool | None) -> None:
    assert decoded(variant, thinking=thinking).thinking is expected


def test_thinking_can_be_switched_off(serve: Serve) -> None:
    answer = asked(ScriptedEngine(["Yes."], variant=K2_5), serve, thinking={"type": "disabled"})
    assert [block.type for block in answer.content] == ["text"]


# Errors


TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "ping", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}


def talk(*contents: Any) -> Any:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": talk(None)}, "messages[0].content"),
        ({"messages": talk(["x"])}, "messages[0].content[0]"),
        ({"messages": talk([{"type": "text"}])}, "messages[0].content[0].text"),
        ({"messages": talk([{"type": "text", "text": "x"}, {"type": "image"}])}, "messages[0].content[1]"),
        ({"messages": talk([{"type": "file"}])}, "messages[0].content[0]"),
        ({"messages": talk([TOOL_USE])}, "messages[0].content[0]"),
        ({"messages": talk("x", [RESULT])}, "messages[1].content[0]"),
        ({"messages": talk("x", "The answer is ")}, "messages[1].content"),
        ({"messages": talk("x", "y", [RESULT])}, "messages[2].content[0].tool_use_id"),
        ({"messages": talk("x", [TOOL_USE], [{**RESULT, "content": 1}])}, "messages[2].content[0].content"),
        (
            {"messages": talk("x", [TOOL_USE], [{**RESULT, "content": [{"type": "image"}]}])},
            "messages[2].content[0].content[0]",
        ),
        ({"messages": talk("x", [TOOL_USE], [{**RESULT, "is_error": 1}])}, "messages[2].content[0].is_error"),
        ({"messages": talk("x", [{**TOOL_USE, "input": "{}"}], "y")}, "messages[1].content[0].input"),
        ({"messages": talk("x", [{**TOOL_USE, "id": ""}], "y")}, "messages[1].content[0].id"),
        ({"messages": talk("x", [{"type": "thinking"}], "y")}, "messages[1].content[0].thinking"),
        ({"system": 1}, "system"),
        ({"system": [{"type": "image"}]}, "system[0]"),
        ({"tools": {}}, "tools"),
        ({"tools": [1]}, "tools[0]"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [*TOOLS, *TOOLS]}, "tools[2].name"),
        ({"tools": [{"name": "f", "input_schema": {"properties": {"a": {"type": 1}}}}]}, "tools[0].input_schema"),
        ({"tool_choice": {}}, "tool_choice.type"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "tool", "name": "gone"}}, "tool_choice.name"),
        ({"tools": [], "tool_choice": {"type": "any"}}, "tool_choice.type"),
        ({"temperature": 1.5}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"stop_sequences": ["a", ""]}, "stop_sequences[1]"),
        ({"thinking": {"type": "maybe"}}, "thinking.type"),
        ({"metadata": "x"}, "metadata"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"output_format": {"type": "xml"}}, "output_format.type"),
        (
            {"output_config": {"format": {"type": "json_schema"}}, "output_format": {"type": "json_schema"}},
            "output_format",
        ),
        ({"max_tokens": 2**63}, "max_tokens"),
        ({"output_config": {"format": {"type": "json_schema", "schema": {"type": 1}}}}, "output_config.format.schema"),
        ({"stream": "yes"}, "stream"),
        ({"abruzzi": 0}, "abruzzi"),
    ],
)
def test_a_bad_request_gets_the_true_reason_and_its_path(serve: Serve, change: dict[str, Any], path: str) -> None:
    served = serve(ScriptedEngine([CALL]))
    valid = {"max_tokens": 9, "messages": ASK, "tools": TOOLS}
    several = [("/v1/messages", {}), ("/v1/messages?beta=true", {"stream": True})]
    if not change.keys() & {"stream", "abruzzi", "max_tokens"} and path != "messages[1].content":
        several.append(("/v1/messages/count_tokens", {}))
    for where, more in several:
        status, body = post(served, {**valid, **more, **change}, where)
        assert (status, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
        found = re.search(r"\(at ([^)]*)\)$", body["error"]["message"])
        assert found is not None and found[1].startswith(path) and (found[1] == path or "schema" in path)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": NaN}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_refused(serve: Serve, body: bytes) -> None:
    served = serve(ScriptedEngine([CALL]))
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        status, answer = post(served, body, path)
        assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


def test_a_body_that_is_too_large_is_refused_as_such(serve: Serve) -> None:
    served = serve(ScriptedEngine([CALL]), max_body=1000)
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        status, body = post(served, {"messages": ASK, "metadata": {"x": "x" * 1000}}, path)
        assert (status, body["error"]["type"]) == (413, "request_too_large")


def test_a_refusal_reaches_the_client_as_its_own_error(serve: Serve) -> None:
    with pytest.raises(anthropic.BadRequestError, match=r"only text is .* \(at messages\[0\].content\[0\]\)"):
        asked(ScriptedEngine([CALL]), serve, messages=[{"role": "user", "content": [{"type": "image"}]}])


class Failing(ScriptedEngine):
    """Says a word and breaks off, or fails before."""

    def __init__(self, error: Exception, output: str = "") -> None:
        super().__init__([output], cut=list)
        self.error = error

    async def complete(self, *arguments: Any) -> AsyncGenerator[Piece, None]:
        async for piece in super().complete(*arguments):
            if piece.finish_reason:
                raise self.error
            yield piece


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (EngineUnavailable("nothing answers"), 503, "overloaded_error"),
        (EngineTimeout("it went silent"), 504, "timeout_error"),
        (EngineError("it failed"), 502, "api_error"),
        (RequestError("the conversation is too long"), 400, "invalid_request_error"),
    ],
)
def test_a_failure_before_the_first_word_keeps_its_status(serve: Serve, error: Any, status: int, kind: str) -> None:
    for ask in (asked, streamed):
        with pytest.raises(anthropic.APIStatusError, match=str(error)) as failed:
            ask(Failing(error), serve)
        assert failed.value.status_code == status
        body: Any = failed.value.body
        assert body == {"type": "error", "error": {"type": kind, "message": str(error)}}


def test_a_prompt_that_is_too_long_is_told_as_claude_code_knows_it(serve: Serve) -> None:
    with pytest.raises(anthropic.BadRequestError, match="prompt is too long: the engine reads 9 tokens"):
        asked(Failing(PromptTooLong("the engine reads 9 tokens")), serve)


def test_a_stream_that_breaks_off_says_so(serve: Serve) -> None:
    with pytest.raises(anthropic.APIStatusError, match="the engine died"):
        streamed(Failing(EngineError("the engine died"), "Hello"), serve)
    events = events_of(serve(Failing(EngineError("the engine died"), "Hello")), {"max_tokens": 9, "messages": ASK})
    assert events[-1] == ("error", error_body(EngineError("the engine died")))
    assert events[-2][0] == "content_block_delta"


def test_a_silent_stream_is_kept_open_by_pings(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.server.asgi._PATIENCE", 0.05)
    monkeypatch.setattr("abruzzi.server.asgi._KEEP_ALIVE", 0.05)
    engine = ScriptedEngine(["ab"], cut=list, delay=0.3)
    message = streamed(engine, serve)
    assert message.content[0].text == "ab"  # Anthropic's own client reads over them
    events = events_of(serve(ScriptedEngine(["ab"], cut=list, delay=0.3)), {"max_tokens": 9, "messages": ASK})
    names = [name for name, _ in events]
    assert names[0] == "message_start" and names[-1] == "message_stop"
    assert names.count("ping") >= 2 and ("ping", {"type": "ping"}) in events


def test_what_the_model_fails_at_is_no_fault_of_the_clients(serve: Serve) -> None:
    bad = section(("functions.nothing:0", "{}"))
    with pytest.raises(anthropic.InternalServerError, match="no valid call came of it"):
        asked(ScriptedEngine([bad, "", ""] * 4), serve, tools=TOOLS)


def test_errors_have_anthropics_types() -> None:
    def kind(status: int) -> str:
        error = AbruzziError("x")
        error.status = status
        return str(error_body(error)["error"]["type"])

    assert [kind(status) for status in (400, 401, 403, 404, 405, 413, 415, 429)] == [
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "invalid_request_error",
        "request_too_large",
        "invalid_request_error",
        "rate_limit_error",
    ]
    assert [kind(status) for status in (500, 502, 503, 504)] == [
        "api_error",
        "api_error",
        "overloaded_error",
        "timeout_error",
    ]
    assert error_body(OutputError("x"))["error"]["type"] == "api_error"


# Counting


def test_tokens_are_counted_as_they_would_be_read(serve: Serve) -> None:
    engine = ScriptedEngine(["Hello."])
    with client_of(serve(engine)) as client:
        few = client.messages.count_tokens(model="any", messages=ASK).input_tokens
        more = client.messages.count_tokens(model="any", messages=ASK, tools=TOOLS, system="Be brief.").input_tokens
        begun: Any = [*ASK, {"role": "assistant", "content": "It is"}]
        assert few < client.messages.count_tokens(model="any", messages=begun).input_tokens < more
        client.messages.create(model="any", max_tokens=9, messages=ASK, tools=TOOLS, system="Be brief.")
    assert more == -(-len(str(engine.prompts[0])) // 4)
    assert len(engine.prompts) == 1


def test_an_engine_with_a_tokenizer_has_its_tokens_counted() -> None:
    class Counting:
        def count(self, prompt: Any) -> int:
            return 7 if "Weather in Shanghai?" in str(prompt) else 0

    tokenizer: Any = Counting()
    assert count_tokens(decoded(), Capabilities("kimi", K2, constrains=False, tokenizer=tokenizer)) == 7


# Every bad body


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of each value, the whole body's aside."""
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        yield (*path, key)
        yield from places(one, (*path, key))


def changed(place: tuple[Any, ...], value: Any) -> Any:
    body = copy.deepcopy(CLAUDE_CODE)
    inside = body
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return body


def is_taken(body: Any) -> bool:
    """Whether it is, up to the prompt. Anything but RequestError would be a 500."""
    try:
        request = Messages().decode(body, "kimi-k2").request
        count_tokens(request, Capabilities("kimi-k2", K2, constrains=False))
    except RequestError:
        return False
    return True


OTHERS: list[Any] = [None, 7, -1.5, True, "x", "", [], [1], ["x"], [None], [{}], {}, {"type": "x"}, {"type": {}}]


@pytest.mark.parametrize("place", list(places(CLAUDE_CODE)), ids=lambda place: ".".join(map(str, place)))
def test_a_body_with_another_value_is_taken_or_refused(place: tuple[Any, ...]) -> None:
    for value in OTHERS:
        is_taken(changed(place, value))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "text", "content", "name"]), inner),
)


@given(st.sampled_from(list(places(CLAUDE_CODE))), _JSON)
def test_a_body_with_any_value_is_taken_or_refused(place: tuple[Any, ...], value: Any) -> None:
    is_taken(changed(place, value))


def test_the_body_that_is_changed_is_a_good_one() -> None:
    assert is_taken(CLAUDE_CODE)
