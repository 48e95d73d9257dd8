"""What each role's message must have, by OpenAI's description, and fields that are let be or refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from abruzzi import RequestError
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.server.chat_completions import READ
from abruzzi.server.chat_messages import read_message
from abruzzi.server.dialect import Fields
from abruzzi.server.openai_fields import unknown
from tests.conftest import Served
from tests.server.asking import HELLO, ask
from tests.server.openapi import openais

Serve = Callable[..., Served]
IMAGE: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
CALL: Any = {"id": "c1", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
TEXT: Any = {"type": "text", "text": "Hi"}


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"role": "user"}, ".content"),
        ({"role": "user", "content": None}, ".content"),
        ({"role": "user", "content": []}, ".content"),
        ({"role": "user", "content": [TEXT, IMAGE]}, ".content[1]"),
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "file", "file": {}}]}, ".content[0]"),
        ({"role": "system"}, ".content"),
        ({"role": "developer", "content": []}, ".content"),
        ({"role": "tool", "tool_call_id": "c1"}, ".content"),
        ({"role": "tool", "tool_call_id": "c1", "content": [IMAGE]}, ".content[0]"),
        ({"role": "tool", "content": "x"}, ".tool_call_id"),
        ({"role": "assistant"}, ".content"),
        ({"role": "assistant", "content": []}, ".content"),
        ({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}}, ".function_call"),
        ({"role": "assistant", "content": None, "audio": {"id": "a"}}, ".audio"),
        ({"role": "assistant", "content": None, "refusal": 1}, ".refusal"),
        ({"role": "assistant", "content": None, "reasoning": ["Hm"]}, ".reasoning"),
        ({"role": "function", "name": "f", "content": "x"}, ".role"),
    ],
)
def test_a_message_without_what_its_role_needs_is_refused_with_its_place(
    serve: Serve, message: Any, place: str
) -> None:
    body = {"messages": [{"role": "user", "content": "x"}, message]}
    answer = ask(serve(ScriptedEngine(["x"])), body=body)
    assert (answer.status, answer.json["error"]["param"]) == (400, f"messages[1]{place}")
    assert re.search("expected|only text", answer.json["error"]["message"])
    openais().check("ErrorResponse", answer.json)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"role": "user", "content": ""}, ""),
        ({"role": "tool", "tool_call_id": "c1", "content": ""}, ""),
        ({"role": "assistant", "tool_calls": [CALL]}, None),
        ({"role": "assistant", "content": None}, None),
        ({"role": "assistant", "reasoning_content": "Hm"}, None),
        ({"role": "assistant", "reasoning": "Hm"}, None),
        ({"role": "assistant", "content": None, "refusal": "No."}, "No."),
        ({"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}, "No."),
    ],
)
def test_a_message_that_has_it_is_taken(message: Any, content: str | None) -> None:
    assert read_message(message, "messages[0]").content == content


def test_an_image_is_refused_with_the_true_reason() -> None:
    with pytest.raises(RequestError, match=r"'image_url': only text is passed on here \(at m\.content\[0\]\)"):
        read_message({"role": "user", "content": [IMAGE]}, "m")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"user": 1}, "user"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {"a": None}}, "metadata.a"),
        ({"service_tier": "best"}, "service_tier"),
        ({"store": "yes"}, "store"),
        ({"modalities": "text"}, "modalities"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"safety_identifier": {}}, "safety_identifier"),
        ({"prompt_cache_key": 1}, "prompt_cache_key"),
        ({"stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
        ({"verbosity": "loud"}, "verbosity"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs"),
        ({"min_tokens": 9}, "min_tokens"),
        ({"allowed_token_ids": [1]}, "allowed_token_ids"),
        ({"truncate_prompt_tokens": 100}, "truncate_prompt_tokens"),
        ({"include_stop_str_in_output": True}, "include_stop_str_in_output"),
        ({"stop_regex": "a+"}, "stop_regex"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
    ],
)
def test_a_field_that_is_none_or_cant_be_honoured_is_refused(serve: Serve, path: str, wrong: Any, param: str) -> None:
    body = {"messages": HELLO["messages"], "prompt": "x"} if path != "/v1/responses" else {"input": "x"}
    answer = ask(serve(ScriptedEngine(["x"])), path, {**body, **wrong})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"reasoning_effort": "some"}, "reasoning_effort"),
        ({"thinking": "off"}, "thinking"),
        ({"chat_template_kwargs": {"thinking": "off"}}, "chat_template_kwargs.thinking"),
        ({"chat_template_kwargs": {"enable_thinking": 0}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"preserve_thinking": 1}}, "chat_template_kwargs.preserve_thinking"),
        ({"thinking": {"type": "enabled", "keep": "some"}}, "thinking.keep"),
        ({"include_reasoning": "no"}, "include_reasoning"),
        ({"chat_template_kwargs": {"thinking": None}, "thinking": "off"}, "thinking"),
        ({"prediction": "x"}, "prediction"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"json_schema": {"name": "a"}}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.name"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}},
            "response_format.json_schema.name",
        ),
    ],
)
def test_the_chat_apis_own_fields_are_checked_too(serve: Serve, wrong: Any, param: str) -> None:
    answer = ask(serve(ScriptedEngine(["x"])), body={**HELLO, **wrong})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def test_every_field_of_openais_is_known() -> None:
    assert unknown(Fields(dict.fromkeys(openais().members("CreateChatCompletionRequest"), 1)), READ) == ()


def test_what_changes_nothing_is_let_be(serve: Serve) -> None:
    unused = {
        "user": "u",
        "metadata": {"a": "b"},
        "service_tier": "flex",
        "store": True,
        "modalities": ["text"],
        "prediction": {"type": "content", "content": "x"},
        "verbosity": "low",
        "functions": [],
        "moderation": None,
        "reasoning_effort": "high",
    }
    answer = ask(serve(ScriptedEngine(["Hello."])), body={**HELLO, **unused})
    assert answer.status == 200 and answer.json["choices"][0]["message"]["content"] == "Hello."
