"""How far one output of an engine has been read: the same however the output is cut."""

from __future__ import annotations

import re
from collections.abc import Iterable

from abruzzi.protocol.prompt import Control

# Limits that are looked at when no event comes are multiples of it: an output is looked at there, whatever its pieces.
BLOCK = 1_024
# Behind the `<` of what may be a marker, when all that comes before it is told; and behind the marker, or `</think>`.
_cut = re.compile(r"(?<=<)(?=\|)|(?<=[|k]>)").split
_ENDS = ("|>", "k>")


class Reach:
    """Counts characters: those that have come, and those that were read.

    `by_id`: what comes are tokens. `pythonic`: there are no markers, and each character is read by itself.
    """

    def __init__(self, *, by_id: bool = False, pythonic: bool = False) -> None:
        self._by_id = by_id
        self._pythonic = pythonic
        self._given = 0
        self._at = 0
        self._last = ""  # the last two characters
        self._stretch = 0  # where it begins: at or behind what may be a marker
        self._argued = 0  # of it, by the reader of arguments
        self._heard = 0
        self._end: int | None = None

    def take(self, text: str) -> str:
        """What of the text is to be taken at once: nothing goes beyond a multiple of `BLOCK` but a control token."""
        room = BLOCK - self._given % BLOCK
        block = text if len(text) <= room or isinstance(text, Control) else text[:room]
        self._given += len(block)
        return block

    def passes(self, text: str) -> bool:
        """Take and read all of it at once, if it lies inside of one block and one stretch; else nothing."""
        length, last = len(text), self._last
        if self._pythonic or not 1 < length <= BLOCK - self._given % BLOCK:
            return False
        if "|" in text or "k>" in text or last in _ENDS or (self._by_id and isinstance(text, Control)):
            return False
        if last and (last[-1] == "|" or last[-1] + text[0] == "k>"):
            return False
        self._given += length
        self._at += length
        self._last = text[-2:]
        return True

    def pieces(self, block: str) -> Iterable[str]:
        """What of it is to be read at once."""
        if self._pythonic:
            return block
        if self._by_id:
            return (block,)
        last = self._last[-1:]
        if "|" not in block and "k>" not in block and last != "|" and last + block[:1] != "k>":
            return (block,)
        first, *others = _cut(last + block)
        return filter(None, (first[len(last) :], *others))

    def skip_to(self, rest: Iterable[str]) -> None:
        """All was read but what came last."""
        self._at = self._stretch = self._given - sum(map(len, rest))
        self._argued, self._last = 0, ""

    def read(self, piece: str) -> None:
        """One of `pieces` is read."""
        is_control = self._by_id and isinstance(piece, Control)
        begins = piece[0] == "|" and self._last.endswith("<")
        if begins or is_control or self._last in _ENDS:
            self._stretch, self._argued = self._at - begins, 0
        self._at += len(piece)
        self._last = "|>" if is_control else piece[-2:] if len(piece) > 1 else self._last[-1:] + piece

    def argue(self, count: int) -> None:
        """So many characters of it are arguments that were looked at."""
        self._argued += count

    def hear(self) -> None:
        """It brought something."""
        self._heard = self._at

    @property
    def silence(self) -> int:
        """Characters since the end of the block in which something was heard last."""
        return self._at + -self._heard // BLOCK * BLOCK

    def stop(self) -> None:
        """The output ends inside of a stretch of text: what counts of that are its arguments."""
        self._end = self._at if self._pythonic else min(self._at, self._stretch + self._argued)

    @property
    def unread(self) -> int:
        """Characters that have come, and count for nothing where the output is not read on."""
        return self._given - (self._at if self._end is None else self._end)
