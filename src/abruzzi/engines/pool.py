"""Several engines that serve the same model, as one: requests go where they are served best, and on to another engine
where one fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from abruzzi.engines.asking import counter_of, tokens_of
from abruzzi.engines.base import Capabilities, Engine, Piece, SamplingParams, Usage
from abruzzi.engines.refusal import Refused
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError, EngineTimeout, EngineUnavailable, RequestError
from abruzzi.protocol.prompt import Control, Prompt, escape
from abruzzi.protocol.variants import variant_of_model

logger = logging.getLogger(__name__)
# Seconds that a sick engine is left alone: the first time, and at the most.
_FIRST_PAUSE = 1.0
_LAST_PAUSE = 60.0
# How long one that is tried again has for its first piece, where others could serve the request: it may be silent.
_TRIAL_SECONDS = 20.0
# Lengths, in characters, of the beginnings by which alike prompts are known; and how many of these are remembered.
_BEGINNINGS = tuple(512 << step for step in range(10))
_REMEMBERED = 65_536
# How much busier than the least busy engine one may be and still get the prompts whose beginning it has read: so many
# requests, and a quarter.
_SLACK = 4


@dataclass(eq=False)
class _Member:
    """An engine, and how it is."""

    engine: Engine
    outstanding: int = 0
    taken: int = 0
    """Requests in all: of engines that are equally busy, who had the fewest is next."""
    failures: int = 0
    """In a row. A request that began before the last of them says nothing new."""
    failed_at: float = 0.0
    retry_at: float | None = None
    """When it may be tried again; None while it is well."""
    error: str | None = None

    @property
    def name(self) -> str:
        return str(getattr(self.engine, "url", self.engine.capabilities.model))


class Pool:
    """An engine made of several. A request goes to the least busy one that is well, but rather to the one that has
    served a prompt with the same beginning last, unless that is clearly busier.

    An engine that fails is left alone, a second first and twice as long each time, a minute at the most, and then tried
    with one request. Where all have failed they are tried nonetheless, so that one that is back is found at once. What
    an engine has not brought to its end another goes on with: from the beginning, or behind what came.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Raises RequestError for engines of different models."""
        _check_alike(engines)
        self._members = [_Member(engine) for engine in engines]
        self._served: OrderedDict[int, _Member] = OrderedDict()
        self._clock, self._jitter = clock, jitter
        self._lock = threading.Lock()  # event loops of several threads may share an engine
        self.capabilities = _common([engine.capabilities for engine in engines])

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Continue the prompt on one engine after another, each at most once, until one comes to an end.

        Raises EngineUnavailable where none brings anything, and the last one's error where the output had begun or all
        failed alike.
        """
        turn = _Turn(prompt, params, grammar, self.capabilities)
        beginnings = _beginnings(prompt)
        tried: list[_Member] = []
        failed: list[EngineError] = []
        while (taken := self._take(beginnings, tried)) is not None:
            member, patience = taken
            tried.append(member)
            began = self._clock()
            try:
                async with contextlib.aclosing(member.engine.complete(*turn.rest())) as pieces:
                    async with asyncio.timeout(patience):
                        piece = await anext(pieces, None)
                    while piece is not None:
                        self._note_life(member, began, is_whole=piece.finish_reason is not None)
                        for one in turn.passed(piece):
                            yield one
                        if piece.finish_reason is not None:
                            return
                        piece = await anext(pieces, None)
                raise EngineError("the engine ended its output without a finish_reason")
            except (RequestError, Refused):
                raise  # the engine is well
            except Exception as error:
                failed.append(_told(error))
                self._note_failure(member, began, failed[-1])
            finally:
                self._release(member)
            turn.interrupted()
            if turn.is_spent:
                yield Piece(finish_reason="length")  # it failed just before it came to the limit
                return
        if turn.has_begun:
            raise failed[-1]
        kinds = {type(error) for error in failed}
        if len(kinds) == 1 and not kinds & {EngineUnavailable}:
            raise failed[-1]  # they all refuse, fail or are silent: the client is told which
        reasons = "; ".join(f"{one.name}: {error}" for one, error in zip(tried, failed, strict=True))
        raise EngineUnavailable(f"none of {len(tried)} engines answers: {reasons}")

    def health(self) -> list[dict[str, Any]]:
        """How each engine is: `url` (None for one in this process), `model`, `status` (ok, sick), `outstanding`
        requests, `failures` in a row, seconds until it is tried again (`retry_in`) and its last `error`.
        """
        now = self._clock()
        with self._lock:
            return [
                {
                    "url": getattr(one.engine, "url", None),
                    "model": one.engine.capabilities.model,
                    "status": "ok" if one.retry_at is None else "sick",
                    "outstanding": one.outstanding,
                    "failures": one.failures,
                    "retry_in": None if one.retry_at is None else round(max(0.0, one.retry_at - now), 3),
                    "error": one.error,
                }
                for one in self._members
            ]

    def note_failure(self, engine: Engine, error: EngineError) -> None:
        """An engine of the pool was found to be down."""
        member = next(one for one in self._members if one.engine is engine)
        self._note_failure(member, self._clock(), error)

    async def aclose(self) -> None:
        """Close all engines."""
        await asyncio.gather(*(one.engine.aclose() for one in self._members))

    def _take(self, beginnings: Sequence[int], tried: Sequence[_Member]) -> tuple[_Member, float | None] | None:
        """The engine for a request, of those that haven't had it, and for how many seconds its first piece is waited
        for, where not as long as the engine itself does.
        """
        with self._lock:
            left = [one for one in self._members if one not in tried]
            if not left:
                return None
            now, patience = self._clock(), None
            well = [one for one in left if one.retry_at is None]
            member = self._best(well, beginnings) if well else min(left, key=lambda one: one.retry_at or 0.0)
            if (
                well
                and not tried
                and (due := [one for one in left if one.retry_at is not None and one.retry_at <= now])
            ):
                member, patience = due[0], _TRIAL_SECONDS  # where it is still sick another engine has the request next
            if member.retry_at is not None:
                member.retry_at = now + self._pause(member.failures)  # this request tries it, others wait
            member.outstanding += 1
            member.taken += 1
            for beginning in beginnings:
                self._served[beginning] = member
                self._served.move_to_end(beginning)
            while len(self._served) > _REMEMBERED:
                self._served.popitem(last=False)
            return member, patience

    def _best(self, well: Sequence[_Member], beginnings: Sequence[int]) -> _Member:
        least = min(well, key=lambda one: (one.outstanding, one.taken))
        most = least.outstanding + least.outstanding // 4 + _SLACK
        for beginning in reversed(beginnings):
            member = self._served.get(beginning)
            if member is not None and member in well and member.outstanding <= most:
                return member
        return least

    def _pause(self, failures: int) -> float:
        """With jitter, so that several servers don't come back to an engine at the same moment."""
        pause = min(_LAST_PAUSE, _FIRST_PAUSE * 2.0 ** min(max(failures, 1) - 1, 16))
        return pause * (0.75 + 0.5 * self._jitter())

    def _note_life(self, member: _Member, began: float, *, is_whole: bool) -> None:
        """Its first piece makes an engine well; its failures are forgotten only with a whole completion."""
        if member.retry_at is None and not (is_whole and member.failures):
            return
        with self._lock:
            if began >= member.failed_at:
                if member.retry_at is not None:
                    logger.info("the engine %s is back", member.name)
                member.retry_at = None
                if is_whole:
                    member.failures, member.error = 0, None

    def _note_failure(self, member: _Member, began: float, error: EngineError) -> None:
        with self._lock:
            if member.failures and began < member.failed_at:  # of many requests that fail at once, one counts
                return
            member.failures += 1
            member.error = str(error)
            member.failed_at = self._clock()
            pause = self._pause(member.failures)
            member.retry_at = member.failed_at + pause
        # Its words may hold what it was asked: /health has them.
        logger.warning("the engine %s is left alone for %.1f s: %s", member.name, pause, type(error).__name__)

    def _release(self, member: _Member) -> None:
        with self._lock:
            member.outstanding -= 1


class _Turn:
    """What has come of a completion so far, on whatever engines, and what is left to ask for."""

    def __init__(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None, capabilities: Capabilities
    ) -> None:
        self._prompt, self._params, self._grammar = prompt, params, grammar
        self._tokenizer, self._counter = capabilities.tokenizer, counter_of(capabilities)
        self._parts: list[str] = []
        self._ids: list[int] = []  # that are no whole character yet
        self._spent = 0  # tokens of engines that failed

    @property
    def has_begun(self) -> bool:
        return bool(self._parts)

    @property
    def is_spent(self) -> bool:
        return self._params.max_tokens is not None and self._spent >= self._params.max_tokens

    def rest(self) -> tuple[Prompt, SamplingParams, Grammar | None]:
        """What the next engine is asked."""
        if not self._parts:
            return self._prompt, self._params, self._grammar
        grammar = None if self._grammar is None else self._grammar.behind(self._grammar.written + self._spelled())
        limit = self._params.max_tokens
        params = self._params if limit is None else replace(self._params, max_tokens=limit - self._spent)
        if self._tokenizer is not None:  # what is a control token is known
            return self._prompt.ending_in(self._parts), params, grammar
        return self._prompt.going_on("".join(self._parts)), params, grammar

    def passed(self, piece: Piece) -> Sequence[Piece]:
        """The piece as the pool's own. Half a character is kept back: no engine could go on behind it."""
        if self._tokenizer is not None and (piece.ids or self._ids):
            self._ids += piece.ids
            parts = self._tokenizer.detokenizer().feed(self._ids)
            whole = self._tokenizer.decode(self._ids)
            if len("".join(parts)) < len(whole) and piece.finish_reason is None:
                return ()
            self._parts += parts
            piece = replace(piece, ids=tuple(self._ids))
            self._ids = []
        elif piece.text:
            self._parts.append(piece.text)
        if piece.usage is None or not self._spent:
            return (piece,)
        # What came of other engines was a part of this one's prompt, and is a part of the output.
        told = piece.usage
        read = max(0, told.prompt - self._spent)
        usage = Usage(read, told.completion + self._spent, min(told.cached, read), told.forced)
        return (replace(piece, usage=usage),)

    def interrupted(self) -> None:
        """The engine failed."""
        self._ids = []
        text = "".join(self._parts)
        self._spent = tokens_of(text, self._prompt.variant, self._counter) if text else 0

    def _spelled(self) -> str:
        if self._tokenizer is None:
            return "".join(self._parts)
        variant = self._prompt.variant
        return "".join(part if isinstance(part, Control) else escape(part, variant) for part in self._parts)


def _told(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    if isinstance(error, TimeoutError):
        return EngineTimeout(f"no piece came within {_TRIAL_SECONDS:g} s, when the engine was tried again")
    return EngineError(f"the engine failed: {type(error).__name__}: {error}")


def _beginnings(prompt: Prompt) -> Sequence[int]:
    """Hashes of the prompt's beginnings, the shortest first."""
    text, length = [], 0
    for part in prompt.parts:
        text.append(part)
        length += len(part)
        if length >= _BEGINNINGS[-1]:
            break
    whole = "".join(text)
    return [hash(whole[:end]) for end in _BEGINNINGS if end <= length] or [hash(whole)]


def _check_alike(engines: Sequence[Engine]) -> None:
    if not engines:
        raise RequestError("expected at least one engine", "engine")
    first = engines[0].capabilities
    family = variant_of_model(first.model)
    for engine in engines[1:]:
        other = engine.capabilities
        its = variant_of_model(other.model)
        if other.variant.name != first.variant.name or (its and family and its.name != family.name):
            raise RequestError(
                f"expected engines that serve the same model, got {first.model} ({first.variant.name}) and "
                f"{other.model} ({other.variant.name})",
                "engine",
            )


def _common(several: Sequence[Capabilities]) -> Capabilities:
    """What all of them offer."""
    known = [one.context_length for one in several if one.context_length is not None]
    return replace(
        several[0],
        constrains=all(one.constrains for one in several),
        context_length=min(known, default=None),
        tokenizer=several[0].tokenizer if all(one.tokenizer for one in several) else None,
    )
