"""A conversation rendered to the prompt that the model reads.

A `Prompt` keeps what is a control token apart from what is text, so that no content can speak protocol: an engine
that takes token ids encodes text as plain text, and the text form breaks the spelling of any control token inside
content (`escape`).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Message, Role, Tool, ToolCall, as_messages, as_tools
from abruzzi.protocol.variants import (
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    SECTION_BEGIN,
    SECTION_END,
    Variant,
    variant_named,
)


class Control(str):
    """A control token, by its spelling."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt: control tokens and the text between them, in order."""

    parts: tuple[str, ...]
    variant: Variant
    calls: int
    """How many calls the conversation holds so far: the index N of the next `functions.NAME:N`."""

    def __str__(self) -> str:
        return "".join(part if isinstance(part, Control) else escape(part, self.variant) for part in self.parts)


def escape(text: str, variant: Variant) -> str:
    """Break the spelling of every control token in `text` with a zero-width space after its first character.

    Reversible (`unescape`), and the identity on text that spells no control token.
    """
    return _spelling(variant, "\u200b*").sub(lambda found: f"{found[0][0]}\u200b{found[0][1:]}", text)


def unescape(text: str, variant: Variant) -> str:
    """The inverse of `escape`."""
    return _spelling(variant, "\u200b+").sub(lambda found: f"{found[0][0]}{found[0][2:]}", text)


def _spelling(variant: Variant, gap: str) -> re.Pattern[str]:
    return re.compile("|".join(f"{re.escape(name[0])}{gap}{re.escape(name[1:])}" for name in sorted(variant.controls)))


def render(
    messages: Iterable[Message | Mapping[str, Any]],
    *,
    tools: Iterable[Tool | Mapping[str, Any]] = (),
    variant: str | Variant = "k2",
) -> str:
    """The prompt as text, up to and with the head of the assistant's next turn.

    Messages and tools may be in OpenAI's form. Raises RequestError; see `render_prompt`.
    """
    return str(render_prompt(as_messages(messages), tools=as_tools(tools), variant=variant))


def render_prompt(messages: Sequence[Message], *, tools: Sequence[Tool] = (), variant: str | Variant = "k2") -> Prompt:
    """Render a conversation: declarations first, then the system turn, then the turns as they came.

    Ids of any shape become `functions.NAME:N`, N counting over the whole conversation: the id is the only place in
    the history that names the function, and the model imitates whatever it finds there.

    Raises RequestError for an empty conversation and for a tool message that answers no call.
    """
    if isinstance(variant, str):
        variant = variant_named(variant)
    if not messages:
        raise RequestError("expected at least one message, got none", "messages")
    messages, calls = with_canonical_ids(messages)
    parts: list[str] = []
    if tools:
        _turn(parts, variant, "system", variant.declare_label, variant.declare(tools))
    if messages[0].role != "system":
        _turn(parts, variant, "system", "system", variant.default_system)
        parts.append(variant.after_default_system)
    for message in messages:
        _message(parts, variant, message)
    _open_turn(parts, variant, "assistant", "assistant")
    return Prompt(_joined(parts), variant, calls)


def with_canonical_ids(messages: Sequence[Message]) -> tuple[list[Message], int]:
    """The conversation with every call's id, and every result's, as `functions.NAME:N`; and the number of calls in
    it.
    """
    renamed: list[Message] = []
    # An odd client gives one id to several calls: its results then answer them in their order.
    canonical: dict[str, deque[str]] = {}
    count = 0
    for i, message in enumerate(messages):
        if message.tool_calls:
            calls = []
            given: set[str] = set()
            for call in message.tool_calls:
                id = f"functions.{call.function.name}:{count}"
                if call.id in given:
                    canonical[call.id].append(id)
                else:
                    canonical[call.id] = deque((id,))
                given.add(call.id)
                count += 1
                calls.append(ToolCall(id, call.function))
            message = replace(message, tool_calls=tuple(calls))
        elif message.role == "tool":
            meant = canonical.get(message.tool_call_id or "")
            if meant is None:
                where = f"messages[{i}].tool_call_id"
                raise RequestError(f"expected the id of a call made earlier, got {message.tool_call_id!r}", where)
            message = replace(message, tool_call_id=meant.popleft() if len(meant) > 1 else meant[0])
        renamed.append(message)
    return renamed, count


def _message(parts: list[str], variant: Variant, message: Message) -> None:
    content = message.content or ""
    if message.role == "tool":
        content = variant.result.format(id=message.tool_call_id, content=content)
    label = (variant.shows_names and message.name) or variant.labels[message.role]
    _open_turn(parts, variant, message.role, label)
    parts.append(content)
    if message.tool_calls:
        _section(parts, variant, message.tool_calls)
    _close_turn(parts, variant)


def _section(parts: list[str], variant: Variant, calls: Sequence[ToolCall]) -> None:
    parts.append(_token(variant, SECTION_BEGIN))
    for call in calls:
        parts += (_token(variant, CALL_BEGIN), call.id, _token(variant, ARGUMENT_BEGIN), call.function.arguments)
        parts.append(_token(variant, CALL_END))
    parts.append(_token(variant, SECTION_END))


def _turn(parts: list[str], variant: Variant, role: Role, label: str, content: str) -> None:
    _open_turn(parts, variant, role, label)
    parts.append(content)
    _close_turn(parts, variant)


def _open_turn(parts: list[str], variant: Variant, role: Role, label: str) -> None:
    parts += (_token(variant, variant.turn_begin[role]), label, _token(variant, variant.middle))


def _close_turn(parts: list[str], variant: Variant) -> None:
    parts += (_token(variant, variant.turn_end), variant.after_turn)


def _token(variant: Variant, spelling: str) -> str:
    return Control(spelling) if spelling in variant.controls else spelling


def _joined(parts: Sequence[str]) -> tuple[str, ...]:
    """Neighbouring texts as one: a tokenizer must see them together to cut them as it would in one piece of text."""
    joined: list[str] = []
    for part in parts:
        if isinstance(part, Control) or not joined or isinstance(joined[-1], Control):
            joined.append(part)
        else:
            joined[-1] += part
    return tuple(part for part in joined if part)
