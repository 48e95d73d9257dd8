"""The calls of one output: their headers resolved, their arguments followed, each handed out or taken back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from abruzzi.protocol.events import ArgumentsDelta, Event, Problem, ProblemKind, ToolCallBegin, ToolCallEnd
from abruzzi.protocol.header import Header, may_take, read_header
from abruzzi.protocol.json_scanner import JsonScanner
from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.prompt import Unescaper, unescape
from abruzzi.protocol.text import Text
from abruzzi.protocol.variants import Variant

Check = Callable[[str, str], str | None]
"""(tool's name, its arguments as JSON text) -> what is wrong with them, or None."""

_SPACE = re.compile(r"\s*")
_SHOWN = 100
_NAMED = 20
_LONGEST_HEADER = 1000
# What a damaged header may hold beside a tool's name.
_SLACK = 80


class Calls:
    """Reads one call after the other and says what comes of it.

    A call goes through `begin`, `header`, `open`, `arguments` and `tail`, and ends with `end` or `reject`. An object of
    arguments whose tool is known goes out as it comes; anything else is held until the call is whole.
    """

    def __init__(
        self,
        say: Callable[[Event], None],
        tools: Iterable[Tool] | None,
        check: Check | None,
        first_index: int | None,
        escaped: Variant | None,
    ) -> None:
        """`escaped`: the variant whose broken spellings are to be mended in the arguments, if any."""
        self._say = say
        self._escaped = escaped
        self._tools = None if tools is None else {tool.name: tool for tool in tools}
        self._longest = max(map(len, self._tools or ()), default=0) + _SLACK
        self._check = check
        self._first_index = first_index
        self._ids: set[str] = set()
        self._next: dict[str, int] = {}  # the number from which on a name's ids are free, once it has had one twice
        self.count = 0
        """How many have been handed out whole."""
        self.begin()

    def begin(self, header: Text | None = None) -> None:
        self._header = header or Text()
        self._opened = False
        self._meant = Header((), None)
        self._name: str | None = None
        self._id: str | None = None
        self._fault: tuple[ProblemKind, str] | None = None
        self._raw = Text()  # the arguments as written
        self.scanner = JsonScanner()
        """Where the arguments stand: `whole` once their value has ended."""
        self._unescaper = None if self._escaped is None else Unescaper(self._escaped)
        self.started = False
        """Whether anything of the arguments but white space has come."""
        self._head = ""  # the first character of the arguments
        self._streams = False
        self.tail = Text()
        """What stands behind the arguments' value: white space, or the header of a next call."""

    def header(self, text: str) -> None:
        self._header.add(text)

    @property
    def is_blank(self) -> bool:
        """Whether nothing of the call has come but its first marker."""
        return not self._opened and not str(self._header).strip()

    @property
    def open_header(self) -> str:
        """The header of a call that has not begun for whoever reads the events."""
        return str(self._header)[: self._longest + 1] if self._id is None else ""

    def hopeless(self, *, whole: bool) -> tuple[ProblemKind, str] | None:
        """What is wrong with the call, where nothing that follows can mend it. `whole`: its arguments have ended."""
        if self._fault is not None:
            return self._fault
        if not self._opened:
            header = str(self._header)
            # Arguments without their marker may follow a name at once.
            if len(header) > self._longest and "{" not in header[: self._longest + 1] and self._tools is not None:
                return "header", f"expected functions.NAME:N, got {header[:_SHOWN]!r}"
            return None
        if self.started and self._head not in ("{", '"', "n"):
            return "schema", f"expected an object of arguments, got {str(self._raw).strip()[:_SHOWN]!r}"
        junk = str(self.tail).strip() if whole and self.tail else ""
        if junk and not (junk[0].isalnum() or junk[0] == "_"):
            return "not_json", f"expected the end of the arguments, got {junk[:_SHOWN]!r}"
        return None

    def open(self) -> None:
        """The header is whole, the arguments begin."""
        text = str(self._header)
        self._opened = True
        self._meant = read_header(text, self._tools)
        if self._meant.undeclared is not None:
            self._name = self._meant.undeclared
            self._fault = ("undeclared", f"expected one of {self._declared()}, got {self._name!r}")
        elif len(self._meant.names) == 1:
            self._resolve(self._meant.names[0])
        elif not self._meant.names and not self._meant.nameless:
            self._fault = ("header", f"expected functions.NAME:N, got {text.strip()[:_SHOWN]!r}")

    def end_header(self, detail: str) -> None:
        """The call is over and its arguments had no marker. They may stand in the header, `functions.NAME:N{...}`, or
        there are none.
        """
        text = str(self._header)
        at = text.find("{") if "{" in text else len(text)
        meant = read_header(text[:at], self._tools)
        if not (meant.canonical or meant.undeclared or (meant.names and at < len(text))):
            self.reject("header", detail)
            return
        self.tail.add(text[self._take_from_header(text, 0, detail) :])
        self.end()

    def arguments(self, data: str, at: int) -> int:
        """Take the arguments from `at` on, up to the value's end, a `<` outside of strings, or the end of `data`;
        return where.
        """
        if not self.started:
            at = self._skip_space(data, at)
        stop = self.scanner.scan(data, at)
        if stop > at:
            self.argument_text(data[at:stop])
        return stop

    def argument_text(self, text: str) -> None:
        self._raw.add(text)
        if self._streams:
            sure = text if self._unescaper is None else self._unescaper.feed(text)
            if sure:
                self._say(ArgumentsDelta(self.count, sure))

    def spoil(self, detail: str) -> None:
        """The arguments are no JSON, whatever follows."""
        self._fault = self._fault or ("not_json", detail)
        self._streams = False

    def end(self) -> None:
        """The call is over, and maybe others whose markers are missing, `{...}functions.NAME:N{...}`."""
        tail = str(self.tail)
        at = 0
        while self._is_headed(tail, at):
            self.tail = Text()
            self._end_this()
            self.begin()
            at = self._take_from_header(tail, at, f"expected {CALL_BEGIN} and {ARGUMENT_BEGIN}")
        self.tail = Text([tail[at:]])
        self._end_this()

    def _is_headed(self, text: str, at: int) -> bool:
        """Whether a call's header stands there, with arguments that no marker begins."""
        brace = text.find("{", at, at + _LONGEST_HEADER)
        return brace > at and bool(read_header(text[at:brace], self._tools).names)

    def _take_from_header(self, text: str, at: int, detail: str) -> int:
        """Read a header and the arguments behind it; returns where these end."""
        brace = text.find("{", at)
        header = text[at:brace] if brace >= 0 else text[at:]
        self._header = Text([header])
        self._say(Problem("header", None, f"{CALL_BEGIN}{header}", detail, "mended"))
        self.open()
        at += len(header)
        while at < len(text) and not self.scanner.whole:
            at = self.arguments(text, at)
            if text[at : at + 1] == "<" and not self.scanner.whole:
                self.argument_text("<")
                at += 1
        return at

    def _end_this(self) -> None:
        """Hand out what is left of the call, or take it back."""
        if junk := str(self.tail).strip():
            self.spoil(f"expected the end of the arguments, got {junk[:_SHOWN]!r}")
        text = str(self._raw).strip() or "{}"
        if self._escaped is not None:
            text = unescape(text, self._escaped)
        if self._fault is None:
            text = self._judged(text)
        if self._fault is not None:
            self.reject(*self._fault)
            return
        rest = text if not self._streams else self._unescaper.close() if self._unescaper else ""
        if rest:
            self._say(ArgumentsDelta(self.count, rest))
        self._say(ToolCallEnd(self.count))
        self._ids.add(self._id or "")
        self.count += 1
        self._raw = Text()

    def reject(self, kind: ProblemKind, detail: str) -> None:
        """Take the call back."""
        raw = f"{CALL_BEGIN}{self._header}"
        if self._opened:
            raw += f"{ARGUMENT_BEGIN}{self._raw}{self.tail}"
        self._say(Problem(kind, self._name, raw, detail, index=None if self._id is None else self.count))

    def _skip_space(self, data: str, at: int) -> int:
        """White space before the value is no part of it. Only an object is handed out as it comes."""
        found = _SPACE.match(data, at)
        assert found is not None  # the pattern matches the empty string, too
        self._raw.add(found[0])
        at = found.end()
        if at < len(data) and data[at] != "<":
            self.started, self._head = True, data[at]
            self._streams = self._id is not None and data[at] == "{"
        return at

    def _judged(self, text: str) -> str:
        """The arguments as they may be handed out. Sets `fault` where they may not."""
        try:
            text, value = self._object(text)
        except (ValueError, RecursionError) as error:
            self._fault = ("not_json", f"expected JSON, got {error}")
            return text
        if not isinstance(value, dict):
            self._fault = ("schema", f"expected an object of arguments, got {text[:_SHOWN]}")
            return text
        if self._name is None:
            self._infer(text, value)
            return text
        del value  # the check makes one of its own, which may be as large
        if self._check is not None and (detail := self._check(self._name, text)):
            self._fault = ("schema", detail)
        return text

    def _object(self, text: str) -> tuple[str, Any]:
        """The arguments and their value, mended where they are `null` or were encoded twice."""
        value = _loads(text)
        inner = _loads(value.strip() or "null") if isinstance(value, str) else value
        if inner is None:
            mended, inner = "{}", {}
        elif isinstance(value, str) and isinstance(inner, dict):
            mended = value.strip()
            mended.encode()  # UnicodeEncodeError, a ValueError, for half a surrogate pair
        else:
            return text, value
        detail = f"expected an object of arguments, took {text[:_SHOWN]} for {mended[:_SHOWN]}"
        self._say(Problem("encoding", self._name, text, detail, "mended"))
        return mended, inner

    def _infer(self, text: str, value: dict[str, Any]) -> None:
        """Find the tool by the arguments, where the header leaves it open and only one can take them."""
        declared = self._tools or {}
        names = [
            name
            for name in (self._meant.names or declared)
            if may_take(declared[name], value) and not (self._check and self._check(name, text))
        ]
        if len(names) == 1:
            self._resolve(names[0])
            return
        takers = f"which {', '.join(names)} may all take" if names else "which no declared tool takes"
        header = str(self._header).strip()[:_SHOWN]
        self._fault = ("header", f"expected functions.NAME:N, got {header!r} with arguments {takers}")

    def _resolve(self, name: str) -> None:
        """The call's tool is known: the call begins."""
        self._name = name
        if not self._meant.canonical:
            detail = f"expected functions.NAME:N, took it for {name}, the only one that it can mean"
            self._say(Problem("header", name, f"{CALL_BEGIN}{self._header}", detail, "mended"))
        self._id = self._new_id(name)
        self._say(ToolCallBegin(self.count, self._id, name))

    def _new_id(self, name: str) -> str:
        if self._first_index is not None:
            return f"functions.{name}:{self._first_index + self.count}"
        index = self.count if self._meant.index is None else self._meant.index
        if f"functions.{name}:{index}" in self._ids:
            index = max(index, self._next.get(name, 0))
            while f"functions.{name}:{index}" in self._ids:
                index += 1
            self._next[name] = index + 1
        return f"functions.{name}:{index}"

    def _declared(self) -> str:
        names = list(self._tools or ())
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return ", ".join(names[:_NAMED]) + more or "no tool"


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name}, which JSON does not have")
