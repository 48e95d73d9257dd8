"""What a grammar needs to know of a tool: its name, and the schema of its arguments as llguidance follows it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from llguidance import LLMatcher

from abruzzi.guide.schema import arguments_schema, closed, compile
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.remembered import Remembered

_BOUNDARY = re.compile(r"(?<!\\)((?:\\\\)*)\\[bB]")
# As Python's and K2's own JSON: one blank behind a comma or colon, none elsewhere. A grammar that lets a model choose
# its white space lets it write white space for ever (failure 55).
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LENIENT = {"lenient": True, "coerce_one_of": True}


@dataclass(frozen=True, slots=True)
class Signature:
    """A tool's name and its arguments' schemas, as JSON texts. Equal for tools of equal content."""

    name: str
    schema: str
    """As the tool has it."""
    followed: str = field(compare=False, repr=False)
    """The nearest one that llguidance compiles, with our spacing."""
    exact: bool = field(compare=False)
    """Whether that says the same."""


def signatures(tools: Sequence[Tool]) -> tuple[Signature, ...]:
    """Raises RequestError for a tool whose schema nothing can satisfy."""
    return tuple(_checked(tool, t) for t, tool in enumerate(tools))


def _checked(tool: Tool, t: int) -> Signature:
    try:
        known = _nearest_of(b"" if tool.parameters is None else _encoded(tool.parameters))
        return Signature(tool.name, *known)
    except ValueError as error:
        raise RequestError(
            f"nothing can satisfy the schema of {tool.name!r}: {error}", f"tools[{t}].function.parameters"
        ) from None


def _encoded(parameters: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(parameters, enc_hook=dict)
    except (TypeError, ValueError, OverflowError):  # an integer of more than 64 bits, a lone surrogate
        return json.dumps(parameters, default=dict).encode()


def _made(parameters: bytes) -> tuple[str, str, bool]:
    schema = arguments_schema(Tool("", None, json.loads(parameters) if parameters else None))
    return json.dumps(schema, ensure_ascii=False), *_nearest({**schema, "type": "object"})


_nearest_of = Remembered(_made, most=8 << 20)


def _nearest(schema: Mapping[str, Any]) -> tuple[str, bool]:
    """The nearest schema that llguidance compiles, and whether it says the same as the given one.

    Raises ValueError for a schema that nothing can satisfy. That llguidance holds it for one is no proof: it refuses
    members that nothing satisfies, though they need not be there.
    """
    faults = []
    for candidate, options, exact in _candidates(schema):
        text = _spaced(candidate, options)
        if not (found := _fault(text)):
            return text, exact
        faults.append(found)
    if all("Unsatisfiable" in found for found in faults):
        try:
            compile(schema)
        except RequestError:
            raise ValueError(faults[-1].splitlines()[0].partition("Unsatisfiable schema: ")[2]) from None
    return _of_the_properties_that_compile(schema), False


def _candidates(schema: Mapping[str, Any]) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any], bool]]:
    shut = closed(schema)
    yield shut, {}, True
    yield schema, {}, True
    yield shut, {"coerce_one_of": True}, False
    yield without_boundaries(shut), {"coerce_one_of": True}, False
    yield shut, _LENIENT, False
    yield schema, _LENIENT, False


def without_boundaries(node: Any) -> Any:
    """The schema with patterns that ask for no word boundaries, which llguidance doesn't know."""
    if isinstance(node, list):
        return [without_boundaries(one) for one in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _BOUNDARY.sub(r"\1", value) if key == "pattern" and isinstance(value, str) else without_boundaries(value)
        for key, value in node.items()
    }


def _of_the_properties_that_compile(schema: Mapping[str, Any]) -> str:
    """One property that llguidance can't follow shall not cost the others their grammar."""
    properties = schema.get("properties")
    definitions = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    kept = {}
    for name, value in properties.items() if isinstance(properties, Mapping) else ():
        alone = {"type": "object", "properties": {name: value}, "required": [name], **definitions}
        kept[name] = {} if _fault(_spaced(alone, _LENIENT)) else value
    required = [name for name in schema.get("required") or () if name in kept]
    whole = {"type": "object", "properties": kept, "required": required, **definitions}
    for candidate in (whole, {"type": "object"}):
        text = _spaced(candidate, _LENIENT)
        if not _fault(text):
            return text
    raise AssertionError("llguidance refuses the schema of any object")


def _spaced(schema: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    return json.dumps({**schema, "x-guidance": {**_SPACING, **options}}, ensure_ascii=False)


def _fault(schema: str) -> str:
    """What llguidance has against the schema, or nothing. An eighth of the time that it takes around `%json`."""
    return LLMatcher.validate_grammar(LLMatcher.grammar_from_json_schema(schema))
