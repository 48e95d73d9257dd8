"""Several engines on real sockets: whose fault it is that a request fails, and for how long an engine is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from typing import Any

import pytest

from abruzzi import EngineError, EngineUnavailable, Message, SamplingParams
from abruzzi.engines.pool import Pool
from abruzzi.engines.refusal import Failed, seconds_of
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.variants import K2
from tests.conftest import section
from tests.engines.wire import STREAM, WHOLE, Answer, Wire, chunk, chunked, pieces, response, sse, text, wired


def failing(status: str, *headers: str) -> bytes:
    head, _, body = response(b'{"error": {"message": "so it is"}}', status, "application/json").partition(b"\r\n\r\n")
    return b"\r\n".join((head, *(one.encode() for one in headers))) + b"\r\n\r\n" + body


ERROR = failing("500 Internal Server Error")
BUSY = failing("429 Too Many Requests", "Retry-After: 7")
BROKEN = response(sse(chunk("Hel"), {"error": {"message": "CUDA error"}}))


async def broken_off(_: Wire, writer: asyncio.StreamWriter) -> None:
    writer.write(STREAM + chunked(sse(chunk("Hel"))))
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.transport.abort()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Engines:
    """A pool of engines, each with a server of its own that answers as it is told to."""

    def __init__(self, pool: Pool, wires: list[Wire], clock: Clock) -> None:
        self.pool, self.wires, self.clock = pool, wires, clock

    def answer(self, *answers: bytes | Answer) -> None:
        for wire, said in zip(self.wires, answers, strict=True):
            wire.answer = said if callable(said) else _saying(said)

    @property
    def states(self) -> list[str]:
        return [one["status"] for one in self.pool.health()]

    @property
    def asked(self) -> list[int]:
        return [len(wire.asked) for wire in self.wires]

    async def ask(self, content: str = "Hi") -> str:
        return await text(self.pool, prompt=render_prompt([Message("user", content)], variant=K2))


def _saying(said: bytes) -> Answer:
    async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    return answer


@contextlib.asynccontextmanager
async def several(*answers: bytes | Answer) -> AsyncIterator[Engines]:
    async with contextlib.AsyncExitStack() as stack:
        made = [await stack.enter_async_context(wired(one)) for one in answers]
        clock = Clock()
        pool = Pool([engine for engine, _ in made], clock=clock, jitter=lambda: 0.5)
        yield Engines(pool, [wire for _, wire in made], clock)


def run(work: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 30))  # type: ignore[arg-type]


@pytest.mark.parametrize("answer", [ERROR, BROKEN, broken_off, response(b"{"), failing("401 Unauthorized")])
def test_a_request_that_fails_on_every_engine_makes_none_of_them_sick(answer: bytes | Answer) -> None:
    async def work() -> None:
        async with several(answer, answer, answer) as engines:
            for _ in range(9):  # clients try again
                with pytest.raises(EngineError):
                    await engines.ask("poison")
            assert engines.states == ["ok"] * 3
            engines.answer(WHOLE, WHOLE, WHOLE)
            assert [await engines.ask(str(n)) for n in range(6)] == ["Hello."] * 6
            assert [one["failures"] for one in engines.pool.health()] == [0] * 3

    run(work)


def test_what_two_requests_fail_at_that_others_serve_is_sick() -> None:
    async def work() -> None:
        async with several(ERROR, WHOLE) as engines:
            assert await engines.ask("one") == "Hello." and engines.states == ["ok", "ok"]
            for _ in range(5):
                assert await engines.ask("one") == "Hello."  # the same request says nothing new
            assert engines.states == ["ok", "ok"]
            while engines.asked[0] < 2 or engines.states[0] == "ok":
                assert await engines.ask(f"two {engines.asked}") == "Hello."
            assert engines.asked[0] < 5 and engines.pool.health()[0]["failed"] == engines.asked[0]

    run(work)


def test_a_whole_answer_between_two_failures_forgives_the_first() -> None:
    async def work() -> None:
        async with several(ERROR, WHOLE) as engines:
            for number in range(8):
                engines.answer(ERROR if number % 2 else WHOLE, WHOLE)
                before = engines.asked[0]
                while engines.asked[0] == before:
                    assert await engines.ask(f"{number} {sum(engines.asked)}") == "Hello."
                assert engines.states == ["ok", "ok"]

    run(work)


def test_engines_at_which_all_requests_fail_are_sick_in_the_end_and_are_tried_nonetheless() -> None:
    async def work() -> None:
        async with several(ERROR, ERROR) as engines:
            for number in range(5):
                assert engines.states == ["ok", "ok"]
                with pytest.raises(Failed, match="answered 500: so it is"):
                    await engines.ask(str(number))
            assert engines.states == ["sick", "sick"]
            engines.answer(ERROR, WHOLE)
            assert await engines.ask() == "Hello." and engines.states == ["sick", "ok"]

    run(work)


def test_an_engine_that_breaks_off_is_sick_at_once_where_another_goes_on() -> None:
    async def work() -> None:
        async with several(broken_off, response(sse(chunk("lo."), chunk("", "stop"), b"[DONE]"))) as engines:
            assert await engines.ask() == "Hello." and engines.states == ["sick", "ok"]

    run(work)


def test_a_request_is_tried_on_three_engines_that_fail_and_on_all_that_take_no_more() -> None:
    async def work() -> None:
        async with several(*[ERROR] * 6) as engines:
            with pytest.raises(Failed):
                await engines.ask()
            assert sorted(engines.asked) == [0, 0, 0, 1, 1, 1]
        async with several(*[failing("503 Service Unavailable")] * 5, WHOLE) as engines:
            assert await engines.ask() == "Hello." and engines.states == ["sick"] * 5 + ["ok"]

    run(work)


def test_a_request_that_ends_engines_ends_three_of_them_and_no_more() -> None:
    """On connections that had been kept: that there is no new one any more isn't the engine's fault alone."""

    async def dies(wire: Wire, writer: asyncio.StreamWriter) -> None:
        wire._server.close()
        writer.transport.abort()

    async def work() -> None:
        async with several(*[WHOLE] * 5) as engines:
            for number in range(5):
                await engines.ask(f"{number}")
            assert engines.asked == [1] * 5
            engines.answer(*[dies] * 5)
            with pytest.raises(EngineError, match="broke off"):
                await engines.ask("die")
            assert sum(engines.asked) == 8

    run(work)


def test_an_engine_that_asks_for_time_gets_it_and_the_client_is_told() -> None:
    async def work() -> None:
        async with several(BUSY, BUSY) as engines:
            with pytest.raises(EngineUnavailable, match=r"none of 2 engines answers: .*answered 429") as caught:
                await engines.ask()
            assert caught.value.retry_after == pytest.approx(7 * 1.125)
            engines.clock.now = 5.0
            with pytest.raises(EngineUnavailable, match=r"2 can take no more for 2\.9 s") as caught:
                await engines.ask()
            assert caught.value.retry_after == pytest.approx(2.875)
            assert engines.asked == [1, 1]  # they were left alone
            engines.answer(WHOLE, WHOLE)
            engines.clock.now = 8.0
            assert await engines.ask() == "Hello."

    run(work)


def test_what_has_begun_is_gone_on_with_by_an_engine_that_asked_for_time_too() -> None:
    async def work() -> None:
        async with several(BUSY, WHOLE) as engines:
            while not engines.asked[0]:
                assert await engines.ask() == "Hello."
            engines.answer(response(sse(chunk("lo."), chunk("", "stop"), b"[DONE]")), broken_off)
            assert await engines.ask() == "Hello." and engines.asked[0] == 2

    run(work)


def test_where_only_some_have_failed_the_client_is_to_come_again() -> None:
    async def work() -> None:
        async with several(BUSY, ERROR) as engines:
            for told in ("answered 429.*answered 500", r"answered 500: so it is; 1 can take no more for 7\.9 s"):
                with pytest.raises(EngineUnavailable, match=told) as caught:
                    await engines.ask(told)
                assert caught.value.retry_after == pytest.approx(7.875)
            assert engines.asked == [1, 2]

    run(work)


def test_no_engine_is_left_alone_for_longer_than_a_minute() -> None:
    async def work() -> None:
        async with several(failing("503 No", "Retry-After: 86400"), WHOLE) as engines:
            while not engines.asked[0]:
                assert await engines.ask() == "Hello."
            assert engines.pool.health()[0]["retry_in"] == 60

    run(work)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("99999", 3600.0),
        ("9" * 400, 3600.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("\u0663", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_what_a_retry_after_says(value: str, seconds: float | None) -> None:
    assert seconds_of(value) == seconds


def test_a_retry_after_may_be_a_date() -> None:
    told = seconds_of(formatdate(time.time() + 30, usegmt=True))
    assert told is not None and 27 < told <= 30


CALL = section(("functions.get_weather:0", '{"location": "shanghai"}'))


def test_without_a_tokenizer_a_marker_counts_as_the_one_token_that_it_is() -> None:
    """Of what a dead engine wrote nobody knows how many tokens it was: its text has to tell."""
    begun = CALL[: CALL.index("shanghai")]
    spent = 3 + -(-len("functions.get_weather:0" + '{"location": "') // 4)

    async def dying(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunked(sse(chunk(begun))))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.transport.abort()

    rest = {"usage": {"prompt_tokens": 100, "completion_tokens": 6}}
    whole = response(sse(chunk(CALL[len(begun) :]), chunk("", "stop") | rest, b"[DONE]"))

    async def work() -> None:
        async with several(dying, whole) as engines:
            come = await pieces(engines.pool, SamplingParams(max_tokens=100))
            assert "".join(piece.text for piece in come) == CALL
            assert engines.wires[1].asked[0]["max_tokens"] == 100 - spent
            usage = come[-1].usage
            assert usage is not None and (usage.prompt, usage.completion) == (100 - spent, 6 + spent)
            names = [wire.url.removeprefix("http://").removesuffix("/v1") for wire in engines.wires]
            assert [piece.engine for piece in come if piece.engine] == names

    run(work)
