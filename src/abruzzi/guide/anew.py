"""Engines that answer once more from the beginning when they are asked to go on behind a prefix."""

from __future__ import annotations

import re
from collections.abc import Sequence

from abruzzi.guide.reach import BLOCK
from abruzzi.protocol.markers import CALL_END, SECTION_BEGIN, THINK_BEGIN

# Characters that may come before it is told; and so many alike, of what was said before the call and its beginning,
# tell it.
_PATIENCE = 2 * BLOCK
_ALIKE = 16
# Inside a string no text goes on like that, but for one that is a brace alone.
_object_begins = re.compile(r'\{\s*"').match


class Anew:
    """Reads the beginning of what comes behind `prefix`, the turn so far, until it is told whether it goes on.

    `heads`: what no text has that goes on there, and a call begins with. `arguments`: those that the prefix ends with,
    where no object may begin there. `calls`: those that are whole, without their ends: told once more from the first on
    they are no others. `open`: it ends inside a call that has gone out, of which a second telling is no news.
    """

    def __init__(
        self,
        prefix: str,
        heads: tuple[str, ...],
        arguments: str | None = None,
        calls: Sequence[str] = (),
        *,
        open: bool,
    ) -> None:
        self._prefix = prefix
        self._heads = heads
        self._arguments = arguments
        self._calls = tuple(calls)
        at, head = min(((at, head) for head in heads if (at := prefix.find(head)) >= 0), default=(0, ""))
        said = prefix[:at].lstrip()
        self._tellings = (THINK_BEGIN, *([(said + head)[:_ALIKE]] if said else ())) if heads else ()
        self._open = open
        self._pieces: list[str] = []
        self._lead = ""
        self._skips = False  # what it says before the call was said once
        self._repeats = False  # so far it tells of whole calls alone
        self.is_told = not heads and arguments is None
        self.again: str | None = None
        """What the engine begins with, where it begins anew at a call's head."""
        self.strays: str | None = None
        """What it begins with, where that is another call than the one that is open."""
        self.begins_arguments = False
        """Whether it begins the arguments anew, of which nothing has gone out."""

    def feed(self, text: str) -> Sequence[str]:
        """Take more. Returns what is to be read, in the pieces that it came in: nothing until it is told."""
        self._pieces.append(text)
        self._lead += text
        begun = self._lead.lstrip()
        if self._skips or (begun.startswith(self._tellings) and not begun.startswith(self._heads)):
            self._skips = True
            at = min((found for head in self._heads if (found := self._lead.find(head)) >= 0), default=-1)
            if at < 0:
                return ()
            self._lead = begun = self._lead[at:]
        beginnings = (*self._heads, *self._tellings)
        if len(self._lead) < _PATIENCE and any(one.startswith(begun) and one != begun for one in beginnings):
            return ()
        if self._arguments is not None and not begun and len(self._lead) < _PATIENCE:
            return ()
        if self._arguments is not None and begun.startswith("{"):
            return self._behind_arguments(begun, self._arguments)
        again = next((head for head in self._heads if begun.startswith(head)), None)
        if again is None:
            return self.rest()
        if self._open:
            return self._behind_known(begun, again)
        return self._behind_calls(begun, again)

    def rest(self) -> Sequence[str]:
        """What was kept back: it goes on, or there is no more."""
        return self._last("" if self._repeats else self._lead)

    def _last(self, text: str) -> Sequence[str]:
        """It is told, and this is to be read: what came last."""
        self.is_told = True
        pieces: list[str] = []
        length = len(text)
        while length > 0:
            piece = self._pieces.pop()
            pieces.insert(0, piece if len(piece) <= length else piece[-length:])
            length -= len(piece)
        return pieces

    def _behind_known(self, begun: str, head: str) -> Sequence[str]:
        """What comes behind that of the call which has gone out."""
        at, is_alike = _behind(begun, self._prefix[self._prefix.rfind(head) :])
        if is_alike is None:
            return ()
        if not is_alike:
            self.strays = begun
        return self._last(begun[at:])

    def _behind_calls(self, begun: str, head: str) -> Sequence[str]:
        """What comes behind the calls that are whole, as far as they are told once more; all, if none is."""
        start = at = len(SECTION_BEGIN) if head == SECTION_BEGIN else 0
        for part in (one for call in self._calls for one in (call, CALL_END)):
            length, is_alike = _behind(begun[at:], part)
            if is_alike is None:
                self._repeats = True
                return ()
            if not is_alike:
                break
            at += length
        self.again, self._repeats = head, False
        return self._last(begun[at:] if at > start else begun)

    def _behind_arguments(self, begun: str, known: str) -> Sequence[str]:
        """What comes behind the arguments so far, if they are told once more, with white space of any kind."""
        at, is_alike = _behind(begun, known)
        if is_alike is None and len(begun) < _PATIENCE + len(known):
            return ()
        if not is_alike:
            self.begins_arguments = is_alike is False and not self._open and _object_begins(begun) is not None
            return self.rest()
        return self._last(begun[at:])


def _behind(text: str, known: str) -> tuple[int, bool | None]:
    """How much of the text is what is known, white space aside, and whether that is all of it; None where the text
    breaks off before that.
    """
    packed, whole = "".join(text.split()), "".join(known.split())
    if len(packed) < len(whole) and whole.startswith(packed):
        return len(text), None
    at = 0
    for character in known:
        if character.isspace():
            continue
        while at < len(text) and text[at].isspace():
            at += 1
        if text[at] != character:
            return at, False
        at += 1
    if known[-1:].isspace():  # which the text has here, too
        at += len(text[at:]) - len(text[at:].lstrip())
        if at == len(text):
            return at, None
    return at, True
