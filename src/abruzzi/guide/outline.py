"""What a turn may be, before it is spelled in any engine's language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from abruzzi.guide.signature import Signature


@dataclass(frozen=True, slots=True)
class Outline:
    """[reasoning] text [section of calls], or a part of it. Equal, and found in caches, by content."""

    signatures: tuple[Signature, ...]
    """The tools that may be called; none: the turn is text."""
    may_answer: bool
    """Whether text without a call will do, and may stand before calls."""
    most: int
    """The calls that there may be."""
    first_index: int
    """The N of the first call's `functions.NAME:N`; the next one's is one more."""
    tool_format: Literal["k2", "pythonic"]
    reasoning: Literal["none", "begun", "whole"]
    """Whether the turn starts with reasoning, whose `<think>` the prompt has written (begun) or the model does (whole).
    """

    answer: Signature | None = None
    """What the text has to be, if it may not be any: a JSON object that follows this."""

    @property
    def indexes(self) -> range:
        return range(self.first_index, self.first_index + self.most)
