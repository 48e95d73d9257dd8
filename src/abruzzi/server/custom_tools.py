"""OpenAI's custom tools, whose input is free text: for K2, functions with one argument, a string."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Tool
from abruzzi.server.dialect import Fields

_INPUT = "input"
_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {_INPUT: {"type": "string"}},
    "required": [_INPUT],
    "additionalProperties": False,
}


def custom_tool(fields: Fields) -> Tool:
    """The function that a custom tool is shown as; `fields`: its name, description and format. Raises RequestError,
    also for one whose input has to follow a grammar: that couldn't be promised here.
    """
    form = fields.object("format")
    kind = form.string("type")
    if kind not in (None, "text"):
        raise RequestError(f"expected text, got {kind!r}: an input isn't held to a grammar here", form.at("type"))
    return flat_tool(fields, fields.string("name"), {"parameters": _PARAMETERS})


def flat_tool(fields: Fields, name: str | None, more: Mapping[str, Any]) -> Tool:
    """A tool of this name whose description stands in `fields` itself, not below `function`; `more`: its `parameters`
    and `strict`. Raises RequestError, with the path there.
    """
    function = {"name": name, "description": fields.value.get("description"), **more}
    try:
        return Tool.from_openai({"type": "function", "function": function}, "")
    except RequestError as error:
        key = (error.param or "").removeprefix(".function").removeprefix(".")
        raise RequestError(str(error).removesuffix(f" (at {error.param})"), fields.at(key or "name")) from None


def arguments_of(text: str) -> str:
    """The function's arguments that stand for an input."""
    return json.dumps({_INPUT: text}, ensure_ascii=False)


def input_of(arguments: str) -> str:
    """The input that valid arguments stand for."""
    return str(msgspec.json.decode(arguments)[_INPUT])
