"""The one place where template, grammar, engine, guard and parser meet: a request becomes a stream of events.

What leaves here is true of every engine: no call is malformed, undeclared or outside its schema. An engine that obeys
a grammar is given one; what any engine writes goes through the guard, which lets out only what a valid turn begins
with. Where it goes wrong the engine is stopped, what must follow is added, and the engine is asked to go on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from abruzzi.engines.base import Engine, Piece, SamplingParams, Usage
from abruzzi.guide.grammar import Grammar
from abruzzi.guide.guard import Guard
from abruzzi.guide.schema import Schemas
from abruzzi.protocol.errors import EngineError, OutputError, RequestError
from abruzzi.protocol.events import ContentDelta, Event, Finish, Problem
from abruzzi.protocol.messages import Message, Tool
from abruzzi.protocol.parser import StreamParser
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.template import render_prompt

# How often an engine is asked to go on before a call of its is finished without it: in a row without a whole call, in
# a row in vain, and in all. An engine is asked at most one time more.
_RESUMES = 8
_IDLE = 3
_RESUMES_IN_ALL = 32
# An engine that brought nothing new is asked for something else, and for what else it might have written.
_RETRY_TEMPERATURE = 0.8
_ALTERNATIVES = 8
# Of a token, on average, where nobody counts them.
_CHARACTERS = 4
# Characters that an engine may write when no more are wanted: the end of the section and of the turn.
_BEHIND = 64
# Pieces without a character, of an engine that writes nothing for ever.
_MAX_EMPTY = 10_000
_ASK_PYTHONIC = "Call functions in the format [name(key='value', ...), ...] and write nothing else then."


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a client asks for, in no dialect.

    `output` says how calls come back: parsed, or as the text that the model wrote, in K2's format (`raw`) or the
    `pythonic` one.
    """

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    tool_choice: Literal["auto", "required", "none"] | str = "auto"
    parallel_tool_calls: bool = True
    output: Literal["tool_calls", "raw", "pythonic"] = "tool_calls"
    thinking: bool | None = None
    """Whether the model thinks before it answers; None leaves it to the model's kind."""
    params: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        if self.output not in ("tool_calls", "raw", "pythonic"):
            raise RequestError(f"expected tool_calls, raw or pythonic, got {self.output!r}", "output")


@dataclass(frozen=True, slots=True)
class Report:
    """The last item of a stream: what the model wrote, what it cost and what was done to it."""

    output: str
    usage: Usage
    guided: bool
    """Whether the engine was held to a grammar."""
    problems: tuple[Problem, ...] = ()
    """What was mended or dropped of the output, and what could not be handed on."""
    violations: Mapping[str, int] = field(default_factory=dict)
    """How often the output could not go on as it was, by the kind of what was wrong."""
    resumes: int = 0
    """How often the engine was asked to go on from what could stand."""
    resampled: int = 0
    """How often of these because it had brought nothing that could stand."""
    generated: int = 0
    """Characters that the engine wrote."""
    forced: int = 0
    """Characters that were added, since every valid output has them there, or to finish a call."""

    @property
    def guarantee(self) -> Literal["guided", "enforced", "validated"]:
        """What it took to keep the promise: a grammar, a guard that stepped in, or a look at what came."""
        return "enforced" if self.resumes or self.forced else "guided" if self.guided else "validated"


async def stream(engine: Engine, request: ChatRequest) -> AsyncGenerator[Event | Report, None]:
    """Answer the request: events as they come, then one `Report`.

    Raises RequestError before anything else for a request that makes no sense; OutputError when a call was required, or
    tried, and nothing valid could be had; EngineError when the engine failed.
    """
    # Schemas and grammars of many tools take a while, and others are being served meanwhile.
    turn = await asyncio.to_thread(_Turn, engine, request)
    async with contextlib.aclosing(turn.plain() if turn.guard is None else turn.guarded(turn.guard)) as events:
        async for event in events:
            yield event
    yield turn.finish
    yield turn.report()


async def complete(engine: Engine, request: ChatRequest) -> tuple[Message, Report]:
    """The same, all at once."""
    events: list[Event] = []
    report: Report | None = None
    async with contextlib.aclosing(stream(engine, request)) as items:
        async for item in items:
            if isinstance(item, Report):
                report = item
            else:
                events.append(item)
    assert report is not None
    return replace(Message.from_events(events), problems=report.problems), report


class _Turn:
    """A request made ready: its prompt, grammar and guard; and what has become of it so far."""

    def __init__(self, engine: Engine, request: ChatRequest) -> None:
        self.engine = engine
        self.request = request
        variant = engine.capabilities.variant
        schemas = Schemas(request.tools)
        self.tools = self._callable()
        self.must_call = request.tool_choice not in ("auto", "none")
        # A tool that must not be called is not shown either; beside one that must be, the others are.
        self.prompt: Prompt = render_prompt(
            self._messages(), tools=request.tools if self.tools else (), variant=variant, thinking=request.thinking
        )
        self.grammar: Grammar | None = None
        self.guard: Guard | None = None
        self.detokenizer = (
            None if engine.capabilities.tokenizer is None else engine.capabilities.tokenizer.detokenizer()
        )
        if request.tools:
            self.grammar = self._grammar() if engine.capabilities.constrains else None
            self.guard = Guard(
                self.tools,
                schemas,
                variant,
                must_call=self.must_call,
                one_call=not request.parallel_tool_calls,
                first_index=self.prompt.calls,
                thinking=request.thinking,
                pythonic=request.output == "pythonic",
                by_id=self.detokenizer is not None,
            )
        self.output: list[str] = []
        self.usage = Usage()
        self.last: Piece | None = None
        self.finish = Finish("stop")
        self.resumes = 0
        self.idle = 0
        self.resampled = 0
        self.said = False
        self.shown = 0  # characters of the turn's text that a client of raw text has

    def _callable(self) -> Sequence[Tool]:
        """The tools that this turn may call. Raises RequestError for a choice that can't be."""
        tools, choice = self.request.tools, self.request.tool_choice
        if choice == "none":
            return ()
        if choice == "required" and not tools:
            raise RequestError("required needs tools to choose from, none are declared", "tool_choice")
        if choice in ("auto", "required"):
            return tools
        chosen = [tool for tool in tools if tool.name == choice]
        if not chosen:
            raise RequestError(f"expected auto, none, required or a declared tool, got {choice!r}", "tool_choice")
        return chosen

    def _messages(self) -> Sequence[Message]:
        """The conversation; a pythonic answer has to be asked for in words where the client hasn't."""
        messages = self.request.messages
        calls = self.request.output == "pythonic" and self.tools
        if not calls or not messages or messages[0].role == "system":
            return messages
        return (Message("system", _ASK_PYTHONIC), *messages)

    def _grammar(self) -> Grammar:
        return Grammar.for_turn(
            self.tools,
            tool_choice=self.request.tool_choice,
            parallel_tool_calls=self.request.parallel_tool_calls,
            first_index=self.prompt.calls,
            variant=self.engine.capabilities.variant,
            tool_format="pythonic" if self.request.output == "pythonic" else "k2",
            thinking=self.request.thinking,
        )

    # The two ways through a turn

    async def plain(self) -> AsyncGenerator[Event, None]:
        """Without tools the model's text is what was asked for, markers and all; only its reasoning comes apart."""
        variant = self.engine.capabilities.variant
        parser = StreamParser(
            variant=variant, thinking=self.request.thinking, by_id=self.detokenizer is not None, calls=False
        )
        async with contextlib.aclosing(self._pieces(self.prompt, self.request.params, None)) as pieces:
            async for text in pieces:
                if not variant.thinks:
                    yield ContentDelta(text)
                    continue
                for event in parser.feed(text):
                    yield event
        for event in parser.close() if variant.thinks else ():
            if not isinstance(event, Finish):
                yield event
        self.finish = Finish("length" if self._was_cut("length") else "stop")

    async def guarded(self, guard: Guard) -> AsyncGenerator[Event, None]:
        """With tools: ask, and go on from what could stand until the turn is valid."""
        variant, grammar = self.engine.capabilities.variant, self.grammar
        if self.must_call and grammar is None and not variant.thinks and self.request.output != "pythonic":
            guard.resume()  # what every such turn begins with isn't asked for
        while True:
            taken = len(guard.prefix)
            calls = guard.calls
            async with contextlib.aclosing(self._ask(guard, grammar)) as events:
                async for event in events:
                    for one in self._handed_on(event, guard):
                        yield one
            if guard.broken is None or self._is_spent():
                break
            self._count(progress=len(guard.prefix) > taken, called=guard.calls > calls)
            if self.idle >= _IDLE or self.resumes >= min(_RESUMES + self.row_began, _RESUMES_IN_ALL):
                break
            guard.resume()
            if self.idle == _IDLE - 1:
                guard.help()
            if guard.over:
                break
            self.resumes += 1
            grammar = None  # it tells of whole turns, and this is the rest of one
        for event in self._conclusion(guard):
            yield event

    row_began = 0
    """The resumes that there had been when the last call was whole."""

    def _count(self, *, progress: bool, called: bool) -> None:
        if called:
            self.row_began = self.resumes
        self.idle = 0 if progress else self.idle + 1
        self.resampled += not progress

    def _conclusion(self, guard: Guard) -> Iterator[Event]:
        """What ends the turn: nothing where the engine came to an end; else what is missing of a call."""
        cut = self._is_spent() or (self.last is not None and self.last.stop is not None)
        broken = guard.broken
        if broken is not None and not cut:
            guard.problems.append(broken)
            # What we would make up is no call that the model chose: it is finished only where it has begun, or must be.
            if guard.is_calling or (self.must_call and not guard.calls):
                for event in guard.finish():
                    yield from self._handed_on(event, guard)
            elif not self.said and not guard.calls:
                raise OutputError(f"the model tried to call a tool, and no valid call came of it: {broken.detail}")
        for event in guard.settled():
            yield from self._handed_on(event, guard)
        yield from self._rest(guard)
        called = guard.calls and self.request.output == "tool_calls"
        self.finish = Finish("length" if self._is_spent() or guard.ran_away else "tool_calls" if called else "stop")

    async def _ask(self, guard: Guard, grammar: Grammar | None) -> AsyncGenerator[Event, None]:
        """Have the engine go on, until it ends, goes wrong, or nothing more is wanted of it."""
        prompt, behind = self.prompt.going_on(guard.prefix), 0
        async with contextlib.aclosing(self._pieces(prompt, self._params(), grammar)) as pieces:
            async for text in pieces:
                if guard.over:  # the engine may end by itself, and then tells what it cost
                    behind += len(text)
                for event in guard.feed(text) if not guard.over else ():
                    yield event
                if guard.broken is not None:
                    for event in guard.choose(text, self.alternatives):
                        yield event
                if guard.broken is not None or behind > _BEHIND:
                    self.usage = _sum(self.usage, None, self.part)
                    return
        if guard.over:
            return
        assert self.last is not None
        for event in guard.close(cut=self._was_cut()):
            yield event

    async def _pieces(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[str, None]:
        """The engine's output as text; control tokens that it gives by id come by themselves. Counts what it costs."""
        self.last, self.part, count = None, 0, 0
        async with contextlib.aclosing(self.engine.complete(prompt, params, grammar)) as pieces:
            async for piece in pieces:
                self.alternatives = piece.alternatives
                for text in self._texts(piece):
                    self.part += len(text)
                    self.output.append(text)
                    yield text
                count += 1
                if piece.finish_reason:
                    self.last = piece
                    break
                if count > _MAX_EMPTY and not self.part:
                    self.last = Piece(finish_reason="stop")
                    break
                if self._is_deaf(count, params):
                    self.last = Piece(finish_reason="length")
                    break
        if self.last is None:
            raise EngineError("the engine ended its output without a finish_reason")
        self.usage = _sum(self.usage, self.last.usage, self.part)

    def _is_deaf(self, count: int, params: SamplingParams) -> bool:
        """Whether the engine goes on for sure behind the limit that it was given."""
        limit = params.max_tokens
        return limit is not None and count > limit and self.part > 2 * _CHARACTERS * limit

    alternatives: Sequence[tuple[str, float]] = ()
    """What else the engine might have written in place of the last piece."""
    part = 0
    """Characters of what was asked for last."""

    def _texts(self, piece: Piece) -> Iterator[str]:
        if self.detokenizer is not None and piece.ids:
            yield from self.detokenizer.feed(piece.ids)
        elif piece.text:
            yield piece.text if _is_text(piece.text) else _as_text(piece.text)

    def _params(self) -> SamplingParams:
        """What is left of the limit; and another try where the last brought nothing."""
        params = self.request.params
        if params.max_tokens is not None:
            params = replace(params, max_tokens=max(1, params.max_tokens - self.usage.completion))
        if self.idle:
            params = replace(
                params,
                temperature=max(params.temperature or 0.0, _RETRY_TEMPERATURE),
                seed=None if params.seed is None else params.seed + self.resumes,
                logprobs=_ALTERNATIVES,
            )
        return params

    def _was_cut(self, *reasons: str) -> bool:
        """Whether something that the client asked for ended the output: a limit, or one of its stop sequences."""
        return self.last is not None and (
            self.last.finish_reason == "length" or (not reasons and self.last.stop is not None)
        )

    def _is_spent(self) -> bool:
        """Whether the client's limit is reached."""
        limit = self.request.params.max_tokens
        return self._was_cut("length") or (
            self.last is None
            and limit is not None
            and self.usage.completion >= limit
            and self.guard is not None
            and self.guard.broken is not None
        )

    # What the client gets

    def _handed_on(self, event: Event, guard: Guard) -> Iterator[Event]:
        """An event in the form that the client wants: a call as such, or the text of the whole turn."""
        self.said = self.said or isinstance(event, ContentDelta)
        if self.request.output == "tool_calls":
            yield event
        elif self.request.output == "raw":
            yield from self._unshown(guard.spelled)

    def _rest(self, guard: Guard) -> Iterator[Event]:
        """What a client of text hasn't got yet."""
        if self.request.output == "tool_calls":
            return
        text = guard.spelled if guard.is_calling else guard.close_spelling()
        if self.request.output == "pythonic" and self._is_as_written(guard):
            text = "".join(self.output)
        yield from self._unshown(text)

    def _is_as_written(self, guard: Guard) -> bool:
        """Whether the model's own text is what it should be: it may be written in another way than ours."""
        return not (guard.violations or guard.forced or guard.problems)

    def _unshown(self, text: str) -> Iterator[ContentDelta]:
        if len(text) > self.shown:
            yield ContentDelta(text[self.shown :])
            self.shown = len(text)

    def report(self) -> Report:
        guard = self.guard
        if guard is None:
            return Report("".join(self.output), self.usage, guided=False)
        return Report(
            guard.spelled if self.resumes else "".join(self.output),
            self.usage,
            guided=self.grammar is not None,
            problems=tuple(guard.problems),
            violations={str(kind): count for kind, count in guard.violations.items()},
            resumes=self.resumes,
            resampled=self.resampled,
            generated=guard.generated,
            forced=guard.forced,
        )


def _sum(usage: Usage, more: Usage | None, characters: int) -> Usage:
    """The usage with another part's; of a part that was broken off only its text is known."""
    if more is None:
        return replace(usage, completion=usage.completion + -(-characters // _CHARACTERS))
    return Usage(
        usage.prompt or more.prompt,
        usage.completion + more.completion,
        usage.cached or more.cached,
        usage.forced + more.forced,
    )


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(text: str) -> str:
    """Lone surrogates, which an engine's JSON may hold and UTF-8 can't, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
