"""A turn as its model writes it when it makes no mistake: what an engine is shown when it is asked to go on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from abruzzi.protocol.events import (
    ArgumentsDelta,
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolCallBegin,
    ToolCallEnd,
)
from abruzzi.protocol.markers import (
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    SECTION_BEGIN,
    SECTION_END,
    THINK_BEGIN,
    THINK_END,
)
from abruzzi.protocol.prompt import Escaper
from abruzzi.protocol.text import Text
from abruzzi.protocol.variants import Variant

_member = re.compile(r'\s*[{,]\s*("(?:[^"\\]|\\.)*")\s*:\s*', re.DOTALL).match


class Spelling(Protocol):
    """Takes a turn's parts in order."""

    def reasoning(self, text: str) -> object: ...
    def content(self, text: str) -> object: ...
    def begin(self, id: str, name: str) -> object: ...
    def arguments(self, text: str) -> object: ...
    def end(self) -> object: ...

    def head(self, name: str) -> str:
        """What stands before a call, with the beginning of its tool's name."""
        ...

    def settle(self, pending: str) -> str | None:
        """What of the open call's arguments, and of those that are held behind them, can be written; None where all
        can."""
        ...

    def restart(self, sure: str) -> None:
        """Of the open call's arguments there are only these."""
        ...

    def going_on(self, pending: str) -> str:
        """The turn, with arguments that are held behind it."""
        ...

    def __str__(self) -> str: ...


class _Spelling:
    """What is alike in both formats: reasoning and content. Each part is returned as it is written, but for what may
    be the beginning of a marker's spelling: that comes with the next."""

    def __init__(self, variant: Variant, thinking: bool | None) -> None:
        self._text = Text()
        self._escaper = Escaper(variant)
        self._opens = variant.thinks and not variant.opens_thinking
        self._thinks = variant.opens_thinking and thinking is not False

    def reasoning(self, text: str) -> str:
        opening = THINK_BEGIN if self._opens and not self._thinks else ""
        self._thinks = True
        return self._add(opening + self._escaper.feed(text))

    def content(self, text: str) -> str:
        ending = self._speaking() if self._thinks else ""
        return self._add(ending + self._escaper.feed(text))

    def _speaking(self) -> str:
        """What ends the text so far, and the thinking."""
        ending = self._escaper.close() + (THINK_END if self._thinks else "")
        self._thinks = self._opens = False
        return ending

    def _add(self, text: str) -> str:
        self._text.add(text)
        return text

    def __str__(self) -> str:
        return f"{self._text}{self._escaper.held}"


class K2Spelling(_Spelling):
    """K2's own format."""

    def __init__(self, variant: Variant, thinking: bool | None) -> None:
        super().__init__(variant, thinking)
        self._in_section = False

    def content(self, text: str) -> str:
        closing = self.close() if self._in_section else ""
        return closing + super().content(text)

    def begin(self, id: str, name: str) -> str:
        section = "" if self._in_section else SECTION_BEGIN
        self._in_section = True
        return self._add(f"{self._speaking()}{section}{CALL_BEGIN}{id}{ARGUMENT_BEGIN}")

    def arguments(self, text: str) -> str:
        return self._add(text)

    def end(self) -> str:
        return self._add(CALL_END)

    def close(self) -> str:
        """The section is over, or the text."""
        ending = SECTION_END if self._in_section else ""
        self._in_section = False
        return self._add(self._escaper.close() + ending)

    def add(self, event: Event) -> str:
        """The same for an event."""
        match event:
            case ReasoningDelta(text):
                return self.reasoning(text)
            case ContentDelta(text):
                return self.content(text)
            case ToolCallBegin(id=id, name=name):
                return self.begin(id, name)
            case ArgumentsDelta(text=text):
                return self.arguments(text)
            case ToolCallEnd():
                return self.end()
        return ""

    def head(self, name: str) -> str:
        thought = THINK_END if self._thinks else ""
        return f"{thought}{'' if self._in_section else SECTION_BEGIN}{CALL_BEGIN}functions.{name}"

    def settle(self, pending: str) -> str | None:
        return None

    def restart(self, sure: str) -> None:
        raise AssertionError("nothing was taken back")

    def going_on(self, pending: str) -> str:
        return f"{self}{pending}"


class PythonicSpelling(_Spelling):
    """`[get_weather(location='beijing'), ping()]`; arguments come as JSON and are written as Python's literals."""

    def __init__(self, variant: Variant, thinking: bool | None) -> None:
        super().__init__(variant, thinking)
        self._calls: list[str] = []
        self._name: str | None = None
        self._arguments = Text()

    def begin(self, id: str, name: str) -> None:
        self._add(self._speaking())
        self._name, self._arguments = name, Text()

    def arguments(self, text: str) -> None:
        self._arguments.add(text)

    def end(self) -> None:
        self._calls.append(f"{self._name}({_keywords(json.loads(str(self._arguments)))})")
        self._name = None

    def head(self, name: str) -> str:
        thought = THINK_END if self._thinks else ""
        return f"{thought}{', ' if self._calls else '['}{name}"

    def settle(self, pending: str) -> str | None:
        if self._name is None:
            return None
        members, begun = _members(f"{self._arguments}{pending}")
        left = json.dumps(members, ensure_ascii=False)[:-1]
        if begun is not None:
            left += f"{', ' if members else ''}{json.dumps(begun, ensure_ascii=False)}: "
        return left

    def restart(self, sure: str) -> None:
        self._arguments = Text([sure])

    def __str__(self) -> str:
        return self.going_on("")

    def going_on(self, pending: str) -> str:
        calls = list(self._calls)
        if self._name is not None:
            members, begun = _members(f"{self._arguments}{pending}")
            written = _keywords(members)
            calls.append(f"{self._name}({', '.join(filter(None, (written, begun and f'{begun}=')))}")
        if not calls:
            return super().__str__()
        return f"{super().__str__()}[{', '.join(calls)}{'' if self._name is not None else ']'}"


def _keywords(members: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={literal(value)}" for name, value in members.items())


def literal(value: Any) -> str:
    """A JSON value as Python writes it."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(name)}: {literal(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return repr(value)


def _members(text: str) -> tuple[dict[str, Any], str | None]:
    """The members of an object whose text may break off that are whole, and the name of one that has begun."""
    members: dict[str, Any] = {}
    decoder = json.JSONDecoder()
    at = 0
    while found := _member(text, at):
        name: str = json.loads(found[1])
        try:
            value, at = decoder.raw_decode(text, found.end())
        except ValueError:
            return members, name
        if at == len(text) and isinstance(value, int | float) and not isinstance(value, bool):
            return members, name  # a number may go on
        members[name] = value
    return members, None


def spelling_of(variant: Variant, thinking: bool | None, *, pythonic: bool) -> Spelling:
    return PythonicSpelling(variant, thinking) if pythonic else K2Spelling(variant, thinking)
