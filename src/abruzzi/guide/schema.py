"""A tool's JSON Schema: checked when the request comes in, and asked about every call that comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema_rs

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Tool

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
# The longest piece of a bad value that a message repeats.
_SHOWN = 300


class Schemas:
    """The validators of a request's tools, by name."""

    def __init__(self, tools: Sequence[Tool]) -> None:
        """Raises RequestError for two tools of one name and for parameters that are no JSON Schema of an object."""
        self._validators: dict[str, jsonschema_rs.Validator] = {}
        for i, tool in enumerate(tools):
            if tool.name in self._validators:
                raise RequestError(f"two tools are called {tool.name!r}", f"tools[{i}].function.name")
            self._validators[tool.name] = _validator(tool, f"tools[{i}].function.parameters")

    def fault(self, name: str, arguments: str) -> str | None:
        """What is wrong with these arguments, and where, or None when they are what the tool's schema asks for."""
        try:
            value = json.loads(arguments, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            return f"expected JSON, got {error}"
        if not isinstance(value, dict):
            return f"expected an object of arguments, got {arguments[:_SHOWN]}"
        try:
            self._validators[name].validate(value)
        except jsonschema_rs.ValidationError as error:
            path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
            return f"{error.message[:_SHOWN]} (at ${path})"
        except ValueError as error:  # a number that no float holds, a reference that leads nowhere
            return str(error)[:_SHOWN]
        return None


def arguments_schema(tool: Tool) -> Mapping[str, Any]:
    """The schema of the tool's arguments; a tool without parameters takes the empty object."""
    return NO_ARGUMENTS if tool.parameters is None else tool.parameters


def closed(schema: Any) -> Any:
    """The schema with every object shut that declares properties and doesn't say whether it takes others.

    JSON Schema lets a model invent properties there. A large model doesn't; a small one does.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    shut = {key: _closed_keyword(key, value) for key, value in schema.items()}
    # A schema put together of several (allOf, ...) has its properties spread over the parts: shutting one would shut
    # out the others'.
    if isinstance(shut.get("properties"), Mapping) and not shut.keys() & _OPEN:
        shut["additionalProperties"] = False
    return shut


def _closed_keyword(keyword: str, value: Any) -> Any:
    if keyword in _VALUES:
        return value
    if keyword in _MAPS and isinstance(value, Mapping):
        return {name: closed(schema) for name, schema in value.items()}
    return closed(value)


# Keywords whose value is data, and those whose value holds a schema for each of some names.
_VALUES = frozenset(("const", "enum", "default", "examples", "required"))
_MAPS = frozenset(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"))
_OPEN = frozenset(
    (
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "if",
        "$ref",
        "minProperties",
    )
)


def _validator(tool: Tool, where: str) -> jsonschema_rs.Validator:
    schema = dict(arguments_schema(tool))
    kind = schema.get("type", "object")
    if kind != "object" and kind != ["object"]:
        raise RequestError(
            f"the arguments of {tool.name!r} are an object: expected type object, got {kind!r}", f"{where}.type"
        )
    try:
        jsonschema_rs.meta.validate(schema)
        return jsonschema_rs.validator_for(schema, validate_formats=True, retriever=_no_retrieval)
    except jsonschema_rs.ValidationError as error:
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.instance_path)
        raise RequestError(
            f"the schema of {tool.name!r} is no JSON Schema: {error.message[:_SHOWN]}", where + path
        ) from None
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the schema of {tool.name!r} can't be used: {str(error)[:_SHOWN]}", where) from None


def _no_retrieval(uri: str) -> Any:
    raise ValueError(f"the reference {uri} leads outside the schema")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name}, which JSON does not have")
