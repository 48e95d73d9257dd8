"""The stand-in of SGLang is as its source says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from abruzzi import Tool
from abruzzi.guide.grammar import Grammar
from tests.conftest import WEATHER, section
from tests.engines.standins import sglang_protocol
from tests.engines.standins.asking import HI, get, leave, post, streamed, whole
from tests.engines.standins.models import continuing, scripted
from tests.engines.standins.sglang import Sglang
from tests.engines.standins.vocabulary import IM_END, ids_of, of_bytes

TURN = section(("functions.get_weather:0", '{"location": "Köln"}'))
BYTES = of_bytes()
SHOWN: dict[str, Any] = {"skip_special_tokens": False}


@pytest.fixture(scope="module")
def server() -> Iterator[Sglang]:
    with Sglang(continuing(TURN), BYTES, context_length=1000) as server:
        yield server


def test_it_tells_what_it_is(server: Sglang) -> None:
    (card,) = get(server, "/v1/models").json["data"]
    assert card["owned_by"] == "sglang" and card["max_model_len"] == 1000
    assert get(server, "/server_info").json["version"] == "0.5.23"
    assert get(server, "/version").status == 404
    assert get(server, "/health").status == get(server, "/health_generate").status == 200
    server.healthy = False
    assert get(server, "/health").status == 503
    server.healthy = True


def test_text_is_read_to_tokens(server: Sglang) -> None:
    told = post(server, "/tokenize", prompt="a<|tool_call_begin|>").json
    assert told == {"tokens": [97, 163597], "count": 2, "max_model_len": 1000}


def test_fields_that_it_does_not_know_are_dropped(server: Sglang) -> None:
    assert whole(server, **SHOWN, guided_json={}, structured_outputs={}, detokenize=False)["text"] == TURN


def test_it_stops_at_the_turns_end_by_itself(server: Sglang) -> None:
    choice = whole(server, **SHOWN)
    assert choice["text"] == TURN and choice["finish_reason"] == "stop" and choice["matched_stop"] == IM_END
    assert whole(server, **SHOWN, no_stop_trim=True)["text"] == f"{TURN}<|im_end|>"
    assert whole(server, no_stop_trim=True)["text"] == TURN
    assert whole(server, **SHOWN, ignore_eos=True, max_tokens=150)["text"].startswith(f"{TURN}<|im_end|><|im_user|>")


def test_stop_sequences_are_of_text(server: Sglang) -> None:
    assert whole(server, stop=["locat"], **SHOWN)["text"] == TURN[: TURN.index("locat")]
    kept = whole(server, stop="locat", no_stop_trim=True, **SHOWN)
    assert kept["text"].endswith('{"locat') and kept["matched_stop"] == "locat"


def test_token_ids_come_beside_the_text(server: Sglang) -> None:
    choice = whole(server, return_token_ids=True, **SHOWN)
    assert choice["token_ids"] == [*ids_of(BYTES, TURN), IM_END] and choice["text"] == TURN
    assert choice["prompt_token_ids"] == ids_of(BYTES, HI)
    chunks = [chunk["choices"][0] for chunk in streamed(server, return_token_ids=True, **SHOWN)]
    assert [id for chunk in chunks for id in chunk["token_ids"]] == choice["token_ids"]
    assert [index for index, chunk in enumerate(chunks) if "prompt_token_ids" in chunk] == [0]
    assert "".join(chunk["text"] for chunk in chunks) == TURN
    assert "token_ids" not in whole(server)


def test_sixteen_tokens_are_enough_unless_asked(server: Sglang) -> None:
    answer = post(server, prompt=ids_of(BYTES, HI), max_tokens=16, return_token_ids=True).json
    assert answer["choices"][0]["finish_reason"] == "length" and answer["usage"]["completion_tokens"] == 16
    assert sglang_protocol.CompletionRequest(prompt="Hi").max_tokens == 16


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"max_tokens": 0}, "max_tokens must be positive"),
        ({"prompt": ""}, "Prompt cannot be empty"),
        ({"prompt": "x" * 1000}, "longer than the model's context length (1000 tokens)"),
        ({"max_tokens": 990}, "exceeds the model's maximum context length of 1000 tokens"),
        ({"top_p": 0}, "top_p"),
        ({"regex": "a", "ebnf": "start: /a/"}, "Only one of json_schema, regex, ebnf, or structural_tag can be set"),
        ({"regex": "("}, "Failed to compile regex grammar"),
        ({"json_schema": {}}, "json_schema"),
    ],
)
def test_what_is_refused_is_flat(server: Sglang, body: dict[str, Any], said: str) -> None:
    answer = post(server, **body)
    assert answer.status == 400 and answer.json["object"] == "error"
    assert said in answer.json["message"]


def test_a_grammar_that_is_not_compiled_is_an_event_of_a_stream(server: Sglang) -> None:
    (event,) = streamed(server, regex="(")
    assert event["error"]["code"] == 400 and event["error"]["type"] == "BAD_REQUEST"
    assert "Failed to compile regex grammar" in event["error"]["message"]


def test_without_a_grammar_backend_a_grammar_is_refused() -> None:
    with Sglang(scripted("Hi."), BYTES, backend=None) as server:
        assert "--grammar-backend none" in post(server, regex="a").json["message"]


@pytest.mark.parametrize("seed", range(3))
def test_a_grammar_is_held_to(server: Sglang, seed: int) -> None:
    tool = Tool("get_weather", None, {**(WEATHER.parameters or {}), "additionalProperties": False})
    grammar = Grammar.for_turn([tool], tool_choice="required", first_index=1)
    choice = whole(server, ebnf=grammar.lark_tokens, seed=seed, max_tokens=800, **SHOWN)
    assert choice["finish_reason"] == "stop" and choice["text"].endswith("<|tool_calls_section_end|>")
    assert choice["text"].startswith(section(("functions.get_weather:1", ""))[:75])
    schema = {"type": "object", "properties": {"x": {"const": 5}}, "required": ["x"], "additionalProperties": False}
    held = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    for fields in ({"response_format": held}, {"json_schema": json.dumps(schema)}):
        assert json.loads(whole(server, seed=seed, **fields)["text"]) == {"x": 5}


def test_usage_comes_on_demand_without_what_is_null(server: Sglang) -> None:
    *chunks, last = streamed(server, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    count, prompt = len(ids_of(BYTES, TURN)) + 1, len(ids_of(BYTES, HI))
    assert last["choices"] == [] and last["usage"] == {
        "prompt_tokens": prompt,
        "total_tokens": prompt + count,
        "completion_tokens": count,
        "reasoning_tokens": 0,
    }


def test_a_client_that_leaves_is_noticed() -> None:
    with Sglang(scripted("Hello." * 1000), BYTES, pause=0.01) as server:
        assert leave(server)
        assert server.until(asked=1, cancelled=1)
