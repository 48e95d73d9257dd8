"""What a stand-in's weights write, held to a grammar or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from abruzzi import Tool, parse
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2_CONTROL_IDS
from tests.conftest import PING, section
from tests.engines.standins.asking import HI, whole
from tests.engines.standins.models import Asked, Model, continuing, random_weights, scripted
from tests.engines.standins.sglang import Sglang
from tests.engines.standins.trtllm import TrtLlm
from tests.engines.standins.vocabulary import IM_END, Spelling, ids_of, of_bytes

WEATHER = Tool(
    "get_weather",
    None,
    {
        "type": "object",
        "properties": {"location": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["location", "days"],
        "additionalProperties": False,
    },
)
TURN = "Let me see." + section(("functions.get_weather:0", '{"location": "Rome", "days": 1}'))
GRAMMAR = Grammar.for_turn([WEATHER, PING], tool_choice="required")
LARK = {"ebnf": GRAMMAR.lark_tokens}
SHOWN: dict[str, Any] = {"skip_special_tokens": False, "max_tokens": 2000}


@pytest.fixture(scope="module")
def k2(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "k2")


def said(model: Model, begun: str = "") -> str:
    return "".join(map(str, model(Asked((), HI + begun, {}))))


def test_a_script_goes_on_to_its_last_text() -> None:
    model = scripted("a", "b")
    assert [said(model), said(model), said(model)] == ["a", "b", "b"]


@pytest.mark.parametrize("length", range(0, len(TURN) + 1, 7))
def test_a_turn_goes_on_where_the_prompt_ends(length: int) -> None:
    assert said(continuing(TURN), TURN[:length]) == TURN[length:]


def test_what_is_not_of_the_turn_is_gone_on_from_what_is() -> None:
    assert said(continuing(TURN), 'Hm. {"loca') == TURN.partition('{"loca')[2]
    assert said(continuing(TURN), "#") == TURN


def test_random_weights_never_end_and_come_upon_markers() -> None:
    tokenizer = of_bytes()
    with TrtLlm(random_weights(tokenizer, 1), tokenizer) as server:
        ids = whole(server, detokenize=False, ignore_eos=True, max_tokens=500)["token_ids"]
    assert len(ids) == 500 and len(K2_CONTROL_IDS.keys() & set(ids)) > 5


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_of_k2_obey_a_grammar_of_llguidance(k2: Tokenizer, seed: int) -> None:
    with Sglang(random_weights(k2, seed), k2) as server:
        _is_right(whole(server, **LARK, **SHOWN, seed=seed)["text"])


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_of_k2_obey_a_structural_tag(k2: Tokenizer, seed: int) -> None:
    pytest.importorskip("xgrammar")
    with TrtLlm(random_weights(k2, seed), k2, backend="xgrammar") as server:
        choice = whole(
            server, response_format=GRAMMAR.structural_tag(), **SHOWN, spaces_between_special_tokens=False, seed=seed
        )
        assert choice["stop_reason"] is None  # [EOS] alone ends it
        _is_right(choice["text"].removesuffix("[EOS]"))


def _is_right(text: str) -> None:
    message = parse(text, tools=[WEATHER, PING])
    assert message.tool_calls and not message.problems and not message.content
    for index, call in enumerate(message.tool_calls):
        assert call.id.endswith(f":{index}")
        if call.function.name == "get_weather":
            assert json.loads(call.function.arguments)["days"] in range(1, 10)


def test_a_model_that_wants_what_the_grammar_has_writes_it(k2: Tokenizer) -> None:
    turn = section(("functions.get_weather:0", '{"location": "Rome", "days": 1}'))
    with Sglang(continuing(turn), k2) as server:
        choice = whole(server, **LARK, **SHOWN)
    assert choice["text"] == turn and choice["matched_stop"] == IM_END


def test_text_is_spelled_as_engines_do(k2: Tokenizer) -> None:
    ids = ids_of(k2, "<think>Ä🙂</think>Hi<|im_end|>")
    assert Spelling(k2, hides=False).whole(ids) == "<think>Ä🙂</think>Hi<|im_end|>"
    assert Spelling(k2, hides=True).whole(ids) == "<think>Ä🙂</think>Hi"
    assert Spelling(k2, hides=False, spaces=True).whole(ids) == "<think> Ä🙂 </think> Hi<|im_end|>"
    one = Spelling(k2, hides=False)
    assert "".join(one.feed([id]) for id in ids) == "<think>Ä🙂</think>Hi<|im_end|>"
