"""A chat's answer, which comes as reasoning, content and parsed calls, in K2's own text: one parser and one guard read
what any engine writes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from abruzzi.protocol.json_scanner import JsonScanner
from abruzzi.protocol.markers import (
    ALIASES,
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    SECTION_BEGIN,
    SECTION_END,
    THINK_BEGIN,
    THINK_END,
)
from abruzzi.protocol.prompt import Prompt

_HEADS = (SECTION_BEGIN, CALL_BEGIN, *(one for one, meant in ALIASES.items() if meant == SECTION_BEGIN))
_head = re.compile("|".join(map(re.escape, _HEADS)))
_LONGEST = max(map(len, _HEADS))


@dataclass
class _Call:
    number: int
    id: str | None
    name: str = ""
    has_begun: bool = False
    waiting: list[str] = field(default_factory=list)
    """What of its arguments isn't written yet."""
    scanner: JsonScanner = field(default_factory=JsonScanner)


class ChatSpelling:
    """Takes an answer's parts as they come. Content stands as it came, with the markers that a host didn't parse. Calls
    that come side by side are written one behind the other, and content that comes after the first call behind all.
    """

    def __init__(self, prompt: Prompt) -> None:
        assert prompt.conversation is not None
        self._first = prompt.calls
        row, written = prompt.variant, prompt.written
        opens = row.opens_thinking and prompt.conversation.thinking is not False
        begun = opens or (row.thinks and written.startswith(THINK_BEGIN))
        self._in_reasoning = begun and THINK_END not in written
        self._may_reason = row.thinks and prompt.conversation.thinking is not False
        if written and not self._in_reasoning:
            self._may_reason = False
        self._at_head = not written
        self._calls: list[_Call] = []
        self._at = 0  # the call that is being written
        self._by_index: dict[int, _Call] = {}
        self._late: list[str] = []

    def reasoning(self, text: str) -> str:
        """None of a model that doesn't think, or is past that."""
        if not text or not self._may_reason:
            return ""
        opening = "" if self._in_reasoning else THINK_BEGIN
        self._in_reasoning, self._at_head = True, False
        return opening + text

    def content(self, text: str) -> str:
        if not text:
            return ""
        if self._calls:
            self._late.append(text)
            return ""
        if self._at_head and text.startswith(THINK_BEGIN):  # the host parses no reasoning
            self._in_reasoning = False
        return self._speaking() + text

    def call(self, index: int | None, id: str | None, name: str | None, arguments: str) -> str:
        """A part of a call. One without an index, or with another id than the call of this index has, is a new one; so
        is one with neither, but with a name.
        """
        one = self._call(index, id, name)
        one.name = one.name or name or ""
        one.waiting.append(arguments)
        return self._written()

    def close(self, *, cut: bool) -> str:
        """What is left. `cut`: a limit ended the answer, and so maybe the last call."""
        if not self._calls:
            return ""
        texts: list[str] = []
        for one in self._calls[self._at :]:
            texts.append(self._rest_of(one))
            if one.scanner.open:  # inside a string a marker is text
                return "".join(texts)
            texts.append(CALL_END)
        if cut:
            return "".join(texts[:-1])
        return "".join((*texts, SECTION_END, *self._late))

    def _speaking(self) -> str:
        ending = THINK_END if self._in_reasoning else ""
        self._in_reasoning = self._may_reason = self._at_head = False
        return ending

    def _call(self, index: int | None, id: str | None, name: str | None) -> _Call:
        known = self._by_index.get(index) if index is not None else self._calls[-1] if self._calls else None
        is_new = known is None or bool(id and known.id and id != known.id)
        if known is None or is_new or (index is None and not id and name):
            known = _Call(len(self._calls), id)
            self._calls.append(known)
            if index is not None:
                self._by_index[index] = known
        return known

    def _written(self) -> str:
        """What can be written by now: of a call behind another nothing before that is whole."""
        texts: list[str] = []
        while (one := self._calls[self._at]).name:
            texts.append(self._rest_of(one))
            if self._at + 1 == len(self._calls) or not one.scanner.whole:
                break
            texts.append(CALL_END)
            self._at += 1
        return "".join(texts)

    def _rest_of(self, one: _Call) -> str:
        head = ""
        if not one.has_begun:
            one.has_begun = True
            id = f"functions.{one.name}:{self._first + one.number}" if one.name else one.id or ""
            section = "" if one.number else SECTION_BEGIN
            head = f"{self._speaking()}{section}{CALL_BEGIN}{id}{ARGUMENT_BEGIN}"
        arguments = "".join(one.waiting)
        one.waiting.clear()
        _scan(one.scanner, arguments)
        return head + arguments


def _scan(scanner: JsonScanner, text: str) -> None:
    at = 0
    while at < len(text) and not scanner.whole:
        at = max(scanner.scan(text, at), at + 1)


class Behind:
    """Of an answer that was written anew, what comes behind `written`, the turn so far.

    Behind a call that has begun that is the answer's own calls: `abruzzi.guide.anew` tells which of them are known.
    Else it is what follows the text that stands, and all of it where the answer begins otherwise.
    """

    def __init__(self, written: str) -> None:
        self._seeks_head = _head.search(written) is not None
        self._known = written.rpartition(THINK_END)[2].removeprefix(THINK_BEGIN)
        self._held = ""

    def feed(self, text: str) -> str:
        if self._seeks_head:
            return self._from_head(text)
        if not self._known:
            return text
        self._held += text
        if self._known.startswith(self._held):
            return ""
        rest, self._known = self._held.removeprefix(self._known), ""
        return rest

    def _from_head(self, text: str) -> str:
        self._held += text
        found = _head.search(self._held)
        if found is None:
            self._held = self._held[-_LONGEST:]
            return ""
        self._seeks_head, self._known = False, ""  # from here on all of it
        return self._held[found.start() :]
