"""The guard: an output of which only what some valid turn begins with is let through, and a way on from there.

    engine ── text ──> Watch: parser ── events ──> matcher of the call's schema ──> events for the client
                         │
                         └─ broken: `resume` adds what must follow; the engine goes on behind `prefix`

There is always a way on: the engine's or, in the end, our own (`finish`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import reduce
from typing import Any

from abruzzi.guide.anew import Anew
from abruzzi.guide.endless import Length
from abruzzi.guide.matcher import Matcher
from abruzzi.guide.strings import common_prefix
from abruzzi.guide.watch import Watch
from abruzzi.protocol.errors import OutputError
from abruzzi.protocol.events import Event
from abruzzi.protocol.markers import CALL_BEGIN, SECTION_BEGIN

# Steps of the shortest way to the end of a call; no schema in use takes a tenth of them.
_MAX_STEPS = 5_000
_HEADS = (SECTION_BEGIN, CALL_BEGIN)


class Guard(Watch):
    """Watches one turn, and goes on with it where it is `broken`: either `resume` and have the engine go on behind
    `prefix`, or `finish`.
    """

    def __init__(self, *arguments: Any, continues: bool = True, **options: Any) -> None:
        """`continues`: whether the engine goes on behind `prefix`. To one that always answers anew nothing is added: it
        would have to tell it in the same way.
        """
        super().__init__(*arguments, **options)
        self._continues = continues
        self.forced = 0
        """Characters that were added."""

    @property
    def prefix(self) -> str:
        """The turn so far: what the engine is to go on behind."""
        if self._matcher is not None:
            return self._spelling.going_on(self._matcher.pending)
        return str(self._spelling) if self._head is None else f"{self._spelling}{self._spelling.head(self._head)}"

    @property
    def spelled(self) -> str:
        """The turn so far, as it is written without mistakes."""
        return str(self._spelling)

    def resume(self) -> None:
        """Make ready to go on behind `prefix`, to which all that must follow was added."""
        if self.broken is None and self._must_call and not self.calls:
            self._head = ""
        if self.broken is not None and self._head is None and self._matcher is None and not self.owes:
            self.problems.append(self.broken)  # what was begun isn't gone on with
        self._recover()
        draft = self._draft
        count = len(draft.events)
        if draft.before is None and self._matcher is None:
            draft.before = deepcopy(self._spelling), self.calls, count
        if self.owes and not self._must_call and self._head is None and self._matcher is None:
            self._open_answer(draft.events)
        if self._continues:
            self._force()
        if len(draft.events) == count:
            draft.before = None
        self._listen()

    def help(self) -> None:
        """Write the next part of the call ourselves: the engine doesn't come to it."""
        if self._matcher is None:
            return
        try:
            self._write(self._matcher.step())
        except LookupError:
            return
        self._force()
        self._listen()

    def finish(self) -> list[Event]:
        """Write the rest of the call that is open, or must come, by the shortest way; the engine may go on behind it.
        Raises OutputError where none is found.
        """
        self._recover()
        try:
            if self._matcher is None and self.owes:
                if self._must_call:
                    self._open_any()
                else:
                    self._open_answer(self._draft.events)
            if self._matcher is not None:
                for text in _steps(self._matcher):
                    self._write(text)
                self._end(self._draft.events)
        except LookupError as error:
            what = f"a call of {self._name or 'a tool'}" if self._must_call or self._name else "the answer"
            reason = f"{what} can't be finished: {error}"
            raise OutputError(reason, self.violations) from None
        events = self._draft.take()
        self.over |= self._pythonic  # the list is closed
        self._listen()
        return events

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
            trial = self._new_matcher()
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

    def _recover(self) -> None:
        self.broken, self._is_aside = None, False
        self._length = Length()
        if self._matcher is None:
            return
        self._matcher.recover()
        left = self._spelling.settle(self._matcher.pending)
        if left is not None:
            self._matcher = self._new_matcher()
            self._spelling.restart(self._matcher.feed(left))

    def _force(self) -> None:
        """Write what every valid turn goes on with."""
        while not self.over:
            if self._matcher is None:
                if self._head is None:
                    return
                names = [tool.name for tool in self._tools if tool.name.startswith(self._head)]
                if len(names) != 1:
                    longer = reduce(common_prefix, names) if names else ""
                    self.forced += len(longer) - len(self._head)
                    self._head = longer
                    return
                self._open(names[0], self._draft.events)
            elif self._matcher.whole:
                self._end(self._draft.events)
                return
            else:
                text = self._matcher.forced()
                if not text or (self._pythonic and not self._is_writable(text)) or not self._write(text):
                    return

    def _is_writable(self, text: str) -> bool:
        """Whether JSON's text has a twin in the pythonic format by itself."""
        assert self._matcher is not None
        return text in ("}", ": ") or (text == "{" and not self._matcher.text) or (text[-1] == '"' and len(text) > 3)

    def _write(self, text: str) -> bool:
        """Returns whether it stands: a value that is judged when it is whole may be none."""
        assert self._matcher is not None
        self.forced += len(text)
        if self._argue(text, self._draft.events) is None:
            return True
        self._matcher.recover()
        return False

    def _open_any(self) -> None:
        """Begin a call of the tool that the engine seems to mean, or of any that can be finished."""
        meant = [tool for tool in self._tools if tool.name.startswith(self._head)] if self._head else []
        for tool in (*meant, *self._tools):
            matcher = self._schemas[tool.name].matcher()
            try:
                for text in _steps(matcher):
                    matcher.feed(text)
            except LookupError:
                continue
            self._open(tool.name, self._draft.events)
            return
        raise LookupError("no arguments were found that its schema allows")

    # What the engine is to go on behind

    def _listen(self) -> None:
        """Make ready for an engine that goes on behind `prefix`, or answers anew."""
        self._begin_parser(self.prefix)
        self._reach = self._new_reach()
        arguments = None
        if self._matcher is not None and not self._matcher.may_begin_object and not self._pythonic:
            arguments = self._matcher.text + self._matcher.pending
        before = self._draft.before  # a call that only we have begun is begun anew
        told = self._told_calls if before is None else self._told_calls[: before[1]]
        self._anew = Anew(self.prefix, self._heads(), arguments, told, open=self.is_calling)

    def _heads(self) -> tuple[str, ...]:
        """What an answer begins with that doesn't go on behind `prefix`."""
        if self._pythonic:
            return ("[",) if self._head is not None else ()
        if self._matcher is not None and self._name is None:
            return ()  # an answer, which begins like many a value inside of it
        if self._head is not None or self._matcher is not None:
            return _HEADS
        if self._draft.before is not None:  # behind a whole call that only we have begun, of which another is none
            return _HEADS[:1]
        return _HEADS if self.calls else ()


def _steps(matcher: Matcher) -> Iterator[str]:
    """The shortest way to the end of its text, part by part."""
    for _ in range(_MAX_STEPS):
        if matcher.whole:
            return
        yield matcher.step()
        matcher.recover()
    raise LookupError("no end of its arguments was found")
