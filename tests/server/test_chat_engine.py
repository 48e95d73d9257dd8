"""`abruzzi serve` in front of a host that offers chat alone, through OpenAI's client."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import openai
import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import WEATHER
from tests.engines.chats import answer, call, delta, host
from tests.server.asking import CHAT, MESSAGES, Serve, ask
from tests.server.test_serve_command import started

SHANGHAI = '{"location": "shanghai"}'
ASK: dict[str, Any] = {
    "model": "any",
    "messages": [{"role": "user", "content": "What's the weather?"}],
    "tools": [WEATHER.to_openai()],
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_calls_come_streamed_and_not_and_what_breaks_is_mended() -> None:
    broken = call('{"location": 5}')
    text = answer(delta(content="It is cloudy."))
    with host(broken, call(SHANGHAI), broken, call(SHANGHAI), text) as (url, asked), started(url) as (port, _):
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none")
        (choice,) = client.chat.completions.create(**ASK).choices
        assert choice.finish_reason == "tool_calls" and choice.message.tool_calls is not None
        (one,) = choice.message.tool_calls
        assert one.type == "function" and (one.id, one.function.arguments) == ("functions.get_weather:0", SHANGHAI)
        arguments, usage = [], None
        for chunk in client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **ASK):
            usage = chunk.usage or usage
            for part in chunk.choices[0].delta.tool_calls or () if chunk.choices else ():
                arguments.append((part.function and part.function.arguments) or "")
        assert "".join(arguments) == SHANGHAI and usage is not None and usage.completion_tokens > 5
        result = [choice.message, {"role": "tool", "tool_call_id": one.id, "content": "Cloudy"}]
        last = client.chat.completions.create(**{**ASK, "messages": [*ASK["messages"], *result]})
        assert last.choices[0].message.content == "It is cloudy."
        with pytest.raises(openai.BadRequestError, match="takes no prompt as it stands"):
            client.completions.create(model="any", prompt="Once upon")
    assert len(asked) == 5 and asked[-1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == SHANGHAI


@pytest.mark.parametrize("stream", [False, True])
def test_what_it_cant_do_is_told_with_its_place(serve: Serve, stream: bool) -> None:
    engine = ScriptedEngine([""])
    engine.capabilities = replace(engine.capabilities, continues=False)
    served = serve(engine)
    told = ask(served, CHAT, {**ASK, "tool_format": "pythonic", "stream": stream}).json["error"]
    assert told["param"] == "tool_format" and told["message"].endswith("(at tool_format)")
    begun = [*ASK["messages"], {"role": "assistant", "content": "It"}]
    told = ask(served, MESSAGES, {"messages": begun, "max_tokens": 9, "stream": stream}).json["error"]
    assert told["type"] == "invalid_request_error" and told["message"].endswith("(at messages[1])")
