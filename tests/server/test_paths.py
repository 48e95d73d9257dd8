"""What is at which path, and what a client is told that asks for anything else."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import socket
from collections.abc import AsyncGenerator
from typing import Any

import anthropic
import openai
import pytest

from abruzzi import chat
from abruzzi.engines.scripted import ScriptedEngine
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask, streamed

ANTHROPIC = {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        (CHAT, "GET", "POST"),
        (CHAT, "DELETE", "POST"),
        (CHAT, "OPTIONS", "POST"),
        (MESSAGES, "PUT", "POST"),
        ("/v1/models", "POST", "GET, HEAD"),
        ("/v1/models/scripted", "DELETE", "GET, HEAD"),
        ("/health", "POST", "GET, HEAD"),
        ("/", "PATCH", "GET, HEAD"),
        ("/v1/responses/resp_1", "PUT", "GET, DELETE, HEAD"),
        ("/v1/responses/resp_1/input_items", "DELETE", "GET, HEAD"),
        ("/v1/responses/input_tokens", "GET", "POST"),
    ],
)
def test_another_method_is_told_which_it_takes(serve: Serve, path: str, method: str, allowed: str) -> None:
    told = ask(serve(ScriptedEngine([""])), path, method=method)
    assert (told.status, told.headers["allow"]) == (405, allowed)
    assert told.json["error"]["type"] == "invalid_request_error"
    assert ("type" in told.json) == (path == MESSAGES)


@pytest.mark.parametrize("path", ["/nothing", "/v1", "/v1/", "/v1/chat/completions/", "/v1/models/", "//", "/HEALTH"])
def test_no_such_path_is_told_in_the_clients_dialect(serve: Serve, path: str) -> None:
    served = serve(ScriptedEngine([""]))
    for method in ("GET", "POST"):
        told = ask(served, path, method=method)
        assert (told.status, told.json["error"]["type"]) == (404, "invalid_request_error")
        told = ask(served, path, method=method, headers=ANTHROPIC)
        assert (told.status, told.json["error"]["type"]) == (404, "not_found_error")


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/v1/v1/messages", "/v1/messages"),
        ("/messages", "/v1/messages"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/chat/completions/", "/v1/chat/completions"),
        ("/models", "/v1/models"),
    ],
)
def test_a_wrong_base_url_is_told_as_such(serve: Serve, path: str, meant: str) -> None:
    told = ask(serve(ScriptedEngine([""])), path, method="POST")
    assert told.status == 404 and f"no {path} here: expected {meant} (" in told.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/v1/responses/compact", "a conversation isn't shortened"),
        ("/v1/responses/resp_1/cancel", "there are no responses in the background"),
        ("/v1/responses/resp_1/other", "GET / tells what there is"),
        ("/v1/responses/", "expected /v1/responses, without a slash"),
    ],
)
def test_what_responses_have_elsewhere_is_told_to_be_absent(serve: Serve, path: str, reason: str) -> None:
    told = ask(serve(ScriptedEngine([""])), path, {})
    assert told.status == 404 and f"no {path} here: {reason}" in told.json["error"]["message"]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": "\xff"},
        {"Content-Encoding": "gzip"},
    ],
)
def test_a_body_that_isnt_said_to_be_json_is_refused(serve: Serve, path: str, headers: dict[str, str]) -> None:
    told = ask(serve(ScriptedEngine([""])), path, HELLO, headers=headers)
    assert (told.status, told.json["error"]["type"]) == (415, "invalid_request_error")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/x+json"])
def test_json_has_several_names(serve: Serve, kind: str) -> None:
    assert ask(serve(ScriptedEngine(["Hello."])), headers={"Content-Type": kind}).status == 200


def test_models_as_openai_and_anthropic_have_them(serve: Serve) -> None:
    served = serve(ScriptedEngine([""]))
    with openai.OpenAI(base_url=served.base_url, api_key="none") as client:
        assert [model.id for model in client.models.list()] == ["scripted"]
        assert client.models.retrieve("scripted").owned_by == "abruzzi"
        with pytest.raises(openai.NotFoundError, match="expected 'scripted'"):
            client.models.retrieve("gpt-4")
    with anthropic.Anthropic(base_url=served.base_url.removesuffix("/v1"), api_key="none") as other:
        assert [(model.id, model.type) for model in other.models.list()] == [("scripted", "model")]
        assert other.models.retrieve("scripted").display_name == "scripted"
        with pytest.raises(anthropic.NotFoundError):
            other.models.retrieve("claude")


def test_a_models_name_may_have_slashes(serve: Serve) -> None:
    engine = ScriptedEngine([""])
    engine.capabilities = dataclasses.replace(engine.capabilities, model="moonshotai/Kimi-K2-Instruct")
    assert ask(serve(engine), "/v1/models/moonshotai/Kimi-K2-Instruct").json["id"] == "moonshotai/Kimi-K2-Instruct"


def test_head_is_get_without_a_body(serve: Serve) -> None:
    served = serve(ScriptedEngine([""]))
    for path in ("/health", "/v1/models", "/"):
        told = ask(served, path, method="HEAD")
        assert (told.status, told.body) == (200, b"") and int(told.headers["content-length"]) > 0


# Ids


@pytest.mark.parametrize("path", [CHAT, "/health", "/nothing", "/"])
def test_a_requests_id_is_kept_and_sent_back(serve: Serve, path: str) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    told = ask(served, path, headers={"X-Request-Id": "my id ~ 1"})
    assert told.headers["x-request-id"] == told.headers["request-id"] == "my id ~ 1"


@pytest.mark.parametrize("given", ["", "x" * 129, "\xe9", "a\tb", "a\x7fb"])
def test_one_that_isnt_sane_is_replaced(serve: Serve, given: str) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    told = [ask(served, "/health", headers={"X-Request-Id": given}) for _ in range(2)]
    ids = {one.headers.get("x-request-id") for one in told if one.status == 200}
    if ids:  # some make no head of HTTP
        assert len(ids) == 2 and all(one and one.startswith("req_") for one in ids)


def test_streams_and_refusals_have_one(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    for body in (streamed(), b"{", {"messages": 1}):
        assert ask(served, CHAT, body).headers["x-request-id"].startswith("req_")


# The server's own mistakes


def broken(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Has our own code go wrong, in a way that nobody thought of, after so many pieces of an answer."""
    batches = chat.batches

    async def going_wrong(*arguments: Any) -> AsyncGenerator[Any, None]:
        count = 0
        async with contextlib.aclosing(batches(*arguments)) as several:
            async for items in several:
                if count == after:
                    raise ZeroDivisionError("secret")
                count += 1
                yield items

    monkeypatch.setattr(chat, "batches", going_wrong)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_mistake_before_the_answer_is_a_500(
    serve: Serve, path: str, stream: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, after=0)
    with caplog.at_level(logging.ERROR):
        told = ask(serve(ScriptedEngine(["Hello."])), path, {**HELLO, "max_tokens": 9, "stream": stream})
    error, id = told.json["error"], told.headers["x-request-id"]
    assert (told.status, error["type"]) == (500, "server_error" if path == CHAT else "api_error")
    assert "secret" not in error["message"] and id in error["message"]
    assert "ZeroDivisionError: secret" in caplog.text and id in caplog.text


def test_one_in_a_stream_ends_it_with_the_dialects_error(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch, after=2)
    served = serve(ScriptedEngine(["Hello."], cut=list))
    with caplog.at_level(logging.ERROR):
        chats = ask(served, CHAT, streamed())
        messages = ask(served, MESSAGES, streamed(max_tokens=9))
    assert (chats.status, chats.body.count(b'"content":"')) == (200, 3)
    assert chats.body.endswith(b"data: [DONE]\n\n") and b'"server_error"' in chats.body
    assert b"event: error\n" in messages.body and b'"api_error"' in messages.body
    assert caplog.text.count("ZeroDivisionError: secret") == 2 and b"secret" not in chats.body + messages.body
    assert ask(served, "/health").status == 200


@pytest.mark.parametrize(
    "path", [CHAT, MESSAGES, "/v1/responses", "/v1/responses/input_tokens", "/v1/messages/count_tokens"]
)
def test_nothing_that_a_client_sends_is_the_servers_mistake(serve: Serve, path: str) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    odd: list[Any] = [None, True, -1, 1e300, 10**400, "", "\ud800\udc00", "\x00", [], [None], [[]], {}, {"": []}]
    keys = ("messages", "input", "tools", "tool_choice", "model", "stream", "max_tokens", "n", "system", "stop",
            "response_format", "text", "reasoning", "thinking", "stream_options", "metadata", "stop_sequences",
            "previous_response_id", "include", "parallel_tool_calls", "temperature", "seed", "output")  # fmt: skip
    good = {"messages": HELLO["messages"], "input": "Hello!", "max_tokens": 9}
    bodies: list[Any] = [{**good, key: value} for key in keys for value in odd]
    bodies += [{**good, "messages": [{"role": "user", "content": value}]} for value in odd]
    bodies += [{**good, "messages": [{"role": value, "content": "x"}]} for value in odd]
    bodies += [{**good, "input": [{"type": "message", "role": "user", "content": value}]} for value in odd]
    statuses = {ask(served, path, body).status for body in bodies}
    assert statuses <= {200, 400, 404}, statuses


@pytest.mark.parametrize("given", [b"GET\r\n\r\n", b"GET /%00%ff HTTP/1.1\r\n\r\n"])
def test_what_is_no_http_does_no_harm(serve: Serve, given: bytes) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(given)
        assert connection.recv(12) in (b"HTTP/1.1 400", b"HTTP/1.1 404")
    assert ask(served).status == 200
