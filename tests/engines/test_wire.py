"""What comes over the wire to and from an engine, and what becomes of it when it goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from typing import Any

import pytest

from abruzzi import EngineError, EngineTimeout, EngineUnavailable, RequestError, SamplingParams
from abruzzi.engines.asking import Asking
from abruzzi.engines.base import Engine, Piece, Usage
from abruzzi.engines.refusal import Failed, Refused
from abruzzi.protocol.errors import PromptTooLong
from abruzzi.protocol.messages import Message
from abruzzi.protocol.template import render_prompt
from tests.engines.wire import HI, STREAM, WHOLE, Wire, chunk, chunked, pieces, response, sse, text, wired

COUNTED = {
    "choices": [],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 5}},
}
SAID = "a\u2028b\x85c\r\n d\U0001f600"


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, 20))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_events_may_be_cut_anywhere(size: int, end: bytes) -> None:
    said = (
        b": a comment"
        + end
        + sse(*map(chunk, SAID), chunk("", "stop", stop_reason=163586), COUNTED, b"[DONE]", end=end)
    )

    async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for at in range(0, len(said), size):
            writer.write(chunked(said[at : at + size]))
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    async def work() -> None:
        async with wired(answer) as (engine, _):
            come = await pieces(engine)
            assert "".join(piece.text for piece in come) == SAID
            assert come[-1] == Piece(finish_reason="stop", usage=Usage(7, 3, cached=5))

    run(work())


def test_what_comes_at_once_is_one_piece_unless_alternatives_are_wanted() -> None:
    logprobs = {"tokens": ["a"], "top_logprobs": [{"a": -0.1, "b": -2.0, "c": None}]}
    said = response(sse(chunk("a", logprobs=logprobs), chunk("b", "length"), b"[DONE]"))

    async def work() -> None:
        async with wired(said) as (engine, _):
            assert await pieces(engine) == [Piece("ab"), Piece(finish_reason="length")]
            offered = await pieces(engine, SamplingParams(logprobs=2))
            assert [piece.text for piece in offered] == ["a", "b", ""]
            assert offered[0].alternatives == (("a", -0.1), ("b", -2.0))

    run(work())


@pytest.mark.parametrize("several", [["a" * 60_000], ["abcd"] * 2_000], ids=["one", "many"])
def test_others_have_their_turn_while_what_came_at_once_is_read(several: list[str]) -> None:
    said = response(sse(*map(chunk, several), chunk("", "stop"), b"[DONE]"))

    async def work() -> None:
        async with wired(said) as (engine, _):
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            beside, read, most = asyncio.create_task(others()), 0, 0
            async with contextlib.aclosing(Asking(engine).texts(HI, SamplingParams(logprobs=1))) as texts:
                async for one in texts:
                    before, turns = turns, 0
                    read = read + len(one) if not before else len(one)
                    most = max(most, read)
            beside.cancel()
            assert most <= 2_048

    run(work())


def test_an_engine_that_counts_nothing_is_estimated() -> None:
    async def work() -> None:
        async with wired(WHOLE) as (engine, _):
            asking = Asking(engine)
            async with contextlib.aclosing(asking.texts(HI, SamplingParams())) as texts:
                assert [one async for one in texts] == ["Hello."]
            assert asking.usage.completion == 2 and asking.usage.prompt > 5

    run(work())


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"choices": [{"text": "\\ud83d!", "finish_reason": "stop"}]}', "\ufffd!"),
        (b'{"choices": [{"text": "x", "finish_reason": "stop", "logprobs": {"token_logprobs": [-Infinity]}}]}', "x"),
        (b'{"choices": [{"text": null, "finish_reason": "stop", "new": {}}], "usage": {"prompt_tokens": null}}', ""),
    ],
)
def test_chunks_that_are_not_quite_right_are_read(data: bytes, said: str) -> None:
    async def work() -> None:
        for end in (b"\n\n", b""):
            async with wired(response(b"data: " + data + end)) as (engine, _):
                assert await text(engine) == said

    run(work())


@pytest.mark.parametrize("count", [-1, 1 << 53, 1 << 70, 2.0, True, "3", None, [3]])
def test_what_is_no_count_counts_nothing(count: Any) -> None:
    told = {"prompt_tokens": 7, "completion_tokens": count, "prompt_tokens_details": {"cached_tokens": count}}
    usages = ((told, Usage(7, 0)), (count, Usage(0, 0)), ({"prompt_tokens_details": count}, Usage(0, 0)))

    async def work() -> None:
        for usage, expected in usages:
            said = response(sse({**chunk("x", "stop"), "usage": usage}, b"[DONE]"))
            async with wired(said) as (engine, _):
                assert (await pieces(engine))[-1].usage == (None if usage is None else expected)

    run(work())


def test_an_engine_that_does_not_stream_is_read_whole() -> None:
    async def work() -> None:
        async with wired(response(json.dumps(chunk("Hello.", "stop")).encode(), kind="application/json")) as (
            engine,
            _,
        ):
            assert await text(engine) == "Hello."
        async with wired(response(b'{"error": "no workers"}', kind="application/json")) as (engine, _):
            with pytest.raises(EngineError, match="no workers"):
                await text(engine)

    run(work())


BROKEN = {
    "no finish_reason": (response(sse(chunk("a"), b"[DONE]")), "without a finish_reason"),
    "no end": (response(sse(chunk("a"))), "without a finish_reason"),
    "no JSON": (response(sse(chunk("a"), b'{"choices": [')), "broke off: .*choices"),
    "another type": (response(sse(chunk("a"), {"choices": 1})), "broke off: .*choices"),
    "an error": (response(sse(chunk("a"), {"error": {"message": "out of memory", "code": 500}})), "out of memory"),
    "a flat error": (response(sse(chunk("a"), {"object": "error", "message": "gone", "code": 500})), "failed: gone"),
    "a bare error": (response(sse(chunk("a"), {"error": "gone"})), "failed: gone"),
    "given up": (response(sse(chunk("a"), chunk("", "abort"), b"[DONE]")), "finish_reason is abort"),
    "a short body": (response(sse(chunk("a"))).replace(b"Length: ", b"Length: 9"), "broke off"),
    "a cut chunk": (STREAM + chunked(sse(chunk("a"))) + b"ff\r\ndata:", "broke off"),
    "no last chunk": (STREAM + chunked(sse(chunk("a"))), "broke off"),
    "a wrong chunk": (STREAM + chunked(sse(chunk("a"))) + b"zz\r\n", "broke off"),
    "no HTTP": (b"220 mail.example.com ESMTP\r\n\r\n", "broke off"),
    "nothing": (b"", "broke off"),
}


@pytest.mark.parametrize(("said", "words"), BROKEN.values(), ids=list(BROKEN))
def test_a_stream_that_breaks_off_is_the_engines_failure(said: bytes, words: str) -> None:
    async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()

    async def work() -> None:
        come = ""
        async with wired(answer) as (engine, wire):
            with pytest.raises(EngineError, match=words) as caught:
                async with contextlib.aclosing(engine.complete(HI, SamplingParams(), None)) as several:
                    async for piece in several:
                        come += piece.text
            assert caught.value.status == 502 and not isinstance(caught.value, Refused)
            assert come == ("a" if b'"a"' in said else "") and len(wire.asked) == 1

    run(work())


def test_a_reset_is_the_engines_failure() -> None:
    async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunked(sse(chunk("a"))))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()

    async def work() -> None:
        async with wired(answer) as (engine, _):
            with pytest.raises(EngineError, match="broke off"):
                await text(engine)

    run(work())


def test_what_breaks_behind_the_end_is_no_failure() -> None:
    async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunked(sse(chunk("a", "stop"))))
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.close()

    async def work() -> None:
        async with wired(answer) as (engine, _):
            assert await pieces(engine) == [Piece("a"), Piece(finish_reason="stop")]

    run(work())


TOO_LONG = [
    "This model's maximum context length is 2048 tokens. However, you requested 4100 tokens",
    "The decoder prompt (length 3000) is longer than the maximum model length of 2048.",
    "The input (3000 tokens) is longer than the model's context length (2048 tokens).",
    "default_max_tokens (-952) should be greater than 0, default_max_tokens (-952) = max_seq_len (2048) - ...",
    "the request exceeds the available context size. try increasing the context size",
]


@pytest.mark.parametrize("words", TOO_LONG)
@pytest.mark.parametrize("flat", [True, False])
def test_a_prompt_that_does_not_fit_is_the_clients_fault(words: str, flat: bool) -> None:
    body = {"object": "error", "message": words, "code": 400} if flat else {"error": {"message": words, "code": 400}}

    async def work() -> None:
        async with wired(response(json.dumps(body).encode(), "400 Bad Request")) as (engine, _):
            with pytest.raises(PromptTooLong, match="doesn't fit the engine: "):
                await text(engine)

    run(work())


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Refused),
        (422, Refused),
        (401, Failed),
        (404, Failed),
        (500, Failed),
        (429, EngineUnavailable),
        (503, EngineUnavailable),
        (504, EngineTimeout),
    ],
)
@pytest.mark.parametrize(
    "body", ['{"error": {"message": "so it is"}}', '{"error": "so it is"}', '{"detail": "so it is"}', "so it is"]
)
def test_a_refusal_is_told_in_the_engines_words(status: int, kind: type[EngineError], body: str) -> None:
    async def work() -> None:
        async with wired(response(body.encode(), f"{status} No")) as (engine, wire):
            with pytest.raises(EngineError, match=f"answered {status}: so it is$") as caught:
                await text(engine)
            assert type(caught.value) is kind and len(wire.asked) == 1

    run(work())


@pytest.mark.parametrize("said", [b"", STREAM, STREAM + chunked(sse(chunk("a"))), b"HTTP/1.1 500 No\r\n"])
def test_silence_is_a_timeout_wherever_it_begins(said: bytes) -> None:
    async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await asyncio.sleep(10)

    async def work() -> None:
        async with wired(answer, timeout=0.1) as (engine, wire):
            with pytest.raises(EngineTimeout, match=r"said nothing for 0\.1 s"):
                await text(engine)
            await asyncio.wait_for(wire.closed.wait(), 0.3)

    run(work())


def test_a_slow_engine_is_not_silent() -> None:
    async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for byte in sse(chunk("a", "stop"), b"[DONE]"):
            writer.write(chunked(bytes((byte,))))
            await asyncio.sleep(0.01)
        writer.write(b"0\r\n\r\n")

    async def work() -> None:
        async with wired(answer, timeout=0.3) as (engine, _):
            assert await text(engine) == "a"

    run(work())


def test_who_leaves_in_mid_stream_closes_the_connection_at_once() -> None:
    async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        while True:
            writer.write(chunked(sse(chunk("a"))))
            await asyncio.sleep(0.005)

    async def work() -> None:
        async with wired(answer) as (engine, wire):
            several = engine.complete(HI, SamplingParams(), None)
            async for _ in several:
                break
            await several.aclose()
            await asyncio.wait_for(wire.closed.wait(), 0.3)

    run(work())


def test_who_leaves_before_the_first_token_closes_the_connection_at_once() -> None:
    async def work() -> None:
        for said in (b"", STREAM):

            async def answer(_: Wire, writer: asyncio.StreamWriter, said: bytes = said) -> None:
                writer.write(said)
                await asyncio.sleep(10)

            async with wired(answer) as (engine, wire):
                waiting = asyncio.ensure_future(text(engine))
                await wire.until(1)
                await asyncio.sleep(0.02)
                waiting.cancel()
                await asyncio.wait_for(wire.closed.wait(), 0.3)
                with pytest.raises(asyncio.CancelledError):
                    await waiting

    run(work())


def test_connections_are_kept_and_as_many_as_are_needed() -> None:
    async def together(wire: Wire, writer: asyncio.StreamWriter) -> None:
        await wire.until(150)
        writer.write(WHOLE)

    async def work() -> None:
        async with wired(WHOLE) as (engine, wire):
            for _ in range(5):
                assert await text(engine) == "Hello."
            assert (len(wire.asked), wire.connections) == (5, 1)
        async with wired(together) as (engine, wire):
            assert set(await asyncio.gather(*(text(engine) for _ in range(150)))) == {"Hello."}
            assert wire.connections == 150
            await engine.aclose()  # and what was closed opens anew
            assert await text(engine) == "Hello." and wire.connections == 151

    run(work())


def test_a_kept_connection_that_the_engine_gives_up_costs_nothing() -> None:
    async def answer(wire: Wire, writer: asyncio.StreamWriter) -> None:
        if len(wire.asked) % 2:
            writer.write(WHOLE)
        else:
            writer.transport.abort()

    async def work() -> None:
        async with wired(answer) as (engine, wire):
            assert [await text(engine) for _ in range(2)] == ["Hello.", "Hello."]
            assert (len(wire.asked), wire.connections) == (3, 2)

    run(work())


def test_megabytes_of_prompt_go_out_as_they_are() -> None:
    long = "<|im_end|>\u4e0a\n" * 200_000

    async def work() -> None:
        async with wired(WHOLE) as (engine, wire):
            prompt = render_prompt([Message("user", long)])
            assert await text(engine, prompt=prompt) == "Hello."
            assert wire.asked[0]["prompt"] == str(prompt)
            with pytest.raises(RequestError, match="surrogate"):
                await text(engine, prompt=render_prompt([Message("user", "\ud83d")]))

    run(work())


def test_others_are_served_while_a_long_prompt_is_spelled() -> None:
    prompt = render_prompt([Message("user", "<" * 8_000_000)])  # each may begin a marker

    async def longest_gap(engine: Engine) -> float:
        gaps, asking = [0.0], asyncio.create_task(text(engine, prompt=prompt))
        while not asking.done():
            begun = time.perf_counter()
            await asyncio.sleep(0)
            gaps.append(time.perf_counter() - begun)
        assert await asking == "Hello."
        return max(gaps)

    async def work() -> None:
        async with wired(WHOLE) as (engine, _):
            begun = time.perf_counter()
            str(prompt)
            spelling = time.perf_counter() - begun
            assert min([await longest_gap(engine) for _ in range(3)]) < spelling / 2

    run(work())


def test_the_limit_that_nobody_set_stays_within_the_context() -> None:
    async def work() -> None:
        limits = []
        for context in (None, 200_000, 64):
            async with wired(WHOLE, context_length=context) as (engine, wire):
                await text(engine)
                await text(engine, SamplingParams(max_tokens=9))
                limits.append([asked["max_tokens"] for asked in wire.asked])
        assert limits == [[4096, 9], [200_000 - len(str(HI)), 9], [256, 9]]

    run(work())


def test_a_line_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.engines.output._MAX_LINE", 1 << 16)

    async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for _ in range(1000):
            writer.write(chunked(b"x" * 10_000))
            await writer.drain()

    async def work() -> None:
        async with wired(answer) as (engine, _):
            with pytest.raises(EngineError, match="a line of more than"):
                await text(engine)

    run(work())


def test_noise_in_place_of_an_answer_is_an_error_and_nothing_else() -> None:
    async def work() -> None:
        rng = random.Random(1)
        valid = STREAM + chunked(sse(chunk("abc"), chunk("", "stop"), COUNTED, b"[DONE]")) + b"0\r\n\r\n"

        async def answer(_: Wire, writer: asyncio.StreamWriter) -> None:
            said = bytearray(valid)
            for _ in range(rng.randrange(1, 6)):
                said[rng.randrange(len(said))] = rng.randrange(256)
            writer.write(said[: rng.randrange(len(said))] if rng.random() < 0.3 else said)
            await writer.drain()
            writer.close()

        async with wired(answer, timeout=1.0) as (engine, _):
            for _ in range(300):
                with contextlib.suppress(EngineError, RequestError):
                    await text(engine)

    run(work())
