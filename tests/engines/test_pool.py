"""Several engines as one: where requests go, and what becomes of those whose engine fails."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi import ChatRequest, EngineError, EngineTimeout, EngineUnavailable, RequestError, SamplingParams, chat
from abruzzi.engines.asking import Asking
from abruzzi.engines.base import Capabilities, Engine, Piece, Usage
from abruzzi.engines.pool import Pool
from abruzzi.engines.refusal import Refused
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.messages import Message
from abruzzi.protocol.prompt import Prompt, going_on
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2, K2_5
from tests.conftest import PING, WEATHER, section
from tests.engines.wire import HI, pieces, text

LONG = render_prompt([Message("system", "You are terse. " * 100), Message("user", "Hi")])


class Fake:
    """Writes what is left of `whole` behind its prompt, in pieces; fails with `error` when `lives` pieces are out."""

    def __init__(self, whole: str = "Hello.", *, lives: int | None = None, error: Exception | None = None) -> None:
        self.capabilities = Capabilities("kimi-k2", K2, constrains=False)
        self.whole, self.lives, self.error = whole, lives, error or EngineError("broke off")
        self.size = 2
        self.asked: list[tuple[Prompt, SamplingParams, Grammar | None]] = []
        self.closed = 0
        self.hold: asyncio.Event | None = None

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        self.asked.append((prompt, params, grammar))
        left = self.whole[len(prompt.written) :]
        cut = [left[at : at + self.size] for at in range(0, len(left), self.size)]
        try:
            for number, one in enumerate((*cut, None)):
                if self.hold is not None:
                    await self.hold.wait()
                if number == self.lives:
                    raise self.error
                yield Piece(one) if one is not None else self.end(prompt, left)
        except GeneratorExit:
            self.closed += 1
            raise

    def end(self, prompt: Prompt, left: str) -> Piece:
        return Piece(finish_reason="stop", usage=Usage(100 + -(-len(prompt.written) // 4), -(-len(left) // 4)))

    async def aclose(self) -> None:
        self.closed = -1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def pool_of(*engines: Any, clock: Clock | None = None) -> Pool:
    return Pool(engines, clock=clock or Clock(), jitter=lambda: 0.5)


def states(pool: Pool) -> list[str]:
    return [one["status"] for one in pool.health()]


def test_a_pool_is_an_engine() -> None:
    pool = pool_of(Fake(), Fake())
    assert isinstance(pool, Engine) and asyncio.run(text(pool)) == "Hello."
    asyncio.run(pool.aclose())


def test_engines_of_different_models_make_no_pool() -> None:
    other, renamed, unnamed = Fake(), Fake(), Fake()
    other.capabilities = replace(other.capabilities, variant=K2_5)
    renamed.capabilities = replace(renamed.capabilities, model="moonshotai/Kimi-K2.5")
    unnamed.capabilities = replace(unnamed.capabilities, model="default", context_length=7)
    for one in (other, renamed):
        with pytest.raises(RequestError, match="the same model, got kimi-k2"):
            pool_of(Fake(), one)
    with pytest.raises(RequestError, match="at least one"):
        pool_of()
    assert pool_of(Fake(), unnamed).capabilities.context_length == 7


def test_ids_are_offered_where_all_offer_them_and_a_grammar_is_where_one_does(shared: Path) -> None:
    one, other = Fake(), Fake()
    one.capabilities = replace(one.capabilities, constrains=True, tokenizer=Tokenizer.from_folder(shared / "k2"))
    assert pool_of(one, other).capabilities.constrains and pool_of(one, other).capabilities.tokenizer is None
    assert not pool_of(other, other).capabilities.constrains
    assert pool_of(one, one).capabilities.constrains and pool_of(one, one).capabilities.tokenizer is not None


def test_a_request_goes_to_the_least_busy_engine_but_stays_with_its_beginning() -> None:
    async def work() -> None:
        engines = [Fake() for _ in range(3)]
        pool = pool_of(*engines)
        for engine in engines:
            engine.hold = asyncio.Event()
        prompts = [render_prompt([Message("user", str(n))]) for n in range(9)]
        tasks = [asyncio.ensure_future(text(pool, prompt=prompt)) for prompt in prompts]
        await asyncio.sleep(0.01)
        assert [one["outstanding"] for one in pool.health()] == [3, 3, 3]
        for engine in engines:
            engine.hold.set()  # type: ignore[union-attr]
        await asyncio.gather(*tasks)
        assert [one["outstanding"] for one in pool.health()] == [0, 0, 0]

        await text(pool, prompt=LONG)
        (first,) = (engine for engine in engines if engine.asked[-1][0] is LONG)
        more = render_prompt([Message("system", "You are terse. " * 100), *[Message("user", "Hi" * 999)] * 2])
        for _ in range(9):
            await text(pool, prompt=more)
        assert len(first.asked) == 3 + 10
        first.hold = asyncio.Event()
        tasks = [asyncio.ensure_future(text(pool, prompt=LONG)) for _ in range(15)]
        await asyncio.sleep(0.01)
        assert len(first.asked) < 3 + 10 + 15  # it became too busy
        first.hold.set()
        await asyncio.gather(*tasks)

    asyncio.run(work())


@pytest.mark.parametrize(
    "error", [EngineUnavailable("refused"), EngineTimeout("silent"), EngineError("broke off"), RuntimeError("a fault")]
)
def test_what_fails_before_its_first_piece_is_asked_of_another(error: Exception) -> None:
    sick, well = Fake(lives=0, error=error), Fake()
    pool = pool_of(sick, well)
    params = SamplingParams(max_tokens=50)
    for _ in range(20):
        assert asyncio.run(text(pool, params)) == "Hello."
    assert len(sick.asked) == 1 and well.asked[0] == (HI, params, None)
    told, other = pool.health()
    assert (told["status"], told["failures"], told["retry_in"]) == ("sick", 1, 1.0) and str(error) in told["error"]
    assert other["status"] == "ok" and other["error"] is None


def test_an_engine_that_never_comes_back_is_tried_once_a_minute_at_least() -> None:
    clock = Clock()
    pool = Pool([Fake(lives=0), Fake()], clock=clock, jitter=lambda: 1.0)
    told = []
    for _ in range(40):
        asyncio.run(text(pool))
        told.append(pool.health()[0]["retry_in"] or 0)
        clock.now += 30
    assert max(told) == 60


def test_an_engine_is_left_alone_for_longer_each_time_and_tried_by_one_request() -> None:
    clock, sick, well = Clock(), Fake(lives=0), Fake()
    pool = pool_of(sick, well, clock=clock)
    pauses = []
    while len(sick.asked) < 9:
        before = len(sick.asked)
        asyncio.run(text(pool))
        if len(sick.asked) > before:
            pauses.append(pool.health()[0]["retry_in"])
            clock.now += pauses[-1] - 0.01
        else:
            clock.now += 0.02
    assert pauses == [1, 2, 4, 8, 16, 32, 48, 48, 48]  # up to a minute, by chance

    async def together() -> None:
        sick.hold = asyncio.Event()
        tasks = [asyncio.ensure_future(text(pool)) for _ in range(9)]
        await asyncio.sleep(0.01)
        assert len(sick.asked) == 10 and sum(task.done() for task in tasks) == 8
        sick.lives = None
        sick.hold.set()
        assert set(await asyncio.gather(*tasks)) == {"Hello."}

    clock.now += 60
    asyncio.run(together())
    assert states(pool) == ["ok", "ok"] and pool.health()[0]["failures"] == 0


def test_of_many_requests_that_fail_at_once_one_counts() -> None:
    async def work() -> None:
        sick, well, clock = Fake(lives=0), Fake(), Clock()
        pool = pool_of(sick, well, clock=clock)
        sick.hold = well.hold = asyncio.Event()
        tasks = [asyncio.ensure_future(text(pool, prompt=render_prompt([Message("user", str(n))]))) for n in range(60)]
        await asyncio.sleep(0.01)
        clock.now = 5.0
        sick.hold.set()
        assert set(await asyncio.gather(*tasks)) == {"Hello."} and len(sick.asked) > 20
        assert pool.health()[0]["failures"] == 1

    asyncio.run(work())


def test_where_all_are_sick_they_are_tried_and_the_error_says_why() -> None:
    clock = Clock()
    engines = [Fake(lives=0, error=EngineUnavailable(f"{n} is down")) for n in range(3)]
    pool = pool_of(*engines, clock=clock)
    for _ in range(3):
        with pytest.raises(EngineUnavailable, match=r"none of 3 engines answers: .*2 is down"):
            asyncio.run(text(pool))
    assert states(pool) == ["sick"] * 3
    engines[1].lives = None  # is back, long before its time
    assert asyncio.run(text(pool)) == "Hello." and states(pool) == ["sick", "ok", "sick"]


@pytest.mark.parametrize("error", [RequestError("too long"), Refused("no such field")])
def test_a_request_that_is_refused_makes_nobody_sick(error: Exception) -> None:
    engines = [Fake(lives=0, error=error), Fake(lives=0, error=error)]
    pool = pool_of(*engines)
    with pytest.raises(type(error)):
        asyncio.run(text(pool))
    assert states(pool) == ["ok", "ok"] and sum(len(engine.asked) for engine in engines) == 1


def test_who_leaves_makes_nobody_sick() -> None:
    async def work() -> None:
        engines = [Fake(), Fake()]
        pool = pool_of(*engines)
        several = pool.complete(HI, SamplingParams(), None)
        assert (await anext(several)).text == "He"
        assert sum(one["outstanding"] for one in pool.health()) == 1
        await several.aclose()
        for engine in engines:
            engine.hold = asyncio.Event()
        waiting = asyncio.ensure_future(text(pool))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert states(pool) == ["ok", "ok"] and [one["outstanding"] for one in pool.health()] == [0, 0]
        assert sum(engine.closed for engine in engines) == 1

    asyncio.run(work())


def test_a_sick_engine_that_is_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.engines.pool._TRIAL_SECONDS", 0.05)

    async def work() -> None:
        clock, sick = Clock(), Fake(lives=0)
        pool = pool_of(sick, Fake(), clock=clock)
        await text(pool)
        clock.now, sick.hold = 1.0, asyncio.Event()
        assert await text(pool) == "Hello." and len(sick.asked) == 2
        assert "no piece came within 0.05 s" in pool.health()[0]["error"]

    asyncio.run(work())


def test_another_engine_goes_on_behind_what_came() -> None:
    whole = "0123456789" * 4
    first, second = Fake(whole, lives=4), Fake(whole)
    pool = pool_of(first, second)
    grammar = Grammar.for_turn([PING]).behind("")
    params = SamplingParams(max_tokens=20)

    async def work() -> list[Piece]:
        async with contextlib.aclosing(pool.complete(HI, params, grammar)) as several:
            return [piece async for piece in several]

    come = asyncio.run(work())
    assert "".join(piece.text for piece in come) == whole
    assert come[-1].usage == Usage(100, 10)  # as if one had written all
    prompt, left, behind = second.asked[-1]
    assert prompt == HI.going_on("01234567") and left == replace(params, max_tokens=18)
    assert behind is not None and behind.written == "01234567"


def test_an_engine_that_fails_just_before_the_limit_was_cut_by_it() -> None:
    engines = [Fake("0123456789", lives=4), Fake("0123456789", lives=4)]
    come = asyncio.run(pieces(pool_of(*engines), SamplingParams(max_tokens=2)))
    assert [piece.text for piece in come] == ["01", "23", "45", "67", ""] and come[-1].finish_reason == "length"


def test_with_no_engine_left_the_error_comes_behind_what_came() -> None:
    engines = [Fake("0123456789", lives=1, error=EngineError(f"{n} died")) for n in range(2)]

    async def work() -> str:
        asking, come = Asking(pool_of(*engines)), ""
        with pytest.raises(EngineError, match="died"):
            async for one in asking.texts(HI, SamplingParams()):
                come += one
        return come

    assert asyncio.run(work()) == "0123"


CALLS = section(
    ("functions.get_weather:0", '{"location": "a <|tool_call_end|> \\" <\\u200b|im_end|> \u4e0a\U0001f600"}'),
    ("functions.get_weather:1", '{"location": "</think>", "unit": "c"}'),
)
TURNS = ["Hello <\u200b|im_end|>, you.", "Let me see. " + CALLS, CALLS]


@given(st.sampled_from(TURNS), st.integers(0, 400), st.integers(1, 9), st.lists(st.integers(0, 60), max_size=2))
def test_nothing_is_lost_and_nothing_repeated(whole: str, begun: int, size: int, lives: Sequence[int]) -> None:
    """Wherever engines die, each goes on behind exactly what came, as a prompt that was rendered at once would."""
    engines = [*(Fake(whole, lives=one) for one in lives), Fake(whole)]
    for engine in engines:
        engine.size = size
    begun = min(begun, len(whole))
    prompt = HI.going_on(whole[:begun])
    assert asyncio.run(text(pool_of(*engines), prompt=prompt)) == whole[begun:]
    for engine in engines:
        for asked, _, _ in engine.asked:
            assert asked == HI.going_on(whole[: len(asked.written)])


class ByIds(Fake):
    """Gives the ids of K2's tokens."""

    def __init__(self, whole: str, tokenizer: Tokenizer, lives: int | None) -> None:
        super().__init__(whole, lives=lives)
        self.capabilities = replace(self.capabilities, tokenizer=tokenizer)
        self.size = 1
        parts = tuple(part for part in going_on(whole, K2) if part)
        self.ids = tokenizer.encode_prompt(replace(HI, parts=parts))

    async def complete(self, prompt: Prompt, params: SamplingParams, grammar: Any) -> AsyncGenerator[Piece, None]:
        self.asked.append((prompt, params, grammar))
        tokenizer = self.capabilities.tokenizer
        assert tokenizer is not None
        before = len(tokenizer.encode_prompt(HI))
        there = tokenizer.encode_prompt(prompt)[before:]
        assert there == self.ids[: len(there)]
        for number, id in enumerate(self.ids[len(there) :]):
            if number == self.lives:
                raise self.error
            yield Piece("nonsense", ids=(id,))
        yield Piece(finish_reason="stop")


def test_token_ids_are_gone_on_with_by_what_they_are(shared: Path) -> None:
    tokenizer = Tokenizer.from_folder(shared / "k2")
    whole = "\u16a0\u16b3 <|im_end|> " + CALLS  # of runes each is several tokens
    rng = random.Random(3)
    for _ in range(30):
        engines = [ByIds(whole, tokenizer, rng.randrange(40)) for _ in range(2)] + [ByIds(whole, tokenizer, None)]
        come = asyncio.run(pieces(pool_of(*engines)))
        assert [id for piece in come for id in piece.ids] == engines[0].ids


def test_half_a_character_at_the_end_is_not_kept_back(shared: Path) -> None:
    tokenizer = Tokenizer.from_folder(shared / "k2")
    engine = ByIds("Hi \u16a0", tokenizer, None)
    engine.ids = engine.ids[:-1]
    come = asyncio.run(pieces(pool_of(engine, engine)))
    assert [id for piece in come for id in piece.ids] == engine.ids and come[-1].finish_reason == "stop"


def test_threads_share_a_pool() -> None:
    pool = pool_of(*(Fake() for _ in range(3)))
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: asyncio.run(text(pool)), range(200))) == {"Hello."}
    assert [one["outstanding"] for one in pool.health()] == [0, 0, 0]


def test_a_call_holds_though_its_engine_died() -> None:
    whole = section(("functions.get_weather:0", '{"location": "beijing", "unit": "c"}'))
    for lives in range(1, 60, 3):
        pool = pool_of(Fake(whole, lives=lives), Fake(whole))
        request = ChatRequest([Message("user", "Weather?")], [WEATHER], tool_choice="required")
        message, report = asyncio.run(chat.complete(pool, request))
        assert message.tool_calls[0].function.arguments == '{"location": "beijing", "unit": "c"}'
        assert not report.violations
