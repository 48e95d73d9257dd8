"""What the Responses API is asked: conversations, and bodies that are wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import Response

from abruzzi import RequestError, Tool
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.variants import K2_5
from abruzzi.server.response_store import ResponseStore
from abruzzi.server.responses import Responses
from tests.conftest import section
from tests.server.openapi import openais
from tests.server.responding import (
    ASK,
    CALLS,
    NAMESPACE,
    THOUGHT,
    TOOLS,
    Serve,
    client_of,
    flat,
    post,
)

# Conversations


def turns(engine: ScriptedEngine) -> str:
    """The last prompt, from its first user's turn on."""
    return str(engine.prompts[-1]).partition("<|im_user|>")[2]


ROUND = (
    "user<|im_middle|>Weather in Shanghai?<|im_end|>"
    "<|im_assistant|>assistant<|im_middle|>Let me see."
    + CALLS
    + "<|im_end|><|im_system|>tool<|im_middle|>## Return of functions.get_weather:0\nsunny<|im_end|>"
    "<|im_system|>tool<|im_middle|>## Return of functions.ping:1\npong<|im_end|>"
    "<|im_assistant|>assistant<|im_middle|>"
)


def outputs(answer: Response) -> list[Any]:
    said = {
        "get_weather": "sunny",
        "ping": [{"type": "input_text", "text": "po"}, {"type": "input_text", "text": "ng"}],
    }
    return [
        {"type": "function_call_output", "call_id": item.call_id, "output": said[item.name]}
        for item in answer.output
        if item.type == "function_call"
    ]


def test_a_round_of_tools_over_previous_response_id(serve: Serve) -> None:
    engine = ScriptedEngine(["Let me see." + CALLS, "Sunny.", "You're welcome."])
    with client_of(serve(engine)) as client:
        first = client.responses.create(model="any", input=ASK, tools=TOOLS, instructions="A")
        second = client.responses.create(
            model="any", input=outputs(first), tools=TOOLS, previous_response_id=first.id, instructions="B"
        )
        assert turns(engine) == ROUND
        assert "<|im_middle|>A<|im_end|>" not in str(engine.prompts[-1])
        assert second.output_text == "Sunny." and second.previous_response_id == first.id
        client.responses.create(model="any", input="Thanks!", tools=TOOLS, previous_response_id=second.id)
        assert turns(engine).startswith(ROUND + "Sunny.<|im_end|><|im_user|>user<|im_middle|>Thanks!<|im_end|>")


def test_a_round_of_tools_without_a_store(serve: Serve) -> None:
    engine = ScriptedEngine(["Let me see." + CALLS, "Sunny."], cut=list)
    with client_of(serve(engine)) as client:
        history: list[Any] = [{"role": "user", "content": ASK}]
        with client.responses.stream(model="any", input=history, tools=TOOLS, store=False) as stream:
            first = stream.get_final_response()
        history += [item.to_dict() for item in first.output]
        history += outputs(first)
        client.responses.create(model="any", input=history, tools=TOOLS, store=False)
        assert turns(engine) == ROUND
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(first.id)


def test_a_stream_is_stored_when_it_is_whole(serve: Serve) -> None:
    engine = ScriptedEngine(["Let me see." + CALLS, "Sunny."], cut=list)
    with client_of(serve(engine)) as client:
        with client.responses.stream(model="any", input=ASK, tools=TOOLS) as stream:
            first = stream.get_final_response()
        client.responses.create(model="any", input=outputs(first), tools=TOOLS, previous_response_id=first.id)
    assert turns(engine) == ROUND


@pytest.mark.parametrize("carrier", ["content", "encrypted_content", "summary"])
def test_reasoning_is_carried_back(serve: Serve, carrier: str) -> None:
    """As Agents SDK does, as Codex does, and as some gateways do."""
    engine = ScriptedEngine([THOUGHT, "Hm.</think>Sunny."], variant=K2_5)
    with client_of(serve(engine)) as client:
        first = client.responses.create(
            model="any", input=ASK, tools=TOOLS, store=False, include=["reasoning.encrypted_content"]
        )
        reasoning: Any = first.output[0].to_dict()
        kept = {"type": "reasoning", "summary": [], "content": None, carrier: reasoning[carrier]}
        if carrier == "summary":
            kept["summary"] = [{"type": "summary_text", "text": "I look."}]
        history: list[Any] = [{"role": "user", "content": ASK}, kept]
        history += [item.to_dict() for item in first.output[1:]] + outputs(first)
        client.responses.create(model="any", input=history, tools=TOOLS, store=False)
    assert "<|im_middle|><think>I look.</think>Let me see.<|tool_calls_section_begin|>" in str(engine.prompts[-1])


def test_reasoning_is_carried_by_previous_response_id(serve: Serve) -> None:
    engine = ScriptedEngine([THOUGHT, "Hm.</think>Sunny."], variant=K2_5)
    with client_of(serve(engine)) as client:
        first = client.responses.create(model="any", input=ASK, tools=TOOLS)
        client.responses.create(model="any", input=outputs(first), tools=TOOLS, previous_response_id=first.id)
    assert "<|im_middle|><think>I look.</think>Let me see.<|tool_calls_section_begin|>" in str(engine.prompts[-1])


def test_items_of_all_forms_make_one_conversation(serve: Serve) -> None:
    engine = ScriptedEngine(["Yes."])
    items = [
        {"role": "developer", "content": "A"},
        {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "B"}]},
        {"role": "user", "content": [{"type": "input_text", "text": "C"}, {"type": "input_text", "text": "D"}]},
        {"type": "function_call", "call_id": "x", "name": "ping", "arguments": "{}"},
        {"type": "function_call", "call_id": "y", "name": "ping", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "y", "output": "2"},
        {"type": "function_call_output", "call_id": "x", "output": "1"},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "status": "completed",
            "content": [{"type": "output_text", "text": "E", "annotations": []}, {"type": "refusal", "refusal": "F"}],
        },
        {"role": "assistant", "content": "G"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "of another model"},
        {"role": "user", "content": "H"},
    ]
    assert post(serve(engine), {"input": items})[0] == 200
    begin, end = "<|im_middle|>", "<|im_end|>"
    calls = section(("functions.ping:0", "{}"), ("functions.ping:1", "{}"))
    assert str(engine.prompts[0]) == (
        f"<|im_system|>system{begin}A{end}<|im_system|>system{begin}B{end}<|im_user|>user{begin}CD{end}"
        f"<|im_assistant|>assistant{begin}{calls}{end}"
        f"<|im_system|>tool{begin}## Return of functions.ping:1\n2{end}"
        f"<|im_system|>tool{begin}## Return of functions.ping:0\n1{end}"
        f"<|im_assistant|>assistant{begin}EF{end}<|im_assistant|>assistant{begin}G{end}<|im_user|>user{begin}H{end}"
        f"<|im_assistant|>assistant{begin}"
    )


def test_an_item_can_be_referred_to(serve: Serve) -> None:
    engine = ScriptedEngine([CALLS, "Sunny."])
    with client_of(serve(engine)) as client:
        first = client.responses.create(model="any", input=ASK, tools=TOOLS)
        asked = client.responses.input_items.list(first.id).data[0]
        references: list[Any] = [{"type": "item_reference", "id": asked.id}, {"id": first.output[0].id}]
        client.responses.create(model="any", input=[*references, *outputs(first)[:1]], tools=TOOLS)
        assert turns(engine).startswith("user<|im_middle|>Weather in Shanghai?<|im_end|><|im_assistant|>")
        assert turns(engine).count("<|tool_call_begin|>functions.get_weather:0<|") == 1
        with pytest.raises(openai.BadRequestError, match="not found") as refused:
            client.responses.create(model="any", input=[{"type": "item_reference", "id": "msg_0"}])
    assert refused.value.param == "input[0].id"


# Refusals

USER = {"role": "user", "content": "x"}
CALL = {"type": "function_call", "call_id": "a", "name": "ping", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "b", "output": "x"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x"]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [USER, {"role": "user", "content": [{"type": "input_image"}]}]}, "input[1].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0]"),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]},
            "input[0].output[0]",
        ),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type"),
        ({"input": [USER, CALL, RESULT]}, "input[2].call_id"),
        ({"input": [USER, {**RESULT, "call_id": None}]}, "input[1].call_id"),
        ({"input": [USER, {**CALL, "arguments": {}}]}, "input[1].arguments"),
        ({"input": [USER, {**CALL, "name": ""}]}, "input[1].name"),
        ({"input": [USER, CALL, {**RESULT, "call_id": "a", "output": 5}]}, "input[2].output"),
        ({"input": [{"type": "reasoning", "summary": "x"}]}, "input[0].summary"),
        ({"input": [{"type": "reasoning", "encrypted_content": "abruzzi:?"}]}, "input[0].encrypted_content"),
        ({"instructions": 5}, "instructions"),
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "local_shell"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "a", "description": 5}]}, "tools[0].description"),
        ({"tools": [{"type": "function", "name": "a", "parameters": {"type": 1}}]}, "tools[0].parameters.type"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools[2].name"),
        ({"tools": [{**TOOLS[0], "strict": True}]}, "tools[0].parameters.additionalProperties"),
        ({"tools": [{**NAMESPACE, "tools": [TOOLS[0], TOOLS[0]]}]}, "tools[0].tools[1].name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "gone"}}, "tool_choice.name"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice.type"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "x", "tools": []}}, "tool_choice.mode"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}}, "tool_choice.tools"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]}},
            "tool_choice.tools[0].name",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": "hot"}, "temperature"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "x"}}, "prompt"),
        ({"top_logprobs": 5}, "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "include[0]"),
        ({"metadata": {"a": 5}}, "metadata.a"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "array"}}}},
            "text.format.schema.type",
        ),
        ({"text": {"verbosity": "much"}}, "text.verbosity"),
        ({"truncation": "some"}, "truncation"),
        ({"service_tier": "best"}, "service_tier"),
        ({"stream": "yes"}, "stream"),
        ({"store": 1}, "store"),
        ({"abruzzi": 0}, "abruzzi"),
    ],
)
def test_a_bad_request_gets_the_true_reason(serve: Serve, change: Any, param: str) -> None:
    served = serve(ScriptedEngine([CALLS]))
    for stream in (False, True):
        status, body = post(served, {"input": ASK, "tools": TOOLS, "stream": stream, **change})
        assert (status, body["error"]["type"], body["error"]["param"]) == (400, "invalid_request_error", param)
        openais().check("ErrorResponse", body)


def mutations(value: Any) -> Iterator[Any]:
    """The value with each of its parts replaced in turn, and left out."""
    yield from (None, 0, -1, 1.5, True, "", "x", "none", [], [[]], [{}], {}, {"type": "x"}, {"type": []})
    if isinstance(value, dict):
        for key in value:
            rest = {name: one for name, one in value.items() if name != key}
            yield rest
            yield from ({**value, key: other} for other in mutations(value[key]))
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield value[:i] + value[i + 1 :]
            yield from ([*value[:i], other, *value[i + 1 :]] for other in mutations(one))


EVERYTHING: Any = {
    "model": "any",
    "input": [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "x"}], "content": None},
        {"type": "reasoning", "encrypted_content": "abruzzi:eA==", "content": [{"type": "reasoning_text", "text": ""}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "x"}, {"type": "refusal", "refusal": "x"}]},
        {**CALL, "id": "fc_1", "status": "completed", "namespace": "x"},
        {**RESULT, "call_id": "a", "output": [{"type": "input_text", "text": "x"}]},
        {"type": "custom_tool_call", "call_id": "b", "name": "h", "input": "x"},
        {"type": "custom_tool_call_output", "call_id": "b", "output": "x"},
        {"type": "item_reference", "id": "kept"},
    ],
    "instructions": "x",
    "tools": [
        {**TOOLS[0], "strict": False},
        {"type": "custom", "name": "h", "description": "x", "format": {"type": "text"}},
        {**NAMESPACE, "tools": [flat(Tool("g", "x", {"type": "object", "properties": {"a": {"enum": ["x"]}}}))]},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]},
    "parallel_tool_calls": True,
    "max_output_tokens": 5,
    "max_tool_calls": 5,
    "temperature": 1,
    "top_p": 1,
    "top_logprobs": 0,
    "text": {
        "format": {
            "type": "json_schema",
            "name": "x",
            "schema": {"type": "object"},
            "strict": False,
            "description": "x",
        }
    },
    "reasoning": {"effort": "none", "summary": "auto"},
    "metadata": {"x": "x"},
    "user": "x",
    "store": True,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "include": ["reasoning.encrypted_content"],
    "truncation": "auto",
    "service_tier": "auto",
    "background": False,
    "conversation": None,
    "prompt": None,
    "previous_response_id": "resp_1",
    "safety_identifier": "x",
    "prompt_cache_key": "x",
    "abruzzi": True,
}


def test_whatever_is_wrong_with_a_body_is_a_request_error() -> None:
    """And what is taken renders, and is repeated as OpenAI's description says."""
    store = ResponseStore()
    kept = {"id": "kept", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    store.add({"id": "resp_1", "output": []}, [kept], None, {"kept"})
    dialect = Responses(K2_5, store)
    bodies = list(mutations(EVERYTHING))[14:]  # a body is an object
    random.Random(0).shuffle(bodies)
    taken = 0
    for body in (EVERYTHING, *bodies):
        try:
            call = dialect.decode(body, "any")
        except RequestError as error:
            assert body is not EVERYTHING and error.param is not None, body
            assert str(error).endswith(f"(at {error.param})")
            continue
        taken += 1
        render_prompt(call.request.messages, tools=call.request.tools, variant=K2_5, thinking=call.request.thinking)
        frame = call.encoder.begin().decode().split("\n")[1]
        openais().check("Response", json.loads(frame.removeprefix("data: "))["response"])
    assert taken > 100 and len(bodies) - taken > 1000
