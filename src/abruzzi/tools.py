"""A Python function as a tool: its signature, type hints and docstring make the schema, and arguments are checked
before it runs.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import docstring_parser
import msgspec

from abruzzi.protocol.errors import AbruzziError
from abruzzi.protocol.messages import Tool

_NO_DEFAULT = inspect.Parameter.empty


class ToolError(AbruzziError):
    """A function or file that can't be made tools of."""

    status = 400


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A tool and the function behind it."""

    spec: Tool
    function: Callable[..., Any]
    types: Mapping[str, Any]
    """The parameters' types, by name."""

    async def __call__(self, arguments: str) -> str:
        """Call the function with the arguments of a tool call, JSON text, and give back what the model is told.

        What the function raises is part of the conversation, not of the program: the model reads it as the result.
        """
        try:
            values = msgspec.json.decode(arguments or "{}")
            keywords = {name: _converted(name, value, self.types.get(name, Any)) for name, value in values.items()}
            if inspect.iscoroutinefunction(self.function):
                result = await self.function(**keywords)
            else:
                result = await asyncio.to_thread(self.function, **keywords)
            text = result if isinstance(result, str) else _as_json(result)
        except (Exception, SystemExit) as error:  # whatever a user's function raises, or returns
            text = f"Error: {type(error).__name__}: {error}"
        # Half a surrogate pair is no character that could be sent to anyone.
        return text.encode("utf-8", "replace").decode()


def tool(function: Callable[..., Any]) -> FunctionTool:
    """Make a tool of a function. Its docstring's first part describes the tool, the part about parameters each of
    these.

    Raises ToolError for a signature that no JSON Schema says: `*args`, `**kwargs`, or a hint that JSON has nothing for.
    """
    name = getattr(function, "__name__", None)
    if not inspect.isroutine(function) or name is None or not name.isidentifier():
        raise ToolError(f"expected a function with a name, got {function!r}")
    try:
        hints = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, SyntaxError) as error:
        raise ToolError(f"the type hints of {name}() can't be read: {error}") from error
    docstring = docstring_parser.parse(function.__doc__ or "")
    described = {param.arg_name: param.description for param in docstring.params}
    properties: dict[str, Any] = {}
    required: list[str] = []
    definitions: dict[str, Any] = {}
    types: dict[str, Any] = {}
    for parameter in _parameters(function):
        types[parameter.name] = hint = hints.get(parameter.name, Any)
        schema, used = _schema(name, parameter, hint)
        definitions |= used
        if text := described.get(parameter.name):
            schema = {**schema, "description": " ".join(text.split())}
        properties[parameter.name] = schema
        if parameter.default is _NO_DEFAULT:
            required.append(parameter.name)
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    if definitions:
        parameters["$defs"] = definitions
    description = "\n".join(filter(None, (docstring.short_description, docstring.long_description)))
    return FunctionTool(Tool(name, description or None, parameters), function, types)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as error:
        raise ToolError(f"the parameters of {function!r} can't be known: {error}") from error


def _schema(function: str, parameter: inspect.Parameter, hint: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise ToolError(f"{function}() takes {parameter}: a tool's parameters are named one by one")
    try:
        (schema,), definitions = msgspec.json.schema_components([hint], ref_template="#/$defs/{name}")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ToolError(
            f"the hint of {parameter.name!r} in {function}() is no type that JSON can carry: {hint!r}"
        ) from error
    return dict(schema), dict(definitions)


def _converted(name: str, value: Any, hint: Any) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}") from None


def _as_json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        return str(value)


def load(path: Path) -> list[FunctionTool] | list[Tool]:
    """The tools in a file: a Python file's public functions, which can be run, or a JSON file's definitions, which
    can't.

    Raises ToolError, naming the file, when there are none to be had.
    """
    if not path.is_file():
        raise ToolError(f"no file at {path}: expected a Python file of functions or a JSON file of tool definitions")
    return _load_json(path) if path.suffix == ".json" else _load_python(path)


def _load_python(path: Path) -> list[FunctionTool]:
    spec = importlib.util.spec_from_file_location(f"abruzzi_tools_{path.stem}", path)
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise ToolError(f"{path}: expected a file that ends in .py or .json")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and type hints look their module up by name
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file raises
        raise ToolError(f"{path} can't be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    tools = []
    for name, value in vars(module).items():
        if isinstance(value, FunctionTool):
            tools.append(value)
        elif inspect.isfunction(value) and not name.startswith("_") and value.__module__ == spec.name:
            tools.append(tool(value))
    if not tools:
        raise ToolError(f"{path} defines no public function")
    return tools


def _load_json(path: Path) -> list[Tool]:
    """OpenAI's list of tools, or what an MCP server answers to `tools/list`."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ToolError(f"{path}: {error}") from error
    if isinstance(value, Mapping):
        value = value.get("tools", [value])
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ToolError(f"{path}: expected a list of tool definitions")
    return [Tool.from_openai(_openai_form(item), f"{path}[{i}]") for i, item in enumerate(value)]


def _openai_form(item: Any) -> Any:
    if not isinstance(item, Mapping) or "function" in item:
        return item
    function = {key: item[key] for key in ("name", "description", "parameters", "strict") if key in item}
    if "inputSchema" in item:
        function["parameters"] = item["inputSchema"]
    return {"type": "function", "function": function}
