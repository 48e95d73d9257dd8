from __future__ import annotations

import asyncio
import dataclasses
import enum
import json
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest

from abruzzi import RequestError, Tool, tool
from abruzzi.tools import FunctionTool, ToolError, load


class Unit(enum.Enum):
    C = "c"
    F = "f"


@dataclasses.dataclass
class Place:
    city: str
    country: str | None = None


def forecast(
    place: Place,
    day: date,
    unit: Unit = Unit.C,
    hours: Annotated[int, msgspec.Meta(ge=1, le=24)] = 3,
    kind: Literal["short", "long"] = "short",
) -> dict[str, Any]:
    """Get the forecast.

    For the next days only.

    Args:
        place: Where,
            exactly
        day: Which day
    """
    return {"city": place.city, "year": day.year, "unit": unit.name, "hours": hours, "kind": kind}


def test_signature_hints_and_docstring_make_the_schema() -> None:
    spec = tool(forecast).spec
    assert spec.name == "forecast"
    assert spec.description == "Get the forecast.\nFor the next days only."
    assert spec.parameters is not None
    properties = spec.parameters["properties"]
    assert spec.parameters["required"] == ["place", "day"]
    assert properties["place"]["description"] == "Where, exactly"
    assert properties["day"] == {"type": "string", "format": "date", "description": "Which day"}
    assert properties["hours"] == {"type": "integer", "minimum": 1, "maximum": 24}
    assert spec.parameters["$defs"]["Place"]["required"] == ["city"]


def test_arguments_become_what_the_hints_say() -> None:
    arguments = {"place": {"city": "Rome"}, "day": "2026-11-22", "unit": "f"}
    result = asyncio.run(tool(forecast)(json.dumps(arguments)))
    assert json.loads(result) == {"city": "Rome", "year": 2026, "unit": "F", "hours": 3, "kind": "short"}


def test_what_a_function_raises_is_told_to_the_model() -> None:
    def fails(x: int) -> str:
        raise KeyError(x)

    assert asyncio.run(tool(fails)('{"x": 1}')) == "Error: KeyError: 1"
    assert asyncio.run(tool(fails)('{"x": "a"}')).startswith("Error: ValueError: x: Expected `int`")


def test_what_a_function_returns_is_always_text_that_can_be_sent() -> None:
    def odd() -> object:
        return ["\ud800"]

    def endless() -> object:
        items: list[object] = []
        items.append(items)
        return items

    for function in (odd, endless):
        asyncio.run(tool(function)("{}")).encode()


def test_coroutines_are_awaited() -> None:
    async def ping() -> str:
        return "pong"

    assert asyncio.run(tool(ping)("{}")) == "pong"


def test_a_signature_that_no_schema_says_is_refused_by_name() -> None:
    def many(*values: int) -> None: ...
    def any_complex(z: complex) -> None: ...

    with pytest.raises(ToolError, match=r"many\(\) takes \*values"):
        tool(many)
    with pytest.raises(ToolError, match=r"'z' in any_complex\(\)"):
        tool(any_complex)


def test_a_python_file_gives_its_own_public_functions(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from os.path import join\n"
        "from dataclasses import dataclass\n"
        "@dataclass\nclass P:\n    x: int\n"
        "def add(a: int, p: P) -> int:\n    'Add.'\n    return a + p.x\n"
        "def _hidden() -> None: ...\n"
    )
    (one,) = load(path)
    assert isinstance(one, FunctionTool)
    assert asyncio.run(one('{"a": 1, "p": {"x": 2}}')) == "3"


@pytest.mark.parametrize(
    "definition",
    [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
        {"name": "f", "parameters": {"type": "object"}},
        {"name": "f", "inputSchema": {"type": "object"}},
    ],
)
def test_a_json_file_gives_definitions_in_openai_or_mcp_form(tmp_path: Path, definition: dict[str, Any]) -> None:
    path = tmp_path / "tools.json"
    for value in ([definition], {"tools": [definition]}):
        path.write_text(json.dumps(value))
        assert load(path) == [Tool("f", None, {"type": "object"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.py", None, "no file"),
        ("bad.py", "def f(:", "SyntaxError"),
        ("empty.py", "x = 1", "no public function"),
        ("fails.py", "1 / 0", "ZeroDivisionError"),
        ("tools.txt", "", "ends in .py or .json"),
        ("bad.json", "[", "bad.json"),
        ("number.json", "3", "list of tool definitions"),
        ("nameless.json", '[{"type": "function", "function": {}}]', r"function\.name"),
    ],
)
def test_a_file_without_tools_is_refused_by_name(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises((ToolError, RequestError), match=message):
        load(path)
