"""TensorRT-LLM and SGLang, as far as they can be had without a GPU: stand-ins that hold their request models exactly,
and their grammars' compilers where those are installed (`nox -s grammars`).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from click.testing import CliRunner

from abruzzi import Message, SamplingParams, connect
from abruzzi.chat import ChatRequest, Report, complete
from abruzzi.cli.commands import main
from abruzzi.engines.api import PLAIN
from abruzzi.protocol.tokens import Tokenizer
from tests.conftest import PING, WEATHER, section
from tests.engines.standins.completing import CompletionsStandin
from tests.engines.standins.models import continuing, random_weights
from tests.engines.standins.serving import Reply
from tests.engines.standins.sglang import Sglang
from tests.engines.standins.trtllm import TrtLlm

TURN = "I'll look." + section(("functions.get_weather:0", '{"location": "Köln"}'))
CHECK = jsonschema_rs.validator_for(WEATHER.parameters)
STANDINS = [TrtLlm, Sglang]
XGRAMMAR = importlib.util.find_spec("xgrammar") is not None


@pytest.fixture(scope="module")
def tokenizer(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "k2")


def turn(engine: Any, **options: Any) -> tuple[Message, Report]:
    request = ChatRequest(
        messages=[Message("user", "How is the weather in Köln?")],
        tools=[WEATHER, PING],
        **{"params": SamplingParams(max_tokens=300), **options},
    )

    async def work() -> tuple[Message, Report]:
        try:
            return await complete(engine, request)
        finally:
            await engine.aclose()

    return asyncio.run(work())


@pytest.mark.parametrize("standin", STANDINS)
@pytest.mark.parametrize("by_id", [False, True])
def test_a_right_turn_comes_through_as_it_is(
    standin: type[CompletionsStandin], by_id: bool, tokenizer: Tokenizer, shared: Path
) -> None:
    with standin(continuing(TURN), tokenizer, backend=None) as server:
        engine: Any = connect(server.url, tokenizer=shared / "k2" if by_id else None)
        message, report = turn(engine)
    assert message.content == "I'll look." and report.guarantee == "validated"
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"location": "Köln"}
    asked = server.asked[-1]
    assert isinstance(asked["prompt"], list) is by_id
    assert asked["stop_token_ids"] == [163586] and asked["skip_special_tokens"] is False


@pytest.mark.parametrize("standin", STANDINS)
def test_what_the_engine_ignores_the_guard_makes_up_for(
    standin: type[CompletionsStandin], tokenizer: Tokenizer
) -> None:
    """TensorRT-LLM without guided_decoding_backend answers 200 and writes what it likes."""
    for seed in range(3):
        with standin(random_weights(tokenizer, seed), tokenizer, backend=None) as server:
            engine: Any = connect(server.url)
            assert not engine.capabilities.constrains
            message, report = turn(engine, tool_choice="required", parallel_tool_calls=False)
        (call,) = message.tool_calls
        assert call.function.name == "ping" or CHECK.is_valid(json.loads(call.function.arguments))
        assert report.guarantee == "enforced"


GUIDED = [
    (Sglang, "llguidance", "ebnf"),
    (Sglang, "xgrammar", "response_format"),
    (TrtLlm, "xgrammar", "response_format"),
]


@pytest.mark.parametrize(("standin", "backend", "field"), GUIDED)
def test_it_is_found_out_by_which_field_a_grammar_is_obeyed(
    standin: type[CompletionsStandin], backend: str, field: str, tokenizer: Tokenizer
) -> None:
    if backend == "xgrammar" and not XGRAMMAR:
        pytest.skip("xgrammar isn't installed: `nox -s grammars` runs this")
    for seed in range(3):
        with standin(random_weights(tokenizer, seed), tokenizer, backend=backend) as server:
            engine: Any = connect(server.url)
            assert engine.ways.constraint is not None and engine.ways.constraint.name == field
            message, _ = turn(engine, tool_choice="required", parallel_tool_calls=False)
        assert field in server.asked[-1] or "prompt" in server.asked[-1]
        (call,) = message.tool_calls
        assert call.function.name == "ping" or CHECK.is_valid(json.loads(call.function.arguments))


@pytest.mark.parametrize("standin", STANDINS)
def test_the_doctor_tells_the_truth(standin: type[CompletionsStandin], tokenizer: Tokenizer) -> None:
    with standin(continuing(TURN), tokenizer, backend=None) as server:
        result = CliRunner().invoke(main, ["doctor", server.url, "--json"])
    assert result.exit_code == 0, result.output
    found = {one["subject"]: one for one in json.loads(result.stdout)}
    is_trtllm = standin is TrtLlm
    assert found["engine"]["found"].startswith("TensorRT-LLM 1.2" if is_trtllm else "SGLang 0.5")
    assert found["unknown fields"]["found"] == ("refused (400)" if is_trtllm else "ignored")
    assert found["guided decoding"]["verdict"] == "bad"
    assert ("guided_decoding_backend" if is_trtllm else "--grammar-backend") in found["guided decoding"]["change"]
    assert found["token ids in"]["found"] == "taken"
    assert found["special tokens"]["found"] == "kept" or is_trtllm
    assert found["end of turn"]["found"] == "stops at <|im_end|>"
    assert found["token ids out"]["found"] == ("not given" if is_trtllm else "given")


@pytest.mark.parametrize("standin", STANDINS)
def test_an_engine_that_dies_while_the_doctor_asks_is_told_so(
    standin: type[CompletionsStandin], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standin(continuing(TURN), tokenizer, backend=None) as server:
        answer = server.answer

        async def dying(method: str, path: str, body: bytes) -> Any:
            if path == "/v1/completions" and len(server.asked) > 4:
                return Reply(503, b"{}")
            return await answer(method, path, body)

        monkeypatch.setattr(server, "answer", dying)
        result = CliRunner().invoke(main, ["doctor", server.url])
    assert result.exit_code == 1 and "answered 503" in result.stderr


def test_an_engine_that_is_not_ready_is_asked_again_beside_its_first_request(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abruzzi.engines.completions._PAUSE_SECONDS", 0.0)
    with Sglang(continuing(TURN), tokenizer, backend="llguidance") as server:
        answer, is_loading = server.answer, True

        async def loading(method: str, path: str, body: bytes) -> Any:
            return Reply(503, b"{}") if is_loading else await answer(method, path, body)

        monkeypatch.setattr(server, "answer", loading)
        engine: Any = connect(server.url, model="kimi-k2")
        text, is_trouble = engine.told()[0]
        assert is_trouble and "isn't known so far" in text and "503" in text
        is_loading = False

        async def work() -> None:
            params = SamplingParams(max_tokens=100)
            request = ChatRequest(messages=[Message("user", "Hi")], tools=[WEATHER], params=params)
            for _ in range(3):
                await complete(engine, request)
                if engine._settling is not None:
                    await engine._settling
            await engine.aclose()

        asyncio.run(work())
        assert engine.ways.constraint.name == "ebnf" and engine.capabilities.constrains


def test_behind_a_router_with_a_name_of_its_own_an_engine_is_asked_in_the_ways_of_all(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("abruzzi.engines.ways.api_of", lambda _: PLAIN)
    with Sglang(random_weights(tokenizer), tokenizer, backend="llguidance") as server:
        engine: Any = connect(server.url)
        assert (engine.ways.api.name, engine.ways.constraint.name) == ("like SGLang", "ebnf")
        assert engine.told()[0][0] == "is like SGLang and is held to each turn's grammar (ebnf)"


@pytest.mark.parametrize("standin", STANDINS)
def test_who_leaves_ends_the_engines_work(standin: type[CompletionsStandin], tokenizer: Tokenizer) -> None:
    with standin(continuing("la " * 5000), tokenizer, backend=None, pause=0.01) as server:

        async def work() -> None:
            engine: Any = connect(server.url)
            request = ChatRequest(messages=[Message("user", "Hi")], params=SamplingParams(max_tokens=1000))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(complete(engine, request), 0.5)
            await engine.aclose()

        asyncio.run(work())
        assert server.until(cancelled=1, seconds=2)
