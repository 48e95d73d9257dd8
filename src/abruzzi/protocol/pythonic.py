"""The pythonic call format as a stream: `[get_weather(location='beijing'), ping()]`.

Values are literals of Python or JSON, nested as they like; nothing is ever evaluated. Positional arguments take the
names of the schema's properties in their order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Mapping

from abruzzi.protocol.calls import Check
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
from abruzzi.protocol.literals import Reader, Source, SyntaxFault, Unfinished, value
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.parser import StreamParser
from abruzzi.protocol.text import Text
from abruzzi.protocol.variants import Variant

_NAME = re.compile(r"[^\s()\[\]{},='\"]+")
_BEFORE_MARKER = re.compile("(?=<)")
_KEYWORD = re.compile(r"[^()\[\]{},='\"]*")
# Where it can't be told yet whether calls begin; bounded, so that waiting for more costs no more with every piece.
_HEAD = re.compile(r"\[\s{0,16}([^\s()\[\]{},='\"]{1,256})(\s{0,16})\(")
_HEAD_BEGUN = re.compile(r"\[\s{0,16}(?:[^\s()\[\]{},='\"]{1,256}\s{0,16})?")


def writable_name(name: str) -> bool:
    """Whether a function of this name can be written in this format."""
    return _NAME.fullmatch(name) is not None


def writable_keyword(name: str) -> bool:
    """Whether a parameter of this name can be."""
    return bool(name) and _KEYWORD.fullmatch(name) is not None and name == name.strip()


class PythonicParser:
    """`StreamParser`'s twin for the pythonic format: an output that begins like `[NAME(` is calls, any other is
    content. The options are those of `StreamParser`, and `refuses_k2`: calls in K2's own format are no content, but
    problems.
    """

    def __init__(
        self,
        *,
        tools: Iterable[Tool] | None = None,
        variant: str | Variant = "k2",
        check: Check | None = None,
        first_index: int | None = None,
        thinking: bool | None = None,
        refuses_k2: bool = False,
    ) -> None:
        self._tools = None if tools is None else {tool.name: tool for tool in tools}
        self._check = check
        self._first_index = first_index or 0
        # It takes the reasoning off and ends with the turn.
        self._front = StreamParser(tools=(), variant=variant, thinking=thinking, calls=refuses_k2)
        self._events: list[Event] = []
        self._lead: Text | None = Text()  # white space before all else; None once it is told what the output is
        self._head = ""  # what can't be told yet to be calls or content
        self._source = Source()
        self._reader: Generator[None] | None = None  # while calls are being read
        self._fault: SyntaxFault | None = None
        self._blank: Text | None = None  # white space behind the calls
        self._count = 0
        self._called_from = 0
        self._raw = Text()  # what was written of the calls
        self._name: str | None = None
        self._begun = False
        self._rejection: tuple[ProblemKind, str] | None = None
        self._arguments = Text()
        self._delta: list[str] = []  # arguments that are to go out

    def feed(self, text: str) -> list[Event]:
        """Take the next piece of output, of any length."""
        # Inside the calls a marker is text like any other, so that only what stands around them is looked at for some.
        for piece in _BEFORE_MARKER.split(text):
            if self._reader is not None and self._fault is None:
                self._raw.add(piece)
                self._read(piece)
            else:
                self._read_around(piece)
        return self._take()

    def _read_around(self, text: str) -> None:
        for event in self._front.feed(text):
            self._on_event(event)

    def close(self, *, cut: bool = False) -> list[Event]:
        """The output is over; `cut`: a limit ended it."""
        for event in self._front.close(cut=cut):
            if isinstance(event, Finish):
                cut = event.reason == "length"
            else:
                self._on_event(event)
        if self._lead is not None:
            self._close_head(cut=cut)
        if self._reader is not None and self._fault is None:
            self._source.over = True
            self._read("")
        if self._fault is not None:
            cut_call = isinstance(self._fault, Unfinished)
            self._reject("truncated" if cut_call else "syntax", str(self._fault))
            cut = cut or cut_call
        self._say(Finish("length" if cut else "tool_calls" if self._count else "stop"))
        return self._take()

    @property
    def in_call(self) -> bool:
        return bool(self._head) or self._reader is not None

    @property
    def header(self) -> str:
        if self._head:
            return self._head.removeprefix("[").strip()
        return "" if self._begun or self._reader is None else self._name or ""

    @property
    def stuck(self) -> tuple[ProblemKind, str] | None:
        if self._reader is None:
            return self._front.stuck
        if self._fault is not None and not isinstance(self._fault, Unfinished):
            return "syntax", str(self._fault)
        return self._rejection

    @property
    def over(self) -> bool:
        return self._front.over

    def _take(self) -> list[Event]:
        self._flush()
        events, self._events = self._events, []
        return events

    def _say(self, event: Event) -> None:
        self._flush()
        self._events.append(event)

    def _flush(self) -> None:
        if self._delta:
            self._events.append(ArgumentsDelta(self._count, "".join(self._delta)))
            self._delta.clear()

    def _on_event(self, event: Event) -> None:
        if not isinstance(event, ContentDelta):
            self._say(event)
            return
        text = event.text if self._lead is None else self._decided(event.text)
        if self._fault is not None:
            self._raw.add(text)
        elif self._reader is not None:
            self._raw.add(text)
            self._read(text)
        elif text:
            self._content(text)

    def _decided(self, text: str) -> str:
        """Tell whether the output is calls; returns what is to be read of it by now."""
        assert self._lead is not None
        head = self._head + text
        if not self._head:
            body = head.lstrip()
            self._lead.add(head[: len(head) - len(body)])
            head = body
        self._head = head
        if not head or _HEAD_BEGUN.fullmatch(head):
            return ""
        found = _HEAD.match(head)
        lead, self._lead, self._head = str(self._lead), None, ""
        if found and (not found[2] or self._tools is None or found[1] in self._tools):
            self._reader = self._calls()
            return head
        return lead + head

    def _close_head(self, *, cut: bool) -> None:
        begins = f"{self._lead}{self._head}"
        self._lead = None
        if cut and self._head:
            self._fault = Unfinished("the output ended before a call")
            self._raw.add(begins)
        elif begins:
            self._content(begins)

    def _content(self, text: str) -> None:
        """White space alone behind the calls is dropped."""
        if self._blank is not None:
            self._blank.add(text)
            if text.isspace():
                return
            text, self._blank = str(self._blank), None
        self._say(ContentDelta(text))

    def _read(self, text: str) -> None:
        self._source.feed(text)
        assert self._reader is not None
        try:
            next(self._reader)
        except StopIteration:
            self._reader = None
            self._blank = Text()
            self._read_around(self._source.text[self._source.at :])
        except SyntaxFault as fault:
            self._fault = fault

    def _calls(self) -> Reader:
        source = self._source
        yield from source.expect("[")
        while not (yield from source.accept("]")):
            yield from source.peek()
            self._called_from = source.position
            yield from self._call()
            if not (yield from source.accept(",")):
                self._called_from = source.position
                yield from source.expect("]")
                break

    def _call(self) -> Reader:
        source = self._source
        self._begun, self._rejection = False, None
        self._arguments = Text()
        self._name = yield from source.run(_NAME)
        source.at += len(self._name)
        if not self._name:
            source.fail("a function's name")
        yield from source.expect("(")
        tool = (self._tools or {}).get(self._name)
        if tool is None and self._tools is not None:
            declared = ", ".join(self._tools) or "no tool"
            self._rejection = ("undeclared", f"expected one of {declared}, got {self._name!r}")
        else:
            self._begun = True
            id = f"functions.{self._name}:{self._first_index + self._count}"
            self._say(ToolCallBegin(self._count, id, self._name))
        properties = (tool.parameters or {}).get("properties") if tool else None
        yield from self._members(list(properties) if isinstance(properties, Mapping) else [])
        self._end()

    def _members(self, properties: list[str]) -> Reader:
        source = self._source
        self._emit("{")
        given: set[str] = set()
        keywords = False
        while not (yield from source.accept(")")):
            name = yield from self._keyword()
            if name is not None:
                keywords = True
            elif keywords:
                source.fail("NAME=VALUE behind the first keyword argument")
            elif len(given) < len(properties):
                name = properties[len(given)]
            else:
                self._refuse(f"expected at most {len(properties)} positional arguments")
                name = f"_{len(given)}"
            if self._tools is not None and name not in properties and not name.isidentifier():
                self._refuse(f"expected a parameter's name, got {name!r}")
            if name in given:
                self._refuse(f"expected one value for {name!r}, got two")
            self._emit((", " if given else "") + json.dumps(name, ensure_ascii=False) + ": ")
            given.add(name)
            yield from value(source, self._emit)
            if not (yield from source.accept(",")):
                yield from source.expect(")")
                break
        self._emit("}")

    def _keyword(self) -> Generator[None, None, str | None]:
        """The name before a `=`, taken, or None where a value stands."""
        source = self._source
        if (yield from source.peek()) in "'\"([{":
            return None
        run = yield from source.run(_KEYWORD)
        if source.text[source.at + len(run)] != "=" or not run.strip():
            return None
        source.at += len(run) + 1
        return run.strip()

    def _emit(self, text: str) -> None:
        self._arguments.add(text)
        if self._begun and self._rejection is None:
            self._delta.append(text)

    def _refuse(self, detail: str) -> None:
        self._rejection = self._rejection or ("schema", detail)

    def _end(self) -> None:
        assert self._name is not None
        if self._rejection is None and self._check is not None:
            detail = self._check(self._name, str(self._arguments))
            self._rejection = ("schema", detail) if detail else None
        if self._rejection is not None:
            self._reject(*self._rejection)
        else:
            self._say(ToolCallEnd(self._count))
            self._count += 1
        self._begun, self._name = False, None

    def _reject(self, kind: ProblemKind, detail: str) -> None:
        """Take the call back, with all that was written since it began (and behind it, where nothing more is read)."""
        end = None if self._fault is not None else self._source.position
        text = str(self._raw)[self._called_from : end]
        index = self._count if self._begun else None
        self._say(Problem(kind, self._name, text, detail, index=index))
