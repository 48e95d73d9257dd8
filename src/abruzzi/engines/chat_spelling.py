"""A chat's answer, which comes as reasoning, content and parsed calls, in K2's own text: one parser and one guard read
what any engine writes.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence

from abruzzi.engines.chat_calls import Call, Calls, Known, leaked
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
# Characters that are kept back: more than any context holds.
_MAX_KEPT = 1_000_000


class ChatSpelling:
    """Takes an answer's parts as they come. Content stands as it came, with the markers that a host didn't parse. Calls
    that come side by side are written one behind the other, and content that comes after the first call behind all.
    Calls that a host parsed and left in its content, too, are told once.
    """

    def __init__(self, prompt: Prompt) -> None:
        assert prompt.conversation is not None
        self._first = prompt.calls
        self._variant = row = prompt.variant
        thinking, written = prompt.conversation.thinking, prompt.written
        opens = row.opens_thinking and thinking is not False
        begun = opens or (row.thinks and written.startswith(THINK_BEGIN))
        self._in_reasoning = self._began_thinking = begun and THINK_END not in written
        self._may_reason = row.thinks and thinking is not False
        if written and not self._in_reasoning:
            self._may_reason = False
        self._at_head = not written
        self._said: list[str] = []  # all before the first call
        self._unheard = ""  # the end of the reasoning that isn't wanted
        self._leaks = False  # a call has begun there
        self._calls = Calls([tool.name for tool in prompt.conversation.tools])
        self._at = 0  # the call that is being written
        self._leaked: deque[Known] | None = None  # calls in what was said, which may be told once more
        self._late: list[str] = []
        self._kept = 0
        self.drops_reasoning = False
        """Whether it reasons, which the variant has no place for."""

    @property
    def is_endless(self) -> bool:
        """Whether more was kept back than any context holds."""
        return self._kept > _MAX_KEPT

    @property
    def is_whole(self) -> bool:
        """Whether no call is open."""
        return not any(one.is_open for one in self._calls[self._at :])

    def reasoning(self, text: str) -> str:
        """None of a model that doesn't think, or is past that; but for calls that a host left in it."""
        if not text:
            return ""
        if not self._may_reason:
            return self._from_unheard(text)
        opening = "" if self._in_reasoning else THINK_BEGIN
        self._in_reasoning, self._at_head = True, False
        return self._saying(opening + text)

    def content(self, text: str) -> str:
        if not text:
            return ""
        if self._calls:
            self._late.append(text)
            self._kept += len(text)
            return ""
        if self._at_head and text.startswith(THINK_BEGIN):  # the host parses no reasoning
            self._in_reasoning = False
        return self._saying(self._speaking() + text)

    def call(self, index: int | None, id: str | None, name: str, arguments: str) -> str:
        """A part of a call."""
        if self._leaked is None:
            said = "".join(self._said)
            has_any = _head.search(said) is not None
            self._leaked = deque(leaked(said, self._variant, thinking=self._began_thinking) if has_any else ())
        one = self._calls.take(index, id, name, arguments)
        text = self._written()
        if one is not None and not text:
            self._kept += len(arguments)
        return text

    def close(self, *, cut: bool) -> str:
        """What is left. `cut`: a limit ended the answer, and so maybe the last call."""
        if not self._calls:
            return ""
        texts: list[str] = []
        for one in self._calls[self._at :]:
            if self._is_known(one):
                continue
            texts.append(self._rest_of(one))
            if one.is_open:  # inside a string a marker is text
                return "".join(texts)
            texts.append(CALL_END)
        if cut:
            return "".join(texts[:-1])
        end = SECTION_END if any(one.written is not None for one in self._calls) else ""
        return "".join((*texts, end, *self._news()))

    def _speaking(self) -> str:
        ending = THINK_END if self._in_reasoning else ""
        self._in_reasoning = self._may_reason = self._at_head = False
        return ending

    def _saying(self, text: str) -> str:
        self._said.append(text)
        return text

    def _from_unheard(self, text: str) -> str:
        if self._leaks:
            return self.content(text)
        self.drops_reasoning = self.drops_reasoning or not self._variant.thinks
        self._unheard = self._unheard[-_LONGEST:] + text
        found = _head.search(self._unheard)
        if found is None:
            return ""
        self._leaks = True
        return self.content(self._unheard[found.start() :])

    def _written(self) -> str:
        """What can be written by now: of a call behind another nothing before that is whole; of one that may be known
        nothing before it is; and a name only with what comes behind it, for it may come in pieces.
        """
        texts: list[str] = []
        while self._at < len(self._calls):
            one = self._calls[self._at]
            if not one.name or not one.parts or (self._leaked and not one.is_whole):
                break
            is_known = self._is_known(one)
            if not is_known:
                texts.append(self._rest_of(one))
                if self._at + 1 == len(self._calls) or not one.is_whole:
                    break
                texts.append(CALL_END)
            self._at += 1
        return "".join(texts)

    def _is_known(self, one: Call) -> bool:
        """Whether it stands in the content, too. The first that doesn't tells that those behind it don't either."""
        if not self._leaked or one.written is not None:
            return False
        if one.known() == self._leaked[0]:
            self._leaked.popleft()
            return True
        self._leaked.clear()
        return False

    def _rest_of(self, one: Call) -> str:
        head = ""
        if one.written is None:
            id = f"functions.{one.name}:{self._first + one.number}" if one.name else one.id or ""
            section = SECTION_BEGIN if all(other.written is None for other in self._calls) else ""
            head = f"{self._speaking()}{section}{CALL_BEGIN}{id}{ARGUMENT_BEGIN}"
        arguments = "".join(one.parts[one.written or 0 :])
        one.written = len(one.parts)
        return head + arguments

    def _news(self) -> Sequence[str]:
        """What came behind the calls, if it isn't those once more."""
        late = "".join(self._late)
        if _head.search(late) is None:
            return self._late
        again = leaked(late, self._variant, thinking=False)
        told = [one.known() for one in self._calls]
        return () if again and again == told[: len(again)] else self._late


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
