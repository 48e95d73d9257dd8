"""Long requests: what has to be done with all of one is done beside other work."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.server.body import parse
from abruzzi.server.chat_completions import ChatCompletions
from tests.server.asking import CHAT, MESSAGES, Serve, ask

SHORT = {"role": "user", "content": "a"}
PARTS = {"role": "user", "content": [{"type": "text", "text": "a"}] * 200_000}

# What is refused behind the decoding, since there are no tools.
REQUIRED = "required"


@pytest.mark.parametrize("messages", [[SHORT] * 40_000, [PARTS]], ids=["messages", "parts"])
def test_others_are_served_while_one_is_decoded(serve: Serve, messages: list[Any]) -> None:
    data = json.dumps({"messages": messages, "tool_choice": REQUIRED}).encode()
    value = parse(data)
    begun = time.perf_counter()
    ChatCompletions().decode(value, "scripted", None)
    decoding = time.perf_counter() - begun
    served = serve(ScriptedEngine(["Hi."]))
    assert min(_longest_wait(served.port, data) for _ in range(2)) < decoding / 2


def _longest_wait(port: int, data: bytes) -> float:
    """Of others, while a long request is refused."""
    asking = threading.Thread(target=lambda: ask(port, CHAT, data))
    asking.start()
    longest = 0.0
    while asking.is_alive():
        begun = time.perf_counter()
        assert ask(port, "/health").status == 200
        longest = max(longest, time.perf_counter() - begun)
    return longest


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/responses", "/v1/messages/count_tokens"])
def test_what_is_wrong_with_one_is_told_as_of_any_other(serve: Serve, path: str) -> None:
    messages = [*[SHORT] * 10_000, {"role": "nobody", "content": "a"}]
    body = {"max_tokens": 9, "messages": messages, "input": messages}
    told = ask(serve(ScriptedEngine(["Hi."])), path, body)
    assert told.status == 400 and "[10000].role" in told.body.decode()
