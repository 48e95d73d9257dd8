"""What we rely on in vLLM, asked of vLLM itself: its completions, without Abruzzi's server."""

from __future__ import annotations

import json
import time
from typing import Any

import jsonschema_rs
import pytest

import abruzzi
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN, CALL_END, SECTION_BEGIN, SECTION_END
from abruzzi.protocol.messages import Tool
from tests.conftest import PING, WEATHER
from tests.real.tiny_k2 import control_ids
from tests.real.vllm_serve import CONTEXT, MODEL, Vllm

IDS = control_ids()
EOS, END, BEGIN = IDS["[EOS]"], IDS["<|im_end|>"], IDS[CALL_BEGIN]
GUIDED = {"temperature": 1, "max_tokens": 600, "skip_special_tokens": False, "return_token_ids": True}
TOOLS = [
    WEATHER,
    PING,
    Tool("book", None, {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 2, "maxLength": 12},
            "nights": {"type": "integer", "minimum": 1, "maximum": 30},
            "rooms": {"type": "array", "items": {"enum": ["single", "double"]}, "minItems": 1, "maxItems": 3},
        },
        "required": ["name", "nights", "rooms"],
        "additionalProperties": False,
    }),
]  # fmt: skip


def just(*ids: int) -> dict[str, Any]:
    """Options that leave a model nothing else to write."""
    return {"logit_bias": {str(id): 100 for id in ids}, "temperature": 0}


def test_it_tells_its_version_its_model_and_how_much_that_reads(vllm: Vllm) -> None:
    assert json.loads(vllm.get("/version")) == {"version": "0.32.0"}
    (row,) = json.loads(vllm.get("/v1/models"))["data"]
    assert (row["id"], row["max_model_len"]) == (MODEL, CONTEXT)


def test_markers_in_a_text_are_their_tokens_and_nothing_stands_before_them(vllm: Vllm) -> None:
    choice = vllm.complete(f"<|im_user|>user{CALL_BEGIN}", max_tokens=1, return_token_ids=True)
    first, *user, last = choice["prompt_token_ids"]
    assert (first, last) == (IDS["<|im_user|>"], BEGIN) and max(user) < IDS["[BOS]"]


def test_a_prompt_of_ids_is_taken_as_it_is_and_goes_on_as_its_text_does(vllm: Vllm) -> None:
    text = f"<|im_user|>user<|im_middle|>Hello there{CALL_BEGIN}func"
    options = {"max_tokens": 12, "temperature": 0, "return_token_ids": True}
    by_text = vllm.complete(text, **options)
    by_ids = vllm.complete(by_text["prompt_token_ids"], **options)
    assert by_ids["prompt_token_ids"] == by_text["prompt_token_ids"]
    assert by_ids["token_ids"] == by_text["token_ids"] and len(by_ids["token_ids"]) == 12


def test_a_prefix_is_gone_on_with(vllm: Vllm) -> None:
    """Not always: what is read at once is rounded otherwise than what was written token by token, and of experts that
    are nearly equal others are taken. By chance one token in 2,304 would be the same.
    """
    options = {"temperature": 0, "return_token_ids": True}
    whole = vllm.complete("Hello there", max_tokens=12, **options)
    prompt, written = whole["prompt_token_ids"], whole["token_ids"]
    nexts = [vllm.complete(prompt + written[:at], max_tokens=1, **options)["token_ids"][0] for at in range(12)]
    assert sum(one == expected for one, expected in zip(nexts, written, strict=True)) >= 4


def test_each_chunk_of_a_stream_has_its_ids(vllm: Vllm) -> None:
    options = {"max_tokens": 12, "temperature": 0, "return_token_ids": True}
    with vllm.stream("Hello there", **options) as chunks:
        streamed = [id for chunk in chunks for id in chunk["choices"][0]["token_ids"] or ()]
    assert streamed == vllm.complete("Hello there", **options)["token_ids"]


def test_special_tokens_are_hidden_unless_told_otherwise_and_markers_never_are(vllm: Vllm) -> None:
    options = {"max_tokens": 3, "ignore_eos": True}
    for id, spelling, shown_by_itself in ((EOS, "[EOS]", False), (BEGIN, CALL_BEGIN, True)):
        hidden = vllm.complete("Hello", **options, **just(id))
        assert hidden["text"] == (3 * spelling if shown_by_itself else "")
        assert vllm.complete("Hello", **options, **just(id), skip_special_tokens=False)["text"] == 3 * spelling


def test_the_end_token_ends_the_output_and_is_not_in_its_text(vllm: Vllm) -> None:
    choice = vllm.complete("Hello", max_tokens=3, skip_special_tokens=False, return_token_ids=True, **just(END))
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", None)
    assert choice["token_ids"] == [END]


def test_a_stop_token_ends_the_output_and_is_told(vllm: Vllm) -> None:
    choice = vllm.complete("Hello", max_tokens=3, stop_token_ids=[BEGIN], skip_special_tokens=False, **just(BEGIN))
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", BEGIN)


def test_unknown_fields_are_ignored_without_a_word(vllm: Vllm) -> None:
    """So a constraint under a wrong name constrains nothing, and has to be tried to be believed."""
    options = {"max_tokens": 12, "temperature": 0}
    free = vllm.complete("Hello", **options)
    for field in ("guided_json", "guided_grammar", "no_such_field"):
        assert vllm.complete("Hello", **options, **{field: {"type": "object"}})["text"] == free["text"]


def test_more_than_the_model_reads_is_refused(vllm: Vllm) -> None:
    status, answer = vllm.post("/v1/completions", prompt="Hello", max_tokens=CONTEXT + 1)
    assert status == 400 and str(CONTEXT) in answer["error"]["message"]


def test_who_leaves_a_stream_ends_its_work_at_once(vllm: Vllm) -> None:
    with vllm.stream("Hello", max_tokens=CONTEXT - 100, ignore_eos=True) as chunks:
        for _ in range(3):
            next(chunks)
        assert vllm.running() == 1
    left = time.monotonic()
    while vllm.running():
        assert time.monotonic() < left + 5, "the request goes on"
        time.sleep(0.02)


def test_alternatives_come_with_each_token(vllm: Vllm) -> None:
    choice = vllm.complete("Hello", max_tokens=2, temperature=0, logprobs=5)
    assert [len(offered) for offered in choice["logprobs"]["top_logprobs"]] == [5, 5]


def test_a_schema_is_obeyed(vllm: Vllm) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
              "required": ["n"], "additionalProperties": False}  # fmt: skip
    for seed in range(5):
        choice = vllm.complete("Hello", seed=seed, structured_outputs={"json": schema}, **GUIDED)
        assert choice["finish_reason"] == "stop"
        assert 1 <= json.loads(choice["text"])["n"] <= 9


def test_a_broken_grammar_is_refused(vllm: Vllm) -> None:
    status, answer = vllm.post("/v1/completions", prompt="Hello", structured_outputs={"grammar": "start: ((("})
    assert status == 400 and "rammar" in answer["error"]["message"]


def constraint(vllm: Vllm, grammar: Grammar) -> dict[str, Any]:
    """The grammar in the language of the server's backend."""
    if vllm.backend == "guidance":
        return {"grammar": grammar.lark_tokens}
    return {"structural_tag": json.dumps(grammar.structural_tag(IDS))}


def told(schema: Any, backend: str) -> Any:
    """What of a schema the backend is told: xgrammar nothing of a string's length (`guide/xgrammar.py` says why)."""
    if backend == "guidance" or not isinstance(schema, dict):
        return schema
    return {key: told(value, backend) for key, value in schema.items() if key not in ("minLength", "maxLength")}


@pytest.mark.parametrize("choice", ["required", "book"])
@pytest.mark.parametrize("parallel", [False, True])
def test_our_grammars_are_obeyed_with_control_tokens_for_markers(vllm: Vllm, choice: str, parallel: bool) -> None:
    """From random weights at temperature 1, so that every call is the grammar's work."""
    grammar = Grammar.for_turn(TOOLS, tool_choice=choice, parallel_tool_calls=parallel)
    held = [Tool(tool.name, None, told(tool.parameters, vllm.backend)) for tool in TOOLS]
    validators = {tool.name: jsonschema_rs.validator_for(dict(tool.parameters or {})) for tool in held}
    cut = whole = 0
    for seed in range(10):
        output = vllm.complete("Hello", seed=seed, structured_outputs=constraint(vllm, grammar), **GUIDED)
        if output["finish_reason"] == "length":
            cut += 1
            continue
        text, written = output["text"], output["token_ids"]
        calls = abruzzi.parse(text, tools=held).tool_calls
        for call in calls:
            assert choice in ("required", call.function.name)
            assert validators[call.function.name].is_valid(json.loads(call.function.arguments)), text
        assert len(calls) == 1 or (calls and parallel)
        markers = [written.count(IDS[marker]) for marker in (CALL_BEGIN, ARGUMENT_BEGIN, CALL_END)]
        # Inside a string xgrammar takes a marker's token for its text.
        assert min(markers) >= len(calls) and (vllm.backend == "xgrammar" or max(markers) == len(calls))
        assert (written[0], written[-2:]) == (IDS[SECTION_BEGIN], [IDS[SECTION_END], END])
        whole += len(calls)
    print(f"\n{vllm.backend}: {whole} valid calls; {cut} of 10 outputs were cut")
    assert whole >= 3, "too few to tell"


def test_a_stop_token_that_the_grammar_needs_ends_it_there_or_fails(vllm: Vllm) -> None:
    """So the only stop token that is sent beside a grammar is the turn's end."""
    grammar = Grammar.for_turn([PING], tool_choice="required", parallel_tool_calls=False)
    limits = {"structured_outputs": constraint(vllm, grammar), "stop_token_ids": [IDS[SECTION_END]]}
    status, answer = vllm.post("/v1/completions", prompt="Hello", **GUIDED, **limits)
    if vllm.backend == "guidance":
        assert status == 200 and not answer["choices"][0]["text"].endswith(SECTION_END)
    else:
        assert status == 500
    limits["stop_token_ids"] = [END]
    status, answer = vllm.post("/v1/completions", prompt="Hello", **GUIDED, **limits)
    assert status == 200 and answer["choices"][0]["text"].endswith(SECTION_END)
