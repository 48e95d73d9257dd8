"""llama.cpp's own server, over HTTP: the one that the embedded engine's binding brings along."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from click.testing import CliRunner

from abruzzi import Agent, EngineUnavailable, Message, SamplingParams, connect
from abruzzi.chat import ChatRequest, complete
from abruzzi.cli.commands import main
from abruzzi.engines.local.weights import SMOLLM2, obtain
from tests.conftest import PING, WEATHER

KEY = "sk-llama"


def serve(model: str, told: Any) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    adapter = str(files("abruzzi.engines.local") / "adapter.gguf")
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
    params.n_ctx, params.n_parallel, params.cpuparams.n_threads = 8192, 2, 1
    params.special = params.endpoint_metrics = True
    params.verbosity, params.api_keys = -1, [KEY]
    server = xllamacpp.Server(params)
    told.send(server.listening_address)
    told.recv()  # until the tests are over


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    try:
        model: Path = obtain(SMOLLM2, lambda *_: None)
    except EngineUnavailable as error:
        pytest.skip(str(error))
    context = multiprocessing.get_context("spawn")
    ours, its = context.Pipe()
    process = context.Process(target=serve, args=(str(model), its), daemon=True)
    process.start()
    its.close()
    assert ours.poll(60), "llama.cpp's server doesn't start"
    yield ours.recv()
    process.kill()
    process.join()
    ours.close()


@pytest.mark.parametrize("guided", [True, False])
def test_it_is_known_and_every_call_is_valid_with_a_grammar_and_without(url: str, guided: bool) -> None:
    engine: Any = connect(url, variant="smollm2", api_key=KEY, guided=guided)
    assert engine.ways.api.name == "llama-server" and engine.capabilities.constrains == guided
    assert engine.capabilities.context_length == 4096  # of one of two slots
    check = jsonschema_rs.validator_for(WEATHER.parameters)
    for seed in range(5):
        request = ChatRequest(
            messages=[Message("user", "How is the weather in Cusco?")],
            tools=[WEATHER, PING],
            tool_choice="required",
            params=SamplingParams(max_tokens=200, seed=seed, temperature=0.7),
        )
        message, report = complete_now(engine, request)
        assert message.tool_calls and (report.guarantee == "guided") == guided
        for call in message.tool_calls:
            weathers = call.function.name == "get_weather"
            assert check.is_valid(json.loads(call.function.arguments)) if weathers else call.function.name == "ping"


def complete_now(engine: Any, request: ChatRequest) -> Any:
    async def work() -> Any:
        try:
            return await complete(engine, request)
        finally:
            await engine.aclose()

    return asyncio.run(work())


def test_the_main_job(url: str) -> None:
    def get_weather(location: str) -> dict[str, str]:
        """Get the weather in a city."""
        return {"location": location, "weather": "Sunny"}

    engine = connect(url, variant="smollm2", api_key=KEY)
    greedy = SamplingParams(temperature=0.0)  # llama-server draws by itself
    run = Agent(engine=engine, tools=[get_weather], params=greedy).run("What's the weather in Cusco?")
    assert run.turns[0].message.tool_calls and "unny" in run.answer, run


def test_the_doctor_tells_the_truth(url: str) -> None:
    result = CliRunner().invoke(
        main, ["doctor", url, "--variant", "smollm2", "--json"], env={"ABRUZZI_ENGINE_KEY": KEY}
    )
    assert result.exit_code == 0, result.output
    found = {one["subject"]: (one["found"], one["verdict"]) for one in json.loads(result.stdout)}
    assert found["engine"][0].startswith("llama-server") and found["grammar by grammar"] == ("obeyed", "good")
    assert found["end of turn"] == ("stops at <|im_end|>", "good")
    assert found["token ids in"][1] == found["prefix"][1] == found["logprobs"][1] == "good"
    assert found["prefix cache"][0].startswith("yes") and found["a client that leaves"][0].startswith("ends")
