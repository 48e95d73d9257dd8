"""Requests to a stand-in, and what comes."""

from __future__ import annotations

import http.client
import json
from typing import Any

from tests.engines.standins.completing import CompletionsStandin
from tests.server.asking import Answer, ask

HI = "<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|>"


def post(server: CompletionsStandin, path: str = "/v1/completions", **body: Any) -> Answer:
    """A request for a completion, or another with a body."""
    if path == "/v1/completions":
        body = {"model": "kimi-k2", "prompt": HI, "max_tokens": 200, **body}
    return ask(_port(server), path, body, headers={"Content-Type": "application/json"})


def get(server: CompletionsStandin, path: str) -> Answer:
    return ask(_port(server), path)


def whole(server: CompletionsStandin, **body: Any) -> Any:
    """A completion's only choice."""
    answer = post(server, **body)
    assert answer.status == 200, answer.body
    return answer.json["choices"][0]


def streamed(server: CompletionsStandin, **body: Any) -> list[Any]:
    """What a stream's events say, but for `[DONE]`, which has to be the last one."""
    answer = post(server, stream=True, **body)
    assert answer.status == 200, answer.body
    *events, done = [line[6:] for line in answer.body.decode().split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def leave(server: CompletionsStandin, **body: Any) -> bytes:
    """Begin to read a stream, and go away."""
    connection = http.client.HTTPConnection("127.0.0.1", _port(server), timeout=10)
    data = json.dumps({"model": "kimi-k2", "prompt": HI, "max_tokens": 200, "stream": True, **body})
    connection.request("POST", "/v1/completions", data, {"Content-Type": "application/json"})
    begun = connection.getresponse().read(20)
    connection.close()
    return begun


def _port(server: CompletionsStandin) -> int:
    return int(server.root.rpartition(":")[2])
