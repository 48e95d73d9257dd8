"""From URLs and names to engines."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from abruzzi import EngineUnavailable, RequestError, SamplingParams, connect
from abruzzi.engines.asking import Asking
from abruzzi.engines.completions import CompletionsEngine
from abruzzi.engines.pool import Pool
from tests.conftest import CompletionsServer, events
from tests.engines.wire import HI, STREAM, Wire, chunk, chunked, sse, text, wired

HELLO = events(chunk("Hello.", "stop"))


@pytest.fixture
def down() -> Iterator[str]:
    """Where nothing listens."""
    with socket.socket() as taken:  # bound, so that nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


async def ask(engine: Any) -> str:
    try:
        return await text(engine)
    finally:
        await engine.aclose()


def test_an_engine_that_is_down_is_unavailable(down: str) -> None:
    with pytest.raises(EngineUnavailable, match=f"no engine answers at {down}"):
        connect(down)
    with pytest.raises(EngineUnavailable, match=f"no engine answers at {down}/v1: .*; no engine answers"):
        connect([down, down.replace("127.0.0.1", "localhost")])
    named = connect(down, model="m")
    assert isinstance(named, CompletionsEngine) and named.health()[0]["status"] == "sick"
    with pytest.raises(EngineUnavailable, match="nothing answers"):
        asyncio.run(ask(named))


def test_of_several_engines_one_may_be_down(completions: CompletionsServer, down: str) -> None:
    url, handler = completions
    handler.body = HELLO
    pool = connect([down, url, f"{url}/v1/"], model="kimi-k2")
    assert isinstance(pool, Pool)
    assert [(one["url"], one["status"]) for one in pool.health()] == [(f"{down}/v1", "sick"), (f"{url}/v1", "ok")]
    assert pool.capabilities.model == "kimi-k2"
    assert [asyncio.run(ask(pool)) for _ in range(3)] == ["Hello."] * 3


def test_one_url_in_a_list_is_that_engine(completions: CompletionsServer) -> None:
    url, _ = completions
    assert isinstance(connect([url, f"{url}/v1"]), CompletionsEngine)
    with pytest.raises(EngineUnavailable, match="none is named"):
        connect([])


def test_a_server_that_lists_the_models_length_is_believed(completions: CompletionsServer) -> None:
    url, handler = completions
    listed = [{"id": "other", "max_model_len": None}, {"id": "kimi-k2", "max_model_len": 131072}, {"id": "x"}]
    handler.do_GET = lambda self: self.reply(200, json.dumps({"data": listed}).encode())  # type: ignore[method-assign]
    assert connect([url, url.replace("127.0.0.1", "localhost")], model="kimi-k2").capabilities.context_length == 131072
    assert connect(url).capabilities.model == "other" and connect(url).capabilities.context_length is None


@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"data": []}', b'{"data": [1]}', b'{"data": null}', b"<html>"])
def test_a_server_that_lists_no_model_needs_a_name(completions: CompletionsServer, body: bytes) -> None:
    url, handler = completions
    handler.do_GET = lambda self: self.reply(200, body)  # type: ignore[method-assign]
    with pytest.raises(EngineUnavailable, match="lists no model; name it with --model"):
        connect(url)


def test_a_tokenizer_counts_where_the_engine_does_not(completions: CompletionsServer, shared: Path) -> None:
    url, handler = completions
    handler.body = HELLO
    engine = connect(url, tokenizer=shared / "k2")
    counter = engine.capabilities.counter
    assert counter is not None and engine.capabilities.tokenizer is None

    async def work() -> Asking:
        asking = Asking(engine)
        assert [one async for one in asking.texts(HI, SamplingParams())] == ["Hello."]
        await engine.aclose()
        return asking

    usage = asyncio.run(work()).usage
    assert (usage.prompt, usage.completion) == (counter.count(HI), len(counter.encode("Hello.")))
    with pytest.raises(RequestError, match=r"no tokenizer of Kimi K2 for a model of variant 'qwen2\.5'"):
        connect(url, variant="qwen2.5", tokenizer=shared / "k2")
    with pytest.raises(RequestError, match="has its own"):
        connect(tokenizer=shared / "k2")
    with pytest.raises(RequestError, match=r"tiktoken\.model"):
        connect(url, tokenizer=shared)


def test_a_ctrl_c_is_not_held_up_by_an_engine_that_says_nothing(completions: CompletionsServer) -> None:
    url, handler = completions
    asked, answers = threading.Event(), threading.Event()

    def wait(self: Any) -> None:
        asked.set()
        answers.wait(30)

    def interrupt() -> None:
        assert asked.wait(20)
        os.kill(os.getpid(), signal.SIGINT)

    handler.do_POST = wait  # type: ignore[method-assign]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            connect(url, model="kimi-k2")
        assert time.monotonic() - began < 10
    finally:
        answers.set()
        signal.signal(signal.SIGINT, before)


def test_the_command_takes_several_engines(completions: CompletionsServer, down: str) -> None:
    url, handler = completions
    handler.body = HELLO

    def run(*options: str) -> tuple[int, str]:
        line = [sys.executable, "-m", "abruzzi", "run", "Hi", *options]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    status, said = run("--engine", down, "--engine", url, "--engine-timeout", "5")
    assert status == 0 and "Hello." in said
    status, said = run("--engine", down, "--engine", f"{down}/down/v1")
    assert status == 1 and said.startswith("abruzzi: expected an engine that answers: no engine answers at")


def test_an_engine_that_dies_in_mid_stream_is_gone_on_for() -> None:
    async def dying(wire: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunked(sse(chunk("Hel"))))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    async def going_on(wire: Wire, writer: asyncio.StreamWriter) -> None:
        left = "Hello.".removeprefix(wire.asked[-1]["prompt"].rpartition("<|im_middle|>")[2])
        writer.write(STREAM + chunked(sse(chunk(left), chunk("", "stop"), b"[DONE]")) + b"0\r\n\r\n")

    async def work() -> None:
        async with wired(dying) as (first, _), wired(going_on) as (second, wire):
            pool = Pool([first, second])
            assert await text(pool, SamplingParams(max_tokens=9)) == "Hello."
            assert wire.asked[0]["max_tokens"] == 8
            assert [one["status"] for one in pool.health()] == ["sick", "ok"]
            assert await asyncio.gather(*(text(pool) for _ in range(9))) == ["Hello."] * 9

    asyncio.run(work())


def test_a_name_that_is_no_engine_is_refused() -> None:
    with pytest.raises(EngineUnavailable, match="expected 'embedded' or a URL"):
        connect("localhost:8000")
    for url in ("http://", "http://[::1", "http://localhost:99999", "ftp://localhost", "http://localhost/a b"):
        with pytest.raises(EngineUnavailable, match="expected"):
            connect(url)
    with pytest.raises(EngineUnavailable, match="expected a URL such as"):
        connect(["embedded", "http://localhost:8000"])
    with pytest.raises(RequestError, match="expected seconds of silence"):
        connect("http://localhost:8000", model="m", timeout=0)
    with pytest.raises(EngineUnavailable, match=r"expected one of smollm2-135m, qwen2"):
        connect(model="gpt")
    with pytest.raises(EngineUnavailable, match="no file at"):
        connect(model="gone/model.gguf")


def test_the_models_name_tells_its_variant_unless_it_is_named(completions: CompletionsServer) -> None:
    url, _ = completions
    assert connect(url, model="moonshotai/Kimi-K2-Thinking").capabilities.variant.name == "k2-thinking"
    assert connect(url, model="moonshotai/Kimi-K2-Thinking", variant="k2.5").capabilities.variant.name == "k2.5"
    assert connect(url, model="mine").capabilities.variant.name == "k2"
    with pytest.raises(RequestError, match="another protocol"):
        connect(url, model="moonshotai/Kimi-K3")
    with pytest.raises(RequestError, match="has its own"):
        connect(variant="k2")


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@127.0.0.1:9/v1",
        "https://hunter2@localhost",
        "http://user:hunt/er2@localhost",
        "http://user:hunter2@localhost:99999",
        "http://a@hunter2@localhost",
        "http://user:hunter2@localhost?key=hunter2",
    ],
)
@pytest.mark.parametrize("more", [[], ["http://localhost:8000"]])
def test_a_url_holds_no_password_and_none_is_shown(url: str, more: list[str]) -> None:
    with pytest.raises(EngineUnavailable, match=r"without a user name and password, got .*--engine-key-file") as caught:
        connect([url, *more] if more else url, model="m")
    assert "hunt" not in str(caught.value) and "er2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("end", ["?api_key=hunter2", "/v1?", "#hunter2", "/v1#"])
def test_a_url_has_no_query_and_no_fragment(end: str) -> None:
    with pytest.raises(EngineUnavailable, match="without a query or fragment") as caught:
        connect(f"http://localhost:8000{end}", model="m")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(EngineUnavailable, match="expected 'embedded' or a URL") as caught:
        connect(f"user:hunter2@localhost{end}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("key", ["", "hunter2\r\nX: 1", "hunter 2", "hunter2\u00e9"])
def test_a_key_is_one_and_is_not_shown(key: str) -> None:
    with pytest.raises(RequestError, match="expected an engine's key of printable ASCII") as caught:
        connect("http://localhost:8000", model="m", api_key=key)
    assert "hunter" not in str(caught.value)
    with pytest.raises(RequestError, match="the embedded engine asks for none"):
        connect(api_key="sk-one")
