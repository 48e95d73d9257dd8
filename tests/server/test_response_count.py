"""`POST /v1/responses/input_tokens`, as OpenAI's client asks it."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import WEATHER
from tests.server.asking import Serve, ask

TOOLS: Any = [{"type": "function", "name": WEATHER.name, "parameters": WEATHER.parameters}]


def test_a_prompt_is_counted_as_the_model_would_read_it(serve: Serve) -> None:
    engine = ScriptedEngine(["Hello."])
    served = serve(engine)
    with openai.OpenAI(base_url=served.base_url, api_key="none") as client:
        count = client.responses.input_tokens.count
        few = count(model="any", input="Hello!")
        assert few.object == "response.input_tokens" and not engine.prompts
        assert few.input_tokens < count(model="any", input="Hello!", instructions="Be brief. " * 20).input_tokens
        with_tools = count(model="any", input="Hello!", tools=TOOLS)
        assert few.input_tokens < with_tools.input_tokens
        first = client.responses.create(model="any", input="Hello!")
        # By four, where nobody counts tokens.
        assert few.input_tokens == -(-len(str(engine.prompts[0])) // 4)
        behind = count(model="any", input="And now?", previous_response_id=first.id)
        assert behind.input_tokens > few.input_tokens


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": 3},
        {"input": "Hi", "tools": [{"type": "web"}]},
        {"input": "Hi", "tool_choice": "required"},
        b"{",
    ],
)
def test_it_refuses_what_a_response_is_refused_for(serve: Serve, body: Any) -> None:
    served = serve(ScriptedEngine([""]))
    told = [ask(served, path, body) for path in ("/v1/responses/input_tokens", "/v1/responses")]
    assert told[0].status == told[1].status == 400 and told[0].json == told[1].json
