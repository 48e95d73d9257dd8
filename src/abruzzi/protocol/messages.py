"""The nouns of a conversation: `Message`, `Tool`, `ToolCall`.

They carry the fields of OpenAI's chat API, and those that its kin have added (`reasoning_content`); `from_openai` and
`to_openai` convert, and `from_openai` is where a message or tool that is none is refused, with the path of the fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.events import (
    ArgumentsDelta,
    ContentDelta,
    Event,
    Finish,
    FinishReason,
    Problem,
    ReasoningDelta,
    ToolCallBegin,
    ToolCallEnd,
)
from abruzzi.protocol.kept import Kept

Role = Literal["system", "user", "assistant", "tool"]
# OpenAI renamed `system` to `developer` for its reasoning models; K2 knows one role for both.
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
# What no name of a tool may hold.
_UNFIT = re.compile(r"[\s<>\[\]]")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is the JSON Schema of its arguments object (None: it takes
    none).
    """

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None

    @classmethod
    def from_openai(cls, value: Any, where: str = "tools[0]") -> Tool:
        """Read `{"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}`.

        Raises RequestError, naming the place, when it is anything else.
        """
        if not isinstance(value, Mapping) or value.get("type", "function") != "function":
            raise RequestError('expected an object with "type": "function"', where)
        function = value.get("function")
        if not isinstance(function, Mapping):
            raise RequestError("expected an object that describes the function", f"{where}.function")
        name = function.get("name")
        if not isinstance(name, str) or not name:
            raise RequestError("expected the function's name, a non-empty string", f"{where}.function.name")
        if _UNFIT.search(name):
            raise RequestError(
                f"the name {name!r} holds white space or one of < > [ ], which K2's format can't carry",
                f"{where}.function.name",
            )
        description = function.get("description")
        if description is not None and not isinstance(description, str):
            raise RequestError("expected a string", f"{where}.function.description")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise RequestError("expected a JSON Schema, an object", f"{where}.function.parameters")
        strict = function.get("strict")
        if strict is not None and not isinstance(strict, bool):
            raise RequestError("expected true or false", f"{where}.function.strict")
        return cls(name, description, parameters, strict)

    def to_openai(self) -> dict[str, Any]:
        """The inverse of `from_openai`; fields that are None are left out."""
        function: dict[str, Any] = {"name": self.name}
        for key in ("description", "parameters", "strict"):
            value = getattr(self, key)
            if value is not None:
                function[key] = value
        return {"type": "function", "function": function}


class Tools(Kept, tuple[Tool, ...]):
    """A request's tools, which nobody changes."""


@dataclass(frozen=True, slots=True)
class Function:
    """The function of a call. `arguments` is a JSON text, as the model wrote it."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call. Its `id` is `functions.NAME:N` when it comes from a model, and of any shape when it comes from a
    client.
    """

    id: str
    function: Function

    def to_openai(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.function.name, "arguments": self.function.arguments},
        }


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation, sent or received.

    `finish_reason` and `problems` are filled for what a model wrote; `tool_call_id` belongs to role `tool`.
    """

    role: Role = "assistant"
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    finish_reason: FinishReason | None = None
    problems: tuple[Problem, ...] = field(default=(), compare=False)

    @classmethod
    def from_events(cls, events: Iterable[Event]) -> Message:
        """Add a parser's events up to the message that they describe. A call that never ended is left out."""
        reasoning: list[str] = []
        content: list[str] = []
        calls: dict[int, tuple[str, str, list[str]]] = {}
        whole: set[int] = set()
        problems: list[Problem] = []
        finish_reason: FinishReason | None = None
        for event in events:
            match event:
                case ArgumentsDelta(index, text):
                    calls[index][2].append(text)
                case ContentDelta(text):
                    content.append(text)
                case ReasoningDelta(text):
                    reasoning.append(text)
                case ToolCallBegin(index, id, name):
                    calls[index] = (id, name, [])
                case ToolCallEnd(index):
                    whole.add(index)
                case Problem():
                    problems.append(event)
                case Finish(reason):
                    finish_reason = reason
        return cls(
            content="".join(content) or None,
            reasoning_content="".join(reasoning) or None,
            tool_calls=tuple(
                ToolCall(id, Function(name, "".join(parts))) for i, (id, name, parts) in calls.items() if i in whole
            ),
            finish_reason=finish_reason,
            problems=tuple(problems),
        )

    @classmethod
    def from_openai(cls, value: Any, where: str = "messages[0]") -> Message:
        """Read one entry of a request's `messages`. Raises RequestError, naming the place."""
        if not isinstance(value, Mapping):
            raise RequestError("expected a message, an object", where)
        role = value.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise RequestError(f"expected one of {', '.join(_ROLES)}, got {role!r}", f"{where}.role")
        for key in ("tool_call_id", "name", "reasoning_content", "reasoning"):
            if not isinstance(value.get(key), str | None):
                raise RequestError("expected a string", f"{where}.{key}")
        calls = value.get("tool_calls") or ()
        if not isinstance(calls, Sequence) or isinstance(calls, str):
            raise RequestError("expected a list of tool calls", f"{where}.tool_calls")
        if calls and role != "assistant":
            raise RequestError(f"only an assistant calls tools, this is a {role} message", f"{where}.tool_calls")
        return cls(
            role=_ROLES[role],
            content=_content(value.get("content"), f"{where}.content"),
            # OpenRouter's name for it, and vLLM's newer one, is the second.
            reasoning_content=value.get("reasoning_content") or value.get("reasoning"),
            tool_calls=tuple(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)),
            tool_call_id=value.get("tool_call_id"),
            name=value.get("name"),
        )

    def to_openai(self) -> dict[str, Any]:
        """The message as an entry of `messages`, or as a choice's `message`."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning_content is not None:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = [call.to_openai() for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            message["name"] = self.name
        return message


def as_tools(values: Iterable[Tool | Mapping[str, Any]]) -> list[Tool]:
    """The values as tools, those in OpenAI's form converted."""
    return [v if isinstance(v, Tool) else Tool.from_openai(v, f"tools[{i}]") for i, v in enumerate(values)]


def as_messages(values: Iterable[Message | Mapping[str, Any]]) -> list[Message]:
    """The values as messages, those in OpenAI's form converted."""
    return [v if isinstance(v, Message) else Message.from_openai(v, f"messages[{i}]") for i, v in enumerate(values)]


def _content(value: Any, where: str) -> str | None:
    """A string, or OpenAI's list of parts, whose texts are joined: K2's template puts nothing between them."""
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, Sequence):
        raise RequestError("expected a string or a list of content parts", where)
    texts: list[str] = []
    for i, part in enumerate(value):
        if not isinstance(part, Mapping) or part.get("type") not in ("text", "refusal"):
            kind = part.get("type") if isinstance(part, Mapping) else part
            raise RequestError(
                f"expected a part of type text, got {kind!r}: only text is passed on here", f"{where}[{i}]"
            )
        text = part.get("text", part.get("refusal"))
        if not isinstance(text, str):
            raise RequestError("expected a string", f"{where}[{i}].text")
        texts.append(text)
    return "".join(texts)


def _tool_call(value: Any, where: str) -> ToolCall:
    if not isinstance(value, Mapping) or not isinstance(value.get("function"), Mapping):
        raise RequestError('expected {"id": ..., "type": "function", "function": {...}}', where)
    function = value["function"]
    name, arguments, id = function.get("name"), function.get("arguments"), value.get("id") or ""
    if not isinstance(name, str | None):
        raise RequestError("expected the function's name, a string", f"{where}.function.name")
    if isinstance(arguments, Mapping):
        # A client that sends an object means its JSON; a string is kept as it is, for dumping it again would encode
        # it twice.
        try:
            arguments = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise RequestError(f"expected arguments of JSON values: {error}", f"{where}.function.arguments") from None
    arguments = "" if arguments is None else arguments
    if not isinstance(arguments, str):
        raise RequestError("expected the arguments as a JSON text", f"{where}.function.arguments")
    if not isinstance(id, str):
        raise RequestError("expected a string", f"{where}.id")
    return ToolCall(id, Function(name or "", arguments))
