"""Engines that answer once more from the beginning when they are asked to go on behind a prefix."""

from __future__ import annotations

import re

from abruzzi.protocol.markers import THINK_BEGIN

# Characters that may come before it is told; and so many alike, of what was said before the call, tell it.
_PATIENCE = 2_000
_ALIKE = 16
_UNTOLD = -1
# Inside a string no text goes on like that, but for one that is a brace alone.
_object_begins = re.compile(r'\{\s*"').match


class Anew:
    """Reads the beginning of what comes behind `prefix`, the turn so far, until it is told whether it goes on.

    `heads`: what no text has that goes on there, and a call begins with. `arguments`: those that the prefix ends with,
    where no object may begin there. `open`: it ends inside a call that has gone out, of which a second telling
    is no news.
    """

    def __init__(self, prefix: str, heads: tuple[str, ...], arguments: str | None = None, *, open: bool) -> None:
        self._prefix = prefix
        self._heads = heads
        self._arguments = arguments
        said = prefix[: min((at for head in heads if (at := prefix.find(head)) >= 0), default=None)].lstrip()
        tellings = (THINK_BEGIN, said[:_ALIKE]) if len(said) >= _ALIKE else (THINK_BEGIN,)
        self._tellings = tellings if heads else ()
        self._open = open
        self._lead = ""
        self._skips = False  # what it says before the call was said once
        self.is_told = not heads and arguments is None
        self.again: str | None = None
        """What the engine begins with, where it begins anew at a call's head."""
        self.strays: str | None = None
        """What it begins with, where that is another call than the one that is open."""
        self.begins_arguments = False
        """Whether it begins the arguments anew, of which nothing has gone out."""

    def feed(self, text: str) -> str:
        """Take more. Returns what is to be read: nothing until it is told."""
        self._lead += text
        begun = self._lead.lstrip()
        if self._skips or (begun.startswith(self._tellings) and not begun.startswith(self._heads)):
            self._skips = True
            at = min((found for head in self._heads if (found := self._lead.find(head)) >= 0), default=-1)
            if at < 0:
                return ""
            self._lead = begun = self._lead[at:]
        beginnings = (*self._heads, *self._tellings)
        if len(self._lead) < _PATIENCE and any(one.startswith(begun) and one != begun for one in beginnings):
            return ""
        if self._arguments is not None and not begun and len(self._lead) < _PATIENCE:
            return ""
        if self._arguments is not None and begun.startswith("{"):
            return self._behind_arguments(begun, self._arguments)
        again = next((head for head in self._heads if begun.startswith(head)), None)
        if again is None:
            return self.rest()
        if self._open:
            return self._behind_known(begun, again)
        self.again = again
        return self.rest()

    def rest(self) -> str:
        """What was kept back: it goes on, or there is no more."""
        self.is_told = True
        lead, self._lead = self._lead, ""
        return lead

    def _behind_known(self, begun: str, head: str) -> str:
        """What comes behind that of the call which has gone out."""
        at = _behind(begun, self._prefix[self._prefix.rfind(head) :])
        if at == _UNTOLD:
            return ""
        self.is_told = True
        if at is not None:
            return begun[at:]
        self.strays = begun
        return ""

    def _behind_arguments(self, begun: str, known: str) -> str:
        """What comes behind the arguments so far, if they are told once more, with white space of any kind."""
        at = _behind(begun, known)
        if at == _UNTOLD and len(begun) < _PATIENCE + len(known):
            return ""
        if at is None or at == _UNTOLD:
            self.begins_arguments = at is None and not self._open and _object_begins(begun) is not None
            return self.rest()
        self.is_told = True
        return begun[at:]


def _behind(text: str, known: str) -> int | None:
    """Where what is known ends in the text, white space aside; None where the text is another, `_UNTOLD` where it
    breaks off before that.
    """
    at = 0
    for character in known:
        if character.isspace():
            continue
        while at < len(text) and text[at].isspace():
            at += 1
        if at == len(text):
            return _UNTOLD
        if text[at] != character:
            return None
        at += 1
    return at
