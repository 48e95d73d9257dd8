"""No invalid call from any engine: whatever is written, in whatever pieces, whatever was asked."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from abruzzi import ChatRequest, Message, SamplingParams, Tool
from abruzzi.engines.base import Engine
from abruzzi.protocol.events import ArgumentsDelta, ContentDelta, Event, Finish, Problem, ToolCallBegin, ToolCallEnd
from abruzzi.protocol.markers import ALIASES, MARKERS
from abruzzi.protocol.prompt import going_on
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import VARIANTS, Variant
from tests.conftest import PING, WEATHER, section
from tests.hostile.engine import CUTS, MOST_ASKED, written
from tests.hostile.habits import HABITS
from tests.hostile.judge import fault, out_of_order, play, pythonic_calls, raw_calls
from tests.hostile.random_turn import HostileEngine, random_turn, real_tools

TURNS = 240
ASK = (Message("user", "Go."),)
COUNT = Tool(
    "count",
    None,
    {
        "type": "object",
        "properties": {"to": {"type": "integer"}, "up": {"type": "boolean"}, "by": {"enum": ["ones", "twos"]}},
        "required": ["to", "up", "by"],
        "additionalProperties": False,
    },
)
# Of these no valid call of `count` can be made, and none holds one of its values for ever.
NEVER = [habit for habit in HABITS if habit.endswith("for ever")]


@pytest.mark.parametrize("part", range(8))
def test_a_random_engine_gets_valid_calls_through_and_no_others(shared: Path, part: int) -> None:
    tools = real_tools(shared)
    for number in range(part, TURNS, 8):
        turn = random_turn(number, 0, tools)
        outcome = play(turn.engine, turn.request, streamed=turn.streamed)
        assert not outcome.wrong, f"turn {number}: {turn}"
        assert len(turn.engine.asked) <= MOST_ASKED


@pytest.mark.parametrize("habit", HABITS)
def test_a_call_that_must_come_comes_whatever_the_habit(habit: str) -> None:
    engine = HostileEngine(habit, 1, [COUNT])
    params = SamplingParams(max_tokens=20_000 if HABITS[habit].is_endless else None)
    outcome = play(engine, ChatRequest(ASK, [COUNT], tool_choice="required", params=params))
    assert not outcome.wrong
    if not engine.fails and HABITS[habit].ending != "length":
        assert [name for name, _ in outcome.calls][:1] == ["count"]


@pytest.mark.parametrize("habit", HABITS)
def test_an_answer_of_a_form_of_its_own_has_it_whatever_the_habit(habit: str) -> None:
    for tools in ([], [COUNT]):
        engine = HostileEngine(habit, 1, [COUNT])
        params = SamplingParams(max_tokens=20_000 if HABITS[habit].is_endless else None)
        outcome = play(engine, ChatRequest(ASK, tools, answer=COUNT.parameters, params=params))
        assert not outcome.wrong
        if outcome.message is not None and not outcome.is_cut and not outcome.calls:
            assert fault("count", outcome.message.content or "", [COUNT]) is None
            assert outcome.message.finish_reason == "stop"


@pytest.mark.parametrize("habit", NEVER)
def test_an_engine_that_never_stops_is_stopped(habit: str) -> None:
    engine = HostileEngine(habit, 1, [COUNT], deaf=True)
    outcome = play(engine, ChatRequest(ASK, [COUNT], tool_choice="required"))
    assert (outcome.wrong, len(outcome.calls)) == ((), 1)


@pytest.mark.parametrize("habit", ["'a' for ever", "'é' for ever", "'[[' for ever"])
def test_a_limit_holds_for_an_engine_that_knows_none(habit: str) -> None:
    for choice in ("auto", "required"):
        engine = HostileEngine(habit, 1, [WEATHER], deaf=True)
        engine.cuts = True
        request = ChatRequest(ASK, [WEATHER], tool_choice=choice, params=SamplingParams(max_tokens=100))
        assert not play(engine, request).wrong
        assert engine.pulled < 20_000


@pytest.mark.parametrize("output", ["tool_calls", "raw", "pythonic"])
def test_an_engine_that_claims_to_obey_and_does_not_is_no_different(output: str) -> None:
    for habit in ("random json and markers", "fragments of what is right", "ends at once", "random words"):
        engine = HostileEngine(habit, 2, [COUNT], constrains=True, pythonic=output == "pythonic")
        request = ChatRequest(ASK, [COUNT], tool_choice="count", output=output)  # type: ignore[arg-type]
        outcome = play(engine, request)
        assert (outcome.wrong, [name for name, _ in outcome.calls][:1]) == ((), ["count"])


@pytest.mark.parametrize("habit", ["right, then without end", "ends in a character"])
def test_text_in_another_format_ends_with_its_calls(habit: str) -> None:
    for seed in range(40):
        engine = HostileEngine(habit, seed, [PING], pythonic=True, cut=list(CUTS)[seed % len(CUTS)])
        request = ChatRequest(ASK, [PING], tool_choice="required", output="pythonic", parallel_tool_calls=seed % 2 == 0)
        outcome = play(engine, request)
        assert (outcome.wrong, outcome.message and outcome.message.content) == ((), "[ping()]")


@pytest.fixture(scope="session")
def tokenizer(shared: Path) -> Tokenizer:
    return Tokenizer.from_folder(shared / "k2")


@pytest.mark.parametrize("ids", ["right", "wrong"])
def test_token_ids_that_say_something_else_than_the_text_change_nothing(tokenizer: Tokenizer, ids: Any) -> None:
    for seed, habit in enumerate(HABITS):
        tools = [COUNT, WEATHER, PING]
        engine = HostileEngine(habit, seed, tools, tokenizer=tokenizer, ids=ids, constrains=seed % 3 == 0)
        params = SamplingParams(max_tokens=500 if HABITS[habit].is_endless else None)
        choice = ("required", "ping", "auto")[seed % 3]
        outcome = play(engine, ChatRequest(ASK, tools, tool_choice=choice, params=params))
        assert not outcome.wrong, (habit, choice)


_SPELLED = re.compile("|".join(map(re.escape, (*MARKERS, *ALIASES, "think>", "<|im_", "[EO"))))


@pytest.mark.parametrize("habit", ["random characters", "random words"])
def test_text_that_calls_nothing_comes_out_as_it_is(habit: str) -> None:
    for seed, variant in enumerate([*VARIANTS.values()] * 3):
        engine = HostileEngine(habit, seed, [WEATHER], variant=variant, cut=list(CUTS)[seed % len(CUTS)])
        outcome = play(engine, ChatRequest(ASK, [WEATHER]))
        text = "".join(engine.said)
        assert outcome.message and not outcome.wrong and not outcome.calls and not _SPELLED.search(text)
        came = (outcome.message.reasoning_content or "") + (outcome.message.content or "")
        assert _no_surrogates(came) == ("" if text.isspace() else _no_surrogates(text))


def _no_surrogates(text: str) -> str:
    return re.sub("[\ud800-\udfff\ufffd\U00010000-\U0010ffff]", "", text)


def test_a_right_call_passes_whatever_its_cut(shared: Path) -> None:
    tools = [tool for tool in real_tools(shared)[::97] if tool.parameters]
    for i, tool in enumerate(tools):
        engine = HostileEngine("right", i, [tool], cut=list(CUTS)[i % len(CUTS)])
        outcome = play(engine, ChatRequest(ASK, [tool], tool_choice=("auto", "required")[i % 2]))
        assert not outcome.wrong
        if text := raw_calls("".join(engine.said)):
            assert (outcome.resumes, outcome.calls) == (0, ((text[0][1], text[0][2]),))


def test_an_engine_is_one() -> None:
    assert isinstance(HostileEngine("right", 1, [PING]), Engine)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=list(VARIANTS))
def test_what_stands_of_a_turn_is_read_off_its_prompt(variant: Variant) -> None:
    history = [*ASK, Message(content="Once. <|im_end|>"), *ASK]
    prompt = render_prompt(history, tools=[PING], variant=variant)
    said = section(("functions.f:0", '{"x": "<|im_end|>'))[: -len("<|tool_call_end|><|tool_calls_section_end|>")]
    assert (written(prompt), written(prompt.going_on(said))) == ("", said)
    assert "".join(going_on(said, variant)) == said


def test_the_check_is_one() -> None:
    for arguments in ('{"location": "x"}', '{"unit": "c",\n"location": ""}'):
        assert fault("get_weather", arguments, [WEATHER]) is None
    bad = ("", "[]", "{}", '{"location": 1}', '{"location": "x", "location": "x"}', '{"location": "x", "y": NaN}')
    for arguments in (*bad, '{"location": "x"}}', '{"location": "\ud83d"}', '{"location": "x", "y": 1e999}'):
        assert fault("get_weather", arguments, [WEATHER])
    assert fault("get_whether", '{"location": "x"}', [WEATHER]) and fault("ping", '{"x": 1}', [PING])


def test_the_readers_of_raw_and_pythonic_text_forgive_nothing() -> None:
    right = section(("functions.f:0", '{"x": "<|tool_call_end|>"}'), ("functions.g:1", "{}"))
    assert [(name, arguments) for _, name, arguments in raw_calls(f"Hm. {right}")] == [
        ("f", '{"x": "<|tool_call_end|>"}'),
        ("g", "{}"),
    ]
    for text in (right[:-3], right.replace("functions.", ""), right.replace('{"x', "{x"), right + "<|tool_call_end|>"):
        with pytest.raises(ValueError):
            raw_calls(text)
    calls = pythonic_calls("[get_weather(location='x', unit=None), ping()]", [WEATHER, PING])
    assert calls == [("get_weather", '{"location": "x", "unit": null}'), ("ping", "{}")]
    for text in ("[ping(1)]", "[ping(]", "[ping()", "[ping(x=1, x=2)]", "[ping(x=y)]", "[ping(**{})]"):
        with pytest.raises(ValueError):
            pythonic_calls(text, [PING])


def test_events_out_of_order_are_seen() -> None:
    begin, more, end = ToolCallBegin(0, "functions.ping:0", "ping"), ArgumentsDelta(0, "{}"), ToolCallEnd(0)
    right: list[Event] = [ContentDelta("Hm."), begin, more, end, Finish("tool_calls")]
    assert not list(out_of_order(right, cut=False))
    back = Problem("schema", "ping", "", "", index=0)
    wrongs: list[list[Event]] = [
        [begin, more, Finish("stop")],
        [begin, ContentDelta("x"), end, Finish("stop")],
        [more, begin, end, Finish("stop")],
        [begin, more, back, Finish("stop")],
        [begin, more, end, begin, end, Finish("stop")],
        [Finish("stop"), begin, end],
        [ContentDelta(""), Finish("stop")],
        [ContentDelta("x")],
    ]
    for wrong in wrongs:
        assert list(out_of_order(wrong, cut=False))


def test_what_is_written_does_not_depend_on_its_cut() -> None:
    for habit in ("random characters", "right with many spaces", "fragments of what is right"):
        said = set()
        for cut in CUTS:
            engine = HostileEngine(habit, 5, [WEATHER], cut=cut)
            with contextlib.suppress(Exception):
                play(engine, ChatRequest((), prompt="Hi"))  # of which all is read
            said.add("".join(engine.said))
        assert len(said) == 1 and json.dumps(said.pop())
