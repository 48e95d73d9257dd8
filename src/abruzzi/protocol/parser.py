"""K2's output read as a stream: text in, events out.

    CONTENT ──section begin──> SECTION ──call begin──> HEADER ──argument begin──> ARGUMENTS
       ^                          │ ^                                                 │
       └───────section end────────┘ └──────────────────call end───────────────────────┘

Two verbs: `feed` and `close`. Each character is looked at once. What may still become a marker is held back, and
nothing else is, except that with a `check` a call is held until the whole of it has passed. Inside a JSON string a
marker is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import Protocol

from abruzzi.protocol.events import (
    ArgumentsDelta,
    ContentDelta,
    Event,
    Finish,
    Problem,
    ProblemKind,
    ToolCallBegin,
    ToolCallEnd,
)
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.variants import (
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    MARKERS,
    SECTION_BEGIN,
    SECTION_END,
    Variant,
    variant_named,
)

Check = Callable[[str, str], str | None]
"""(tool's name, its arguments as JSON text) -> what is wrong with them, or None."""


class Parser(Protocol):
    """What reads a model's output, in whatever format it is written."""

    def feed(self, text: str) -> list[Event]: ...
    def close(self, *, cut: bool = False) -> list[Event]: ...


class _State(Enum):
    CONTENT = auto()
    SECTION = auto()
    HEADER = auto()
    ARGUMENTS = auto()
    DONE = auto()


# K2 now and then writes the section's markers in the singular (failure 16).
_ALIASES = {"<|tool_call_section_begin|>": SECTION_BEGIN, "<|tool_call_section_end|>": SECTION_END}
_HEADER = re.compile(r"(?:functions\.)?(?P<name>.+):(?P<index>\d+)", re.DOTALL)
_IN_STRING = re.compile(r'["\\]')


class StreamParser:
    """Reads K2's output piece by piece; the events of `feed` and `close` add up to one `Message`.

    `tools` are those declared (None: any name is taken). `check` is asked about each whole call. `first_index`
    numbers the calls anew from there; None keeps the model's own numbers.
    """

    def __init__(
        self,
        *,
        tools: Iterable[Tool] | None = None,
        variant: str | Variant = "k2",
        check: Check | None = None,
        first_index: int | None = None,
    ) -> None:
        row = variant_named(variant) if isinstance(variant, str) else variant
        self._declared = None if tools is None else frozenset(tool.name for tool in tools)
        self._check = check
        self._first_index = first_index
        self._turn_end = row.turn_end
        spellings = (*MARKERS, *_ALIASES, row.turn_end)
        self._marker = re.compile("|".join(re.escape(spelling) for spelling in spellings))
        self._outside_string = re.compile(r'[{}\[\]"]|' + self._marker.pattern)
        self._prefixes = frozenset(spelling[:n] for spelling in spellings for n in range(1, len(spelling)))
        self._longest = max(map(len, spellings))
        self._state = _State.CONTENT
        self._events: list[Event] = []
        self._buffer = ""  # what may still become a marker
        self._blank: list[str] = []  # white space at the head of content, dropped if nothing else follows
        self._stray: list[str] = []  # text in a section, where only calls belong
        self._in_section = False
        self._speaking = False  # whether this stretch of content has had anything else
        self._calls = 0
        self._cut = False
        self._header: list[str] = []
        self._begin_call()
        self._seen = False

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of output, of any length."""
        data, self._buffer = self._buffer + text, ""
        at = 0
        while at < len(data) and self._state is not _State.DONE:
            at = self._arguments(data, at) if self._state is _State.ARGUMENTS else self._until_marker(data, at)
        return self._take()

    def close(self, *, cut: bool = False) -> list[Event]:
        """The output is over: say what was held back, and how it ended. `cut`: a limit ended it, not the model."""
        data, self._buffer = self._buffer, ""
        if data and cut and self._state is _State.CONTENT:
            self._cut = True
            self._events.append(Problem("truncated", None, data, "the output ended inside what may be a marker"))
        elif data:
            self._text(data)
        if self._state is _State.ARGUMENTS and self._value_is_whole():
            self._end_call()
        elif self._state in (_State.HEADER, _State.ARGUMENTS):
            self._cut = True
            self._problem("truncated", self._name, "the output ended inside the call")
        elif self._blank and not self._calls:
            self._events.append(ContentDelta("".join(self._blank)))
        self._end_section()
        self._state = _State.DONE
        self._events.append(Finish("length" if self._cut or cut else "tool_calls" if self._calls else "stop"))
        return self._take()

    def _take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # Text up to the next marker

    def _until_marker(self, data: str, at: int) -> int:
        found = self._marker.search(data, at)
        if found:
            self._text(data[at : found.start()])
            self._on_marker(_ALIASES.get(found[0], found[0]))
            return found.end()
        keep = self._possible_marker(data, at)
        self._text(data[at:keep])
        self._buffer = data[keep:]
        return len(data)

    def _possible_marker(self, data: str, at: int) -> int:
        """Where the longest tail of `data[at:]` begins that a marker may grow from."""
        for start in range(max(at, len(data) - self._longest + 1), len(data)):
            if data[start:] in self._prefixes:
                return start
        return len(data)

    def _text(self, text: str) -> None:
        if not text:
            return
        if self._state is _State.CONTENT:
            self._content(text)
        elif self._state is _State.HEADER:
            self._header.append(text)
        elif self._state is _State.ARGUMENTS:
            self._argument_text(text)
        elif self._state is _State.SECTION:
            self._stray.append(text)

    def _end_section(self) -> None:
        """Text between a section's calls is dropped (failure 24), but not in silence where there is no call at all."""
        stray = "".join(self._stray).strip()
        if self._in_section and not self._seen and stray:
            self._events.append(Problem("header", None, stray, f"expected {CALL_BEGIN} in a section of calls"))
        self._stray, self._in_section, self._seen = [], False, False

    def _content(self, text: str) -> None:
        if not self._speaking and not text.strip():
            self._blank.append(text)
            return
        self._events.append(ContentDelta("".join((*self._blank, text))))
        self._blank = []
        self._speaking = True

    def _on_marker(self, marker: str) -> None:
        if marker == self._turn_end:
            if self._state is _State.HEADER:
                self._problem("truncated", None, "the turn ended inside the call's header")
            self._state = _State.DONE
        elif marker == CALL_BEGIN:
            if self._state is _State.HEADER:
                self._problem("header", None, "another call began inside the call's header")
            self._begin_call()
            self._state = _State.HEADER
        elif marker == ARGUMENT_BEGIN and self._state is _State.HEADER:
            self._on_header("".join(self._header).strip())
            self._state = _State.ARGUMENTS
        elif marker in (CALL_END, SECTION_END) and self._state is _State.HEADER:
            self._problem("header", None, f"expected {ARGUMENT_BEGIN}, got {marker}")
            self._state = _State.SECTION if marker == CALL_END else _State.CONTENT
        elif marker == SECTION_BEGIN and self._state is _State.CONTENT:
            self._blank = []
            self._state = _State.SECTION
            self._in_section = True
        elif marker == SECTION_END:
            self._end_section()
            self._state = _State.CONTENT
            self._speaking = False

    # A call

    def _begin_call(self) -> None:
        self._header = []
        self._seen = True  # that this section has a call
        self._name: str | None = None
        self._id = ""
        self._fault: tuple[ProblemKind, str] | None = None
        self._raw: list[str] = []  # the arguments as written; only kept where the call may have to be shown whole
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._begun = False
        self._space: list[str] = []

    def _on_header(self, header: str) -> None:
        found = _HEADER.fullmatch(header)
        if found is None:
            self._fault = ("header", f"expected functions.NAME:N, got {header!r}")
            return
        self._name, index = found["name"], int(found["index"][:9])
        if self._declared is not None and self._name not in self._declared:
            self._fault = (
                "undeclared",
                f"expected one of {', '.join(sorted(self._declared)) or 'no tool'}, got {self._name!r}",
            )
            return
        if self._first_index is not None:
            index = self._first_index + self._calls
        self._id = f"functions.{self._name}:{index}"

    def _arguments(self, data: str, at: int) -> int:
        """Follow the JSON far enough to know whether we stand inside a string; outside one a marker ends the call."""
        if self._in_string:
            if self._escaped:
                self._escaped = False
                self._argument_text(data[at])
                return at + 1
            found = _IN_STRING.search(data, at)
            end = found.end() if found else len(data)
            self._argument_text(data[at:end])
            if found:
                self._escaped, self._in_string = found[0] == "\\", found[0] != '"'
            return end
        found = self._outside_string.search(data, at)
        if not found:
            keep = self._possible_marker(data, at)
            self._argument_text(data[at:keep])
            self._buffer = data[keep:]
            return len(data)
        if len(found[0]) == 1:
            self._depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(found[0], 0)
            self._in_string = found[0] == '"'
            self._argument_text(data[at : found.end()])
            return found.end()
        self._argument_text(data[at : found.start()])
        self._end_call()
        self._state = _State.SECTION
        self._on_marker(_ALIASES.get(found[0], found[0]))
        return found.end()

    def _argument_text(self, text: str) -> None:
        if not text:
            return
        self._raw.append(text)
        if self._check is not None or self._fault is not None:
            return
        # White space round the value is no part of it: dropped before it, held behind it until more of a value comes.
        text = text if self._begun else text.lstrip()
        value = text.rstrip() if self._depth == 0 and not self._in_string else text
        if value:
            self._begin_if_needed()
            self._events.append(ArgumentsDelta(self._calls, "".join((*self._space, value))))
            self._space = []
        self._space.append(text[len(value) :])

    def _begin_if_needed(self) -> None:
        if not self._begun:
            assert self._name is not None
            self._events.append(ToolCallBegin(self._calls, self._id, self._name))
            self._begun = True

    def _value_is_whole(self) -> bool:
        return not self._in_string and self._depth == 0 and any(part.strip() for part in self._raw)

    def _end_call(self) -> None:
        text = "".join(self._raw).strip() or "{}"
        if self._fault is None and self._check is not None and self._name is not None:
            self._fault = self._verdict(self._name, text)
        if self._fault is not None:
            kind, detail = self._fault
            self._problem(kind, self._name, detail)
            return
        if not self._begun:
            self._begin_if_needed()
            self._events.append(ArgumentsDelta(self._calls, text))
        self._events.append(ToolCallEnd(self._calls))
        self._calls += 1

    def _verdict(self, name: str, text: str) -> tuple[ProblemKind, str] | None:
        assert self._check is not None
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            return "not_json", f"expected JSON, got {error}"
        fault = self._check(name, text)
        return ("schema", fault) if fault else None

    def _problem(self, kind: ProblemKind, name: str | None, detail: str) -> None:
        raw = CALL_BEGIN + "".join(self._header)
        if self._state is _State.ARGUMENTS:
            raw += ARGUMENT_BEGIN + "".join(self._raw)
        self._events.append(Problem(kind, name, raw, detail))
