"""What stands in `input` of the Responses API: items, checked and brought to one form, and the conversation they make.

Of what an answer is made of there, an item each, K2 has one turn: reasoning, then text, then calls. So a message of the
assistant's and the calls behind it become one message, with the reasoning before it.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Function, Message, Role, ToolCall
from abruzzi.server.custom_tools import arguments_of
from abruzzi.server.dialect import Fields
from abruzzi.server.response_store import Item

_ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
_STATUSES = ("in_progress", "completed", "incomplete")
_TEXTS = ("input_text", "output_text")
_CARRIED = "abruzzi:"


def new_id(prefix: str) -> str:
    """An id that nobody can guess."""
    return f"{prefix}_{secrets.token_hex(24)}"


def carried(reasoning: str) -> str:
    """Reasoning as `encrypted_content`, for agents that bring back nothing else (as Codex did for long).

    It is no secret: who asks for it has it in `content`, too.
    """
    return _CARRIED + base64.b64encode(reasoning.encode()).decode()


def read_items(value: Any, stored: Callable[[str], Item | None], made: set[str]) -> list[Item]:
    """The items of `input`, each with an id and in the form in which they are listed.

    `stored` looks up what an item refers to; ids that are made up for items that have none are added to `made`. Raises
    RequestError with the path of what is no item.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise RequestError("expected a string or a list of items", "input")
    return [_item(one, f"input[{i}]", stored, made) for i, one in enumerate(value)]


def _item(value: Any, where: str, stored: Callable[[str], Item | None], made: set[str]) -> Item:
    if not isinstance(value, dict):
        raise RequestError("expected an item, an object", where)
    fields = Fields(value, where)
    kind = fields.string("type")
    if kind is None:
        kind = "message" if "role" in value or "id" not in value else "item_reference"
    if kind == "item_reference":
        id = _required(fields, "id")
        if (item := stored(id)) is None:
            raise RequestError(f"item {id!r} not found: it was not stored, or gave way to newer ones", fields.at("id"))
        return item
    if kind not in _READERS:
        expected = ", ".join((*_READERS, "item_reference"))
        raise RequestError(f"expected one of {expected}, got {kind!r}", fields.at("type"))
    prefix, read = _READERS[kind]
    item = {"id": fields.string("id") or "", "type": kind, **read(fields)}
    if not item["id"]:
        item["id"] = new_id(prefix)
        made.add(item["id"])
    return item


def _message(fields: Fields) -> Item:
    role = fields.string("role")
    if role not in _ROLES:
        raise RequestError(f"expected one of {', '.join(_ROLES)}, got {role!r}", fields.at("role"))
    content = fields.value.get("content")
    if isinstance(content, str):
        parts = [{"type": "input_text", "text": content}]
    else:
        parts = _parts(content, fields.at("content"), refusal=role == "assistant")
    if role == "assistant":
        parts = [part if part["type"] == "refusal" else _output_text(part["text"]) for part in parts]
    else:
        parts = [{"type": "input_text", "text": part["text"]} for part in parts]
    return {"role": role, "status": _status(fields), "content": parts}


def _function_call(fields: Fields) -> Item:
    arguments = fields.string("arguments")
    if arguments is None:
        raise RequestError("expected the arguments as a JSON text", fields.at("arguments"))
    item = {"call_id": _required(fields, "call_id"), "name": _required(fields, "name"), "arguments": arguments}
    namespace = fields.string("namespace")
    return {**item, **({"namespace": namespace} if namespace else {}), "status": _status(fields)}


def _custom_tool_call(fields: Fields) -> Item:
    text = fields.string("input")
    if text is None:
        raise RequestError("expected the call's input, a string", fields.at("input"))
    item = {"call_id": _required(fields, "call_id"), "name": _required(fields, "name"), "input": text}
    return {**item, "status": _status(fields)}


def _call_output(fields: Fields) -> Item:
    output = fields.value.get("output")
    if not isinstance(output, str):
        output = _parts(output, fields.at("output"))
    return {"call_id": _required(fields, "call_id"), "output": output, "status": _status(fields)}


def _reasoning(fields: Fields) -> Item:
    """`encrypted_content` that isn't ours is another model's, of which nobody here can make anything."""
    encrypted = fields.string("encrypted_content")
    item: Item = {
        "summary": _texts(fields, "summary", "summary_text"),
        "content": _texts(fields, "content", "reasoning_text"),
    }
    if encrypted is not None and encrypted.startswith(_CARRIED):
        try:
            text = base64.b64decode(encrypted[len(_CARRIED) :], validate=True).decode()
        except (binascii.Error, ValueError):
            reason = "expected what came as encrypted_content, unchanged"
            raise RequestError(reason, fields.at("encrypted_content")) from None
        item["content"] = item["content"] or [{"type": "reasoning_text", "text": text}]
    return {**item, "status": _status(fields)}


_READERS: Mapping[str, tuple[str, Callable[[Fields], Item]]] = {
    "message": ("msg", _message),
    "function_call": ("fc", _function_call),
    "function_call_output": ("fco", _call_output),
    "custom_tool_call": ("ctc", _custom_tool_call),
    "custom_tool_call_output": ("ctco", _call_output),
    "reasoning": ("rs", _reasoning),
}


def _parts(value: Any, where: str, *, refusal: bool = False) -> list[dict[str, Any]]:
    """A list of content parts, which must be texts."""
    if not isinstance(value, list):
        raise RequestError("expected a string or a list of content parts", where)
    parts = []
    for i, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if refusal and kind == "refusal":
            text = Fields(part, f"{where}[{i}]").string("refusal")
            parts.append({"type": "refusal", "refusal": text or ""})
        elif isinstance(kind, str) and kind in _TEXTS:
            parts.append({"type": "input_text", "text": _text(part, f"{where}[{i}]")})
        else:
            reason = f"expected a part of type {' or '.join(_TEXTS)}, got {kind!r}: only text is passed on here"
            raise RequestError(reason, f"{where}[{i}]")
    return parts


def _texts(fields: Fields, key: str, kind: str) -> list[dict[str, Any]]:
    texts = []
    for i, part in enumerate(fields.list(key, optional=True)):
        where = f"{fields.at(key)}[{i}]"
        # Codex calls what reasoning it brings back `text`.
        if not isinstance(part, dict) or part.get("type") not in (kind, "text"):
            raise RequestError(f"expected a part of type {kind}", where)
        texts.append({"type": kind, "text": _text(part, where)})
    return texts


def _text(part: Mapping[str, Any], where: str) -> str:
    text = part.get("text")
    if not isinstance(text, str):
        raise RequestError("expected a string", f"{where}.text")
    return text


def _output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(fields: Fields) -> str:
    status = fields.string("status") or "completed"
    if status not in _STATUSES:
        raise RequestError(f"expected one of {', '.join(_STATUSES)}, got {status!r}", fields.at("status"))
    return status


def _required(fields: Fields, key: str) -> str:
    value = fields.string(key)
    if not value:
        raise RequestError("expected a string that isn't empty", fields.at(key))
    return value


# The conversation


def flat_name(namespace: str | None, name: str) -> str:
    """The name of a tool, which for K2 has no namespace beside it. vLLM joins them in the same way."""
    return f"{namespace}__{name}" if namespace else name


def conversation(earlier: Sequence[Item], items: Sequence[Item]) -> list[Message]:
    """The messages that items make, those of a stored conversation and those of `input`.

    Reasoning that no answer follows is left out. Raises RequestError for an output that answers no call before it.
    """
    turns = _Turns()
    called: set[str] = set()
    for i, item in enumerate((*earlier, *items), -len(earlier)):
        match item["type"]:
            case "reasoning":
                turns.think(_reasoning_of(item))
            case "function_call":
                called.add(item["call_id"])
                function = Function(flat_name(item.get("namespace"), item["name"]), item["arguments"])
                turns.call(ToolCall(item["call_id"], function))
            case "custom_tool_call":
                called.add(item["call_id"])
                turns.call(ToolCall(item["call_id"], Function(item["name"], arguments_of(item["input"]))))
            case "function_call_output" | "custom_tool_call_output":
                if item["call_id"] not in called:
                    reason = f"expected the call_id of a call before it, got {item['call_id']!r}"
                    raise RequestError(reason, f"input[{i}].call_id")
                turns.add(Message("tool", _joined(item["output"]), tool_call_id=item["call_id"]))
            case _ if item["role"] == "assistant":
                turns.say(_joined(item["content"]))
            case _:
                turns.add(Message(_ROLES[item["role"]], _joined(item["content"])))
    return turns.close()


class _Turns:
    """Messages, the last of them maybe an assistant's that more may be added to."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._begin()

    def _begin(self) -> None:
        self._thoughts: list[str] = []
        self._said: str | None = None
        self._calls: list[ToolCall] = []

    def think(self, text: str) -> None:
        if self._said is not None or self._calls:
            self.close()
        if text:
            self._thoughts.append(text)

    def say(self, text: str) -> None:
        if self._said is not None or self._calls:
            self.close()
        self._said = text

    def call(self, call: ToolCall) -> None:
        self._calls.append(call)

    def add(self, message: Message) -> None:
        self.close()
        self._messages.append(message)

    def close(self) -> list[Message]:
        if self._said is not None or self._calls:
            thoughts = "\n\n".join(self._thoughts) or None
            self._messages.append(Message("assistant", self._said, thoughts, tuple(self._calls)))
        self._begin()
        return self._messages


def _joined(content: str | Sequence[Mapping[str, Any]]) -> str:
    """K2's template puts nothing between parts."""
    if isinstance(content, str):
        return content
    return "".join(part["refusal"] if part["type"] == "refusal" else part["text"] for part in content)


def _reasoning_of(item: Item) -> str:
    """The reasoning itself, or else its summary."""
    return _joined(item.get("content") or ()) or "\n\n".join(part["text"] for part in item["summary"])
