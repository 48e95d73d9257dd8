"""K2's output read as a stream: text in, events out.

                             ┌──────────────────── section end ─────────────────────┐
                             v                                                      │
    REASONING ──</think>─> CONTENT ──call begin──────┐                              │
        │                    │                       v                              │
        └──section begin─────┴─> SECTION ──call──> HEADER ──argument──> ARGUMENTS ──┤
                                    ^      begin            begin           │       │
                                    │                                 the value ends│
                                    │                                       v       │
                                    └────────────call end─────────────── TAIL ──────┘

Two verbs: `feed` and `close`. Each character is looked at once. A marker leads to the same state from wherever it
comes, which is how a missing one is forgiven; inside a JSON string it is text. Held back is only what can't be told
yet: the head of what may become a marker, and white space (or a role's label) that may stand alone beside a section.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto
from typing import Protocol

from abruzzi.protocol.calls import Calls, Check
from abruzzi.protocol.events import Action, ContentDelta, Event, Finish, Problem, ProblemKind, ReasoningDelta
from abruzzi.protocol.markers import (
    ALIASES,
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    MARKERS,
    SECTION_BEGIN,
    SECTION_END,
    THINK_BEGIN,
    THINK_END,
)
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.prompt import Control, Unescaper
from abruzzi.protocol.text import Text
from abruzzi.protocol.variants import Variant, variant_named


class Parser(Protocol):
    """What reads a model's output, in whatever format it is written."""

    def feed(self, text: str) -> list[Event]: ...
    def close(self, *, cut: bool = False) -> list[Event]: ...

    @property
    def in_call(self) -> bool:
        """Whether a call has begun, if only by a marker that one must follow."""
        ...

    @property
    def header(self) -> str:
        """What has come of a call's head while it isn't sure which tool's it is."""
        ...

    @property
    def stuck(self) -> tuple[ProblemKind, str] | None:
        """What is wrong with the call that is open, where that is sure before its end."""
        ...

    @property
    def over(self) -> bool:
        """Whether the turn has ended: what follows is no part of it."""
        ...


class _State(Enum):
    REASONING = auto()
    CONTENT = auto()
    SECTION = auto()
    HEADER = auto()
    ARGUMENTS = auto()
    TAIL = auto()
    DONE = auto()


# What an engine that hides control tokens prints of the next turn's head (failure 28).
_LABELS = ("user", "assistant", "system")
_SHOWN = 100


class StreamParser:
    """Reads K2's output piece by piece; the events of `feed` and `close` add up to one `Message`.

    `tools`: those declared; None takes any name.
    `check`: asked about each whole call (see `Check`).
    `first_index`: numbers the calls anew from there; None keeps the model's own numbers.
    `thinking`: whether the output begins inside the reasoning; None: as the variant's prompt has it.
    `by_id`: the pieces were made of token ids, so that a marker is one only as a `Control`, and text that spells one is
    text.
    `calls`: whether calls are read; without, their markers are text like any other.
    """

    def __init__(
        self,
        *,
        tools: Iterable[Tool] | None = None,
        variant: str | Variant = "k2",
        check: Check | None = None,
        first_index: int | None = None,
        thinking: bool | None = None,
        by_id: bool = False,
        calls: bool = True,
    ) -> None:
        row = variant_named(variant) if isinstance(variant, str) else variant
        self._by_id = by_id
        self._turn_ends = row.turn_ends if by_id else frozenset((row.turn_end, *row.turn_begin.values()))
        thinks = (THINK_BEGIN, THINK_END) if row.thinks else ()
        spellings = (*((*MARKERS, *ALIASES) if calls else ()), *thinks, *self._turn_ends)
        self._marker = re.compile("|".join(map(re.escape, spellings)))
        self._prefixes = frozenset(spelling[:n] for spelling in spellings for n in range(1, len(spelling)))
        self._longest = max(map(len, spellings))
        in_reasoning = row.thinks and (row.opens_thinking if thinking is None else thinking)
        self._state = _State.REASONING if in_reasoning else _State.CONTENT
        self._events: list[Event] = []
        self._say = self._events.append
        self._calls = Calls(self._say, tools, check, first_index, escaped=None if by_id else row)
        self._unescaper = None if by_id else Unescaper(row)
        self._buffer = ""  # what may still become a marker
        self._at_head = True  # nothing but white space has come
        self._thinking_open = False  # a section began before the reasoning had ended
        self._speaking = False  # this stretch of content holds more than white space
        self._held = Text()  # the head of a stretch of content, for as long as it may have to be dropped
        self._label = ""  # what of it is no white space
        self._label_over = False  # whether white space has followed that
        self._after_section = False
        self._in_section = False
        self._section_is_empty = True
        self._stray = Text()  # text between calls, or behind the turn's end
        self._cut = False

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of output, of any length."""
        if self._by_id:
            self._feed_piece(text)
        else:
            data = self._buffer + text if self._buffer else text
            self._buffer = ""
            at, end = 0, len(data)
            while at < end:
                at = self._arguments(data, at) if self._state is _State.ARGUMENTS else self._until_marker(data, at)
        return self._take()

    def close(self, *, cut: bool = False) -> list[Event]:
        """The output is over: say what was held back, and how it ended. `cut`: a limit ended it, not the model."""
        rest, self._buffer = self._buffer, ""
        if rest[1:] and cut and self._state in (_State.CONTENT, _State.REASONING):
            self._truncated(rest, "the output ended inside what may be a marker")
        elif self._state is not _State.TAIL:
            self._text(rest)
        self._leave(None)
        self._state = _State.DONE
        cut = cut or self._cut
        self._say(Finish("length" if cut else "tool_calls" if self._calls.count else "stop"))
        return self._take()

    @property
    def in_call(self) -> bool:
        if self._state is _State.SECTION:
            return self._section_is_empty
        return self._state in (_State.HEADER, _State.ARGUMENTS, _State.TAIL)

    @property
    def header(self) -> str:
        return self._calls.open_header if self._state in (_State.HEADER, _State.ARGUMENTS, _State.TAIL) else ""

    @property
    def stuck(self) -> tuple[ProblemKind, str] | None:
        match self._state:
            case _State.HEADER | _State.ARGUMENTS | _State.TAIL:
                return self._calls.hopeless(whole=self._state is _State.TAIL)
            case _State.SECTION if (stray := str(self._stray).strip()) and not stray[0].isalnum():
                return "header", f"expected {CALL_BEGIN} in a section of calls, got {stray[:_SHOWN]!r}"
        return None

    @property
    def over(self) -> bool:
        return self._state is _State.DONE

    @property
    def behind(self) -> int:
        """Characters that have come behind the turn's end."""
        return len(str(self._stray)) if self._state is _State.DONE else 0

    def _take(self) -> list[Event]:
        events = self._events.copy()
        self._events.clear()
        return events

    def _problem(self, kind: ProblemKind, text: str, detail: str, action: Action = "dropped") -> None:
        self._say(Problem(kind, None, text, detail, action))

    def _truncated(self, text: str, detail: str) -> None:
        self._cut = True
        self._problem("truncated", text, detail, "rejected")

    # Pieces, and the markers in them

    def _feed_piece(self, piece: str) -> None:
        if isinstance(piece, Control) and self._marker.fullmatch(piece):
            self._on_marker(ALIASES.get(piece, str(piece)))
            return
        at = 0
        while at < len(piece) and self._state is _State.ARGUMENTS:
            at = self._arguments(piece, at)
        self._text(piece[at:])

    def _until_marker(self, data: str, at: int) -> int:
        """Take the text from `at` up to the next marker, and the marker; return where to go on."""
        found = -1 if self._state is _State.DONE else data.find("<", at)
        while found >= 0:
            if marker := self._marker.match(data, found):
                self._text(data[at:found])
                self._on_marker(ALIASES.get(marker[0], marker[0]))
                return marker.end()
            if self._may_become_marker(data, found):
                self._text(data[at:found])
                self._buffer = data[found:]
                return len(data)
            found = data.find("<", found + 1)
        self._text(data[at:])
        return len(data)

    def _arguments(self, data: str, at: int) -> int:
        """The same for the arguments of a call: markers stand outside of strings only."""
        stop = self._calls.arguments(data, at)
        if self._calls.scanner.whole:
            self._state = _State.TAIL
        elif stop < len(data):  # on a `<`
            marker = None if self._by_id else self._marker.match(data, stop)
            if marker:
                self._on_marker(ALIASES.get(marker[0], marker[0]))
                return marker.end()
            if not self._by_id and self._may_become_marker(data, stop):
                self._buffer = data[stop:]
                return len(data)
            self._calls.argument_text(data[stop])
            return stop + 1
        return stop

    def _may_become_marker(self, data: str, at: int) -> bool:
        return len(data) - at < self._longest and data[at:] in self._prefixes

    def _text(self, text: str) -> None:
        if not text:
            return
        state = self._state
        if state is _State.CONTENT:
            self._content(text)
        elif state is _State.REASONING:
            self._at_head = self._at_head and text.isspace()
            self._say_text(text)
        elif state is _State.HEADER:
            self._calls.header(text)
        elif state is _State.ARGUMENTS:
            self._calls.argument_text(text)
        elif state is _State.TAIL:
            self._calls.tail.add(text)
        else:
            self._stray.add(text)

    def _on_marker(self, marker: str) -> None:
        """Leave the state for the one that the marker leads to, unless it makes no sense where it stands."""
        outside = self._state in (_State.CONTENT, _State.REASONING)
        if marker in (THINK_BEGIN, THINK_END):
            self._on_think(marker)
        elif self._state is _State.DONE:
            self._stray.add(marker)
        elif outside and marker in (SECTION_END, CALL_END, ARGUMENT_BEGIN):
            if not (self._after_section and marker != ARGUMENT_BEGIN):
                self._problem("stray", marker, "no call had begun")
        elif marker == ARGUMENT_BEGIN:
            self._open_arguments()
        else:
            self._leave(marker)
            self._enter(marker)

    def _leave(self, marker: str | None) -> None:
        """Conclude what was going on. `marker` is what ended it, None the end of the output."""
        over = marker is None or marker in self._turn_ends
        match self._state:
            case _State.REASONING:
                self._flush_text()
                self._thinking_open = True
            case _State.CONTENT:
                self._end_stretch(over=over)
            case _State.SECTION:
                self._end_section(marker, over=over)
            case _State.HEADER if over:
                self._cut_call()
            case _State.ARGUMENTS if marker is None or (over and self._calls.scanner.open):
                self._cut_call()
            case _State.HEADER if marker == CALL_BEGIN and self._calls.is_blank:
                pass  # written twice
            case _State.HEADER:
                self._calls.end_header(f"expected {ARGUMENT_BEGIN}, got {marker}")
            case _State.ARGUMENTS | _State.TAIL:
                self._calls.end()
            case _State.DONE:
                self._drop_stray("the turn had ended")

    def _cut_call(self) -> None:
        self._cut = True
        self._calls.reject("truncated", "the output ended inside the call")

    def _enter(self, marker: str) -> None:
        self._at_head = False
        if marker == SECTION_BEGIN:
            self._in_section, self._section_is_empty = True, True
            self._state = _State.SECTION
        elif marker == CALL_BEGIN:
            self._section_is_empty = False
            self._calls.begin()
            self._state = _State.HEADER
        elif marker == CALL_END and self._in_section:
            self._state = _State.SECTION
        elif marker in self._turn_ends:
            self._state = _State.DONE
        else:  # a section is over, or a call that stood in none
            self._in_section, self._after_section = False, True
            self._speaking = False
            self._state = _State.CONTENT

    def _open_arguments(self) -> None:
        """Arguments begin. Their header is what stands before, even where no marker told so (failure 21)."""
        if self._state is _State.ARGUMENTS:
            if self._calls.started:  # else it is written twice
                self._calls.spoil(f"expected JSON, got {ARGUMENT_BEGIN}")
                self._calls.argument_text(ARGUMENT_BEGIN)
            return
        if self._state is not _State.HEADER and not self._begin_unmarked():
            self._problem("stray", ARGUMENT_BEGIN, "no call's header stands before it")
            return
        self._calls.open()
        self._state = _State.ARGUMENTS

    def _begin_unmarked(self) -> bool:
        """Begin a call with the text behind the section's marker or the last value as its header, if there is any."""
        if self._state is _State.SECTION:
            header, self._stray = self._stray, Text()
        else:
            header, self._calls.tail = self._calls.tail, Text()
        if not str(header).strip():
            return False
        if self._state is _State.TAIL:
            self._calls.end()
        self._section_is_empty = False
        self._calls.begin(header)
        return True

    def _end_section(self, marker: str | None, *, over: bool) -> None:
        if not self._section_is_empty or marker in (CALL_BEGIN, SECTION_BEGIN):
            self._drop_stray(f"expected {CALL_BEGIN} in a section of calls")
            return
        stray, self._stray = str(self._stray), Text()
        if over:
            self._truncated(SECTION_BEGIN + stray, "the output ended before a call began")
        elif stray.strip():
            self._problem("header", SECTION_BEGIN + stray, f"expected {CALL_BEGIN}, got {marker}", "rejected")

    def _drop_stray(self, detail: str) -> None:
        stray, self._stray = str(self._stray), Text()
        if stray.strip():
            self._problem("stray", stray, detail)

    # Reasoning and content

    def _on_think(self, marker: str) -> None:
        begins = marker == THINK_BEGIN
        if begins and self._at_head and self._state in (_State.CONTENT, _State.REASONING):
            self._held = Text()
            self._state = _State.REASONING
        elif self._state is _State.REASONING and not begins:
            self._flush_text()
            self._state = _State.CONTENT
        elif not begins and (self._thinking_open or (self._state is _State.CONTENT and self._at_head)):
            self._thinking_open = False  # a call had ended the thinking already
        else:
            self._text(marker)
            return
        self._at_head = False

    def _content(self, text: str) -> None:
        """White space at a stretch's head is held, and what may be a label behind a section."""
        if self._speaking:
            self._say_text(text)
            return
        self._held.add(text)
        word = text.strip()
        if not word:
            self._label_over = bool(self._label)
        elif self._after_section and self._may_be_label(text, word):
            self._label += word
            self._label_over = text[-1].isspace()
        else:
            self._speak()

    def _say_text(self, text: str) -> None:
        """Reasoning or content, without what broke the spelling of markers in the prompt."""
        sure = text if self._unescaper is None else self._unescaper.feed(text)
        if sure:
            self._say((ReasoningDelta if self._state is _State.REASONING else ContentDelta)(sure))

    def _flush_text(self) -> None:
        if self._unescaper is not None and (held := self._unescaper.close()):
            self._say((ReasoningDelta if self._state is _State.REASONING else ContentDelta)(held))

    def _may_be_label(self, text: str, word: str) -> bool:
        if self._label and (self._label_over or text[0].isspace()):
            return False
        return any(label.startswith(self._label + word) for label in _LABELS)

    def _speak(self) -> None:
        """What was held is content."""
        self._say_text(str(self._held))
        self._held, self._label, self._label_over = Text(), "", False
        self._speaking, self._at_head, self._after_section = True, False, False

    def _end_stretch(self, *, over: bool) -> None:
        """A call begins or the output is over: white space that stands alone beside a section is dropped, and so is a
        label at the end.
        """
        if over and self._label in _LABELS:
            self._problem("stray", str(self._held), "the label of a next turn")
        elif self._label or (over and self._held and not self._after_section):
            self._speak()
        self._flush_text()
        self._held, self._label, self._label_over = Text(), "", False
