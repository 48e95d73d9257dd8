"""A client of the Responses API, as its tests need it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from typing import Any

import openai

from abruzzi import Tool
from tests.conftest import PING, WEATHER, Served, section

Serve = Callable[..., Served]


def flat(tool: Tool) -> Any:
    """As this API declares it."""
    return {"type": "function", **tool.to_openai()["function"]}


TOOLS: Any = [flat(WEATHER), flat(PING)]
ASK = "Weather in Shanghai?"
CALLS = section(("functions.get_weather:0", '{"location": "shanghai"}'), ("functions.ping:1", "{}"))
THOUGHT = "I look.</think>Let me see." + CALLS


def client_of(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=served.base_url, api_key="none", max_retries=0)


def ask(served: Served, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    data = None if body is None else json.dumps(body).encode()
    connection.request(method, path, data, {"Content-Type": "application/json"})
    with connection.getresponse() as response:
        found = response.status, response.read()
    connection.close()
    return found


def post(served: Served, body: Any) -> tuple[int, Any]:
    status, data = ask(served, "POST", "/v1/responses", body)
    return status, json.loads(data)


def get(served: Served, path: str) -> tuple[int, Any]:
    status, data = ask(served, "GET", f"/v1/responses/{path}")
    return status, json.loads(data)


def events(served: Served, body: Any) -> list[Any]:
    """Those of a stream, each named as its type says."""
    status, data = ask(served, "POST", "/v1/responses", {**body, "stream": True})
    assert status == 200
    found = []
    for frame in data.decode().split("\n\n")[:-1]:
        name, value = frame.split("\n")
        found.append(json.loads(value.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def lasting(value: Any) -> Any:
    """A response without what is another each time."""
    if isinstance(value, list):
        return [lasting(one) for one in value]
    if isinstance(value, dict):
        return {key: lasting(one) for key, one in value.items() if key not in ("id", "created_at", "completed_at")}
    return value


NAMESPACE: Any = {
    "type": "namespace",
    "name": "mcp__files",
    "description": "Files.",
    "tools": [{"type": "function", "name": "ping", "description": "Another.", "parameters": None, "strict": False}],
}
