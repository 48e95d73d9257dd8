"""A rendered prompt, in which no content can speak protocol.

Control tokens are kept apart from text. An engine that takes token ids encodes the text as plain text; where a prompt
goes out as one string, `escape` breaks every spelling of a control token inside content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from abruzzi.protocol.json_scanner import JsonScanner
from abruzzi.protocol.markers import ARGUMENT_BEGIN, MARKERS, THINK_BEGIN, THINK_END
from abruzzi.protocol.messages import Message, Tool
from abruzzi.protocol.variants import Variant


class Control(str):
    """A control token, by its spelling."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a prompt was rendered from, for an engine that renders by itself. The messages' ids are canonical."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    thinking: bool | None = None
    tool_choice: str = "auto"
    """`auto`, `required`, or a tool's name."""
    parallel_tool_calls: bool = True


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt: control tokens and the text between them, in order."""

    parts: tuple[str, ...]
    variant: Variant
    calls: int
    """How many calls the conversation holds so far: the index N of the next `functions.NAME:N`."""
    client_ids: Mapping[str, str] = field(default_factory=dict)
    """The id that the client knows a call by, by the one that the model sees."""
    base: tuple[str, ...] | None = None
    """Of a prompt that goes on behind what was written: its parts without that."""
    written: str = ""
    """What of the model's turn the prompt ends with, as it was handed to `going_on`."""
    conversation: Conversation | None = field(default=None, compare=False, repr=False)
    """What it was rendered from; None for a prompt that somebody else has rendered."""

    def __str__(self) -> str:
        return "".join(self.spelled())

    def going_on(self, written: str) -> Prompt:
        """The prompt with what the model has written, behind what it had written before, for it to go on from there.
        All of that is read anew: a marker may begin in one part and end in the next, and is text inside an argument.
        """
        if not written:
            return self
        base, written = self.parts if self.base is None else self.base, self.written + written
        parts = joined((*base, *going_on(written, self.variant)))
        return replace(self, parts=parts, base=base, written=written)

    def ending_in(self, parts: Iterable[str]) -> Prompt:
        """The prompt with parts of which it is known what is a control token: they stand as they are, and what was
        written before isn't read anew either.
        """
        whole = joined((*self.parts, *parts))
        return replace(self, parts=whole, base=whole, written="")

    def spelled(self) -> Iterator[str]:
        """The prompt as text, part by part: no content spells a control token."""
        return (part if isinstance(part, Control) else escape(part, self.variant) for part in self.parts)


def raw_prompt(text: str, variant: Variant) -> Prompt:
    """A prompt that somebody else has rendered: whatever spells a control token is one."""
    pieces = _any_of(variant.controls).split(text)
    return Prompt(tuple(Control(one) if i % 2 else one for i, one in enumerate(pieces) if one), variant, calls=0)


@lru_cache(maxsize=16)
def _any_of(spellings: frozenset[str]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(map(re.escape, sorted(spellings, key=len, reverse=True)))})")


def going_on(written: str, variant: Variant) -> Iterator[str]:
    """What a model has written of its turn: control tokens, and the text between them, in which the broken spelling of
    one (`escape`) is mended.
    """
    at = 0
    while found := _MARKER.search(written, at):
        yield unescape(written[at : found.start()], variant)
        yield Control(found[0]) if found[0] in variant.controls else found[0]
        at = found.end()
        if found[0] == ARGUMENT_BEGIN:  # inside the arguments' strings a marker is text
            end = _end_of_value(written, at)
            yield written[at:end]
            at = end
    yield unescape(written[at:], variant)


_MARKER = re.compile("|".join(map(re.escape, (*MARKERS, THINK_BEGIN, THINK_END))))


def _end_of_value(text: str, at: int) -> int:
    scanner = JsonScanner()
    while at < len(text) and not scanner.whole:
        at = scanner.scan(text, at)
        if text[at : at + 1] == "<" and not scanner.whole:
            if _MARKER.match(text, at):
                break
            at += 1
    return at


def joined(parts: Iterable[str]) -> tuple[str, ...]:
    """Neighbouring texts as one: a tokenizer must see them together to cut them as it would in one piece of text."""
    whole: list[str] = []
    texts: list[str] = []
    for part in (*parts, Control("")):
        if not isinstance(part, Control):
            texts.append(part)
            continue
        if text := "".join(texts):
            whole.append(text)
        texts.clear()
        whole.append(part)
    return tuple(whole[:-1])


# What may spell a control token: all that we know look like `<|...|>`, `<think>` or `[EOS]`. Each pattern begins with a
# single character, for which a text is looked through fast.
_SPELLINGS = (
    re.compile(r"(<)(\u200b*)(\|[a-z0-9_]{1,40}\|>|/?think>)"),
    re.compile(r"(\[)(\u200b*)([A-Z]{3}\])"),
)
# Characters that are looked through at once: while a pattern is at work, no other thread is.
_SLICE = 1 << 17


def escape(text: str, variant: Variant) -> str:
    """Break the spelling of every control token in `text` with a zero-width space after its first character.

    Reversible (`unescape`), and the identity on text that spells no control token.
    """

    if "<" not in text and "[" not in text:
        return text
    if len(text) <= _SLICE:
        return _broken(text, variant)
    escaper = Escaper(variant)
    parts = [escaper.feed(text[at : at + _SLICE]) for at in range(0, len(text), _SLICE)]
    return "".join((*parts, escaper.close()))


def _broken(text: str, variant: Variant) -> str:
    def broken(found: re.Match[str]) -> str:
        return f"{found[1]}\u200b{found[2]}{found[3]}" if variant.reserves(found[1] + found[3]) else found[0]

    for spelling in _SPELLINGS:
        text = spelling.sub(broken, text)
    return text


# The end of a text that may go on to spell one.
_SPELLING_BEGUN = re.compile(r"[<\[]\u200b*(?:\|[a-z0-9_]{0,40}\|?|/?(?:t(?:h(?:i(?:nk?)?)?)?)?|[A-Z]{1,3})\Z")


class Escaper:
    """`escape` for text that comes in pieces: a spelling may stand on the border of two."""

    __slots__ = ("_variant", "held")

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self.held = ""
        """What may be the beginning of a spelling."""

    def feed(self, text: str) -> str:
        """What is sure by now."""
        data = self.held + text
        begin = max(data.rfind("<"), data.rfind("["))
        end = begin if begin >= 0 and _SPELLING_BEGUN.match(data, begin) else len(data)
        self.held = data[end:]
        return _broken(data[:end], self._variant)

    def close(self) -> str:
        """What was held."""
        held, self.held = self.held, ""
        return held


def unescape(text: str, variant: Variant) -> str:
    """The inverse of `escape`."""

    def mended(found: re.Match[str]) -> str:
        return f"{found[1]}{found[2][1:]}{found[3]}" if variant.reserves(found[1] + found[3]) else found[0]

    if "\u200b" in text:
        for spelling in _SPELLINGS:
            text = spelling.sub(mended, text)
    return text


# The end of a text that may go on to a broken spelling.
_UNFINISHED = re.compile(r"[<\[]\u200b+[^\s<>\[\]\u200b]{0,43}\Z")


class Unescaper:
    """`unescape` for text that comes in pieces: a model that was shown a broken spelling writes it like that, too."""

    __slots__ = ("_held", "_last", "_variant")

    def __init__(self, variant: Variant) -> None:
        self._variant = variant
        self._last = ""  # what was let through last
        self._held: list[str] = []

    def feed(self, text: str) -> str:
        """What is sure by now. No more than the rest of a broken spelling is held back."""
        if "\u200b" not in text and not self._held:
            self._last = text
            return text
        if self._held and not text.strip("\u200b"):
            self._held.append(text)
            return ""
        before = self._last[-1:]
        data = "".join((before, *self._held, text))
        begin = max(data.rfind("<\u200b"), data.rfind("[\u200b"))
        end = begin + 1 if begin >= 0 and _UNFINISHED.match(data, begin) else len(data)
        self._last, held = data[:end], data[end:]
        self._held = [held] if held else []
        return unescape(self._last, self._variant)[len(before) :]

    def close(self) -> str:
        """What was held back."""
        held, self._held, self._last = "".join(self._held), [], ""
        return held
