"""The guard: what of an output goes out, what must follow, and how it ends."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi import Message, Tool
from abruzzi.guide.guard import Guard
from abruzzi.guide.schema import Schemas, compile
from abruzzi.protocol.events import ArgumentsDelta, ContentDelta, Event, ToolCallEnd
from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN, CALL_END, SECTION_BEGIN, SECTION_END
from abruzzi.protocol.prompt import Control, going_on
from abruzzi.protocol.variants import K2, K2_5, K2_THINKING, VARIANTS, Variant
from tests.conftest import PING, WEATHER, section

TOOLS = [WEATHER, PING]
GOOD = section(("functions.get_weather:0", '{"location": "上海"}'))
HEAD = f"{SECTION_BEGIN}{CALL_BEGIN}functions.get_weather:0{ARGUMENT_BEGIN}"


def guard(tools: list[Tool] = TOOLS, variant: Variant = K2, **options: Any) -> Guard:
    return Guard(tools, Schemas(tools), variant, **options)


def arguments(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ArgumentsDelta))


@given(cuts=st.lists(st.integers(0, len(GOOD)), max_size=8))
def test_a_valid_output_passes_whole_however_it_is_cut(cuts: list[int]) -> None:
    one, events = guard(must_call=True), []
    for begin, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(GOOD)], strict=True):
        events += one.feed(GOOD[begin:end])
    events += one.close(cut=False)
    assert one.broken is None and not one.violations
    assert Message.from_events(events).tool_calls[0].function.arguments == '{"location": "上海"}'
    assert one.spelled + SECTION_END == GOOD


@pytest.mark.parametrize(
    ("output", "prefix"),
    [
        (HEAD.replace("weather", "whether"), f"{SECTION_BEGIN}{CALL_BEGIN}functions.get_w"),
        (GOOD.replace('"上海"', "1"), f'{HEAD}{{"location": '),
        (GOOD.replace('"上海"', '"上\n'), f'{HEAD}{{"location": "上'),
        (GOOD.replace("上海", "上\\x"), f'{HEAD}{{"location": "上'),
        (GOOD.replace('"上海"', '"上海", "unit": "k"'), f'{HEAD}{{"location": "上海", "unit": "'),
        (GOOD.replace("}", "}}"), f'{HEAD}{{"location": "上海"}}'),
        (f"{HEAD}[1", HEAD),
        (f"{SECTION_BEGIN}?", ""),
    ],
)
def test_it_breaks_at_the_first_character_that_no_valid_output_has(output: str, prefix: str) -> None:
    for pieces in ([output], list(output)):
        one = guard()
        for piece in pieces:
            one.feed(piece)
            if one.broken:
                break
        assert one.broken
        assert one.prefix == prefix


@pytest.mark.parametrize("text", ["I'd rather talk.", " \n.", "{}"])
def test_where_a_call_must_come_text_is_none(text: str) -> None:
    one = guard(must_call=True)
    assert one.feed(text) == [] and one.broken and one.broken.kind == "missing"
    assert guard().feed(text)


def test_what_must_follow_is_added_before_it_goes_on() -> None:
    one = guard(must_call=True)
    one.resume()
    assert one.prefix == f"{SECTION_BEGIN}{CALL_BEGIN}functions."
    one.feed("get_x")
    assert one.broken is None  # a header is read when it is whole
    one.feed(f"eather:0{ARGUMENT_BEGIN}")
    one.resume()
    assert one.prefix == HEAD + '{"'
    events = one.feed('location"}')
    one.resume()
    assert one.prefix == HEAD + '{"location": "'
    assert arguments([*events, *one.feed('Rome"}')]) == '{"location": "Rome"}'


def test_a_missed_member_is_asked_for() -> None:
    one = guard()
    one.feed(f'{HEAD}{{"unit": "c"}}')
    one.resume()
    assert one.prefix == f'{HEAD}{{"unit": "c", "location": "'


def test_a_call_that_can_be_no_other_is_written_by_us_alone() -> None:
    one = guard([PING], must_call=True, one_call=True)
    one.resume()
    assert one.over and [type(event) for event in one.settled()][-1] is ToolCallEnd


@pytest.mark.parametrize("again", [GOOD, GOOD.removeprefix(SECTION_BEGIN), f"\n {GOOD}"])
def test_an_engine_that_answers_anew_in_place_of_going_on_is_understood(again: str) -> None:
    one = guard(must_call=True)
    one.resume()
    events = [event for character in again for event in one.feed(character)] + one.close(cut=False)
    assert one.broken is None
    assert Message.from_events(events).tool_calls[0].function.arguments == '{"location": "上海"}'
    one = guard()
    events = one.feed(f'{HEAD}{{"location": ?')
    one.resume()
    events += [event for character in GOOD for event in one.feed(character)] + one.close(cut=False)
    assert Message.from_events(events).tool_calls[0].function.arguments == '{"location": "上海"}'


@pytest.mark.parametrize("again", ["<think>Well, once more.</think>", "Let me look at the weather. "])
def test_an_engine_that_thinks_or_speaks_anew_is_not_heard_twice(again: str) -> None:
    said = "<think>Well.</think>" if "think" in again else "Let me look at the weather. "
    one = guard(variant=K2_THINKING)
    one.feed(f'{said}{HEAD}{{"location": ?')
    one.resume()
    events = [event for character in again + GOOD for event in one.feed(character)] + one.close()
    assert one.spelled == said + GOOD.removesuffix(SECTION_END)
    assert {type(event) for event in events} == {ArgumentsDelta, ToolCallEnd}


@pytest.mark.parametrize("written", [GOOD[:n] for n in range(0, len(GOOD), 7)])
def test_it_ends_in_a_call_from_wherever_it_stands(written: str) -> None:
    one = guard(must_call=True)
    events = one.feed(written) + one.close(cut=False) + one.finish()
    (call,) = Message.from_events(events).tool_calls
    assert Schemas(TOOLS).fault(call.function.name, call.function.arguments) is None
    assert not one.in_call and len(call.function.arguments) < 40


def test_a_limit_inside_a_call_leaves_no_call_and_breaks_nothing() -> None:
    one = guard(must_call=True)
    events = one.feed(GOOD[:-60]) + one.close(cut=True)
    assert one.broken is None and [problem.kind for problem in one.problems] == ["truncated"]
    assert Message.from_events(events).tool_calls == ()


@pytest.mark.parametrize("variant", [K2_THINKING, K2_5])
def test_a_model_that_thinks_thinks_first(variant: Variant) -> None:
    thought = "Hm, <|im_start|>." if variant.opens_thinking else "<think>Hm, <|im_start|>."
    one = guard(variant=variant, must_call=True)
    events = one.feed(f"{thought}</think>{GOOD}") + one.close(cut=False)
    message = Message.from_events(events)
    assert (message.reasoning_content, len(message.tool_calls)) == ("Hm, <|im_start|>.", 1)
    one = guard(variant=variant, must_call=True)
    one.feed(f"{thought}</think>Well")
    one.resume()
    assert one.prefix == f"{thought}</think>{SECTION_BEGIN}{CALL_BEGIN}functions."


def test_by_id_a_spelled_marker_is_text_and_a_control_is_none() -> None:
    one = guard(by_id=True)
    assert one.feed(GOOD) == [ContentDelta(GOOD)]
    one = guard(by_id=True)
    events = [event for part in going_on(GOOD, K2) for event in one.feed(part)]
    assert Message.from_events(events).tool_calls
    one = guard(by_id=True)
    for part in (Control(SECTION_BEGIN), Control(CALL_BEGIN), "functions.ping:0", Control(ARGUMENT_BEGIN), "{!"):
        one.feed(part)
    one.resume()
    assert one.prefix.endswith(f"functions.ping:0{ARGUMENT_BEGIN}{{}}{CALL_END}")


def test_content_never_spells_a_marker_when_it_is_shown_again() -> None:
    one = guard()
    one.feed(f"Look: {CALL_BEGIN[0]}\u200b{CALL_BEGIN[1:]} is a marker. ")
    one.feed(f"{SECTION_BEGIN}{CALL_BEGIN}functions.get_whether{ARGUMENT_BEGIN}")
    one.resume()
    assert one.prefix.count(CALL_BEGIN) == 1


def test_what_else_might_have_come_is_taken_first() -> None:
    one = guard()
    events = one.feed(f'{HEAD}{{"location": "x", "unit": "')
    one.feed('k"')
    events += one.choose('k"', [('k"', -0.1), ('q"', -0.3), ('f"', -0.7), ('c"', -0.9)])
    assert arguments(events).endswith('"unit": "f"')
    one.resume()
    assert one.prefix.endswith('"unit": "f"')


def test_a_few_characters_over_and_over_are_an_end() -> None:
    one = guard()
    one.feed(f'{HEAD}{{"location": "')
    count = 0
    while one.broken is None and count < 100_000:
        one.feed("ha")
        count += 1
    assert one.broken and one.broken.kind == "runaway"


BEGINNINGS = [
    *("", ".", "<|tool_x", "<\u200b|tool_ca", "</thi"),
    *(marker[:n] for marker in (SECTION_BEGIN, CALL_END, "<|im_end|>") for n in range(1, len(marker))),
]


@given(
    said=st.sampled_from(BEGINNINGS),
    more=st.lists(st.sampled_from([*BEGINNINGS, "x", " ", "\n", "|", "_"]), max_size=4),
    variant=st.sampled_from(list(VARIANTS.values())),
    thinking=st.booleans(),
    by_id=st.booleans(),
)
def test_behind_what_may_be_a_marker_nothing_is_said_twice_and_nothing_lost(
    said: str, more: list[str], variant: Variant, thinking: bool, by_id: bool
) -> None:
    one = guard(variant=variant, thinking=variant.thinks and thinking, by_id=by_id)
    text = f"Hi {said}"
    unknown = section(("functions.nope:0", "{}"))
    events = [event for part in (text, *going_on(unknown, K2)) for event in one.feed(part)]
    assert one.broken and one.prefix.endswith(text)
    one.resume()
    events += [event for part in more for event in one.feed(part)]
    events += one.close()
    message = Message.from_events(events)
    whole = text + "".join(more)
    assert (message.content or "") + (message.reasoning_content or "") == whole


@pytest.mark.parametrize("seen", [0, 1, 20])
def test_a_marker_that_is_completed_behind_what_was_said_of_it_is_one(seen: int) -> None:
    one = guard()
    one.feed(f"Hi {GOOD[:seen]}{section(('functions.nope:0', '{}'))}")
    one.resume()
    events = one.feed(GOOD[seen:]) + one.close()
    assert [event for event in events if isinstance(event, ContentDelta)] == []
    assert arguments(events) == '{"location": "上海"}'


def test_nor_in_an_answer_of_a_form_is_anything_said_twice() -> None:
    one = guard(answer=compile({"type": "object"}, name="the answer", where="answer"))
    events = one.feed('{"x": "<|tool_' + GOOD)
    one.resume()
    events += one.feed('x"}')
    assert one.over and Message.from_events(events).content == '{"x": "<|tool_x"}'


def test_pythonic_calls_are_cut_and_gone_on_from_at_a_parameter() -> None:
    one = guard(pythonic=True)
    one.feed("[get_weather(location='Rome', unit=1)]")
    assert one.broken
    one.resume()
    assert one.prefix == "[get_weather(location='Rome', unit="
    one.feed("'c')]")
    assert one.close(cut=False) == [] and one.broken is None
    assert one.spelled == "[get_weather(location='Rome', unit='c')]"


def test_it_costs_microseconds_a_token() -> None:
    text = GOOD.replace("上海", json.dumps("x = [1, 2]\n" * 2000)[1:-1])
    one = guard()
    seconds = []
    for at in range(0, len(text), 4):
        start = time.perf_counter()
        one.feed(text[at : at + 4])
        seconds.append(time.perf_counter() - start)
    assert one.calls == 1 and text.endswith(SECTION_END)
    assert sorted(seconds)[len(seconds) // 2] < 20e-6
