"""What a parser says while it reads a model's output.

Events are immutable and add up: `Message.from_events` makes the same message of them however the text was cut into
pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "tool_calls", "length"]


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the text that is meant for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallBegin:
    """A call to a declared tool begins. `index` is its position in this message, from 0; `id` is `functions.NAME:N`."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the JSON text of the arguments of the call at `index`."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The call at `index` is whole."""

    index: int


ProblemKind = Literal["undeclared", "not_json", "schema", "header", "truncated", "surplus"]


@dataclass(frozen=True, slots=True)
class Problem:
    """A call that was not handed out: its kind, the tool's name where known, the raw text, and why, in words."""

    kind: ProblemKind
    name: str | None
    text: str
    detail: str


@dataclass(frozen=True, slots=True)
class Finish:
    """The output is over."""

    reason: FinishReason


Event = ContentDelta | ToolCallBegin | ArgumentsDelta | ToolCallEnd | Problem | Finish
