"""A conversation as it grows, in OpenAI's form; the loss falls on the assistant messages marked `"train": true`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs

from training.data.catalog import JsonObject
from training.data.declaration import Declared


class Chat:
    """A conversation as it grows."""

    def __init__(self, messages: list[JsonObject]) -> None:
        self.messages = messages
        self.calls = 0
        self.open: list[str] = []
        self.checks: list[tuple[Declared, JsonObject]] = []

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def say(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text.strip(), "train": True})

    def call(self, calls: Sequence[tuple[Declared, Mapping[str, Any]]], pythonic: bool = False) -> None:
        written = []
        for tool, by_slot in calls:
            arguments = tool.arguments(by_slot)
            self.checks.append((tool, arguments))
            text = json.dumps(arguments, ensure_ascii=False)
            id = f"functions.{tool.name}:{self.calls}"
            self.calls += 1
            self.open.append(id)
            written.append({"id": id, "type": "function", "function": {"name": tool.name, "arguments": text}})
        if pythonic:
            text = ", ".join(python_call(tool.name, tool.arguments(by_slot)) for tool, by_slot in calls)
            self.say(f"[{text}]")
        else:
            self.messages.append({"role": "assistant", "content": "", "tool_calls": written, "train": True})

    def result(self, content: str) -> None:
        self.messages.append({"role": "tool", "tool_call_id": self.open.pop(0), "content": content})

    def done(self, tools: list[JsonObject], source: str, tool_format: str = "k2") -> JsonObject:
        names = [tool["function"]["name"] for tool in tools]
        assert len(names) == len(set(names)), f"a name is declared twice: {names}"
        for tool, arguments in self.checks:
            assert tool.openai in tools, f"{tool.name} is called but not declared"
            schema = {**tool.openai["function"]["parameters"], "additionalProperties": False}
            jsonschema_rs.validator_for(schema).validate(arguments)
        return {"messages": self.messages, "tools": tools, "tool_format": tool_format, "source": source}


def python_call(name: str, arguments: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={python_literal(value)}' for key, value in arguments.items())})"


def python_literal(value: Any) -> str:
    """`repr`, but always with single quotes."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{', '.join(python_literal(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{python_literal(k)}: {python_literal(v)}" for k, v in value.items()) + "}"
    return repr(value)


def quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
