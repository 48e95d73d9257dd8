"""The tools of a request of the Responses API, and which of them may be called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from abruzzi.guide.schema import compile
from abruzzi.guide.strict import check_strict
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Tool, Tools
from abruzzi.server.custom_tools import custom_tool, flat_tool
from abruzzi.server.dialect import Fields
from abruzzi.server.responses_input import flat_name

# Run by OpenAI's servers. Codex sends them unasked and has no way to leave all of them out, so that vLLM and llama.cpp
# (its pull request 23041) go on without them, too. The response's `tools` lists those that the model was shown.
_LEFT_OUT = frozenset(
    (
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
        "image_generation",
        "tool_search",
    )
)
_CHOICES = ("auto", "none", "required")


@dataclass
class Declared:
    """Tools as the model is shown them, and as the client knows them."""

    tools: list[Tool] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    """As the response lists them."""
    names: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Namespace and name there of those that stand in one, by the name that the model is shown."""
    custom: set[str] = field(default_factory=set)
    """The names of those that take free text."""
    shown: Tools = field(default_factory=Tools)
    """The tools, when all are there."""
    _shown: set[str] = field(default_factory=set)

    def add(self, fields: Fields, namespace: str | None = None) -> dict[str, Any]:
        """One function, checked. Returns it as a response lists it."""
        name = fields.string("name")
        more = {key: fields.value.get(key) for key in ("parameters", "strict")}
        tool = self._add(fields, flat_tool(fields, name and flat_name(namespace, name), more))
        if namespace and name:
            self.names[tool.name] = namespace, name
        told = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict or False}
        return {"type": "function", "name": name, **told}

    def add_custom(self, fields: Fields) -> dict[str, Any]:
        """One that takes free text, checked. Returns it as a response lists it."""
        tool = self._add(fields, custom_tool(fields))
        self.custom.add(tool.name)
        told = {"description": tool.description} if tool.description else {}
        return {"type": "custom", "name": tool.name, **told, "format": {"type": "text"}}

    def _add(self, fields: Fields, tool: Tool) -> Tool:
        if tool.name in self._shown:
            raise RequestError(f"two tools are called {tool.name!r}", fields.at("name"))
        if tool.strict and tool.parameters is not None:
            check_strict(tool.parameters, fields.at("parameters"))
        # What is compiled is remembered, so that this costs nothing twice; here the place in the body is known.
        compile(tool.parameters, name=tool.name, where=fields.at("parameters"))
        self.tools.append(tool)
        self._shown.add(tool.name)
        return tool


def read_tools(values: Sequence[Any]) -> Declared:
    """The functions, those of namespaces, and custom tools. Raises RequestError for others that can't be left out."""
    declared = Declared()
    for i, value in enumerate(values):
        where = f"tools[{i}]"
        if not isinstance(value, dict):
            raise RequestError("expected a tool, an object", where)
        fields = Fields(value, where)
        kind = fields.string("type")
        if kind == "function":
            declared.told.append(declared.add(fields))
        elif kind == "custom":
            declared.told.append(declared.add_custom(fields))
        elif kind == "namespace":
            if (namespace := _namespace(declared, fields))["tools"]:
                declared.told.append(namespace)
        elif kind not in _LEFT_OUT:
            expected = "function, custom or namespace"
            raise RequestError(f"expected {expected}, got {kind!r}: no other runs here", fields.at("type"))
    declared.shown = Tools(declared.tools)
    return declared


def _namespace(declared: Declared, fields: Fields) -> dict[str, Any]:
    """A group of functions, as Codex sends one for each MCP server."""
    name = fields.string("name")
    if not name:
        raise RequestError("expected the namespace's name, a non-empty string", fields.at("name"))
    told = []
    for i, value in enumerate(fields.list("tools")):
        where = f"{fields.at('tools')}[{i}]"
        if not isinstance(value, dict) or value.get("type") != "function":
            raise RequestError('expected an object with "type": "function"', where)
        told.append(declared.add(Fields(value, where), name))
    return {"type": "namespace", "name": name, "description": fields.string("description") or "", "tools": told}


def read_choice(value: Any, declared: Declared) -> tuple[str, Sequence[str] | None]:
    """The choice, and the names that it is among, where those are told."""
    if value is None:
        return "auto", None
    if isinstance(value, str) and value in _CHOICES:
        return value, None
    if not isinstance(value, dict):
        raise RequestError('expected auto, none, required or {"type": "function", "name": ...}', "tool_choice")
    fields = Fields(value, "tool_choice")
    if value.get("type") == "allowed_tools":
        mode = fields.string("mode")
        if mode not in ("auto", "required"):
            raise RequestError(f"expected auto or required, got {mode!r}", fields.at("mode"))
        names = []
        for i, one in enumerate(fields.list("tools")):
            where = f"{fields.at('tools')}[{i}]"
            if not isinstance(one, dict):
                raise RequestError('expected {"type": "function", "name": ...}', where)
            allowed = Fields(one, where)
            if allowed.string("type") not in _LEFT_OUT:
                names.append(_chosen(allowed, declared))
        if mode == "required" and not names:
            raise RequestError("expected tools that one is to be chosen from, got none", fields.at("tools"))
        return mode, names
    name = _chosen(fields, declared)
    if name in _CHOICES:
        raise RequestError(f"a tool called {name!r} can't be chosen by name", fields.at("name"))
    return name, None


def _chosen(fields: Fields, declared: Declared) -> str:
    """The name that the model knows a tool by; one in a namespace may be told by the name that it has there."""
    kind = fields.string("type")
    if kind not in ("function", "custom"):
        raise RequestError(f"expected function or custom, got {kind!r}", fields.at("type"))
    name = fields.string("name")
    shown = [tool.name for tool in declared.tools if (tool.name in declared.custom) == (kind == "custom")]
    meant = [one for one in shown if one == name]
    if not meant and kind == "function":
        meant = [one for one, (_, own) in declared.names.items() if own == name]
    if len(meant) != 1:
        raise RequestError(f"expected the name of a declared tool of type {kind}, got {name!r}", fields.at("name"))
    return meant[0]
