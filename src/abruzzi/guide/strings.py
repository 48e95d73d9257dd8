"""A JSON string that is being read, and which of its threads may still be it."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from abruzzi.guide.pattern import Following
from abruzzi.guide.threads import Thread

plain = re.compile(r'[^"\\\x00-\x1f]*').match
_escape = re.compile(
    r'\\(?:["\\/bfnrt]|u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?![dD][89a-fA-F])[0-9a-fA-F]{4}))'
).match
# The head of an escape whose rest has not come.
_escape_begun = re.compile(
    r"\\(?:u(?:[0-9a-fA-F]{0,3}|[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?)?)?\Z"
).match


class Words:
    """Sorted strings of which one is being read: those that begin with what has come."""

    __slots__ = ("_begin", "_end", "_sorted", "text")

    def __init__(self, words: Sequence[str]) -> None:
        self._sorted, self._begin, self._end = words, 0, len(words)
        self.text = ""

    def fits(self, characters: str) -> int:
        """How many of the next characters one of them has there."""
        text = self.text + characters
        at = bisect_left(self._sorted, text, self._begin, self._end)
        if at < self._end and self._sorted[at].startswith(text):
            return len(characters)
        near = self._sorted[max(at - 1, self._begin) : min(at + 1, self._end)]
        return max((len(common_prefix(word, text)) for word in near), default=len(self.text)) - len(self.text)

    def take(self, characters: str) -> None:
        self.text += characters
        self._begin = bisect_left(self._sorted, self.text, self._begin, self._end)
        if self._begin < self._end and not self._sorted[self._end - 1].startswith(self.text):
            size = len(self.text)
            self._end = bisect_right(self._sorted, self.text, self._begin, self._end, key=lambda word: word[:size])

    @property
    def is_whole(self) -> bool:
        return self._begin < self._end and self._sorted[self._begin] == self.text

    @property
    def left(self) -> Sequence[str]:
        """Those that it may become."""
        return self._sorted[self._begin : self._end]

    @property
    def ends(self) -> tuple[str, ...]:
        """The first and the last of them: what all begin with, both begin with."""
        return (self._sorted[self._begin], self._sorted[self._end - 1]) if self._begin < self._end else ()


class Strand:
    """A thread of the string, with what it asks of the characters."""

    __slots__ = ("follow", "most", "thread", "words")

    def __init__(self, thread: Thread, words: Words | None, follow: Sequence[Following], most: int | None) -> None:
        self.thread = thread
        self.words = words
        self.follow = follow
        self.most = most

    def fits(self, characters: str, length: int) -> int:
        """How many of the characters may stand behind as many as there are."""
        if self.words is not None:
            return self.words.fits(characters)
        fit = len(characters)
        if self.most is not None:
            fit = min(fit, self.most - length)
        for one in self.follow:
            fit = min(fit, one.fits(characters[:fit]))
        return fit

    def take(self, characters: str) -> None:
        if self.words is not None:
            self.words.take(characters)
        for one in self.follow:
            one.take(characters)

    def may_be_whole(self, length: int) -> bool:
        return self.words.is_whole if self.words is not None else length >= self.thread.option.length[0]


class StringReader:
    """Takes a string's characters. `is_free`: nothing is asked of them, and they are not kept."""

    __slots__ = ("_pieces", "is_free", "length", "strands")

    def __init__(self, strands: list[Strand], *, is_free: bool = False) -> None:
        self.strands = strands
        self.is_free = is_free
        self.length = 0
        self._pieces: list[str] = []

    @classmethod
    def of_values(cls, threads: Sequence[Thread]) -> StringReader:
        strands = []
        is_free = True
        for thread in threads:
            option = thread.option
            words, rule, length = option.words, option.text, option.length
            follow = [pattern.follow() for pattern in rule.patterns] if rule is not None else ()
            strands.append(Strand(thread, None if words is None else Words(words), follow, length[1]))
            is_free &= words is None and rule is None and length == (0, None)
        return cls(strands, is_free=is_free)

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, characters: str, room: int | None = None) -> int:
        """Take what some of the threads have next, up to `room` characters in all; returns how many that is."""
        fits = [strand.fits(characters, self.length) for strand in self.strands]
        taken = max(fits)
        if room is not None and self.length > room:
            taken = 0
        characters = characters[:taken]
        if min(fits) < taken:
            self.strands = [strand for strand, fit in zip(self.strands, fits, strict=True) if fit >= taken]
        for strand in self.strands:
            strand.take(characters)
        self._pieces.append(characters)
        self.length += taken
        return taken

    def whole(self) -> list[Thread]:
        """The threads of which it may be a value as it is, as far as its characters were followed."""
        return [strand.thread for strand in self.strands if strand.may_be_whole(self.length)]


def scan(text: str, at: int) -> tuple[str, int] | None:
    """Some of a string's characters and where they end, an escape as the one that it stands for; none where an escape
    isn't whole yet, None where there is no character of a string.
    """
    end = plain(text, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
    if end > at:
        return text[at:end], end
    if found := _escape(text, at):
        return json.loads(f'"{found[0]}"'), found.end()
    return ("", at) if _escape_begun(text, at) else None


def common_prefix(one: str, other: str) -> str:
    """What both begin with."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:at]
    return min(one, other, key=len)
