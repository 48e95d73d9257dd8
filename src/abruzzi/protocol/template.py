"""A conversation rendered to the prompt that the model reads."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.history import canonical
from abruzzi.protocol.kept import Kept, made_of
from abruzzi.protocol.markers import (
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    SECTION_BEGIN,
    SECTION_END,
    THINK_BEGIN,
    THINK_END,
)
from abruzzi.protocol.messages import Message, Role, Tool, as_messages, as_tools
from abruzzi.protocol.prompt import Control, Conversation, Prompt, escape, joined
from abruzzi.protocol.remembered import Remembered
from abruzzi.protocol.variants import Variant, variant_named


def render(
    messages: Iterable[Message | Mapping[str, Any]],
    *,
    tools: Iterable[Tool | Mapping[str, Any]] | None = (),
    variant: str | Variant = "k2",
    thinking: bool | None = None,
    preserve_thinking: bool = False,
) -> str:
    """The prompt as text, up to and with the head of the assistant's next turn.

    Messages and tools may be in OpenAI's form, and `variant` may be a model's name. Where content spells a control
    token, the spelling is broken by a zero-width space (`abruzzi.protocol.prompt.escape`). Raises RequestError; see
    `render_prompt`.
    """
    return str(
        render_prompt(
            as_messages(messages),
            tools=as_tools(tools or ()),
            variant=variant,
            thinking=thinking,
            preserve_thinking=preserve_thinking,
        )
    )


def render_prompt(
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] = (),
    variant: str | Variant = "k2",
    thinking: bool | None = None,
    preserve_thinking: bool = False,
) -> Prompt:
    """Render a conversation: declarations first, then the system turn, then the turns as they came.

    `thinking`: False has a model that thinks by default answer at once. `preserve_thinking`: the reasoning of earlier
    turns stays in the prompt; without it, what was thought up to the last answer without calls is left out.

    Ids of any shape become `functions.NAME:N`; see `abruzzi.protocol.history`.

    Raises RequestError for an empty conversation, a tool message that answers no call, a call that nothing names,
    schemas that are no JSON or nested too deep, and what the variant can't do.
    """
    row = variant_named(variant) if isinstance(variant, str) else variant
    if not messages:
        raise RequestError("expected at least one message, got none", "messages")
    if not isinstance(thinking, bool | None):
        raise RequestError(f"expected true, false or null, got {thinking!r}", "thinking")
    if not isinstance(preserve_thinking, bool):
        raise RequestError(f"expected true or false, got {preserve_thinking!r}", "preserve_thinking")
    if thinking and not row.thinks:
        raise RequestError(f"expected no thinking from {row.name}, which can't", "thinking")
    if thinking is False and row.thinks and not row.opens_thinking:
        raise RequestError(f"expected thinking from {row.name}, which always does", "thinking")
    if preserve_thinking and not row.keeps_thinking:
        raise RequestError(f"{row.name} drops the reasoning of earlier turns", "preserve_thinking")
    history = canonical(messages, tools)
    kept = 0 if preserve_thinking else len(messages) if thinking is False else _first_unanswered(messages)
    parts: list[str] = []
    if tools:
        _turn(parts, row, "system", row.declare_label, _declaration(row, tools))
    if messages[0].role != "system" and row.default_system is not None:
        _turn(parts, row, "system", "system", row.default_system)
        parts.append(row.after_default_system)
    for i, message in enumerate(history.messages):
        _message(parts, row, message, keeps_reasoning=i >= kept)
    _open_turn(parts, row, "assistant", row.labels["assistant"])
    if row.opens_thinking:
        parts.append(_token(row, THINK_BEGIN))
        if thinking is False:
            parts.append(_token(row, THINK_END))
    conversation = Conversation(history.messages, tools, thinking)
    return Prompt(joined(parts), row, len(history.client_ids), history.client_ids, conversation=conversation)


def begun_turn(message: Message, row: Variant, *, thinking: bool | None = None) -> str:
    """What is written already of the answer, for `Prompt.going_on`: the text that the client wants it to begin with.

    A model that thinks is past that by then. No text spells a control token.
    """
    text = escape(message.content or "", row)
    if not row.thinks or (row.opens_thinking and thinking is False):
        return text
    opening = "" if row.opens_thinking else THINK_BEGIN
    return f"{opening}{escape(message.reasoning_content or '', row)}{THINK_END}{text}"


def _first_unanswered(messages: Sequence[Message]) -> int:
    """Where the turns begin that follow the last answer without calls: what was thought before has served."""
    for i in range(len(messages) - 1, -1, -1):
        if messages[i].role == "assistant" and not messages[i].tool_calls:
            return i + 1
    return 0


def _declaration(row: Variant, tools: Sequence[Tool]) -> str:
    """The declaration of the tools, which is remembered: by their content, for a client may change its objects."""
    try:
        if isinstance(tools, Kept):
            return made_of(tools, row.declare)
        return _declared(_Content(row.declare, tools), tools)
    except (RecursionError, TypeError, ValueError) as error:
        raise RequestError(
            f"expected schemas of JSON values, less than some hundred levels deep: {error}", "tools"
        ) from None


class _Content:
    """What is to be declared, and how: equal where tools say the same in the same order, whatever objects they are."""

    __slots__ = ("_key", "declare")

    def __init__(self, declare: Callable[[Sequence[Tool]], str], tools: Sequence[Tool]) -> None:
        self.declare = declare
        # Version 2 of the format has no references, so that equal values have equal bytes. It is five times as fast as
        # JSON, which the declaration itself may be.
        self._key = marshal.dumps([(tool.name, tool.description, tool.parameters, tool.strict) for tool in tools], 2)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Content) and self.declare == other.declare and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __len__(self) -> int:
        return len(self._key)


def _made(content: _Content, tools: Sequence[Tool]) -> str:
    return content.declare(tools)


# An agent sends the same tools with every request.
_declared = Remembered(_made, most=16 << 20)


def _message(parts: list[str], row: Variant, message: Message, *, keeps_reasoning: bool) -> None:
    content = message.content or ""
    if message.role == "tool":
        content = row.result.format(id=message.tool_call_id, content=content)
    _open_turn(parts, row, message.role, (row.shows_names and message.name) or row.labels[message.role])
    if message.role == "assistant" and row.thinks:
        reasoning = (message.reasoning_content or "") if keeps_reasoning else ""
        parts += (_token(row, THINK_BEGIN), reasoning, _token(row, THINK_END))
    parts.append(content)
    if message.tool_calls:
        parts.append(_token(row, SECTION_BEGIN))
        for call in message.tool_calls:
            parts += (_token(row, CALL_BEGIN), call.id, _token(row, ARGUMENT_BEGIN))
            parts += (call.function.arguments, _token(row, CALL_END))
        parts.append(_token(row, SECTION_END))
    _close_turn(parts, row)


def _turn(parts: list[str], row: Variant, role: Role, label: str, content: str) -> None:
    _open_turn(parts, row, role, label)
    parts.append(content)
    _close_turn(parts, row)


def _open_turn(parts: list[str], row: Variant, role: Role, label: str) -> None:
    parts += (_token(row, row.turn_begin[role]), label, _token(row, row.middle))


def _close_turn(parts: list[str], row: Variant) -> None:
    parts += (_token(row, row.turn_end), row.after_turn)


def _token(row: Variant, spelling: str) -> str:
    return Control(spelling) if spelling in row.controls else spelling
