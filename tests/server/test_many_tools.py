"""Thousands of tools: what comes before the engine takes not much longer than reading the body does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.guide import schema
from abruzzi.server import body
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask

TOOLS = 5_000
RESPONSES = "/v1/responses"


def _function(n: int) -> dict[str, Any]:
    """Each is different, and of the length of a usual one."""
    place = {"lat": {"type": "number", "minimum": -90, "maximum": 90}, "lon": {"type": "number"}}
    properties = {
        f"query_{n}": {"type": "string", "description": f"What to look for in collection {n}, as its users write it."},
        "limit": {"type": "integer", "default": 10, "minimum": 1, "maximum": 100 + n},
        "order": {"type": "string", "enum": ["asc", "desc"]},
        "cursor": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None, "title": "Cursor"},
        "near": {"type": "object", "properties": place, "required": ["lat", "lon"], "additionalProperties": False},
        "labels": {"type": "array", "items": {"type": "string", "maxLength": 80}},
    }
    parameters = {"type": "object", "properties": properties, "required": [f"query_{n}"]}
    return {"name": f"search_{n}", "description": f"Search collection {n}.", "parameters": parameters}


def _body(path: str) -> bytes:
    functions = map(_function, range(TOOLS))
    if path == MESSAGES:
        tools = [{"name": one["name"], "input_schema": one["parameters"]} for one in functions]
        return json.dumps({**HELLO, "max_tokens": 100, "tools": tools}).encode()
    if path == RESPONSES:
        tools = [{"type": "function", **one} for one in functions]
        return json.dumps({"input": "Hello!", "store": False, "tools": tools}).encode()
    return json.dumps({**HELLO, "tools": [{"type": "function", "function": one} for one in functions]}).encode()


def _seconds(work: Callable[[], Any]) -> float:
    """Of all threads of this process, the server's among them: others' work doesn't count."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_thousands_of_tools_cost_little_more_than_their_json(path: str, serve: Serve) -> None:
    data = _body(path)
    served = serve(ScriptedEngine(["Hi."]))

    def answer() -> None:
        assert ask(served, path, data).status == 200

    def answer_first() -> None:
        body._kept.cache_clear()
        schema._compiled.cache_clear()
        answer()

    reading = min(_seconds(lambda: json.loads(data)) for _ in range(5))
    first = min(_seconds(answer_first) for _ in range(3))
    again = min(_seconds(answer) for _ in range(3))
    assert first < 15 * reading, f"{first:.3f} s, and reading the body takes {reading:.3f} s"
    assert again < 2 * reading, f"{again:.3f} s, and reading the body takes {reading:.3f} s"


def test_among_thousands_each_tool_is_still_held_to_its_schema(serve: Serve) -> None:
    data = json.loads(_body(CHAT))
    call = (
        '<|tool_calls_section_begin|><|tool_call_begin|>functions.search_4321:0<|tool_call_argument_begin|>{"%s": "x"}'
    )
    engine = ScriptedEngine([call % "query_4321" + "<|tool_call_end|><|tool_calls_section_end|>"])
    answered = ask(serve(engine), CHAT, data).json["choices"][0]["message"]["tool_calls"][0]["function"]
    assert answered == {"name": "search_4321", "arguments": '{"query_4321": "x"}'}
    data["tools"][4_321]["function"]["parameters"]["properties"]["limit"]["type"] = "much"
    refused = ask(serve(engine), CHAT, data)
    assert refused.status == 400
    assert refused.json["error"]["param"] == "tools[4321].function.parameters.properties.limit.type"
    assert len(engine.prompts) == 1
