"""Several engines that serve the same model, as one: requests go where they are served best, and on to another engine
where one fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from abruzzi.engines.base import Capabilities, Engine, Piece, SamplingParams
from abruzzi.engines.handover import Handover
from abruzzi.engines.member import Failure, Member
from abruzzi.engines.refusal import Refused
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError, EngineTimeout, EngineUnavailable, RequestError
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.variants import variant_of_model

# How long one that is tried again has for its first piece, where others could serve the request: it may be silent.
_TRIAL_SECONDS = 20.0
# Engines at which a request may fail, those aside that can't be reached or take no more: it may be what ends them.
_MOST_FAILURES = 3
# Lengths, in characters, of the beginnings by which alike prompts are known; and how many of these are remembered.
_BEGINNINGS = tuple(512 << step for step in range(10))
_REMEMBERED = 65_536
# How much busier than the least busy engine one may be and still get the prompts whose beginning it has read: so many
# requests, and a quarter.
_SLACK = 4


class Pool:
    """An engine made of several. A request goes to the least busy one that is well, but rather to the one that has
    served a prompt with the same beginning last, unless that is clearly busier.

    An engine that fails is left alone, a second first and twice as long each time, a minute at the most, or for as long
    as it asks to be, and then tried with one request. Where all have failed they are tried nonetheless, so that one
    that is back is found at once. What an engine has not brought to its end another goes on with: from the beginning,
    or behind what came. A request that fails on one engine after another is taken to be the cause itself.
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
        self._members = [Member(engine, jitter) for engine in engines]
        self._served: OrderedDict[int, Member] = OrderedDict()
        self._clock = clock
        self._lock = threading.Lock()  # event loops of several threads may share an engine

    @property
    def engines(self) -> Sequence[Engine]:
        """Those among which it chooses."""
        return [one.engine for one in self._members]

    @property
    def capabilities(self) -> Capabilities:
        """What all engines offer; a grammar is for those that obey one."""
        return _common([one.engine.capabilities for one in self._members])

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Continue the prompt on one engine after another, each at most once, until one comes to an end.

        Raises EngineUnavailable where none brings anything, and the last one's error where the output had begun or all
        failed alike.
        """
        turn, tries = Handover(prompt, params, grammar, self.capabilities), _Tries(prompt)
        beginnings = _beginnings(prompt)
        while tries.may_go_on and (taken := self._take(beginnings, tries, has_begun=turn.has_begun)) is not None:
            member, patience = taken
            tries.members.append(member)
            began, name = self._clock(), member.name
            try:
                async with contextlib.aclosing(member.engine.complete(*turn.rest())) as pieces:
                    async with asyncio.timeout(patience):
                        piece = await anext(pieces, None)
                    while piece is not None:
                        self._note_life(member, began, is_whole=piece.finish_reason is not None)
                        for one in turn.passed(piece):
                            yield msgspec.structs.replace(one, engine=name) if name else one
                            name = ""
                        if piece.finish_reason is not None:
                            return
                        piece = await anext(pieces, None)
                raise EngineError("the engine ended its output without a finish_reason")
            except (RequestError, Refused):
                raise  # the engine is well
            except Exception as error:
                self._note_failure(tries, Failure(_told(error), tries.request, began, self._clock()))
            finally:
                self._release(member)
            turn.interrupted()
            if turn.is_spent:
                yield Piece(finish_reason="length")  # it failed just before it came to the limit
                return
        raise self._error(tries, has_begun=turn.has_begun)

    def health(self) -> list[dict[str, Any]]:
        """How each engine is: `url` (None for one in this process), `model`, `status` (ok, sick), `outstanding`
        requests, how many `failed` in all, `failures` in a row that counted, seconds until it is tried again
        (`retry_in`) and its last `error`.
        """
        now = self._clock()
        with self._lock:
            return [one.health(now) for one in self._members]

    async def look(self) -> bool:
        """Whether there is somebody to ask: an engine that is well, or that can be reached and may be tried again."""
        with self._lock:
            if any(one.retry_at is None for one in self._members):
                return True
            now = self._clock()
            due = [one for one in self._members if one.asked_until <= now]
        found = await asyncio.gather(*(_is_there(one.engine) for one in due))
        return any(found)

    def note_failure(self, engine: Engine, error: EngineError) -> None:
        """An engine of the pool was found to be down."""
        member, now = next(one for one in self._members if one.engine is engine), self._clock()
        with self._lock:
            member.note_failure(Failure(error, 0, now, now), is_alike=False)

    async def aclose(self) -> None:
        """Close all engines."""
        await asyncio.gather(*(one.engine.aclose() for one in self._members))

    def _take(self, beginnings: Sequence[int], tries: _Tries, *, has_begun: bool) -> tuple[Member, float | None] | None:
        """The engine for a request, of those that haven't had it, and for how many seconds its first piece is waited
        for, where not as long as the engine itself does. One that asked to be left alone gets none but what has begun:
        that client can't come again later.
        """
        tried = tries.members
        with self._lock:
            now, patience = self._clock(), None
            able = _able(self._members, tries, has_begun=has_begun)
            left = [one for one in able if has_begun or one.asked_until <= now]
            if not left:
                return None
            well = [one for one in left if one.retry_at is None]
            member = self._best(well, beginnings) if well else min(left, key=lambda one: one.retry_at or 0.0)
            if (
                well
                and not tried
                and (due := [one for one in left if one.retry_at is not None and one.retry_at <= now])
            ):
                member, patience = due[0], _TRIAL_SECONDS  # where it is still sick another engine has the request next
            member.begin(now)
            for beginning in beginnings:
                self._served[beginning] = member
                self._served.move_to_end(beginning)
            while len(self._served) > _REMEMBERED:
                self._served.popitem(last=False)
            return member, patience

    def _best(self, well: Sequence[Member], beginnings: Sequence[int]) -> Member:
        least = min(well, key=lambda one: (one.outstanding, one.taken))
        most = least.outstanding + least.outstanding // 4 + _SLACK
        for beginning in reversed(beginnings):
            member = self._served.get(beginning)
            if member is not None and member in well and member.outstanding <= most:
                return member
        return least

    def _note_life(self, member: Member, began: float, *, is_whole: bool) -> None:
        if member.retry_at is None and not (is_whole and member.failures):
            return  # as nearly always: no lock for each piece
        with self._lock:
            member.note_life(began, is_whole=is_whole)

    def _note_failure(self, tries: _Tries, failure: Failure) -> None:
        """The engine that was tried last failed."""
        member = tries.members[-1]
        with self._lock:
            blame = member.note_failure(failure, is_alike=bool(tries.blamed))
            tries.failures.append(failure)
            if failure.is_of_engine:
                return
            if len(tries.blamed) == 1:  # more have been forgiven
                first, its = tries.blamed[0]
                first.forgive(failure.request, its)
            tries.blamed.append((member, blame))

    def _release(self, member: Member) -> None:
        with self._lock:
            member.outstanding -= 1

    def _error(self, tries: _Tries, *, has_begun: bool) -> EngineError:
        """What is told where no engine comes to an end."""
        errors = [failure.error for failure in tries.failures]
        if has_begun:
            return errors[-1]
        with self._lock:
            now = self._clock()
            waits = [one.asked_until - now for one in self._members if one.asked_until > now]
        left, kinds = len(self._members) - len(tries.members), {type(error) for error in errors}
        is_over = not tries.may_go_on or not left
        if is_over and len(kinds) == 1 and not kinds & {EngineUnavailable}:
            return errors[-1]  # they all refuse, fail or are silent: the client is told which
        reasons = [f"{one.name}: {error}" for one, error in zip(tries.members, errors, strict=True)]
        if not is_over:
            reasons.append(f"{left} can take no more for {min(waits, default=0.0):.1f} s")
        told = f"none of {len(self._members)} engines answers: {'; '.join(reasons)}"
        return EngineUnavailable(told, min(waits, default=None))


def _able(members: Sequence[Member], tries: _Tries, *, has_begun: bool) -> Sequence[Member]:
    """Those that haven't had the request and can serve it. One that answers anew can't go on with what another engine
    began, and behind a prefix it is the second best.
    """
    left = [one for one in members if one not in tries.members]
    if not has_begun and not tries.prompt.written and tries.prompt.conversation is not None:
        return left
    able = [one for one in left if one.engine.capabilities.continues]
    return able if able or has_begun else left


async def _is_there(engine: Engine) -> bool:
    look = getattr(engine, "look", None)
    return look is None or bool(await look())


class _Tries:
    """The engines that have had a request, and what it came to."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.members: list[Member] = []
        self.failures: list[Failure] = []
        self.blamed: list[tuple[Member, int]] = []
        """Those that failed though they could be reached, and how much that counted."""

    @property
    def may_go_on(self) -> bool:
        return len(self.blamed) < _MOST_FAILURES

    @property
    def request(self) -> int:
        """What of its prompt the client sent: the same for each try, and each time that the client sends it."""
        return hash(self.prompt.parts if self.prompt.base is None else self.prompt.base)


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
        constrains=any(one.constrains for one in several),  # others do nothing about a grammar
        constrains_within=all(one.constrains_within for one in several),
        continues=all(one.continues for one in several),
        context_length=min(known, default=None),
        tokenizer=several[0].tokenizer if all(one.tokenizer for one in several) else None,
    )
