"""Right calls, damaged in every way in which K2's are: each comes out valid, and those without a flaw as they are."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from abruzzi import ChatRequest, Message, Tool
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2, K2_5
from tests.conftest import PING, WEATHER, section
from tests.hostile.damages import DAMAGES, RESPELLINGS
from tests.hostile.dialogues import Wanted, dialogues, respelled
from tests.hostile.engine import MOST_ASKED
from tests.hostile.judge import fault, play
from tests.hostile.sloppy import SloppyEngine, changed, rest_of, sloppy_turn

EVERY = 10
ASK = (Message("user", "Go."),)
TWO = Wanted(
    "two",
    ASK,
    [WEATHER, PING],
    "Let me see.",
    ((WEATHER, '{"location": "Rome", "unit": "c"}'), (PING, "{}")),
)


def test_at_one_damage_in_four_every_call_is_valid_and_the_others_are_untouched(shared: Path) -> None:
    calls = resumes = 0
    used: set[str] = set()
    for seed, wanted in enumerate(dialogues(shared, EVERY)):
        engine, request = sloppy_turn(wanted, seed)
        outcome = play(engine, request, streamed=seed % 2 == 0)
        assert (outcome.wrong, changed(engine, outcome)) == ((), []), (wanted.id, engine.damaged)
        assert len(outcome.calls) == len(wanted.calls) or engine.gave_up or outcome.is_ours, (wanted.id, engine.damaged)
        assert len(engine.asked) <= MOST_ASKED
        calls += len(outcome.calls)
        resumes += outcome.resumes
        used.update(engine.damaged)
    assert calls > 500 and len(used) > 50
    assert resumes / calls <= 1.5


@pytest.mark.parametrize("kind", DAMAGES)
def test_no_class_of_damage_gets_through(shared: Path, kind: str) -> None:
    came = 0
    for seed, wanted in enumerate(dialogues(shared, EVERY)[::25]):
        engine, request = sloppy_turn(wanted, seed, p=1.0, kinds=[kind], again=False)
        outcome = play(engine, request)
        assert (outcome.wrong, changed(engine, outcome)) == ((), []), wanted.id
        came += len(outcome.calls) == len(wanted.calls) or engine.gave_up or outcome.is_ours
    assert came > 10


MEANT: tuple[str, ...] = (
    "E46 encoded twice",
    "E46 encoded three times",
    "E50 trailing comma",
    "ellipsis",
    "single quotes",
    "comment",
)
MEANT += ("keys without quotes", "extra closing brace", "no closing brace", "number with leading zeros", "code fence")


@pytest.mark.parametrize("kind", MEANT)
def test_a_slip_of_spelling_changes_nothing_of_what_is_meant(kind: str) -> None:
    number = Tool("f", None, {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}})
    wanted = Wanted("x", ASK, [number], "", ((number, '{"n": 7, "s": "x"}'),))
    for choice in ("auto", "required"):
        engine = SloppyEngine(wanted, 1, p=1.0, kinds=[kind], again=False)
        outcome = play(engine, ChatRequest(ASK, [number], tool_choice=choice))
        assert [json.loads(arguments) for _, arguments in outcome.calls] == [{"n": 7, "s": "x"}]


def test_token_ids_make_no_difference(shared: Path) -> None:
    tokenizer = Tokenizer.from_folder(shared / "k2")
    for seed, wanted in enumerate(dialogues(shared, EVERY)[::5]):
        engine, request = sloppy_turn(wanted, seed, tokenizer=tokenizer)
        outcome = play(engine, request)
        assert (outcome.wrong, changed(engine, outcome)) == ((), []), (wanted.id, engine.damaged)


def test_a_call_that_is_always_damaged_still_ends(shared: Path) -> None:
    for seed, wanted in enumerate(dialogues(shared, EVERY)[::12]):
        engine, request = sloppy_turn(wanted, seed, p=1.0)
        assert not play(engine, request).wrong, (wanted.id, engine.damaged)


def test_an_odd_spelling_passes_byte_for_byte(shared: Path) -> None:
    for seed, wanted in enumerate(dialogues(shared, EVERY)):
        engine, request = sloppy_turn(wanted, seed, p=0.0, respell=True)
        outcome = play(engine, request)
        assert (outcome.wrong, changed(engine, outcome), outcome.resumes) == ((), [], 0), wanted.id
        assert request.tool_choice == "required" or len(engine.kept) == len(outcome.calls)


def test_what_is_said_before_the_calls_is_kept_and_said_once(shared: Path) -> None:
    spoken = [wanted for wanted in dialogues(shared, EVERY) if wanted.content.strip()]
    for seed, wanted in enumerate(spoken):
        engine = SloppyEngine(wanted, seed, p=0.5)
        outcome = play(engine, ChatRequest(wanted.messages, wanted.tools))
        assert outcome.message and outcome.message.content == wanted.content, engine.damaged
    assert spoken


def test_every_class_damages_something() -> None:
    assert len(DAMAGES) >= 60 and set(DAMAGES) >= RESPELLINGS
    counts: dict[str, int] = {}
    numbers = Tool(
        "f", None, {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}, "b": {}}}
    )
    wanted = Wanted("x", ASK, [numbers, *TWO.tools], "", (*TWO.calls, (numbers, '{"n": 1, "s": "x", "b": true}')))
    for kind in DAMAGES:
        for variant in (K2, K2_5):
            damaged = SloppyEngine(wanted, 1, p=1.0, kinds=[kind], variant=variant).rest("")
            right = SloppyEngine(wanted, 1, p=0.0, variant=variant).rest("")
            counts[kind] = counts.get(kind, 0) + (damaged != right)
    assert not [kind for kind, count in counts.items() if not count]


def test_it_goes_on_from_every_part_of_what_is_right() -> None:
    engine = SloppyEngine(TWO, 1, p=0.0)
    whole = "".join(engine.rest(""))
    calls = (("functions.get_weather:0", TWO.calls[0][1]), ("functions.ping:1", "{}"))
    assert whole == "Let me see." + section(*calls)
    markers = [i for i in range(len(whole)) if "<" not in whole[:i].rpartition("|>")[2]]
    for at in markers:
        assert whole[:at] + "".join(engine.rest(whole[:at])) == whole, whole[:at]


def test_a_text_that_breaks_off_is_made_whole_near_to_what_is_right() -> None:
    right = {"a": 'é\n"x" \\ 🙂', "b": [1, -2.5, {"c": None}, []], "d": True, "e": {}}
    for seed in range(20):
        text = respelled(right, random.Random(seed))
        assert json.loads(text) == right
        for at in range(len(text)):
            begun = text[:at]
            rest = rest_of(begun, right)
            value = json.loads(begun + rest)
            if "\\" not in begun[-12:]:
                assert value == right, begun
    assert rest_of('{"b": 7, "x": [', right).startswith("], ")
    assert json.loads('{"d": fal' + rest_of('{"d": fal', right)) == {**right, "d": False}


def test_dialogues_are_right_by_their_own_schemas(shared: Path) -> None:
    for wanted in dialogues(shared, EVERY):
        assert not [text for tool, text in wanted.calls if fault(tool.name, text, wanted.tools)]
