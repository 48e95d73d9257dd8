"""What a parser says while it reads a model's output.

Events are immutable and add up: `Message.from_events` makes the same message of them however the text was cut into
pieces. There is one for every few characters, and a frozen dataclass takes four times as long to make as a `Struct`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "tool_calls", "length"]


class ReasoningDelta(msgspec.Struct, frozen=True, gc=False):
    """More of what the model thinks before it answers."""

    text: str


class ContentDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the text that is meant for the user."""

    text: str


class ToolCallBegin(msgspec.Struct, frozen=True, gc=False):
    """A call to a declared tool begins. `index` is its position in this message, from 0; `id` is `functions.NAME:N`.

    It stands only if a `ToolCallEnd` of the same index follows: a `Problem` with that index takes it back, and the next
    call then has the index again.
    """

    index: int
    id: str
    name: str


class ArgumentsDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the JSON text of the arguments of the call at `index`."""

    index: int
    text: str


class ToolCallEnd(msgspec.Struct, frozen=True, gc=False):
    """The call at `index` is whole: a JSON object, and what its tool's schema asks for where that was checked."""

    index: int


ProblemKind = Literal[
    "undeclared",
    "not_json",
    "schema",
    "header",
    "syntax",
    "truncated",
    "missing",
    "runaway",
    "encoding",
    "stray",
    "surplus",
]
Action = Literal["rejected", "mended", "dropped"]


class Problem(msgspec.Struct, frozen=True, gc=False):
    """Something that a flawless output doesn't hold, and what was done about it.

    | kind | action | |
    |---|---|---|
    | `header` | mended | the id was damaged, and only one declared tool can be meant |
    | `header` | rejected | the id is damaged, and none or several can be meant |
    | `encoding` | mended | the arguments were `null` or the JSON text of a JSON text |
    | `undeclared`, `not_json`, `schema` | rejected | a call that must not reach a client |
    | `syntax` | rejected | what begins like calls in the pythonic format goes on as something else |
    | `truncated` | rejected | the output ended inside the call |
    | `missing` | rejected | no call where one had to come |
    | `runaway` | rejected | a few characters over and over |
    | `surplus` | rejected | a second call where one was allowed |
    | `stray` | dropped | text where none belongs: between calls, or behind the turn's end |

    `text` is what the model wrote, with the markers that belong to it; `name` the tool's where known; `index` the call
    that is taken back, where it had begun.
    """

    kind: ProblemKind
    name: str | None
    text: str
    detail: str
    action: Action = "rejected"
    index: int | None = None


class Finish(msgspec.Struct, frozen=True, gc=False):
    """The output is over."""

    reason: FinishReason


class TokenLogprobs(msgspec.Struct, frozen=True, gc=False):
    """How likely a token of the content was, and others in its place: natural logarithms. From engines that tell, for
    clients that ask; no parser says it.
    """

    token: str
    logprob: float
    alternatives: tuple[tuple[str, float], ...] = ()


Event = ReasoningDelta | ContentDelta | ToolCallBegin | ArgumentsDelta | ToolCallEnd | Problem | TokenLogprobs | Finish
