"""One turn: what is asked of the engine, again and again where it goes wrong, and what goes out of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from abruzzi.chat.report import Report
from abruzzi.chat.request import ChatRequest
from abruzzi.engines.asking import Asking
from abruzzi.engines.base import ALTERNATIVES, Engine, SamplingParams
from abruzzi.guide import pythonic
from abruzzi.guide.endless import Length
from abruzzi.guide.grammar import Grammar
from abruzzi.guide.guard import Guard
from abruzzi.guide.patience import Patience
from abruzzi.guide.schema import Schemas, compile
from abruzzi.guide.spelling import K2Spelling
from abruzzi.protocol.errors import EngineError, OutputError, RequestError
from abruzzi.protocol.events import ContentDelta, Event, Finish, Problem, TokenLogprobs
from abruzzi.protocol.messages import Message
from abruzzi.protocol.parser import StreamParser
from abruzzi.protocol.prompt import Prompt, going_on, raw_prompt
from abruzzi.protocol.template import begun_turn, render_prompt

# An engine that brought nothing new is asked for something else, and for what else it might have written.
_RETRY_TEMPERATURE = 0.8
# Engines hold a seed in 64 bits.
_SEEDS = 2**63
# Characters that an engine may write when no more are wanted: the end of the section and of the turn.
_BEHIND = 64
_ASK_JSON = "Answer with one JSON object that follows this JSON Schema, and nothing else: "
_ASK_PYTHONIC = "Call functions in the format [name(key='value', ...), ...] and write nothing else then."


class Turn:
    """A request made ready: its prompt, grammar and guard; and what has become of it so far."""

    def __init__(self, engine: Engine, request: ChatRequest) -> None:
        self.request = request
        self.variant = engine.capabilities.variant
        self.asking = Asking(engine, request.params)
        schemas = Schemas(request.tools)
        self.tools = request.callable_tools()
        if request.output == "pythonic":
            pythonic.check(self.tools)
        self.must_call = request.tool_choice not in ("auto", "none")
        if not engine.capabilities.continues:
            _check_for_chat(request)
        self.begun = "" if request.begun is None else begun_turn(request.begun, self.variant, thinking=request.thinking)
        self.prompt = self._prompt()
        is_free = not request.tools and request.answer is None
        capabilities = engine.capabilities
        most = capabilities.most_tools
        is_guided = capabilities.constrains and not is_free and (most is None or len(self.tools) <= most)
        self.grammar = self._grammar() if is_guided else None
        self.constrains_within, self.continues = capabilities.constrains_within, capabilities.continues
        self.shows_controls = capabilities.shows_controls
        self.guard = None if is_free else self._guard(schemas)
        if self.guard is not None:
            self._feed_begun(self.guard)
        self.finish = Finish("stop")
        self.logprobs: list[TokenLogprobs] = []
        self.held: list[TokenLogprobs] = []  # of tokens that may turn out to be the turn's end
        self.patience = Patience()
        self.broke_off = ""  # the engine whose output could not go on as it was, the last time

    def _prompt(self) -> Prompt:
        request = self.request
        if request.prompt is not None:
            return raw_prompt(request.prompt, self.variant)
        # A tool that must not be called is not shown either; beside one that must be, the others are.
        tools = request.tools if self.tools else ()
        prompt = render_prompt(
            self._messages(),
            tools=tools,
            variant=self.variant,
            thinking=request.thinking,
            preserve_thinking=request.keeps_thinking,
        )
        assert prompt.conversation is not None
        choice = self.tools[0].name if self.must_call and len(self.tools) == 1 else request.tool_choice
        conversation = replace(prompt.conversation, tool_choice=choice, parallel_tool_calls=request.parallel_tool_calls)
        return replace(prompt, conversation=conversation)

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
            continues=self.continues,
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
        """Without tools the model's text is what was asked for, markers and all, up to the turn's end; only its
        reasoning comes apart. Behind a prompt of the client's own all of it is text, for whatever that is to mean.
        """
        # An engine that shows no control tokens spells them in its text, if it does, as text.
        is_read = self.request.prompt is None and (self.shows_controls or self.variant.thinks)
        parser = self._plain_parser() if is_read else None
        length, is_over = Length(), False
        prompt, params = self.prompt.going_on(self.begun), self.request.params
        # What was begun may end inside of a token.
        ask = self.asking.going_on(prompt, params) if self.begun else self.asking.texts(prompt, params)
        try:
            async with contextlib.aclosing(ask) as texts:
                async for text in texts:
                    events: list[Event] = [ContentDelta(text)] if parser is None else parser.feed(text)
                    is_over = parser is not None and parser.over
                    self.asking.unread = 0 if parser is None else parser.behind
                    yield self._with_logprobs(text, events)
                    length.add(text)
                    if length.is_endless or self.asking.unread > _BEHIND:  # else it may end by itself, as in `_ask`
                        break
        except EngineError:
            if not is_over:
                raise
        if parser is not None and not is_over:
            yield [*(event for event in parser.close() if not isinstance(event, Finish)), *self._late_logprobs()]
        cut = length.is_endless or self.asking.is_spent(self.request.params)
        self.finish = Finish("length" if cut and not is_over else "stop")

    def _plain_parser(self) -> StreamParser:
        by_id, thinking = self.asking.by_id, self.request.thinking
        parser = StreamParser(variant=self.variant, thinking=thinking, by_id=by_id, calls=False)
        if self.variant.thinks:
            self._feed_begun(parser)
        return parser

    async def guarded(self, guard: Guard) -> AsyncGenerator[Sequence[Event], None]:
        """With tools: ask, and go on from what could stand until the turn is valid."""
        has_one_way = self.must_call or (self.request.answer is not None and not self.tools)
        is_plain = self.grammar is None and not self.variant.thinks and self.request.output != "pythonic"
        if has_one_way and is_plain and self.continues:
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
                # An engine that answers anew would tell of the call that was finished in its own way.
                is_last = guard.over or guard.broken is not None or not self.continues
                if is_last or not self.patience.give_up():
                    break
                continue
            guard.resume()
            if self.patience.is_nearly_lost and self.continues:
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
        # As it was begun, to the last character, until more stands.
        prefix = guard.prefix if self.patience.resumes or not self.begun else self.begun
        params = self._params(guard)
        follows = not prefix or self.constrains_within
        grammar = self.grammar.behind(prefix) if self.grammar is not None and follows else None
        prompt = self.prompt.going_on(prefix)
        # A prefix may end inside of a token. What is held to a grammar, or writes the turn's beginning, heals nothing.
        heals = prefix and grammar is None
        ask = self.asking.going_on(prompt, params) if heals else self.asking.texts(prompt, params, grammar)
        try:
            async with contextlib.aclosing(ask) as texts:
                async for text in texts:
                    events = guard.feed(text)
                    if guard.broken is not None or guard.over:
                        self.asking.unread = guard.unread
                    yield self._with_logprobs(text, events)
                    if guard.unread > _BEHIND and guard.over:  # else it may end by itself, and tells what it cost
                        return
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
        told = TokenLogprobs(token, logprob, tuple(self.asking.alternatives))
        if any(isinstance(event, ContentDelta) for event in events):
            self.held.append(told)
            events += self._late_logprobs()
        elif self.guard is None and not self.variant.thinks:
            self.held.append(told)
        return events

    def _late_logprobs(self) -> Sequence[TokenLogprobs]:
        """Of the tokens whose content has come out by now."""
        told = self.held.copy()
        self.held.clear()
        self.logprobs += told
        return told

    def _params(self, guard: Guard) -> SamplingParams:
        """What is left of the limit; and another try where the last brought nothing."""
        params = self.asking.left(self.request.params)
        if guard.in_call or guard.owes:
            params = replace(params, stop=())  # they are for text
        if not self.patience.vain:
            return params
        return replace(
            params,
            seed=None if params.seed is None else (params.seed + self.patience.resumes) % _SEEDS,
            alternatives=ALTERNATIVES,
            least_temperature=_RETRY_TEMPERATURE,
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
            guided=self.grammar is not None and self.asking.guided,
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


def _check_for_chat(request: ChatRequest) -> None:
    """Raises RequestError for what an engine that reads conversations, and always answers anew, can't do."""
    if request.begun is not None:
        raise RequestError("expected no beginning of the answer: the engine always answers anew", "begun")
    if request.output == "pythonic":
        raise RequestError(
            "expected tool_calls or raw: the engine offers chat alone, which has its own calls", "output"
        )
