"""The one place where template, grammar, engine, guard and parser meet: a request becomes a stream of events.

What leaves here is true of every engine: no call is malformed, undeclared or outside its schema. An engine that obeys
a grammar is given one; what any engine writes goes through the guard, which lets out only what a valid turn begins
with. Where it goes wrong the engine is stopped, what must follow is added, and the engine is asked to go on from there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from abruzzi.engines.asking import Asking
from abruzzi.engines.base import Engine, SamplingParams, Usage
from abruzzi.guide import pythonic
from abruzzi.guide.endless import Length
from abruzzi.guide.grammar import Grammar
from abruzzi.guide.guard import Guard
from abruzzi.guide.patience import Patience
from abruzzi.guide.schema import Schemas, compile
from abruzzi.guide.spelling import K2Spelling
from abruzzi.protocol.errors import EngineError, OutputError, RequestError
from abruzzi.protocol.events import (
    ContentDelta,
    Event,
    Finish,
    Problem,
    TokenLogprobs,
)
from abruzzi.protocol.messages import Message, Tool
from abruzzi.protocol.parser import StreamParser
from abruzzi.protocol.prompt import Prompt, going_on, raw_prompt
from abruzzi.protocol.template import begun_turn, render_prompt

# An engine that brought nothing new is asked for something else, and for what else it might have written.
_RETRY_TEMPERATURE = 0.8
_ALTERNATIVES = 8
# Of what makes a request ready beside other work: so many messages or tools, so many characters of schemas.
_MANY = 20
_LONG = 10_000
# Characters that an engine may write when no more are wanted: the end of the section and of the turn.
_BEHIND = 64
_ASK_JSON = "Answer with one JSON object that follows this JSON Schema, and nothing else: "
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
    allowed_tools: Sequence[str] | None = None
    """The names of those that may be called, where that is not all that the model is shown."""
    parallel_tool_calls: bool = True
    output: Literal["tool_calls", "raw", "pythonic"] = "tool_calls"
    thinking: bool | None = None
    """Whether the model thinks before it answers; None leaves it to the model's kind."""
    answer: Mapping[str, Any] | None = None
    """The JSON Schema of the object that the content has to be; None where any text will do."""
    prompt: str | None = None
    """In place of messages: what the model reads as it stands, control tokens and all. It answers with text."""
    begun: Message | None = None
    """What the client has written of the answer: the model goes on behind it, and only that is told. No call is due
    then, nor an answer of a form.
    """
    params: SamplingParams = field(default_factory=SamplingParams)

    def __post_init__(self) -> None:
        is_due = self.tool_choice not in ("auto", "none") or self.answer is not None or self.output != "tool_calls"
        if self.begun is not None and is_due:
            raise RequestError("expected an answer that may begin with any text, as it was begun", "begun")
        if self.output not in ("tool_calls", "raw", "pythonic"):
            raise RequestError(f"expected tool_calls, raw or pythonic, got {self.output!r}", "output")
        if self.answer is not None and self.output != "tool_calls":
            raise RequestError(f"an answer of a form of its own can't be had as {self.output} text", "output")

    @property
    def is_large(self) -> bool:
        """Whether it takes more than some milliseconds to make it ready."""
        if len(self.messages) > _MANY or len(self.tools) > _MANY:
            return True
        schemas = (self.answer, *(tool.parameters for tool in self.tools))
        return sum(len(str(schema)) for schema in schemas) > _LONG


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
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the content's tokens, where they were asked for and the engine tells."""
    stop: str | None = None
    """The client's stop sequence that ended the turn, where the engine tells."""
    engine: str = ""
    """What the engine is called that wrote (`engines.base.name_of`): of several the one whose output could not go on as
    it was, or the last. Clients aren't told.
    """

    @property
    def guarantee(self) -> Literal["guided", "enforced", "validated"]:
        """What it took to keep the promise: a grammar, a guard that stepped in, or a look at what came."""
        if self.resumes or self.forced or self.violations:
            return "enforced"
        return "guided" if self.guided else "validated"

    def told(self) -> dict[str, Any]:
        """What was done to keep the promise, as JSON has it."""
        return {
            "guarantee": self.guarantee,
            "resumes": self.resumes,
            "resampled": self.resampled,
            "generated_characters": self.generated,
            "forced_characters": self.forced,
            "forced_tokens": self.usage.forced,
            "violations": self.violations,
            "problems": [
                {"kind": one.kind, "action": one.action, "name": one.name, "detail": one.detail}
                for one in self.problems
            ],
        }


async def stream(engine: Engine, request: ChatRequest) -> AsyncGenerator[Event | Report, None]:
    """Answer the request: events as they come, then one `Report`.

    Raises RequestError before anything else for a request that makes no sense; OutputError when a call was required, or
    tried, and nothing valid could be had; EngineError when the engine failed.
    """
    async with contextlib.aclosing(batches(engine, request)) as several:
        async for items in several:
            for item in items:
                yield item


async def batches(engine: Engine, request: ChatRequest) -> AsyncGenerator[Sequence[Event | Report], None]:
    """The same, with what is there at once together."""
    # Schemas and grammars of many tools take a while, and others are being served meanwhile.
    turn = await asyncio.to_thread(_Turn, engine, request) if request.is_large else _Turn(engine, request)
    try:
        async with contextlib.aclosing(turn.events()) as several:
            async for events in several:
                if events:
                    yield events
    except OutputError as error:
        error.engine = turn.engine
        raise
    yield [turn.finish, turn.report()]


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
        self.request = request
        self.variant = engine.capabilities.variant
        self.asking = Asking(engine)
        schemas = Schemas(request.tools)
        self.tools = self._callable()
        if request.output == "pythonic":
            pythonic.check(self.tools)
        self.must_call = request.tool_choice not in ("auto", "none")
        self.begun = "" if request.begun is None else begun_turn(request.begun, self.variant, thinking=request.thinking)
        self.prompt = self._prompt()
        is_free = not request.tools and request.answer is None
        self.grammar = self._grammar() if engine.capabilities.constrains and not is_free else None
        self.guard = None if is_free else self._guard(schemas)
        if self.guard is not None:
            self._feed_begun(self.guard)
        self.finish = Finish("stop")
        self.logprobs: list[TokenLogprobs] = []
        self.patience = Patience()
        self.broke_off = ""  # the engine whose output could not go on as it was, the last time

    def _callable(self) -> Sequence[Tool]:
        """The tools that this turn may call. Raises RequestError for a choice that can't be."""
        tools, choice, allowed = self.request.tools, self.request.tool_choice, self.request.allowed_tools
        if choice == "none":
            return ()
        if allowed is not None:
            if missing := [name for name in allowed if all(tool.name != name for tool in tools)]:
                raise RequestError(f"expected declared tools, got {missing[0]!r}", "tool_choice")
            tools = [tool for tool in tools if tool.name in allowed]
        if choice == "required" and not tools:
            raise RequestError("required needs tools to choose from, none are declared", "tool_choice")
        if choice in ("auto", "required"):
            return tools
        chosen = [tool for tool in tools if tool.name == choice]
        if not chosen:
            raise RequestError(f"expected auto, none, required or a declared tool, got {choice!r}", "tool_choice")
        return chosen

    def _prompt(self) -> Prompt:
        request = self.request
        if request.prompt is not None:
            return raw_prompt(request.prompt, self.variant)
        # A tool that must not be called is not shown either; beside one that must be, the others are.
        tools = request.tools if self.tools else ()
        return render_prompt(self._messages(), tools=tools, variant=self.variant, thinking=request.thinking)

    def _messages(self) -> Sequence[Message]:
        """The conversation; a form of the answer that the model doesn't know of is asked for in words."""
        messages = self.request.messages
        if self.request.answer is not None and messages:
            asked = _ASK_JSON + json.dumps(self.request.answer, ensure_ascii=False)
            return (Message("system", asked), *messages)
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
            variant=self.variant,
            tool_format="pythonic" if self.request.output == "pythonic" else "k2",
            thinking=self.request.thinking,
            answer=self.request.answer,
        )

    def _guard(self, schemas: Schemas) -> Guard:
        return Guard(
            self.tools,
            schemas,
            self.variant,
            must_call=self.must_call,
            one_call=not self.request.parallel_tool_calls,
            first_index=self.prompt.calls,
            thinking=self.request.thinking,
            pythonic=self.request.output == "pythonic",
            by_id=self.asking.by_id,
            answer=None
            if self.request.answer is None
            else compile(self.request.answer, name="the answer", where="answer"),
        )

    def _feed_begun(self, reader: Guard | StreamParser) -> None:
        """What the client knows goes out to nobody."""
        if self.begun:
            for part in going_on(self.begun, self.variant) if self.asking.by_id else (self.begun,):
                reader.feed(part)

    def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """All but the finish, in the form that the client wants."""
        events = self.plain() if self.guard is None else self.guarded(self.guard)
        if self.guard is None or self.request.output == "tool_calls":
            return events
        return self._as_text(self.guard, events)

    async def _as_text(
        self, guard: Guard, events: AsyncGenerator[Sequence[Event], None]
    ) -> AsyncGenerator[Sequence[Event], None]:
        transcript = K2Spelling(self.variant, self.request.thinking)
        async with contextlib.aclosing(events) as several:
            async for some in several:
                if self.request.output == "raw" and (text := "".join(map(transcript.add, some))):
                    yield [ContentDelta(text)]
        if text := self._rest_of_text(guard, transcript):
            yield [ContentDelta(text)]

    def _rest_of_text(self, guard: Guard, transcript: K2Spelling) -> str:
        """What ends the text for a client that parses by itself. A pythonic one is written when the turn is whole."""
        if self.request.output == "raw":
            return "" if guard.is_calling else transcript.close()
        if self.patience.resumes or guard.violations or guard.forced or guard.problems or guard.over:
            return guard.spelled
        return "".join(self.asking.output)  # the model may write it in another way than we do

    async def plain(self) -> AsyncGenerator[Sequence[Event], None]:
        """Without tools the model's text is what was asked for, markers and all; only its reasoning comes apart."""
        thinking, by_id, length = self.request.thinking, self.asking.by_id, Length()
        parser = None
        if self.variant.thinks and self.request.prompt is None:
            parser = StreamParser(variant=self.variant, thinking=thinking, by_id=by_id, calls=False)
            self._feed_begun(parser)
        prompt, params = self.prompt.going_on(self.begun), self.request.params
        # What was begun may end inside of a token.
        ask = self.asking.going_on(prompt, params) if self.begun else self.asking.texts(prompt, params)
        async with contextlib.aclosing(ask) as texts:
            async for text in texts:
                yield self._with_logprobs(text, [ContentDelta(text)] if parser is None else parser.feed(text))
                length.add(text)
                if length.is_endless:
                    break
        if parser is not None:
            yield [event for event in parser.close() if not isinstance(event, Finish)]
        cut = length.is_endless or self.asking.is_spent(self.request.params)
        self.finish = Finish("length" if cut else "stop")

    async def guarded(self, guard: Guard) -> AsyncGenerator[Sequence[Event], None]:
        """With tools: ask, and go on from what could stand until the turn is valid."""
        has_one_way = self.must_call or (self.request.answer is not None and not self.tools)
        if has_one_way and self.grammar is None and not self.variant.thinks and self.request.output != "pythonic":
            guard.resume()  # what every such turn begins with isn't asked for
        while not guard.over:
            before, calls = len(guard.prefix), guard.calls
            async with contextlib.aclosing(self._ask(guard)) as several:
                async for events in several:
                    yield events
            if guard.broken is not None:
                self.broke_off = self.asking.engine
            if guard.broken is None or self._is_spent(guard):
                break
            self.patience.note(is_vain=len(guard.prefix) <= before, is_whole=guard.calls > calls)
            if not self.patience.is_left:
                yield self._give_up(guard, guard.broken)
                if guard.over or guard.broken is not None or not self.patience.give_up():
                    break
                continue
            guard.resume()
            if self.patience.is_nearly_lost:
                guard.help()
            if not guard.over:
                self.patience.resume()
        yield guard.settled()
        if guard.violations and not (guard.calls or guard.has_spoken or self._is_spent(guard)):
            raise OutputError("the model tried to call a tool, and no valid call came of it", guard.violations)
        called = guard.calls and self.request.output == "tool_calls"
        self.finish = Finish("length" if self._is_spent(guard) else "tool_calls" if called else "stop")

    async def _ask(self, guard: Guard) -> AsyncGenerator[Sequence[Event], None]:
        """Have the engine go on, until it ends, goes wrong, or nothing more is wanted of it."""
        behind = 0
        # As it was begun, to the last character, until more stands.
        prefix = guard.prefix if self.patience.resumes or not self.begun else self.begun
        params = self._params(guard)
        grammar = self.grammar.behind(prefix) if self.grammar is not None else None
        prompt = self.prompt.going_on(prefix)
        # A prefix may end inside of a token. What is held to a grammar, or writes the turn's beginning, heals nothing.
        heals = prefix and grammar is None
        ask = self.asking.going_on(prompt, params) if heals else self.asking.texts(prompt, params, grammar)
        try:
            async with contextlib.aclosing(ask) as texts:
                async for text in texts:
                    if guard.over:  # the engine may end by itself, and then tells what it cost
                        behind += len(text)
                        if behind > _BEHIND:
                            return
                        continue
                    yield self._with_logprobs(text, guard.feed(text))
                    if guard.broken is not None:
                        yield guard.choose(text, self.asking.alternatives)
                        return
        except EngineError:
            if not guard.over:
                raise
        if not guard.over:
            yield guard.close(cut=self.asking.was_cut, stop=self.asking.stopped_by)

    def _with_logprobs(self, token: str, events: list[Event]) -> Sequence[Event]:
        """With how likely the token was, if it brought content and the client wants to know."""
        logprob = self.asking.logprob
        if logprob is None or self.request.params.logprobs is None:
            return events
        if any(isinstance(event, ContentDelta) for event in events):
            self.logprobs.append(TokenLogprobs(token, logprob, tuple(self.asking.alternatives)))
            events.append(self.logprobs[-1])
        return events

    def _params(self, guard: Guard) -> SamplingParams:
        """What is left of the limit; and another try where the last brought nothing."""
        params = self.asking.left(self.request.params)
        if guard.in_call or guard.owes:
            params = replace(params, stop=())  # they are for text
        if not self.patience.vain:
            return params
        return replace(
            params,
            temperature=max(params.temperature or 0.0, _RETRY_TEMPERATURE),
            seed=None if params.seed is None else params.seed + self.patience.resumes,
            logprobs=max(params.logprobs or 0, _ALTERNATIVES),
        )

    def _give_up(self, guard: Guard, broken: Problem) -> Sequence[Event]:
        """The engine doesn't come to a valid call: it gets one from us, or what was said stands for itself."""
        guard.problems.append(broken)
        # What we would make up is no call that the model chose: it is finished only where it has begun, or must be.
        if guard.is_calling or guard.owes:
            return guard.finish()
        if not guard.has_spoken and not guard.calls:
            reason = f"the model tried to call a tool, and no valid call came of it: {broken.detail}"
            raise OutputError(reason, guard.violations)
        return ()

    def _is_spent(self, guard: Guard) -> bool:
        return guard.ran_away or (not guard.over and self.asking.is_spent(self.request.params))

    @property
    def engine(self) -> str:
        """As `Report.engine`."""
        return self.broke_off or self.asking.engine

    def report(self) -> Report:
        output, usage, guard = "".join(self.asking.output), self.asking.usage, self.guard
        if guard is None:
            logprobs, stop = tuple(self.logprobs), self.asking.stopped_by
            generated, engine = len(output), self.engine
            return Report(output, usage, guided=False, generated=generated, logprobs=logprobs, stop=stop, engine=engine)
        return Report(
            guard.spelled if self.patience.resumes else output,
            usage,
            guided=self.grammar is not None,
            problems=tuple(guard.problems),
            violations=dict(guard.violations),
            resumes=self.patience.resumes,
            resampled=self.patience.resampled,
            generated=len(output),
            forced=guard.forced,
            logprobs=tuple(self.logprobs),
            stop=self.asking.stopped_by,
            engine=self.engine,
        )
