"""Custom tools of the Responses API, whose input is free text: for K2, functions with one argument, a string."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from abruzzi.protocol.errors import RequestError
from abruzzi.server.dialect import Fields

_INPUT = "input"
PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {_INPUT: {"type": "string"}},
    "required": [_INPUT],
    "additionalProperties": False,
}
"""The schema of the function that a custom tool is shown as."""


def check_format(fields: Fields) -> None:
    """Raises RequestError for a tool whose input has to follow a grammar: that couldn't be promised here."""
    form = fields.object("format")
    kind = form.string("type")
    if kind not in (None, "text"):
        raise RequestError(f"expected text, got {kind!r}: an input isn't held to a grammar here", form.at("type"))


def arguments_of(text: str) -> str:
    """The function's arguments that stand for an input."""
    return json.dumps({_INPUT: text}, ensure_ascii=False)


def input_of(arguments: str) -> str:
    """The input that valid arguments stand for."""
    return str(msgspec.json.decode(arguments)[_INPUT])
