"""The completions engine against a server on a real socket that speaks the protocol byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from abruzzi import Agent, EngineError, EngineTimeout, EngineUnavailable, Message, SamplingParams, connect
from abruzzi.engines.base import Engine, Piece
from abruzzi.engines.refusal import Failed, refusal
from abruzzi.protocol.template import render_prompt
from tests.conftest import Completions, CompletionsServer, events
from tests.engines.wire import WHOLE, wired


def text(value: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"text": value, "finish_reason": reason}]}


async def collect(engine: Engine) -> list[Piece]:
    prompt = render_prompt([Message("user", "Hi")], variant="k2")
    try:
        async with contextlib.aclosing(engine.complete(prompt, SamplingParams(max_tokens=9), None)) as pieces:
            return [piece async for piece in pieces]
    finally:
        await engine.aclose()


def test_the_prompt_goes_out_rendered_and_the_output_comes_back_as_written(completions: CompletionsServer) -> None:
    url, handler = completions
    # A line separator inside a string is no end of a line.
    handler.body = events(text("a\u2028b"), text("c", "length"), {"choices": [], "usage": {"prompt_tokens": 7}})
    pieces = asyncio.run(collect(connect(url)))
    assert "".join(piece.text for piece in pieces) == "a\u2028bc"
    assert pieces[-1].finish_reason == "length"
    assert pieces[-1].usage is not None and pieces[-1].usage.prompt == 7
    (asked,) = handler.asked
    assert asked["model"] == "kimi-k2" and asked["max_tokens"] == 9 and "temperature" not in asked
    assert asked["stop"] == ["<|im_end|>"] and asked["skip_special_tokens"] is False
    assert asked["prompt"].endswith("<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|>")


def test_threads_share_an_engine_and_leave_nothing_open(completions: CompletionsServer) -> None:
    url, handler = completions
    handler.body = events(text("Hello.", "stop"))
    engine = connect(url)
    with ThreadPoolExecutor(4) as threads:
        runs = list(threads.map(Agent(engine=engine).run, ["Hi"] * 20))
    assert {run.answer for run in runs} == {"Hello."}
    gc.collect()  # what is left open warns, and a warning fails the test


def test_silence_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.engines.remote._SILENCE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(EngineTimeout, match="said nothing"):
        asyncio.run(collect(connect(f"http://127.0.0.1:{silent.getsockname()[1]}", model="m")))


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, b'{"object": "error", "message": "no such field", "code": 400}', "answered 400: no such field"),
        (500, b'{"error": {"message": "out of memory"}}', "out of memory"),
        (500, b'{"error": "boom"}', "boom"),
        (502, b"<html>", "<html>"),
        (200, events({"error": {"message": "died"}}), "died"),
        (200, events(text("a")), "without a finish_reason"),
        (200, b"data: {", "broke off"),
    ],
)
def test_what_the_engine_says_went_wrong_is_passed_on(
    completions: CompletionsServer, status: int, body: bytes, message: str
) -> None:
    url, handler = completions
    handler.status, handler.body = status, body
    with pytest.raises(EngineError, match=message):
        asyncio.run(collect(connect(url)))


def test_chunks_that_bring_nothing_have_an_end(completions: CompletionsServer) -> None:
    url, handler = completions
    handler.body = events(text("It "), *[text("")] * 100_001, text("is.", "stop"))
    with pytest.raises(EngineError, match="100,000 chunks in a row that bring nothing"):
        asyncio.run(collect(connect(url)))


def test_a_redirect_is_not_followed_and_nothing_is_asked_twice(completions: CompletionsServer) -> None:
    url, handler = completions
    handler.status, handler.body = 302, b"elsewhere"
    with pytest.raises(EngineError, match="302"):
        asyncio.run(collect(connect(url)))
    assert len(handler.asked) == 1


@pytest.mark.parametrize(
    ("location", "told"),
    [
        (
            "https://user:pass@b/v1/completions?key=s#s",
            "to https://b/v1/completions, .*; name it with --engine https://b/v1$",
        ),
        ("/api/v1/completions", "to http://a/api/v1/completions, .*; name it with --engine http://a/api/v1$"),
        ("/v1/completions/", "to http://a/v1/completions/, .*; expected an engine that answers itself$"),
        ("https://login.b/", "to https://login.b/, .*; expected an engine that answers itself$"),
        ("http://[", "to what is no URL, .*; expected an engine that answers itself$"),
    ],
)
def test_a_redirect_tells_where_it_leads_and_no_secret(location: str, told: str) -> None:
    error = refusal("http://a/v1/completions", 307, "moved", location=location)
    assert type(error) is Failed
    assert re.search(f"^http://a/v1/completions answered 307: it redirects {told}", str(error))


def test_neither_the_list_of_models_nor_a_prompt_is_looked_for_elsewhere(completions: CompletionsServer) -> None:
    url, handler = completions

    def moved(self: Completions) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(308)
        self.send_header("Location", f"http://b{self.path}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    handler.do_GET = handler.do_POST = moved  # type: ignore[method-assign]
    with pytest.raises(EngineUnavailable, match=r"308: it redirects .* name it with --engine http://b/v1$"):
        connect(url)
    with pytest.raises(EngineError, match=r"308: it redirects .* name it with --engine http://b/v1$"):
        asyncio.run(collect(connect(url, model="kimi-k2")))


def test_it_tells_how_it_was_when_it_was_asked_last() -> None:
    async def work() -> None:
        async with wired(WHOLE) as (engine, wire):
            await collect(engine)
            assert engine.health()[0]["status"] == "ok"
            await engine.aclose()
            await wire.stop()
            with pytest.raises(EngineUnavailable):
                await collect(engine)
            assert engine.health()[0]["status"] == "sick" and "nothing answers" in engine.health()[0]["error"]
            await wire.start()
            await collect(engine)
            assert engine.health()[0]["status"] == "ok"

    asyncio.run(work())
