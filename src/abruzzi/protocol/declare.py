"""How tools are declared to the model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN, CALL_END, SECTION_BEGIN, SECTION_END
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.references import alternatives, united
from abruzzi.protocol.typescript import typescript_declaration

# A small model reads slowly (about 300 tokens a second on two cores), so a signature carries the first sentence of each
# description and no more than this many characters of it.
_TOOL_DESCRIPTION = 160
_PARAMETER_DESCRIPTION = 80
_exactly = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode
_fast = msgspec.json.Encoder(order="sorted").encode


def json_declaration(tools: Sequence[Tool]) -> str:
    """K2's form: the OpenAI tool list as compact JSON, keys sorted at every depth."""
    # One by one: where there are thousands, others are served in between.
    return f"[{','.join([_json(tool.to_openai()) for tool in tools])}]"


def _json(value: Any) -> str:
    """The value as Python's own encoder writes it. The fast one writes large and small floats in another way, and what
    is no JSON.
    """
    try:
        text = _fast(value)
        if _without_floats(text) == value:
            return text.decode()
    except (ValueError, TypeError, OverflowError):
        pass
    return _exactly(value)


def _refuse(number: str) -> Any:
    raise ValueError(number)


_without_floats = msgspec.json.Decoder(float_hook=_refuse).decode


def typescript_or_json(tools: Sequence[Tool]) -> str:
    """K2.5's form: TypeScript, or K2's where a schema can't be put in it."""
    return typescript_declaration(tools) or json_declaration(tools)


def signatures(tools: Sequence[Tool]) -> str:
    """The embedded model's form, a line a tool: `get_weather(location: string /* City */, unit?: "c" | "f"): Get the
    weather.`
    """
    return "\n".join(_signature(tool) for tool in tools)


def instructed_signatures(tools: Sequence[Tool]) -> str:
    """The same for a model that doesn't know K2's format, with how to call them."""
    return (
        f"You can call these functions:\n{signatures(tools)}\n\n"
        "To call functions, write nothing but\n"
        f'{SECTION_BEGIN}{CALL_BEGIN}functions.NAME:0{ARGUMENT_BEGIN}{{"parameter": "value"}}{CALL_END}{SECTION_END}\n'
        "with a block from call_begin to call_end for each call, numbered on over the whole conversation. Call only "
        "what the request needs, with values from the user's words. When it needs no function, or when the results are "
        "there, answer in words."
    )


def _signature(tool: Tool) -> str:
    root = tool.parameters or {}
    schema = united(root, root)
    fields = _fields(schema, root, described=True, depth=0)
    if not fields and (others := schema["additionalProperties"]):
        fields = f"[name: string]: {_type(others, root, 0)}"
    description = _first_sentence(tool.description or "", _TOOL_DESCRIPTION)
    return f"{tool.name}({fields})" + (f": {description}" if description else "")


def _fields(schema: Mapping[str, Any], root: Mapping[str, Any], *, described: bool, depth: int) -> str:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return ""
    required = schema.get("required") or ()
    fields = []
    for name, value in properties.items():
        comment = _first_sentence(_described(value), _PARAMETER_DESCRIPTION) if described else ""
        optional = "" if name in required else "?"
        fields.append(f"{name}{optional}: {_type(value, root, depth)}" + (f" /* {comment} */" if comment else ""))
    return ", ".join(fields)


def _described(schema: Any) -> str:
    description = schema.get("description") if isinstance(schema, Mapping) else None
    return description if isinstance(description, str) else ""


def _type(schema: Any, root: Mapping[str, Any], depth: int) -> str:
    """A schema as a TypeScript type, near enough for a model; what it can't say is `any`."""
    if not isinstance(schema, Mapping) or depth > 4:
        return "any"
    depth += not schema.keys().isdisjoint(("$ref", "anyOf", "oneOf", "allOf"))  # what may lead back to itself
    return _union(_plain(option, root, depth) for option in alternatives(schema, root)) or "never"


def _plain(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> str:
    if isinstance(values := schema.get("enum"), list) and values:
        return _union(json.dumps(value, ensure_ascii=False) for value in values)
    kind = schema.get("type")
    if isinstance(kind, list):
        return _union(_plain({**schema, "type": one}, root, depth) for one in kind)
    if kind == "array":
        item = _type(schema.get("items"), root, depth + 1)
        return f"({item})[]" if " | " in item else f"{item}[]"
    if kind == "object" or "properties" in schema:
        fields = _fields(schema, root, described=False, depth=depth + 1)
        return f"{{{fields}}}" if fields else "object"
    return kind if isinstance(kind, str) else "any"


def _union(types: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(types))


def _first_sentence(text: str, limit: int) -> str:
    """The first sentence on one line, without what would end a comment, cut at a word where it is too long."""
    line = " ".join(text.replace("*/", "").split())
    for end in (". ", "! ", "? "):
        if 0 <= (at := line.find(end)) < limit:
            line = line[: at + 1]
    if len(line) > limit:
        line = line[:limit].rsplit(" ", 1)[0] + "..."
    return line
