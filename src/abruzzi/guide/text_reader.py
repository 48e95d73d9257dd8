"""Text that is read character by character through states; what can't be judged yet is held, or dropped."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from abruzzi.guide.outlet import Outlet
from abruzzi.guide.threads import Container, Thread

# A state: takes a text and where to begin, returns where the next state is to begin.
Reader = Callable[[str, int], int]

space = re.compile(r"[ \t\n\r]*").match
# More white space than any pretty-printer writes: a model that lost its way writes it for ever (failure 55).
MAX_SPACE = 500
# Characters of a value that a message repeats.
SHOWN = 40


class _Mark(NamedTuple):
    """Where a held value begins: the open containers, and what was expected there; no threads where what is held is a
    whole member or item, with its comma.
    """

    depth: int
    reader: Reader
    threads: list[Thread]


class TextReader:
    """`feed` takes a piece and returns what may go out by now. `fault` says what is wrong with the first character that
    can't stand; `recover` goes on from before it.
    """

    def __init__(self, reader: Reader, threads: list[Thread]) -> None:
        self._reader = reader
        self._threads = threads
        self._stack: list[Container] = []
        self._marks: list[_Mark] = []
        self._outlet = Outlet()
        self._data, self._from = "", 0
        self._partial = ""  # the head of an escape, or a comma
        self._spaces = 0
        self.fault: str | None = None
        self.read = 0
        """How many characters were looked at, with those of values that were dropped; less what can't be told yet."""

    def feed(self, text: str) -> str:
        """Take the next piece; returns what is sure to stand, some of which may have come before."""
        data = self._data = self._partial + text if self._partial else text
        self._partial, self._from = "", 0
        at, end = 0, len(data)
        while at < end and self.fault is None and not self._partial:
            at = self._reader(data, at)
        self._put(at)
        self.read += at
        return self._outlet.take()

    @property
    def pending(self) -> str:
        """What is held: it may stand so far."""
        return self._outlet.held

    @property
    def held(self) -> int:
        """How many characters are held."""
        return self._outlet.length

    @property
    def text(self) -> str:
        """All that went out."""
        return self._outlet.taken

    def recover(self) -> None:
        """Go on from before the fault."""
        self.fault, self._partial, self._spaces = None, "", 0

    def _put(self, at: int) -> None:
        """What was read up to `at` goes out, or is held."""
        if at > self._from:
            self._outlet.put(self._data[self._from : at])
            self._from = at

    def _mark(self, at: int, reader: Reader, threads: list[Thread]) -> None:
        """What comes from `at` on is held. If it is dropped, `reader` goes on there."""
        self._put(at)
        self._marks.append(_Mark(len(self._stack), reader, threads))
        self._outlet.mark()

    def _release(self, at: int) -> None:
        """What is held since the last mark stands."""
        self._put(at)
        self._marks.pop()
        self._outlet.release()

    def _drop(self) -> None:
        """Back to the last mark."""
        mark = self._marks.pop()
        self._outlet.drop()
        del self._stack[mark.depth :]
        self._reader, self._threads = mark.reader, mark.threads
        if self._stack and not mark.threads:
            self._stack[-1].holds_entry = False
        self._partial = ""

    def _break(self, at: int, expected: str) -> int:
        found = self._data[at : at + SHOWN]
        self.fault = f"expected {expected}, got {found!r} (at {self._path()})"
        self.read += 1
        return at

    def _fail(self, at: int, expected: str, found: str) -> int:
        """The held value is whole and wrong."""
        self._put(at)
        self._drop()
        self.fault = f"expected {expected}, got {found[:SHOWN]} (at {self._path()})"
        return at

    def _path(self) -> str:
        steps = (f".{one.key}" if one.is_object else f"[{one.count}]" for one in self._stack)
        return "$" + "".join(steps)

    def _skip_space(self, text: str, at: int) -> int:
        end = space(text, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
        self._spaces += end - at
        if self._spaces > MAX_SPACE:
            return self._break(end - (self._spaces - MAX_SPACE), f"at most {MAX_SPACE} characters of white space")
        if end < len(text):
            self._spaces = 0
        return end
