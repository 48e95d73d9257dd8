"""The frameworks that people build agents with, each with a tool round trip on a real socket, streamed and not."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import PING, WEATHER, Served, section

Serve = Callable[..., Served]
# What they warn of is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")
TOOLS: Any = [WEATHER.to_openai(), PING.to_openai()]
ASK = "Weather in Rome?"
CALL = section(("functions.get_weather:0", '{"location": "Rome", "unit": "c"}'))
ANSWER = "It is cloudy in Rome."


@pytest.fixture(autouse=True)
def leaves_nothing_to_others() -> Iterator[None]:
    """What they leave open is closed here, and not in the middle of a test that looks for such things."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


def engine() -> ScriptedEngine:
    return ScriptedEngine([CALL, ANSWER], cut=lambda text: [text[i : i + 3] for i in range(0, len(text), 3)])


def shows_the_result(engine: ScriptedEngine) -> bool:
    """Whether the second prompt holds the call, and its result behind it."""
    prompt = str(engine.prompts[1])
    return 0 < prompt.find("functions.get_weather:0<|tool_call_argument_begin|>") < prompt.find("Cloudy")


@pytest.mark.parametrize("stream", [False, True])
def test_litellm(serve: Serve, stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would look that up in the net
    litellm = pytest.importorskip("litellm")
    scripted = engine()
    options = {"model": "openai/kimi-k2", "api_base": serve(scripted).base_url, "api_key": "none", "tools": TOOLS}
    messages: list[Any] = [{"role": "user", "content": ASK}]

    def complete() -> Any:
        answer = litellm.completion(messages=messages, stream=stream, **options)
        return litellm.stream_chunk_builder(list(answer), messages=messages) if stream else answer

    message = complete().choices[0].message
    (call,) = message.tool_calls
    assert (call.id, call.function.arguments) == ("functions.get_weather:0", '{"location": "Rome", "unit": "c"}')
    messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "Cloudy"}]
    assert complete().choices[0].message.content == ANSWER
    assert shows_the_result(scripted)


@pytest.mark.parametrize("stream", [False, True])
def test_langchain(serve: Serve, stream: bool) -> None:
    langchain = pytest.importorskip("langchain_openai")
    messages_of = pytest.importorskip("langchain_core.messages")
    scripted = engine()
    model = langchain.ChatOpenAI(base_url=serve(scripted).base_url, api_key="none", model="kimi-k2", max_retries=0)
    bound = model.bind_tools(TOOLS)
    messages: list[Any] = [messages_of.HumanMessage(ASK)]

    def complete() -> Any:
        if not stream:
            return bound.invoke(messages)
        chunks = list(bound.stream(messages))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        return whole

    message = complete()
    (call,) = message.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"location": "Rome", "unit": "c"})
    messages += [message, messages_of.ToolMessage("Cloudy", tool_call_id=call["id"])]
    assert complete().content == ANSWER
    assert shows_the_result(scripted)


@pytest.mark.parametrize("stream", [False, True])
def test_pydantic_ai(serve: Serve, stream: bool) -> None:
    ai = pytest.importorskip("pydantic_ai")
    openai_models = pytest.importorskip("pydantic_ai.models.openai")
    providers = pytest.importorskip("pydantic_ai.providers.openai")
    scripted = engine()
    provider = providers.OpenAIProvider(base_url=serve(scripted).base_url, api_key="none")
    agent = ai.Agent(openai_models.OpenAIChatModel("kimi-k2", provider=provider))

    @agent.tool_plain
    def get_weather(location: str, unit: str) -> str:
        """Get the weather of a city."""
        return "Cloudy" if (location, unit) == ("Rome", "c") else "?"

    async def run() -> str:
        if not stream:
            return str((await agent.run(ASK)).output)
        async with agent.run_stream(ASK) as result:
            return [text async for text in result.stream_text()][-1]

    assert asyncio.run(run()) == ANSWER
    assert shows_the_result(scripted)
