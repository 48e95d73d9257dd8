"""The tools of a request of OpenAI's chat API, and which of them may be called."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Tool, Tools
from abruzzi.server.custom_tools import custom_tool
from abruzzi.server.dialect import Fields


@dataclass(frozen=True, slots=True)
class Declared:
    shown: Tools
    """As the model is shown them."""
    custom: Collection[str]
    """The names of those that take free text."""


def read_tools(values: Sequence[Any]) -> Declared:
    """The functions and custom tools. Raises RequestError, with the path of the fault."""
    tools, custom = [], set()
    for i, value in enumerate(values):
        where = f"tools[{i}]"
        if isinstance(value, Mapping) and value.get("type") == "custom":
            tools.append(custom_tool(Fields(value, where).object("custom")))
            custom.add(tools[-1].name)
        else:
            tools.append(Tool.from_openai(value, where))
    return Declared(Tools(tools), custom)


def read_choice(value: Any, declared: Declared) -> tuple[str, Sequence[str] | None]:
    """The choice, and the names that it is among, where those are told."""
    if value is None:
        return "auto", None
    if value in ("auto", "none", "required"):
        return str(value), None
    names = {"function": {tool.name for tool in declared.shown} - set(declared.custom), "custom": declared.custom}
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        allowed = Fields(value, "tool_choice").object("allowed_tools")
        mode = allowed.string("mode")
        if mode not in ("auto", "required"):
            raise RequestError(f"expected auto or required, got {mode!r}", allowed.at("mode"))
        listed = allowed.list("tools")
        if mode == "required" and not listed:
            raise RequestError("expected tools that one is to be chosen from, got none", allowed.at("tools"))
        return mode, [_named(one, f"{allowed.at('tools')}[{i}]", names) for i, one in enumerate(listed)]
    return _named(value, "tool_choice", names), None


def _named(value: Any, where: str, names: Mapping[str, Collection[str]]) -> str:
    """`names`: those of the declared tools, by their type."""
    kind = "custom" if isinstance(value, dict) and value.get("type") == "custom" else "function"
    tool = value.get(kind) if isinstance(value, dict) else None
    if not isinstance(tool, dict) or not isinstance(name := tool.get("name"), str):
        expected = f'{{"type": "{kind}", "{kind}": {{"name": ...}}}}'
        raise RequestError(f"expected {'auto, none, required or ' * (where == 'tool_choice')}{expected}", where)
    if name in ("auto", "none", "required"):
        raise RequestError(f"a tool called {name!r} can't be chosen by name", f"{where}.{kind}.name")
    if name not in names[kind]:
        expected = f"expected the name of a declared tool of type {kind}"
        raise RequestError(f"{expected}, got {name!r}", f"{where}.{kind}.name")
    return name
