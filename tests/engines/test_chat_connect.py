"""A host that offers chat alone, found out and looked at; and one of several engines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from click.testing import CliRunner

from abruzzi import Agent, EngineError, Message, RequestError, connect
from abruzzi import chat as chats
from abruzzi.chat import ChatRequest, Report
from abruzzi.cli import main
from abruzzi.engines.completions import CompletionsEngine
from abruzzi.engines.connect import told
from abruzzi.engines.pool import Pool
from abruzzi.engines.ways import Ways
from abruzzi.protocol.variants import K2
from tests.conftest import PING, WEATHER, CompletionsServer, events, section
from tests.engines.chats import Chats, answer, call, calling, delta, engine_at, host, part

SHANGHAI = '{"location": "shanghai"}'
ASK = ChatRequest([Message("user", "What's the weather?")], (WEATHER, PING))


@pytest.mark.parametrize(
    "refuses",
    [(404, b"{}"), (405, b""), (501, b""), (400, b'{"error": {"message": "k2 is a chat model"}}')],
)
@pytest.mark.parametrize("guided", [True, False])
def test_a_host_of_chat_alone_is_known(refuses: tuple[int, bytes], guided: bool) -> None:
    def get_weather(location: str) -> str:
        return f"Cloudy in {location}"

    with host(call(SHANGHAI), answer(delta(content="It is cloudy.")), refuses=refuses) as (url, asked):
        engine = connect(url, guided=guided)
        assert engine.capabilities.model == "kimi-k2" and not engine.capabilities.continues
        ((line, is_trouble),) = told(engine)
        assert line.startswith(f"{url} offers chat alone: ") and not is_trouble
        assert Agent(engine=engine, tools=[get_weather]).run("What's the weather?").answer == "It is cloudy."
    assert asked[1]["messages"][-1] == {
        "role": "tool",
        "content": "Cloudy in shanghai",
        "tool_call_id": "functions.get_weather:0",
    }


def test_a_server_that_has_neither_is_none(completions: CompletionsServer) -> None:
    url, handler = completions
    handler.do_POST = lambda self: self.reply(404, b"{}")  # type: ignore[method-assign]
    assert isinstance(connect(url), CompletionsEngine)


def test_one_that_was_down_or_busy_at_start_is_asked_for_chat_later() -> None:
    busy = [True]

    def reply(self: Any, status: int, body: bytes) -> None:
        Chats.reply(self, 429 if busy else status, body)

    async def late(url: str) -> None:
        engine = CompletionsEngine(url, model="kimi-k2", variant=K2)
        await engine.settle()
        assert engine.capabilities.continues and "given no grammar until it is" in engine.told()[0][0]
        busy.clear()
        await engine.settle()
        message, _ = await chats.complete(engine, ASK)
        assert message.tool_calls and engine.health()[0]["status"] == "ok" and await engine.look()
        await engine.aclose()

    with host(call(SHANGHAI), reply=reply) as (url, asked):
        asyncio.run(late(url))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("message", "found", "verdict"),
    [
        ({"tool_calls": [part("{}", "abruzzi_probe_7f3a")]}, "called", "good"),
        (
            {"content": section(("functions.abruzzi_probe_7f3a:0", "{}"))},
            "called, and their markers come as text",
            "fair",
        ),
        ({"content": "Hello!"}, "not called: Hello!", "bad"),
        ({"content": None, "reasoning_content": "So I am to"}, "not found out", "unknown"),
        ({"content": "<think>I am to", "reasoning_content": None}, "not found out", "unknown"),
    ],
)
def test_the_doctor_says_what_it_is(message: dict[str, Any], found: str, verdict: str) -> None:
    reason = "length" if "reasoning_content" in message else "stop"
    whole = json.dumps({"choices": [{"message": message, "finish_reason": reason}]}).encode()

    def reply(self: Any, status: int, body: bytes) -> None:
        Chats.reply(self, status, whole if body == b'{"choices": []}' else body)

    with host(reply=reply) as (url, _):
        result = CliRunner().invoke(main, ["doctor", url, "--json"])
    findings = {one["subject"]: one for one in json.loads(result.stdout)}
    assert list(findings) == ["completions", "chat", "tools"]
    assert findings["completions"]["found"] == "none" and "no grammar" in findings["completions"]["means"]
    assert (findings["tools"]["found"], findings["tools"]["verdict"]) == (found, verdict)


def test_a_host_that_is_too_busy_for_the_doctor_is_not_found_bad() -> None:
    def reply(self: Any, status: int, body: bytes) -> None:
        Chats.reply(self, 429 if body == b'{"choices": []}' else status, body)

    with host(reply=reply) as (url, _):
        result = CliRunner().invoke(main, ["doctor", url])
    assert "tools: not found out" in result.stdout and result.exit_code == 0


def completing(url: str) -> CompletionsEngine:
    return CompletionsEngine(f"{url}/v1", model="kimi-k2", variant=K2, ways=Ways())


async def complete(pool: Pool, request: ChatRequest = ASK) -> tuple[Message, Report]:
    try:
        return await chats.complete(pool, request)
    finally:
        await pool.aclose()


def text(value: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"text": value, "finish_reason": reason}]}


def test_what_a_chat_began_another_engine_goes_on_with(completions: CompletionsServer) -> None:
    url, handler = completions
    handler.body = events(text('anghai"}<|tool_call_end|><|tool_calls_section_end|>', "stop"))
    broken = answer(calling(part('{"location": "sh', "get_weather")))[:-150]
    with host(broken) as (chat, asked):
        message, report = asyncio.run(complete(Pool([engine_at(chat), completing(url)])))
    assert message.tool_calls[0].function.arguments == SHANGHAI and report.resumes == 0
    assert len(asked) == 1 and handler.asked[0]["prompt"].endswith('{"location": "sh')


def test_what_another_engine_began_no_chat_goes_on_with(completions: CompletionsServer) -> None:
    url, handler = completions
    handler.body = events(text("It is"))
    with host(answer(delta(content="Sunny."))) as (chat, asked):
        with pytest.raises(EngineError, match="without a finish_reason"):
            asyncio.run(complete(Pool([completing(url), engine_at(chat)])))
        assert not asked
        handler.status = 500  # before it has begun
        message, _ = asyncio.run(complete(Pool([completing(url), engine_at(chat)])))
    assert message.content == "Sunny."


def test_one_that_goes_on_is_asked_to_and_a_chat_where_there_is_none(completions: CompletionsServer) -> None:
    url, handler = completions
    handler.body = events(text('"shanghai"}<|tool_call_end|>', "stop"))
    with host(call('{"location": 5}'), call(SHANGHAI)) as (chat, asked):
        message, report = asyncio.run(complete(Pool([engine_at(chat), completing(url)])))
        assert message.tool_calls[0].function.arguments == SHANGHAI and report.resumes == 1
        assert len(asked) == len(handler.asked) == 1
        handler.status = 503
        asked.clear()
        message, report = asyncio.run(complete(Pool([engine_at(chat), completing(url)])))
        assert message.tool_calls[0].function.arguments == SHANGHAI and report.resumes == 1


def test_a_prompt_as_it_stands_goes_to_one_that_takes_it(completions: CompletionsServer) -> None:
    url, handler = completions
    handler.body = events(text("a time", "stop"))
    request = ChatRequest([], prompt="Once upon ")
    with host() as (chat, asked):
        message, _ = asyncio.run(complete(Pool([engine_at(chat), completing(url)]), request))
        assert message.content == "a time" and not asked
        with pytest.raises(RequestError, match="expected messages"):
            asyncio.run(complete(Pool([engine_at(chat), engine_at(chat)]), request))
