"""`POST /v1/completions`: prompts as they stand, by the official client on a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import pytest

from abruzzi.engines.base import Piece
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.variants import K2_THINKING
from tests.conftest import Served, section
from tests.server.test_app import client_of, connected

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
    assert str(engine.prompts[0]) == PROMPT
    assert [part for part in engine.prompts[0].parts if part.startswith("<|")] == [
        "<|im_user|>", "<|im_middle|>", "<|im_end|>", "<|im_assistant|>", "<|im_middle|>"
    ]  # fmt: skip
    assert (engine.params[0].max_tokens, engine.params[0].stop) == (50, ("zzz",))


def test_echo_n_and_logprobs(serve: Serve) -> None:
    class Telling(ScriptedEngine):
        async def complete(self, *arguments: Any) -> AsyncGenerator[Piece, None]:
            async for piece in super().complete(*arguments):
                yield replace(piece, logprob=-1.0, alternatives=(("x", -2.0),)) if piece.text else piece

    with client_of(serve(Telling(["ab"], cut=list))) as client:
        answer = client.completions.create(model="any", prompt=["Say "], echo=True, n=2, logprobs=1)
    assert [choice.text for choice in answer.choices] == ["Say ab", "Say ab"]
    logprobs = answer.choices[1].logprobs
    assert logprobs is not None and (logprobs.tokens, logprobs.token_logprobs) == (["a", "b"], [-1.0, -1.0])
    assert (logprobs.top_logprobs, logprobs.text_offset) == ([{"x": -2.0}, {"x": -2.0}], [0, 1])


@pytest.mark.parametrize(
    "wrong", [{"prompt": None}, {"prompt": [1, 2]}, {"prompt": ["a", "b"]}, {"best_of": 3}, {"suffix": "x"}]
)
def test_what_is_not_taken_is_told(serve: Serve, wrong: dict[str, Any]) -> None:
    with connected(serve(ScriptedEngine(["x"]))) as connection:
        connection.request(
            "POST", "/v1/completions", json.dumps({"prompt": "x", **wrong}), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        body = json.loads(response.read())
    assert response.status == 400 and body["error"]["param"] in wrong
