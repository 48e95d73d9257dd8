"""The guard: an output on its way to the client, of which only what some valid output begins with is let through.

    engine ── text ──> Guard: parser ── events ──> matcher of the call's schema ──> events for the client
                         │
                         └─ broken: `resume` adds what must follow; the engine goes on behind `prefix`

What an engine writes is read by the codec's parser, which forgives what is unambiguous, and the arguments of each call
are followed character by character. What went out is never taken back: it is the beginning of a valid turn, and there
is always a way on, the engine's or, in the end, our own (`finish`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from copy import deepcopy

from abruzzi.guide.json_reader import common_prefix
from abruzzi.guide.matcher import Matcher
from abruzzi.guide.schema import Schemas
from abruzzi.guide.spelling import Spelling, spelling_of
from abruzzi.protocol.errors import OutputError
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
from abruzzi.protocol.markers import CALL_BEGIN, SECTION_BEGIN
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.parser import Parser, StreamParser
from abruzzi.protocol.prompt import Control, going_on
from abruzzi.protocol.pythonic import PythonicParser
from abruzzi.protocol.variants import Variant

# Characters that may come without a word of them standing: the longest header, or white space before a call.
_MAX_SILENCE = 2_000
# So many blocks of characters, each of which repeats one short period, are no text any more (failure 55 in another
# form), and neither is an output that is longer than any context.
_BLOCK = 4_096
_MAX_BLOCKS = 8
_MAX_PERIOD = 64
_MAX_OUTPUT = 1_000_000
# More calls than a turn of any model has.
_MAX_CALLS = 128
# Steps of the shortest way to the end of a call; no schema in use takes a tenth of them.
_MAX_STEPS = 5_000
_PREFIX = "functions."
_NAME_END = re.compile(r"[:(<{\s]")
_HEADS = (SECTION_BEGIN, CALL_BEGIN)


class Guard:
    """Reads one turn. `feed` and `close` take what the engine writes and return the events that may go out.

    `tools`: those that may be called. `must_call`: a call has to come, and no content. `one_call`: the turn is over
    with its first call. `by_id`: the pieces were made of token ids, so that only a `Control` is a marker.

    `broken` says what is wrong with the engine's output where it can't go on as it is; then either `resume` and have
    the engine go on behind `prefix`, or `finish`.
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
        self._parser = self._new_parser()
        self._spelling: Spelling = spelling_of(variant, thinking, pythonic=pythonic)
        self._name: str | None = None  # the tool of the call that is open
        self._matcher: Matcher | None = None
        self._header = ""  # the beginning of a tool's name, behind a call's head
        self._calling = False  # whether a call's head is part of the prefix
        self._queue: list[Event] = []  # what we wrote, until the engine has gone on from there
        # The spelling, the calls and the queue before what only we have written.
        self._before: tuple[Spelling, int, int] | None = None
        self._lead = ""  # what the engine's part begins with, until it is told to go on or to begin anew
        self._at_head = False
        self._silence = 0
        self._block = ""
        self._repeats = 0  # blocks in a row that repeat a period
        self._part = 0  # characters since the engine was asked last
        self.ran_away = False
        """Whether it was cut as at a limit."""
        self.calls = 0
        """Calls that are whole."""
        self.has_spoken = False
        """Whether there was content."""
        self.broken: Problem | None = None
        self.over = False
        """Whether nothing more is wanted of the engine."""
        self.problems: list[Problem] = []
        """What was mended or dropped."""
        self.violations: Counter[str] = Counter()
        """How often the engine's output couldn't go on as it was."""
        self.forced = 0
        """Characters that were added."""

    def _new_parser(self) -> Parser:
        check = self._schemas.fault
        options = {"tools": self._tools, "variant": self._variant, "check": check, "thinking": self._thinking}
        if self._pythonic:
            return PythonicParser(first_index=self._first_index, refuses_k2=True, **options)  # type: ignore[arg-type]
        return StreamParser(first_index=self._first_index, by_id=self._by_id, **options)  # type: ignore[arg-type]

    # What the engine writes

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of output."""
        self._measure(text)
        events: list[Event] = []
        if self._at_head:
            text = self._begin_part(text)
        if text:
            self._silence += len(text)
            self._read(self._parser.feed(text), events)
            self._look_closer(events)
        return events

    def close(self, *, cut: bool) -> list[Event]:
        """The engine ended its output; `cut`: a limit or a stop sequence of the client's ended it."""
        events: list[Event] = []
        lead, self._lead, self._at_head = self._lead, "", False
        if lead:
            self._read(self._parser.feed(lead), events)
        for event in self._parser.close(cut=cut):
            if cut and isinstance(event, Problem) and event.kind == "truncated":
                self.problems.append(event)  # no fault of the engine's
            else:
                self._read([event], events)
        if cut and self._matcher is not None:
            return events
        if self.broken is None and not self.over and not cut:
            if self._matcher is not None:
                self._break("truncated", "the output ended inside the call")
            elif self._calling or (self._must_call and not self.calls):
                self._break("missing", "expected a tool call, got the end of the output")
        if self.broken is None:
            events += self.settled()
        return events

    def settled(self) -> list[Event]:
        """What we wrote and may go out now that the engine has come to an end; what only we have begun may not."""
        self._calling = False
        if self._matcher is not None and self._before is not None:
            self._forget_queue()
        events, self._queue = self._queue, []
        return events

    def _begin_part(self, text: str) -> str:
        """Some engines answer once more from a call's head when they are asked to go on behind it. Returns what is to
        be read of the text: nothing until that is told, and then what goes on.
        """
        self._lead += text
        begun = self._lead.lstrip()
        heads = self._heads()
        if len(self._lead) < _MAX_SILENCE and any(head.startswith(begun) and head != begun for head in heads):
            return ""
        again = next((head for head in heads if begun.startswith(head)), None)
        if again is not None and self._matcher is not None and self._before is None:
            return self._skip_known(begun, again)
        lead, self._lead, self._at_head = self._lead, "", False
        if again is None:
            return lead
        self._forget_queue()
        self._begin_parser(str(self._spelling))
        return Control(lead) if isinstance(text, Control) else lead

    def _heads(self) -> Sequence[str]:
        """What an answer begins with that doesn't go on behind `prefix`."""
        if self._pythonic:
            return ("[",) if self._calling else ()
        if self._calling or self._matcher is not None:
            return _HEADS
        # Behind a whole call another may begin, but no other section.
        return _HEADS[:1] if self._before is not None else ()

    def _skip_known(self, begun: str, head: str) -> str:
        """Skip what the prefix holds already of an answer that begins anew."""
        known = self.prefix
        known = known[known.rfind(head) :]
        if known.startswith(begun) and len(begun) < len(known):
            return ""
        self._lead, self._at_head = "", False
        if begun.startswith(known):
            return begun[len(known) :]
        self._break("header", f"expected the call to go on, got {begun[:60]!r}")
        return ""

    def _forget_queue(self) -> None:
        """What we wrote of a call never was."""
        if self._before is not None:
            self._spelling, self.calls, queued = self._before
            self._name = self._matcher = self._before = None
            del self._queue[queued:]
        self._calling, self._header = False, ""

    def _read(self, events: Iterable[Event], passed: list[Event]) -> None:
        for event in events:
            if self.broken is not None or self.over:
                break
            self._on(event, passed)

    def _look_closer(self, passed: list[Event]) -> None:
        """What no event tells of yet may be wrong for sure."""
        if passed or (self._matcher is not None and self._matcher.held):
            self._silence = 0
        if self.broken is not None or self.over:
            return
        if self._parser.over:
            self._read(self._parser.close(), passed)
            if self.broken is None and not self.over:
                self._end_early()
            return
        if self._repeats >= _MAX_BLOCKS or self._part > _MAX_OUTPUT:
            self._run_away()
            return
        wrong = self._parser.stuck
        if wrong is None and self._silence > _MAX_SILENCE:
            wrong = f"expected a call, got {_MAX_SILENCE} characters of none"
        if wrong is None:
            return
        if self.calls and self._matcher is None and not self._parser.header.strip():
            # Behind a whole call, and no other has begun.
            self.problems.append(Problem("stray", None, "", wrong, "dropped"))
            self.over = True
        else:
            self._break("syntax" if self._pythonic else "header", wrong)

    def _measure(self, text: str) -> None:
        """Count what may be without an end."""
        self._part += len(text)
        self._block += text
        while len(self._block) >= _BLOCK:
            block, self._block = self._block[:_BLOCK], self._block[_BLOCK:]
            repeats = any(block[period:] == block[:-period] for period in range(1, _MAX_PERIOD))
            self._repeats = self._repeats + 1 if repeats else 0

    def _run_away(self) -> None:
        """The engine repeats itself for ever: what it says outside of calls ends there as at a limit."""
        if self._matcher is not None or (self._must_call and not self.calls):
            self._break("runaway", "expected an end, got the same over and over, or more than any context holds")
        else:
            self.over = self.ran_away = True

    def _end_early(self) -> None:
        """The turn's end has come, and the engine may go on behind it."""
        if self._matcher is not None:
            self._break("truncated", "the turn ended inside the call")
        elif self._must_call and not self.calls:
            self._break("missing", "expected a tool call, got the end of the turn")
        else:
            self.over = True

    def _on(self, event: Event, passed: list[Event]) -> None:
        match event:
            case ReasoningDelta(text):
                self._spelling.reasoning(text)
                passed.append(event)
            case ContentDelta(text):
                self._on_content(text, passed)
            case ToolCallBegin(name=name):
                if self.calls and self._one_call:
                    self.problems.append(
                        Problem("surplus", name, event.id, "one call was allowed, and this is another")
                    )
                    self.over = True
                else:
                    self._open(name, passed)
            case ArgumentsDelta(text=text):
                self._argue(text, passed)
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
            self.problems.append(Problem("stray", None, text, "text behind the calls", "dropped"))
            self.over = True
            return
        if self._must_call or (self._pythonic and self._calling):
            self._break("missing", f"expected a tool call, got {text[:60]!r}")
            return
        self.has_spoken = True
        self._spelling.content(text)
        passed.append(ContentDelta(text))

    def _open(self, name: str, passed: list[Event]) -> None:
        if passed is not self._queue:
            self._flush(passed)
        self._name, self._header, self._calling = name, "", False
        self._matcher = self._schemas[name].matcher()
        id = f"{_PREFIX}{name}:{self._first_index + self.calls}"
        self._spelling.begin(id, name)
        passed.append(ToolCallBegin(self.calls, id, name))

    def _argue(self, text: str, passed: list[Event]) -> None:
        assert self._matcher is not None
        held = self._matcher.held
        sure = self._matcher.feed(text)
        if sure:
            self._spelling.arguments(sure)
        if self._queue and passed is not self._queue and (sure or self._matcher.held > held):
            self._flush(passed)
        if sure:
            passed.append(ArgumentsDelta(self.calls, sure))
        if self._matcher.fault is not None:
            self._break("schema", self._matcher.fault)

    def _flush(self, passed: list[Event]) -> None:
        """The engine went on from what we wrote."""
        self._before = None
        passed += self._queue
        self._queue.clear()

    def _end(self, passed: list[Event]) -> None:
        assert self._matcher is not None
        if not self._matcher.whole:
            self._break("truncated", "the call ended inside its arguments")
            return
        if passed is not self._queue:
            self._flush(passed)
        self._spelling.end()
        self._name = self._matcher = None
        passed.append(ToolCallEnd(self.calls))
        self.calls += 1
        self.over = self._one_call or self.calls >= _MAX_CALLS

    def _break(self, kind: ProblemKind, detail: str, problem: Problem | None = None) -> None:
        self.broken = problem or Problem(kind, self._name, "", detail)
        self.violations[self.broken.kind] += 1
        if self._matcher is not None:
            return
        if not self._tools and self.has_spoken:  # nobody may be called, and what was said stands
            self.problems.append(self.broken)
            self.broken, self.over = None, True
        elif self._tools:
            written = self._parser.header.strip().removeprefix(_PREFIX)
            self._header = self._begun_name(written) or self._header
            # Where no call has to come, another tool than the one that was written is not the model's choice.
            self._calling = self._must_call or not written or self._is_meant(written)

    def _is_meant(self, written: str) -> bool:
        """Whether a tool's name, or a good part of it, is what was written."""
        name = _NAME_END.split(written, 1)[0]
        near = len(self._header) > 2 and 3 * len(self._header) >= len(name)
        return near or name.startswith(tuple(tool.name for tool in self._tools))

    def _begun_name(self, header: str) -> str:
        """The tool's name that a damaged head holds, or as much of it as one begins with."""
        if whole := [tool.name for tool in self._tools if len(tool.name) > 2 and tool.name in header]:
            return max(whole, key=len)
        return max((common_prefix(tool.name, header) for tool in self._tools), key=len, default="")

    def choose(self, text: str, alternatives: Sequence[tuple[str, float]]) -> list[Event]:
        """The engine went wrong inside `text`, a token of its: take the likeliest of what else it might have written
        that can stand, if any does.
        """
        events: list[Event] = []
        if self._matcher is None or self._pythonic:
            return events
        so_far = self._matcher.text + self._matcher.pending
        taken = next((n for n in range(len(text), -1, -1) if so_far.endswith(text[:n])), 0)
        for other, _ in sorted(alternatives, key=lambda one: -one[1]):
            trial = self._schemas[self._name or ""].matcher()
            trial.feed(so_far)
            if len(other) > taken and other.startswith(text[:taken]) and trial.fault is None:
                trial.feed(other[taken:])
                if trial.fault is None and not trial.whole:
                    broken = self.broken
                    self._recover()
                    self._argue(other[taken:], events)
                    self.broken = broken  # the engine doesn't know of it
                    return events
        return events

    # What we write

    @property
    def is_calling(self) -> bool:
        """Whether a call has gone out in part."""
        return self._matcher is not None and self._before is None

    @property
    def prefix(self) -> str:
        """The turn so far: what the engine is to go on behind."""
        if self._matcher is not None:
            pending = "" if self._pythonic else self._matcher.pending
            return f"{self._spelling}{pending}"
        return f"{self._spelling}{self._spelling.head(self._header)}" if self._calling else str(self._spelling)

    def resume(self) -> None:
        """Make ready to go on behind `prefix`, to which all that must follow was added."""
        if self.broken is None and self._must_call and not self.calls:
            self._calling = True
        self._recover()
        queued = len(self._queue)
        if self._before is None and self._matcher is None:
            self._before = (deepcopy(self._spelling), self.calls, queued)
        self._force()
        if len(self._queue) == queued:
            self._before = None
        self._begin_parser(self.prefix)
        self._at_head = True

    def help(self) -> None:
        """Write the next part of the call ourselves: the engine doesn't come to it."""
        if self._matcher is None:
            return
        try:
            self._write(self._matcher.step())
        except LookupError:
            return
        self._force()
        self._begin_parser(self.prefix)

    def finish(self) -> list[Event]:
        """End the turn without the engine, by the shortest way. Raises OutputError where none is found."""
        self._recover()
        try:
            if self._matcher is None and self._must_call and not self.calls:
                self._open_any()
            steps = 0
            while self._matcher is not None and not self._matcher.whole:
                self._write(self._matcher.step())
                self._matcher.recover()
                steps += 1
                if steps > _MAX_STEPS:
                    raise LookupError("no end of its arguments was found")
        except LookupError as error:
            reason = f"a call of {self._name or 'a tool'} can't be finished: {error}"
            raise OutputError(reason, self.violations) from None
        if self._matcher is not None:
            self._end(self._queue)
        self.over = True
        events, self._queue = self._queue, []
        return events

    @property
    def spelled(self) -> str:
        """The turn so far, as it is written without mistakes."""
        return str(self._spelling)

    def _recover(self) -> None:
        self.broken = None
        self._silence, self._repeats, self._part, self._block, self._lead = 0, 0, 0, "", ""
        if self._matcher is None:
            return
        self._matcher.recover()
        left = self._spelling.settle()
        if left is not None and self._name is not None:
            self._matcher = self._schemas[self._name].matcher()
            self._matcher.feed(left)

    def _force(self) -> None:
        """Write what every valid turn goes on with."""
        while not self.over:
            if self._matcher is None:
                if not self._calling:
                    return
                names = [tool.name for tool in self._tools if tool.name.startswith(self._header)]
                if len(names) != 1:
                    longer = _shared(names)
                    self.forced += len(longer) - len(self._header)
                    self._header = longer
                    return
                self._open(names[0], self._queue)
            elif self._matcher.whole:
                self._end(self._queue)
                return
            else:
                text = self._matcher.forced()
                if not text or (self._pythonic and not self._is_writable(text)):
                    return
                self._write(text)

    def _is_writable(self, text: str) -> bool:
        """Whether JSON's text has a twin in the pythonic format by itself."""
        assert self._matcher is not None
        return text in ("}", ": ") or (text == "{" and not self._matcher.text) or (text[-1] == '"' and len(text) > 3)

    def _write(self, text: str) -> None:
        self.forced += len(text)
        self._argue(text, self._queue)
        self.broken = None

    def _open_any(self) -> None:
        """Begin a call of the tool that the engine seems to mean, or of any that can be finished."""
        meant = [tool for tool in self._tools if tool.name.startswith(self._header)] if self._header else []
        for tool in (*meant, *self._tools):
            matcher = self._schemas[tool.name].matcher()
            try:
                while not matcher.whole:
                    matcher.feed(matcher.step())
                    matcher.recover()
            except LookupError:
                continue
            self._open(tool.name, self._queue)
            return
        raise LookupError("no arguments were found that its schema allows")

    def _begin_parser(self, text: str) -> None:
        """A parser that stands behind the text."""
        self._parser = self._new_parser()
        for part in going_on(text, self._variant) if self._by_id else (text,):
            self._parser.feed(part)


def _shared(names: Sequence[str]) -> str:
    shared = names[0] if names else ""
    for name in names[1:]:
        shared = common_prefix(shared, name)
    return shared
