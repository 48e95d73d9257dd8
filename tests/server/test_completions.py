"""`POST /v1/completions`: prompts as they stand, by the official client on a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest

from abruzzi import EngineUnavailable, RequestError
from abruzzi.engines.base import Piece, Usage
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.prompt import raw_prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2, K2_THINKING
from abruzzi.server.completions import Completions
from tests.conftest import Served, section
from tests.server.asking import ask
from tests.server.openapi import openais
from tests.server.test_app import client_of, connected
from tests.server.test_metrics import metrics
from tests.server.test_telemetry import span_of, traced

Serve = Callable[..., Served]
CALL = section(("functions.get_weather:0", '{"location": 1}'))
PROMPT = "<|im_user|>user<|im_middle|>Hi <|im_end|>\n<|im_assistant|>assistant<|im_middle|>"


@pytest.mark.parametrize("cut", [list, lambda text: [text]])
def test_prompt_and_text_pass_as_they_are(serve: Serve, cut: Any) -> None:
    engine = ScriptedEngine([f"<think>Hm</think> {CALL} x"], variant=K2_THINKING, cut=cut)
    with client_of(serve(engine)) as client:
        asked: Any = {"model": "any", "prompt": PROMPT, "max_tokens": 50, "temperature": 0, "stop": ["zzz"]}
        whole = client.completions.create(**asked)
        chunks = list(client.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    assert (
        whole.choices[0].text
        == f"<think>Hm</think> {CALL} x"
        == "".join(choice.text for chunk in chunks for choice in chunk.choices)
    )
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    assert whole.usage is not None and chunks[-1].usage == whole.usage
    assert all(chunk.to_dict().get("usage", "none") is None for chunk in chunks[:-1])
    assert str(engine.prompts[0]) == PROMPT
    assert [part for part in engine.prompts[0].parts if part.startswith("<|")] == [
        "<|im_user|>", "<|im_middle|>", "<|im_end|>", "<|im_assistant|>", "<|im_middle|>"
    ]  # fmt: skip
    assert (engine.params[0].max_tokens, engine.params[0].stop) == (50, ("zzz",))


def test_echo_n_and_logprobs(serve: Serve) -> None:
    class Telling(ScriptedEngine):
        async def complete(self, *arguments: Any) -> AsyncGenerator[Piece, None]:
            async for piece in super().complete(*arguments):
                yield msgspec.structs.replace(piece, logprob=-1.0, alternatives=(("x", -2.0),)) if piece.text else piece

    with client_of(serve(Telling(["ab"], cut=list))) as client:
        echoed = client.completions.create(model="any", prompt=["Say "], echo=True, n=2)
        answer = client.completions.create(model="any", prompt=["Say "], n=2, logprobs=1)
        chunks = list(client.completions.create(model="any", prompt="Say ", logprobs=1, stream=True))
    assert [choice.text for choice in echoed.choices] == ["Say ab", "Say ab"]
    told = [choice.logprobs for chunk in chunks for choice in chunk.choices if choice.logprobs is not None]
    assert [one.text_offset for one in told] == [[0], [1]]
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None and (logprobs.tokens, logprobs.token_logprobs) == (["a", "b"], [-1.0, -1.0])
    assert (logprobs.top_logprobs, logprobs.text_offset) == ([{"x": -2.0}, {"x": -2.0}], [0, 1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt": None},
        {"prompt": []},
        {"prompt": ""},
        {"prompt": ["a", ""]},
        {"prompt": [1, 2]},
        {"prompt": [True]},
        {"prompt": ["a", "b"] * 65},
        {"n": 64, "prompt": ["a", "b", "c"]},
        {"n": 0},
        {"best_of": 3},
        {"best_of": 0},
        {"best_of": True},
        {"best_of": 1, "n": 2},
        {"suffix": "x"},
        {"suffix": 0},
        {"echo": True, "logprobs": 0},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"max_tokens": 2**70},
    ],
)
def test_what_is_not_taken_is_told(serve: Serve, wrong: dict[str, Any]) -> None:
    with connected(serve(ScriptedEngine(["x"]))) as connection:
        connection.request(
            "POST", "/v1/completions", json.dumps({"prompt": "x", **wrong}), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        body = json.loads(response.read())
    assert response.status == 400 and body["error"]["param"].partition("[")[0] in wrong


class Echo(ScriptedEngine):
    """Says what it was asked."""

    async def complete(self, prompt: Any, params: Any, grammar: Any) -> AsyncGenerator[Piece, None]:
        self.prompts.append(prompt)
        for letter in str(prompt):
            await asyncio.sleep(0)
            yield Piece(letter)
        yield Piece(finish_reason="stop", usage=Usage(prompt=10, completion=len(str(prompt)), cached=1))


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("echo", [False, True])
def test_several_prompts_are_answered_each_under_its_index(serve: Serve, n: int, echo: bool) -> None:
    prompts = ["one", "second", "3"]
    asked: Any = {"model": "any", "prompt": prompts, "n": n, "best_of": n, "echo": echo}
    with client_of(serve(Echo([""]))) as client:
        whole = client.completions.create(**asked)
        chunks = list(client.completions.create(stream=True, stream_options={"include_usage": True}, **asked))
    expected = [prompt * (1 + echo) for prompt in prompts for _ in range(n)]
    assert [choice.text for choice in whole.choices] == expected
    assert [choice.index for choice in whole.choices] == list(range(3 * n))
    summed, ends = dict.fromkeys(range(3 * n), ""), dict.fromkeys(range(3 * n), "")
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        assert not ends[choice.index]
        summed[choice.index] += choice.text
        ends[choice.index] = choice.finish_reason or ""
    assert list(summed.values()) == expected and set(ends.values()) == {"stop"}
    # Each prompt is read once, and each answer counts.
    assert whole.usage is not None and whole.usage == chunks[-1].usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (30, n * 10)
    openais().check("CreateCompletionResponse", whole.to_dict())


@pytest.mark.parametrize("stream", [False, True])
def test_the_tokens_of_all_prompts_are_in_metrics_log_and_span(
    serve: Serve, capfd: pytest.CaptureFixture[str], stream: bool
) -> None:
    engine = ScriptedEngine(["Hello."], cut=list)
    served, exporter = traced(serve, engine, log="json")
    ask(served, "/v1/completions", {"prompt": ["one", "second", "3"], "n": 2, "stream": stream})
    counts = metrics(served)
    attributes = span_of(served, exporter).attributes
    log = json.loads(capfd.readouterr().err.splitlines()[0])
    prompt, completion = len("onesecond3"), 6 * len("Hello.")
    assert (counts["abruzzi_prompt_tokens_total",], counts["abruzzi_completion_tokens_total",]) == (prompt, completion)
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (prompt, completion)
    assert (log["prompt_tokens"], log["completion_tokens"]) == (prompt, completion)


def test_a_prompt_that_fails_ends_the_others(serve: Serve) -> None:
    class Fails(Echo):
        async def complete(self, prompt: Any, params: Any, grammar: Any) -> AsyncGenerator[Piece, None]:
            async for piece in super().complete(prompt, params, grammar):
                if str(prompt) == "bad":
                    raise EngineUnavailable("gone")
                await asyncio.sleep(0.01)
                yield piece

    with client_of(serve(Fails([""]))) as client:
        for stream in (False, True):
            with pytest.raises(openai.APIError, match="gone"):
                list(client.completions.create(model="any", prompt=["x" * 1000, "bad"], stream=stream))


def test_ids_of_tokens_are_read_where_there_is_a_tokenizer(shared: Path) -> None:
    tokenizer = Tokenizer.from_folder(shared / "k2")
    ids = tokenizer.encode_prompt(raw_prompt(PROMPT, K2))
    read = Completions(tokenizer).decode({"prompt": ids}, "k2").all
    assert [one.prompt for one in read] == [PROMPT]
    several = Completions(tokenizer).decode({"prompt": [ids, tokenizer.encode("Hi"), "x"]}, "k2").all
    assert [one.prompt for one in several] == [PROMPT, "Hi", "x"]
    for wrong, param in ((200_000, "prompt[1]"), (-1, "prompt[1]"), (1.5, "prompt[1]")):
        with pytest.raises(RequestError) as refused:
            Completions(tokenizer).decode({"prompt": ["x", [1, wrong]]}, "k2")
        assert refused.value.param == param
    with pytest.raises(RequestError, match=r"tokenizer isn't at hand here \(at prompt\)"):
        Completions().decode({"prompt": ids}, "k2")
