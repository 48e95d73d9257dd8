"""The messages of OpenAI's chat API, held to what its description demands of each role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Message
from abruzzi.server.custom_tools import arguments_of
from abruzzi.server.dialect import Fields

# Of an assistant's message, what may stand in place of its content.
_IN_PLACE = ("tool_calls", "reasoning_content", "reasoning", "refusal")
_UNSUPPORTED = {"function_call": "expected tool_calls, got a function_call", "audio": "only text is passed on here"}


def read_message(value: Any, where: str) -> Message:
    """One entry of `messages`. Raises RequestError, with the path of the fault."""
    if isinstance(value, Mapping) and isinstance(calls := value.get("tool_calls"), list):
        calls = [_as_function(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)]
        value = {**value, "tool_calls": calls}
    message = Message.from_openai(value, where)
    at = f"{where}.content"
    content = value.get("content")
    if content is None and message.role != "assistant":
        raise RequestError(f"expected the content of a {message.role} message, got none", at)
    if isinstance(content, list) and not content:
        raise RequestError("expected a string or at least one content part, got an empty list", at)
    if message.role == "tool" and not message.tool_call_id:
        raise RequestError("expected the id of the call that it answers, a string", f"{where}.tool_call_id")
    return _assistant(message, value, where) if message.role == "assistant" else message


def _as_function(call: Any, where: str) -> Any:
    """A call of a custom tool as that of the function that it is shown as."""
    if not isinstance(call, Mapping) or call.get("type") != "custom":
        return call
    custom = Fields(call, where).object("custom")
    name, text = custom.string("name"), custom.string("input")
    if not name:
        raise RequestError("expected the tool's name, a non-empty string", custom.at("name"))
    if text is None:
        raise RequestError("expected the call's input, a string", custom.at("input"))
    return {"id": call.get("id"), "type": "function", "function": {"name": name, "arguments": arguments_of(text)}}


def _assistant(message: Message, value: Mapping[str, Any], where: str) -> Message:
    # An empty answer may come back as it was given, with a content of null.
    if "content" not in value and not any(value.get(key) for key in _IN_PLACE):
        raise RequestError("expected content or tool_calls in an assistant message, got neither", f"{where}.content")
    for key, reason in _UNSUPPORTED.items():
        if value.get(key):
            raise RequestError(reason, f"{where}.{key}")
    refusal = value.get("refusal")
    if not isinstance(refusal, str | None):
        raise RequestError("expected a string", f"{where}.refusal")
    return message if message.content is not None else replace(message, content=refusal)
