"""The stand-in of SGLang takes what SGLang's own request models take, where its wheel is installed.

pip install --no-deps sglang==0.5.23    # beside xgrammar; and what it then misses, as `nox -s grammars` does
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from abruzzi.guide.grammar import Grammar
from tests.conftest import PING, WEATHER
from tests.engines.standins import sglang_protocol as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    theirs = pytest.importorskip("sglang.srt.entrypoints.openai.protocol", reason="SGLang's wheel isn't installed")

# Its own parts: routing, LoRA, images, hidden states, numbers of its speculative decoding.
APART = {
    *("bootstrap_host", "bootstrap_port", "bootstrap_room", "routed_dp_rank", "disagg_prefill_dp_rank"),
    *("data_parallel_rank", "lora_path", "session_id", "images_config", "mm_processor_kwargs", "watermark"),
    *("return_routed_experts", "routed_experts_start_len", "return_cached_tokens_details"),
    *("return_spec_tokens_details", "custom_labels"),
}
TAG = Grammar.for_turn([WEATHER, PING]).structural_tag()
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
BODIES: list[dict[str, Any]] = [
    {},
    {"prompt": [1, 2]},
    {"prompt": [[1], [2]]},
    {"prompt": {}},
    {"prompt": None},
    {"max_tokens": None},
    {"max_tokens": 0},
    {"max_tokens": "5"},
    {"max_tokens": 5.5},
    {"temperature": None},
    {"seed": 2**40, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1},
    {"logit_bias": {"5": 1}},
    {"logit_bias": {"5": "much"}},
    {"stop": ["a", "b"], "stop_token_ids": [163586]},
    {"stop_token_ids": "163586"},
    {"stream": True, "stream_options": {"include_usage": True}},
    {"guided_json": {}, "detokenize": False, "spaces_between_special_tokens": False},
    {"return_token_ids": True, "no_stop_trim": True, "skip_special_tokens": False},
    {"json_schema": {"type": "object"}},
    {"json_schema": '{"type": "object"}'},
    {"ebnf": "root ::= [a]", "regex": None},
    {"response_format": SCHEMA},
    {"response_format": {"type": "json_object"}},
    {"response_format": {"type": "ebnf", "ebnf": "root ::= [a]"}},
    {"response_format": TAG},
    {"response_format": Grammar.for_turn([PING]).structural_tag(dict.fromkeys(["<|tool_call_begin|>"], 1))},
    {"response_format": {"type": "structural_tag", "structures": [], "triggers": ["x"]}},
    {"response_format": {"type": "structural_tag"}},
]


def read(kind: type[BaseModel], body: dict[str, Any]) -> dict[str, Any] | None:
    """What a request model takes of a body; None where it refuses it."""
    with contextlib.suppress(ValidationError):
        return kind.model_validate({"model": "m", "prompt": "Hi", **body}).model_dump(by_alias=True, exclude_unset=True)
    return None


def test_the_fields_and_their_defaults_are_the_same() -> None:
    asked = theirs.CompletionRequest(prompt="Hi")
    assert set(asked.model_dump()) >= APART
    assert ours.CompletionRequest(prompt="Hi").model_dump() == asked.model_dump(exclude=APART)


@pytest.mark.parametrize("body", BODIES)
def test_a_body_is_read_alike(body: dict[str, Any]) -> None:
    assert read(ours.CompletionRequest, body) == read(theirs.CompletionRequest, body)
