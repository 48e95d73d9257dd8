"""An output on its way to the client, watched: only what some valid turn begins with is let through.

What an engine writes is read by the codec's parser, which forgives what is unambiguous, and the arguments of each call
are followed character by character. What is let through is never taken back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy

from abruzzi.guide.anew import Anew
from abruzzi.guide.draft import Draft
from abruzzi.guide.endless import Length
from abruzzi.guide.heads import PREFIX, header_of, meant_by, nearest
from abruzzi.guide.matcher import Matcher
from abruzzi.guide.reach import BLOCK, Reach
from abruzzi.guide.schema import Arguments, Schemas
from abruzzi.guide.spelling import Spelling, spelling_of
from abruzzi.protocol.events import (
    ArgumentsDelta,
    ContentDelta,
    Event,
    Problem,
    ProblemKind,
    ReasoningDelta,
    ToolCallBegin,
    ToolCallEnd,
)
from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.parser import Parser, StreamParser
from abruzzi.protocol.prompt import going_on
from abruzzi.protocol.pythonic import PythonicParser
from abruzzi.protocol.variants import Variant

# Characters that may come without a word of them standing: the longest header, or white space before a call.
_MAX_SILENCE = 2 * BLOCK
# More calls than a turn of any model has.
_MAX_CALLS = 128


class Watch:
    """Reads one turn. `feed` and `close` take what the engine writes and return the events that may go out.

    `tools`: those that may be called. `must_call`: a call has to come, and no content. `one_call`: the turn is over
    with its first call. `by_id`: the pieces were made of token ids, so that only a `Control` is a marker. `answer`:
    what the content has to be, if it may not be any text; what is said otherwise before a call is left out then.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        schemas: Schemas,
        variant: Variant,
        *,
        must_call: bool = False,
        one_call: bool = False,
        first_index: int = 0,
        thinking: bool | None = None,
        pythonic: bool = False,
        by_id: bool = False,
        answer: Arguments | None = None,
    ) -> None:
        self._tools = tools
        self._schemas = schemas
        self._variant = variant
        self._must_call = must_call
        self._one_call = one_call
        self._first_index = first_index
        self._thinking = thinking
        self._pythonic = pythonic
        self._by_id = by_id
        self._answer = answer
        self._parser = self._new_parser()
        self._echo: ContentDelta | ReasoningDelta | None = None  # what the parser holds of what has gone out
        self._spelling: Spelling = spelling_of(variant, thinking, pythonic=pythonic)
        # Of a call that has begun: first its head, with as much of a tool's name as is sure; then tool and arguments.
        self._head: str | None = None
        self._name: str | None = None  # None: what is open is the answer
        self._matcher: Matcher | None = None
        self._is_aside = False  # what is said is not the answer
        self._draft = Draft()
        self._anew: Anew | None = None
        self._length = Length()
        self._reach = self._new_reach()
        self._told_calls: list[str] = []  # those that are whole, as they are spelled, without their end
        self.calls = 0
        """Calls that are whole."""
        self.has_spoken = False
        """Whether there was content."""
        self.broken: Problem | None = None
        """What is wrong with the output where it can't go on as it is."""
        self.over = False
        """Whether nothing more is wanted of the engine."""
        self.ran_away = False
        """Whether it was cut as at a limit."""
        self.problems: list[Problem] = []
        """What was mended or dropped."""
        self.violations: Counter[str] = Counter()
        """How often the engine's output couldn't go on as it was."""

    def _new_parser(self) -> Parser:
        check = self._schemas.fault
        options = {"tools": self._tools, "variant": self._variant, "check": check, "thinking": self._thinking}
        if self._pythonic:
            return PythonicParser(first_index=self._first_index, refuses_k2=True, **options)  # type: ignore[arg-type]
        return StreamParser(first_index=self._first_index, by_id=self._by_id, **options)  # type: ignore[arg-type]

    def _new_reach(self) -> Reach:
        return Reach(by_id=self._by_id, pythonic=self._pythonic)

    @property
    def owes(self) -> bool:
        """Whether a call, or an answer of a form of its own, has still to come."""
        if self.calls or self.is_calling or self.over:
            return False
        return self._must_call or self._answer is not None

    @property
    def is_calling(self) -> bool:
        """Whether a call, or an answer of a form of its own, has gone out in part."""
        return self._matcher is not None and self._draft.before is None

    @property
    def in_call(self) -> bool:
        """Whether one has begun, if only a call's head."""
        return self._matcher is not None or self._head is not None or self._parser.in_call

    @property
    def _due(self) -> str:
        return "a tool call" if self._must_call or self._answer is None else "an answer of the asked form"

    @property
    def unread(self) -> int:
        """Characters of the output that are none of the turn: behind its end, or where it is broken."""
        return self._reach.unread

    # What the engine writes

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of output. What comes of an output doesn't depend on its pieces."""
        events: list[Event] = []
        if self._anew is None and self.broken is None and not self.over and self._reach.passes(text):
            self._parse(text, events)
            self._measure(text)
            return events
        while text:
            block = self._reach.take(text)
            if self.broken is None and not self.over:
                self._feed_block(block, events)
            text = text[len(block) :]
        return events

    def _feed_block(self, block: str, events: list[Event]) -> None:
        if self._anew is None:
            self._feed_part(block, events)
        else:
            for part in self._told(self._anew, block):
                self._feed_part(part, events)
        self._measure(block)

    def _measure(self, block: str) -> None:
        self._length.add(block)
        if self._length.is_endless and self.broken is None and not self.over:
            self._run_away()

    def _feed_part(self, part: str, events: list[Event]) -> None:
        # What is wrong for sure is so before a marker makes the best of it, however much comes at once.
        for piece in self._reach.pieces(part):
            if self.broken is None and not self.over:
                self._reach.read(piece)
                self._parse(piece, events)

    def _parse(self, piece: str, events: list[Event]) -> None:
        count = len(events)
        told = self._parser.feed(piece)
        self._read(told if self._echo is None else self._unsaid(told), events)
        if len(events) > count or (self._matcher is not None and self._matcher.held):
            self._reach.hear()
            is_silent = False
        else:
            is_silent = self._reach.silence >= _MAX_SILENCE
        if self.broken is None and not self.over:
            self._look_closer(events, is_silent=is_silent)

    def close(self, *, cut: bool = False, stop: str | None = None) -> list[Event]:
        """The engine ended its output. `cut`: at a limit. `stop`: at this stop sequence of the client's, which was left
        out; they are for text, so that a call it ends inside of is to be gone on with.
        """
        events: list[Event] = []
        anew, self._anew = self._anew, None
        if anew is not None:
            rest = anew.rest()
            self._reach.skip_to(rest)
            for part in rest:
                self._feed_part(part, events)
        if stop is not None and (self.in_call or self.owes) and self.broken is None and not self.over:
            events += self.feed(stop)
            if (self.in_call or self.owes) and self.broken is None:
                kind: ProblemKind = "truncated" if self.in_call else "missing"
                self._break(kind, "a stop sequence ended the output", is_fault=False)
                return events
        cut = cut or stop is not None
        for event in self._unsaid(self._parser.close(cut=cut)):
            if cut and isinstance(event, Problem) and event.kind == "truncated":
                self.problems.append(event)  # no fault of the engine's
            else:
                self._read([event], events)
        if cut and self._matcher is not None:
            return events
        if self.broken is None and not self.over and not cut:
            if self._matcher is not None:
                self._break("truncated", "the output ended inside the call")
            elif self._head is not None or self.owes:
                self._break("missing", f"expected {self._due}, got the end of the output")
        if self.broken is None:
            events += self.settled()
        return events

    def settled(self) -> list[Event]:
        """What we wrote and may go out now that the engine has come to an end; what only we have begun may not."""
        self._head = None
        if self.broken is not None and self.is_calling and self._name is not None:
            self.problems.append(Problem("truncated", self._name, "", "the limit ended the output inside the call"))
        if self._matcher is not None:
            self._forget_draft()
        return self._draft.take()

    def _told(self, anew: Anew, text: str) -> Sequence[str]:
        """What is to be read of the text, once it is told whether the engine goes on or begins anew."""
        rest = anew.feed(text)
        if not anew.is_told:
            return ()
        self._anew = None
        self._reach.skip_to(rest)
        if anew.strays is not None:
            self._break("header", f"expected the call to go on, got {anew.strays[:60]!r}")
        elif anew.again is not None:
            self._forget_draft()
            self._begin_parser(str(self._spelling))
        elif anew.begins_arguments:
            self._open_again()
        return rest

    def _open_again(self) -> None:
        """The arguments that only we have begun, or the answer, are begun by the engine."""
        name = self._name
        self._forget_draft()
        self._draft.before = deepcopy(self._spelling), self.calls, len(self._draft.events)
        if name is None:
            self._open_answer(self._draft.events)
        else:
            self._open(name, self._draft.events)
        self._begin_parser(str(self._spelling))

    def _begin_parser(self, text: str) -> None:
        """A parser that stands behind the text."""
        self._parser, self._echo = self._new_parser(), None
        for part in going_on(text, self._variant) if self._by_id else (text,):
            self._parser.feed(part)
        if not self._by_id and self._head is None and self._name is None:
            other = self._new_parser()
            other.feed(text)
            held = (event for event in other.close() if isinstance(event, ContentDelta | ReasoningDelta))
            self._echo = next(held, None)

    def _unsaid(self, events: list[Event]) -> list[Event]:
        """Without what the parser held of what has gone out: where it says that, it says it first."""
        echo = self._echo
        if events or self._parser.in_call:
            self._echo = None
        if echo is None or not events or type(events[0]) is not type(echo):
            return events
        text, length = events[0].text, len(echo.text)
        # Where it turned out to be the broken spelling of a marker, it was mended by a character.
        rest = text[length:] if text.startswith(echo.text) or echo.text.startswith(text) else text[length - 1 :]
        return [type(events[0])(rest), *events[1:]] if rest else events[1:]

    def _forget_draft(self) -> None:
        """A call that only we have begun never was."""
        if self._draft.before is not None:
            self._spelling, self.calls, count = self._draft.before
            del self._told_calls[self.calls :]
            self._name = self._matcher = self._draft.before = None
            del self._draft.events[count:]
        self._head = None

    def _read(self, events: Iterable[Event], passed: list[Event]) -> None:
        for event in events:
            if self.broken is not None or self.over:
                break
            self._on(event, passed)

    def _look_closer(self, passed: list[Event], *, is_silent: bool) -> None:
        """What no event tells of yet may be wrong for sure."""
        if self._parser.over:
            self._read(self._parser.close(), passed)
            if self.broken is None and not self.over:
                self._end_early()
            return
        stuck = self._parser.stuck
        if stuck is None and not is_silent:
            return
        self._reach.stop()
        has_head = bool(self._parser.header.strip())
        written = "" if stuck is None or has_head else "?"
        if stuck is None:
            kind: ProblemKind = "syntax" if self._pythonic else "header"
            stuck = kind, f"expected a call, got {_MAX_SILENCE} characters of none"
        if self.calls and self._matcher is None and not has_head:
            # Behind a whole call, and no other has begun.
            self.problems.append(Problem("stray", None, "", stuck[1], "dropped"))
            self.over = True
        else:
            self._break(*stuck, written=written)

    def _run_away(self) -> None:
        """What is said outside of calls ends there as at a limit."""
        if self._matcher is not None or self.owes:
            self._break("runaway", "expected an end, got the same over and over, or more than any context holds")
        else:
            self.over = self.ran_away = True

    def _end_early(self) -> None:
        """The turn's end has come, and the engine may go on behind it."""
        if self._matcher is not None:
            self._break("truncated", "the turn ended inside the call")
        elif self.owes:
            self._break("missing", f"expected {self._due}, got the end of the turn")
        else:
            self.over = True

    def _on(self, event: Event, passed: list[Event]) -> None:
        match event:
            case ArgumentsDelta(text=text):  # first, as most events are some
                if fault := self._argue(text, passed):
                    self._reach.stop()
                    self._break("schema", fault)
            case ReasoningDelta(text):
                self._spelling.reasoning(text)
                passed.append(event)
            case ContentDelta(text):
                self._on_content(text, passed)
            case ToolCallBegin() if self._matcher is not None:
                self._break("header", "expected the answer to go on, got a call")
            case ToolCallBegin(name=name):
                if self.calls and self._one_call:
                    self.problems.append(
                        Problem("surplus", name, event.id, "one call was allowed, and this is another")
                    )
                    self.over = True
                else:
                    self._open(name, passed)
            case ToolCallEnd():
                self._end(passed)
            case Problem(action="rejected"):
                self._break(event.kind, event.detail, event)
            case Problem():
                self.problems.append(event)

    def _on_content(self, text: str, passed: list[Event]) -> None:
        if text.isspace() and (self._must_call or self.calls):
            return
        if self.calls:
            self._reach.stop()
            self.problems.append(Problem("stray", None, text, "text behind the calls", "dropped"))
            self.over = True
            return
        if self._must_call or (self._pythonic and self._head is not None):
            self._reach.stop()
            self._break("missing", f"expected a tool call, got {text[:60]!r}")
        elif self._answer is not None:
            self._on_answer(text, passed)
        else:
            self.has_spoken = True
            self._say(text, passed)

    def _on_answer(self, text: str, passed: list[Event]) -> None:
        if self._matcher is None:
            # What doesn't begin like the answer may be said before a call.
            self._is_aside |= bool(self._tools and text.strip() and text.lstrip()[0] != "{")
            if self._is_aside or not text.strip():
                return
            self._open_answer(passed)
        fault = self._argue(text, passed)
        if self._matcher is not None and self._matcher.whole:
            self._reach.stop()
            self._end(passed)
        elif fault:
            self._reach.stop()
            self._break("schema", fault)

    def _say(self, text: str, passed: list[Event]) -> None:
        self._spelling.content(text)
        passed.append(ContentDelta(text))

    def _open(self, name: str, passed: list[Event]) -> None:
        self._flush(passed)
        self._name, self._head = name, None
        self._matcher = self._schemas[name].matcher()
        id = f"{PREFIX}{name}:{self._first_index + self.calls}"
        self._spelling.begin(id, name)
        passed.append(ToolCallBegin(self.calls, id, name))

    def _open_answer(self, passed: list[Event]) -> None:
        assert self._answer is not None
        self._flush(passed)
        self._name = self._head = None
        self._matcher = self._answer.matcher()

    def _new_matcher(self) -> Matcher:
        """A reader of what is open, from its beginning."""
        one = self._answer if self._name is None else self._schemas[self._name]
        assert one is not None
        return one.matcher()

    def _argue(self, text: str, passed: list[Event]) -> str | None:
        """More of the arguments, or of the answer. Returns what is wrong, if anything is."""
        assert self._matcher is not None
        held, read = self._matcher.held, self._matcher.read
        sure = self._matcher.feed(text)
        read = self._matcher.read - read
        if self._name is None and self._matcher.whole:
            length, sure = len(sure), sure.rstrip()
            read -= length - len(sure) + (self._matcher.fault is not None)
        self._reach.argue(read)
        if sure or self._matcher.held > held:
            self._flush(passed)
        if sure and self._name is None:
            self._say(sure, passed)
        elif sure:
            self._spelling.arguments(sure)
            passed.append(ArgumentsDelta(self.calls, sure))
        return self._matcher.fault

    def _flush(self, passed: list[Event]) -> None:
        """The engine went on from what we wrote, unless it is we who write."""
        if passed is not self._draft.events:
            passed += self._draft.take()

    def _end(self, passed: list[Event]) -> None:
        assert self._matcher is not None
        if not self._matcher.whole:
            self._break("truncated", "the call ended inside its arguments")
            return
        self._flush(passed)
        if self._name is None:
            self._matcher = None
            self.over = self.has_spoken = True
            return
        self._spelling.end()
        id = f"{PREFIX}{self._name}:{self._first_index + self.calls}"
        self._told_calls.append(f"{CALL_BEGIN}{id}{ARGUMENT_BEGIN}{self._matcher.text}")
        self._name = self._matcher = None
        passed.append(ToolCallEnd(self.calls))
        self.calls += 1
        self.over = self._one_call or self.calls >= _MAX_CALLS

    def _break(
        self,
        kind: ProblemKind,
        detail: str,
        problem: Problem | None = None,
        *,
        written: str = "",
        is_fault: bool = True,
    ) -> None:
        """`written`: what stands where a call's head might, if the parser takes it for none."""
        self.broken = problem or Problem(kind, self._name, "", detail)
        if is_fault:
            self.violations[self.broken.kind] += 1
        if self._matcher is not None:
            return
        if not self._tools and self.has_spoken:  # nobody may be called, and what was said stands
            self.problems.append(self.broken)
            self.broken, self.over = None, True
        elif self._tools and (self.in_call or self._must_call or self._answer is None):
            header = written or self._parser.header or header_of(problem)
            near = nearest(header, self._tools)
            # Where no call has to come, another tool than the one that was written is not the model's choice.
            if near is None and self._must_call and not self.calls:
                near = meant_by(header, self._tools)
            self._head = near if near is None else near or self._head or ""
