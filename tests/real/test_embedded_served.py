"""The server in front of the embedded engine with its real weights."""

from __future__ import annotations

from typing import Any

import pytest

from abruzzi.engines.base import Engine
from abruzzi.protocol.prompt import raw_prompt
from tests.server.asking import HELLO, MESSAGES, Serve, ask

COMPLETIONS = "/v1/completions"
ODD: Any = ("", "\x04", [], [""], ["a", ""], [0], {}, True, -1, 0, 1e-300, 1e-40, 5e-324, 1, 2, 2**31, 2**63 - 1, 2**63)
"""Of U+0004 the model's vocabulary has no token."""
FIELDS = (
    "prompt",
    "stop",
    "logit_bias",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logprobs",
    "n",
)


@pytest.mark.parametrize("field", FIELDS)
def test_no_odd_value_brings_it_to_a_5xx(serve: Serve, embedded: Engine, field: str) -> None:
    served = serve(embedded)
    for value in ODD:
        told = ask(served, COMPLETIONS, {"prompt": "Hi", "max_tokens": 1, "temperature": 1, field: value})
        assert told.status in (200, 400), (value, told.body)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", ""], "stream": True}, "prompt[1]"),
        ({"prompt": "\x04"}, "prompt"),
        ({"prompt": "a", "repetition_penalty": 1e-300}, "repetition_penalty"),
    ],
)
def test_what_llama_cpp_would_refuse_is_told_with_its_place(
    serve: Serve, embedded: Engine, body: Any, param: str
) -> None:
    told = ask(serve(embedded), COMPLETIONS, body)
    assert (told.status, told.json["error"]["param"]) == (400, param)
    assert "expected" in told.json["error"]["message"]


@pytest.mark.parametrize("more", [{}, {"tools": [{"name": "ping", "input_schema": {"type": "object"}}]}])
def test_tokens_are_counted_as_an_answer_tells_them(serve: Serve, embedded: Engine, more: Any) -> None:
    served, body = serve(embedded), {**HELLO, "max_tokens": 1, **more}
    count = ask(served, f"{MESSAGES}/count_tokens", body).json["input_tokens"]
    usage = ask(served, MESSAGES, body).json["usage"]
    assert count == usage["input_tokens"] + usage["cache_read_input_tokens"]


def test_a_prompt_may_be_the_ids_of_its_tokens(serve: Serve, embedded: Engine) -> None:
    counter, served = embedded.capabilities.counter, serve(embedded)
    assert counter is not None
    text = "<|im_start|>user\nHi \u4e0a\U0001f600<|im_end|>\n<|im_start|>assistant\n"
    ids = counter.encode_prompt(raw_prompt(text, embedded.capabilities.variant))
    body = {"max_tokens": 1, "echo": True, "temperature": 0}
    by_text, by_ids = (ask(served, COMPLETIONS, {**body, "prompt": one}).json for one in (text, ids))
    assert by_text["choices"] == by_ids["choices"] and by_ids["usage"]["prompt_tokens"] == len(ids)
    for wrong in (-1, 49_152, 2**40):
        told = ask(served, COMPLETIONS, {**body, "prompt": [1, wrong]})
        assert (told.status, told.json["error"]["param"]) == (400, "prompt")
