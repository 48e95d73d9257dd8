"""How an answer is to be sampled: what reaches the engine of it, and what is refused, in every dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from abruzzi import connect
from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import CompletionsServer, Served
from tests.server.asking import HELLO, ask

Serve = Callable[..., Served]
OPENAI: Any = {
    "/v1/chat/completions": HELLO,
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
}
FIELDS: Any = {
    "frequency_penalty": -1.5,
    "presence_penalty": 2,
    "repetition_penalty": 1.1,
    "top_k": 40,
    "min_p": 0.05,
    "logit_bias": {"11": -100, "163586": 2.5},
    "seed": -(2**63),
}


@pytest.mark.parametrize("path", OPENAI)
@pytest.mark.parametrize("more", [{}, {"stream": True}])
def test_what_is_asked_for_reaches_the_engine(serve: Serve, path: str, more: dict[str, Any]) -> None:
    engine = ScriptedEngine(["Hello."])
    assert ask(serve(engine), path, {**OPENAI[path], **FIELDS, **more}).status == 200
    params = engine.params[0]
    biases = tuple((int(id), bias) for id, bias in FIELDS["logit_bias"].items())
    assert {key: getattr(params, key) for key in FIELDS} == {**FIELDS, "logit_bias": biases}


def test_it_goes_over_the_wire_only_where_it_is_asked_for(serve: Serve, completions: CompletionsServer) -> None:
    url, handler = completions
    handler.body = b'data: {"choices": [{"text": "Hello.", "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    served = serve(connect(url, model="kimi-k2"))
    for more in ({}, FIELDS, {"top_k": 0, "logit_bias": {}, "frequency_penalty": 0}):
        assert ask(served, body={**HELLO, **more}).status == 200
    plain, full, zeros = handler.asked
    assert not plain.keys() & FIELDS.keys()
    assert {key: full[key] for key in FIELDS} == FIELDS
    assert {key: zeros[key] for key in zeros.keys() & FIELDS.keys()} == {"top_k": 0, "frequency_penalty": 0}


@pytest.mark.parametrize("path", OPENAI)
@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"frequency_penalty": 2.1}, "frequency_penalty"),
        ({"frequency_penalty": "1"}, "frequency_penalty"),
        ({"presence_penalty": -2.1}, "presence_penalty"),
        ({"presence_penalty": True}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty"),
        ({"repetition_penalty": 2.5}, "repetition_penalty"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": 2**40}, "top_k"),
        ({"min_p": 1.1}, "min_p"),
        ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {"Hello": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"7": 101}}, "logit_bias.7"),
        ({"logit_bias": {"7": None}}, "logit_bias.7"),
        ({"logit_bias": {str(id): 1 for id in range(1025)}}, "logit_bias"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 10**40}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"stop": False}, "stop"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(serve: Serve, path: str, wrong: Any, param: str) -> None:
    engine = ScriptedEngine(["Hello."])
    answer = ask(serve(engine), path, {**OPENAI[path], **wrong})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert "expected" in answer.json["error"]["message"] and not engine.prompts


def test_anthropics_top_k_reaches_the_engine(serve: Serve) -> None:
    engine = ScriptedEngine(["Hello."])
    served = serve(engine)
    assert ask(served, "/v1/messages", {**HELLO, "max_tokens": 9, "top_k": 5}).status == 200
    assert engine.params[0].top_k == 5
    for wrong in (-1, 0.5, "5"):
        answer = ask(served, "/v1/messages", {**HELLO, "max_tokens": 9, "top_k": wrong})
        assert answer.status == 400 and answer.json["error"]["message"].endswith("(at top_k)")
