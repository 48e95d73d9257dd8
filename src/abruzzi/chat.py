"""The one place where template, grammar, engine, parser and schemas meet: a request becomes a stream of events.

What leaves here is true of every engine: no call is malformed, undeclared or outside its schema. An engine that obeys
a grammar is given one; and whatever any engine wrote is parsed, and each call checked against its schema as a whole,
before a word of it is handed on.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from abruzzi.engines.base import Engine, Piece, SamplingParams, Usage
from abruzzi.guide.grammar import Grammar
from abruzzi.guide.schema import Schemas
from abruzzi.protocol.errors import OutputError, RequestError
from abruzzi.protocol.events import ContentDelta, Event, Finish, Problem, ToolCallBegin, ToolCallEnd
from abruzzi.protocol.messages import Message, Tool
from abruzzi.protocol.parser import Parser, StreamParser
from abruzzi.protocol.pythonic import PythonicParser
from abruzzi.protocol.template import Prompt, render_prompt

# How often a turn is asked for before we give up: a grammar can't say everything that a schema can.
_ATTEMPTS = 4
# Asking again at temperature 0 would bring the same again.
_RETRY_TEMPERATURE = 0.8


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
    params: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class Report:
    """The last item of a stream: what the model wrote, what it cost and what was done to it."""

    output: str
    usage: Usage
    guided: bool
    """Whether the engine was held to a grammar."""
    attempts: int
    problems: tuple[Problem, ...]
    """The calls that were not handed on, and why."""


async def stream(engine: Engine, request: ChatRequest) -> AsyncGenerator[Event | Report, None]:
    """Answer the request: events as they come, then one `Report`.

    Raises RequestError before anything else for a request that makes no sense, OutputError when a call was required
    and none could be had, EngineError when the engine failed.
    """
    turn = _Turn(engine, request)
    for attempt in range(1, _ATTEMPTS + 1):
        spoken = False
        # Text before a call that must come is kept until it comes: without it, it is asked for again.
        held: list[Event] | None = [] if turn.must_call else None
        async with contextlib.aclosing(turn.attempt(attempt)) as items:
            async for item in items:
                if isinstance(item, Report):
                    if not (turn.is_answered(item) or spoken or attempt == _ATTEMPTS):
                        break
                    turn.insist(item)
                    for event in (*(held or ()), turn.finish):
                        yield event
                    yield item
                    return
                if held is not None and not isinstance(item, ToolCallBegin):
                    held.append(item)
                    continue
                for event in (*(held or ()), item):
                    yield event
                held, spoken = None, True


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
    """A request made ready: its prompt, grammar and validators."""

    def __init__(self, engine: Engine, request: ChatRequest) -> None:
        self.engine = engine
        self.request = request
        self.schemas = Schemas(request.tools)
        names = [tool.name for tool in request.tools]
        choice = request.tool_choice
        if choice == "required" and not names:
            raise RequestError("required needs tools to choose from, none are declared", "tool_choice")
        if choice not in ("auto", "required", "none", *names):
            raise RequestError(f"expected auto, none, required or a declared tool, got {choice!r}", "tool_choice")
        # A tool that must not be called is not shown either.
        self.tools = () if choice == "none" else request.tools
        self.must_call = choice not in ("auto", "none")
        self.prompt: Prompt = render_prompt(request.messages, tools=self.tools, variant=engine.capabilities.variant)
        self.grammar = self._grammar() if request.tools and engine.capabilities.constrains else None
        self.calls = 0
        self.finish = Finish("stop")

    def _grammar(self) -> Grammar:
        return Grammar.for_turn(
            self.tools,
            tool_choice=self.request.tool_choice,
            parallel_tool_calls=self.request.parallel_tool_calls,
            first_index=self.prompt.calls,
            tool_format="pythonic" if self.request.output == "pythonic" else "k2",
        )

    async def attempt(self, number: int) -> AsyncGenerator[Event | Report, None]:
        """Ask the engine once. Its calls come out checked, as events; text that stands for calls comes out checked,
        as content.
        """
        output: list[str] = []
        problems: list[Problem] = []
        usage, reason = Usage(), "stop"
        parser = self._parser()
        held: list[Event] = []
        self.calls = 0
        async with contextlib.aclosing(self._pieces(number)) as pieces:
            async for piece in pieces:
                output.append(piece.text)
                usage, reason = piece.usage or usage, piece.finish_reason or reason
                if parser is None:
                    if piece.text:
                        yield ContentDelta(piece.text)
                    continue
                events = parser.feed(piece.text)
                for event in self._counted([*events, *parser.close()] if piece.finish_reason else events, problems):
                    if self.request.output == "tool_calls":
                        yield event
                    else:
                        held.append(event)
        if reason == "length":
            self.finish = Finish("length")
        text = "".join(output)
        if self.request.output != "tool_calls" and parser is not None and text and not problems:
            yield ContentDelta(text)
            self.finish = Finish("length" if reason == "length" else "stop")
        yield Report(text, usage, self.grammar is not None, number, tuple(problems))

    def _counted(self, events: Sequence[Event], problems: list[Problem]) -> list[Event]:
        """The events that may go out; the parser's own verdict on the end is kept for later."""
        passed: list[Event] = []
        for event in events:
            match event:
                case Problem():
                    problems.append(event)
                case Finish():
                    self.finish = event
                case _:
                    self.calls += isinstance(event, ToolCallEnd)
                    passed.append(event)
        return passed

    def _parser(self) -> Parser | None:
        """None where no tools were declared: then the model's text is what was asked for, markers and all."""
        if not self.request.tools:
            return None
        if self.request.output == "pythonic":
            return PythonicParser(tools=self.tools, check=self.schemas.fault, first_index=self.prompt.calls)
        return StreamParser(
            tools=self.tools,
            variant=self.engine.capabilities.variant,
            check=self.schemas.fault,
            first_index=self.prompt.calls,
        )

    async def _pieces(self, attempt: int) -> AsyncGenerator[Piece, None]:
        params = self.request.params
        if attempt > 1:
            params = replace(
                params,
                temperature=max(params.temperature or 0.0, _RETRY_TEMPERATURE),
                seed=None if params.seed is None else params.seed + attempt,
            )
        async with contextlib.aclosing(self.engine.complete(self.prompt, params, self.grammar)) as pieces:
            async for piece in pieces:
                yield piece

    def is_answered(self, report: Report) -> bool:
        """Whether asking again is of no use: a call came through, or none was tried, or the limit on tokens cut it."""
        if self.calls or self.finish.reason == "length":
            return True
        return not report.problems and not self.must_call

    def insist(self, report: Report) -> None:
        """Raises OutputError when a call was required and this is all there is; text alone is an answer otherwise."""
        if self.must_call and not self.calls and self.finish.reason != "length":
            details = "; ".join(problem.detail for problem in report.problems[:3]) or "it wrote text instead"
            raise OutputError(
                f"a tool call was required and the model made no valid one in {report.attempts} attempts: {details}"
            )
