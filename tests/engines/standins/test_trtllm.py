"""The stand-in of TensorRT-LLM is as its source says."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any

import pytest

from abruzzi import Tool
from abruzzi.guide.grammar import Grammar
from tests.conftest import WEATHER, section
from tests.engines.standins.asking import HI, get, leave, post, streamed, whole
from tests.engines.standins.models import continuing, random_weights, scripted
from tests.engines.standins.trtllm import TrtLlm
from tests.engines.standins.vocabulary import EOS, IM_END, ids_of, of_bytes

TURN = section(("functions.get_weather:0", '{"location": "Köln"}'))
BYTES = of_bytes()
SHOWN: dict[str, Any] = {"skip_special_tokens": False, "spaces_between_special_tokens": False}


@pytest.fixture(scope="module")
def server() -> Iterator[TrtLlm]:
    with TrtLlm(continuing(TURN), BYTES) as server:
        yield server


def test_it_tells_what_it_is(server: TrtLlm) -> None:
    assert get(server, "/version").json == {"version": "1.2.1"}
    (card,) = get(server, "/v1/models").json["data"]
    assert card["id"] == "kimi-k2" and card["owned_by"] == "tensorrt_llm" and "max_model_len" not in card
    assert get(server, "/get_server_info").status == 404
    assert get(server, "/health").status == 200
    server.healthy = False
    assert get(server, "/health").status == 503
    server.healthy = True


@pytest.mark.parametrize(
    "body",
    [
        {"guided_json": {}},
        {"return_token_ids": True},
        {"structured_outputs": {}},
        {"max_completion_tokens": 9},
        {"max_tokens": "many"},
        {"stream_options": {"include_usage": True}},
        {"priority": 2},
        {"response_format": {"type": "structural_tag", "structures": [], "triggers": []}},
        {"response_format": {"type": "structural_tag", "format": {"type": "token", "token": 1}}},
    ],
)
def test_what_its_request_model_refuses_is_an_error_of_a_string(server: TrtLlm, body: dict[str, Any]) -> None:
    answer = post(server, **body)
    assert answer.status == 400 and answer.json.keys() == {"error"}
    assert " validation error" in answer.json["error"] and "'loc': ('body'" in answer.json["error"]
    assert server.asked[-1].items() >= body.items()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": "x" * 4096}, "`default_max_tokens` (0) must be greater than 0"),
        ({"prompt": "x" * 9000}, "should not exceed max_num_tokens (8192)"),
        ({"max_tokens": 0}, "`max_tokens` (0) must be greater than 0"),
        ({"logit_bias": {"200000": 1}}, "Token ID 200000 out of vocabulary range"),
        ({"response_format": {"type": "ebnf"}}, "response_format.ebnf is required"),
        ({"response_format": {"type": "ebnf", "ebnf": "start: ("}}, "("),
    ],
)
def test_what_is_refused_later_is_flat(server: TrtLlm, body: dict[str, Any], said: str) -> None:
    answer = post(server, **body)
    assert answer.status == 400 and answer.json["object"] == "error" and answer.json["code"] == 400
    assert said in answer.json["message"]


def test_where_the_engine_itself_fails_a_stream_breaks_off(server: TrtLlm) -> None:
    with pytest.raises(http.client.IncompleteRead):
        post(server, stream=True, prompt="x" * 4096)
    assert post(server, stream=True, prompt="x" * 9000).status == 400


def test_a_chat_with_both_limits_is_refused(server: TrtLlm) -> None:
    body: dict[str, Any] = {
        "model": "kimi-k2",
        "messages": [{"role": "user", "content": "Hi"}],
        "stop_token_ids": [IM_END],
    }
    for limit in ({"max_tokens": 200}, {"max_completion_tokens": 200}):
        message = post(server, "/v1/chat/completions", **body, **limit, **SHOWN).json["choices"][0]["message"]
        assert message["content"] == TURN  # no tool parser, no tool calls
    refused = post(server, "/v1/chat/completions", **body, max_tokens=200, max_completion_tokens=200)
    assert refused.status == 400 and "max_completion_tokens" in refused.json["error"]


def test_it_stops_at_the_turns_end_only_where_it_is_told_to(server: TrtLlm) -> None:
    free = whole(server, **SHOWN)
    assert free["text"] == f"{TURN}<|im_end|><|im_user|>user[EOS]"
    assert free["finish_reason"] == "stop" and free["stop_reason"] is None
    told = whole(server, **SHOWN, stop_token_ids=[IM_END])
    assert told["text"] == TURN and told["stop_reason"] == IM_END
    kept = whole(server, **SHOWN, stop_token_ids=[IM_END], include_stop_str_in_output=True)
    assert kept["text"] == f"{TURN}<|im_end|>"


def test_special_tokens_are_hidden_and_markers_stand_apart_unless_asked(server: TrtLlm) -> None:
    text = whole(server)["text"]
    assert text.endswith("user") and "<|im_" not in text
    assert text.startswith("<|tool_calls_section_begin|> <|tool_call_begin|> functions.get_weather:0 <|tool_call_arg")


def test_it_goes_on_where_the_prompt_ends_and_reads_markers_in_text(server: TrtLlm) -> None:
    for prompt in (HI + TURN[:40], ids_of(BYTES, HI + TURN[:40])):
        assert whole(server, prompt=prompt, stop_token_ids=[IM_END], **SHOWN)["text"] == TURN[40:]


def test_ids_take_the_place_of_text(server: TrtLlm) -> None:
    choice = whole(server, detokenize=False, stop_token_ids=[IM_END])
    assert choice["text"] == "" and choice["token_ids"] == ids_of(BYTES, TURN)
    chunks = streamed(server, detokenize=False)
    ids = [id for chunk in chunks for id in chunk["choices"][0]["token_ids"]]
    assert ids == [*ids_of(BYTES, TURN), *ids_of(BYTES, "<|im_end|><|im_user|>user"), EOS]


def test_a_stream_has_a_chunk_a_token_and_usage_on_demand(server: TrtLlm) -> None:
    options = {"stream_options": {"include_usage": True}, "stop_token_ids": [IM_END]}
    *chunks, usage = streamed(server, **SHOWN, **options)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == TURN
    assert all(chunk["usage"] is None for chunk in chunks)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    count, prompt = len(ids_of(BYTES, TURN)), len(ids_of(BYTES, HI))
    assert len(chunks) == count + 1 and usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == count and usage["usage"]["prompt_tokens"] == prompt
    assert all(chunk["choices"] for chunk in streamed(server))


def test_without_a_limit_it_goes_to_the_contexts_end() -> None:
    with TrtLlm(random_weights(BYTES), BYTES, context_length=200) as server:
        for limit in (None, 5000):
            ids = whole(server, max_tokens=limit, ignore_eos=True, detokenize=False)["token_ids"]
            assert len(ids) == 200 - len(ids_of(BYTES, HI))


def test_stop_sequences_are_of_tokens_and_what_came_of_one_has_gone_out() -> None:
    with TrtLlm(scripted("Hello there."), BYTES) as server:
        choice = whole(server, stop=["the"])
        assert choice["text"] == "Hello " and choice["stop_reason"] == "the"
        assert "".join(chunk["choices"][0]["text"] for chunk in streamed(server, stop="the")) == "Hello th"


@pytest.mark.parametrize("seed", range(3))
def test_a_grammar_is_held_to_and_ends_in_eos(server: TrtLlm, seed: int) -> None:
    tool = Tool("get_weather", None, {**(WEATHER.parameters or {}), "additionalProperties": False})
    grammar = Grammar.for_turn([tool], tool_choice="required", first_index=1)
    held = {"response_format": {"type": "ebnf", "ebnf": grammar.lark_tokens}, "seed": seed, "max_tokens": 2000}
    choice = whole(server, **held, **SHOWN, stop_token_ids=[IM_END])
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] is None
    # Of the turn that it wanted to write it kept what the grammar has, too.
    assert choice["text"].startswith(section(("functions.get_weather:1", ""))[:75])
    assert choice["text"].endswith("<|tool_calls_section_end|>[EOS]")


def test_a_grammar_is_dropped_without_a_word_where_no_backend_is_set() -> None:
    with TrtLlm(scripted("Hello."), BYTES, backend=None) as server:
        held = {"response_format": {"type": "regex", "regex": "[0-9]+"}}
        assert whole(server, **held, stop_token_ids=[IM_END])["text"] == "Hello."


def test_a_client_that_leaves_is_noticed() -> None:
    with TrtLlm(scripted("Hello." * 1000), BYTES, pause=0.01) as server:
        assert leave(server).startswith(b'data: {"id"')
        assert server.until(asked=1, cancelled=1)
        whole(server, max_tokens=2)
        assert server.cancelled == 1 and len(server.asked) == 2
