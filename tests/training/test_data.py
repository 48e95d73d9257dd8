from __future__ import annotations

import itertools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi import Tool, parse, render
from abruzzi.guide.schema import Schemas, closed
from training.data.catalog import load_tools
from training.data.corpus import build
from training.data.evals import Evals, load_evals, prompts_of
from training.data.parts import Part, divided
from training.data.places import third_stage
from training.data.slots import draw
from training.data.stories import load_stories, tell
from training.encode import trees

Conversation = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
DISTILLED = [(f"What is {i}?", f"{i} is a number.") for i in range(20)]


def parts() -> tuple[Part, Part]:
    return divided(load_tools(), DISTILLED, [], [])


def python(*arguments: str, hash_seed: int = 0) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, check=True, capture_output=True)


def write(shared: Path, out: Path, hash_seed: int, stage: int = 1) -> list[bytes]:
    """What the command writes for a small dataset."""
    out.mkdir()
    distilled = out / "distilled.jsonl"
    distilled.write_text("".join(json.dumps({"prompt": p, "answer": a}) + "\n" for p, a in DISTILLED))
    options = ["--shared", str(shared), "--distilled", str(distilled), "--out", str(out), "--scale", "0.05"]
    python("-m", "training.data", *options, "--stage", str(stage), hash_seed=hash_seed)
    return [(out / name).read_bytes() for name in ("train.jsonl", "valid.jsonl")]


@pytest.fixture(scope="module")
def conversations() -> list[Conversation]:
    """Made ones of every kind, without the shared data."""
    train, valid = build(parts(), load_tools(), Evals(), scale=0.1)
    return train + valid


@pytest.fixture(scope="module")
def written(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return write(shared, tmp_path_factory.mktemp("data") / "first", hash_seed=1)


def read(written: list[bytes]) -> list[Conversation]:
    return [json.loads(line) for part in written for line in part.splitlines()]


def faults(row: Conversation) -> list[object]:
    """What is wrong with the calls of a conversation, its tools' schemas closed."""
    declared = [Tool.from_openai(tool) for tool in row["tools"]]
    tools = [Tool(tool.name, tool.description, closed(tool.parameters)) for tool in declared]
    schemas = Schemas(tools)
    found: list[object] = []
    for message in row["messages"]:
        for call in message.get("tool_calls", ()):
            found.append(schemas.fault(call["function"]["name"], call["function"]["arguments"]))
        if row["tool_format"] == "pythonic" and message["role"] == "assistant":
            read = parse(message["content"], tools=tools, tool_format="pythonic")
            found += read.problems or [None if read.tool_calls else "no call"]
    return [fault for fault in found if fault]


def test_the_same_seed_makes_the_same_conversations(conversations: list[Conversation]) -> None:
    train, valid = build(parts(), load_tools(), Evals(), scale=0.1)
    assert train + valid == conversations
    assert build(parts(), load_tools(), Evals(), scale=0.1, seed=2) != (train, valid)


def test_what_is_written_does_not_hang_on_pythons_hashes(shared: Path, tmp_path: Path, written: list[bytes]) -> None:
    assert write(shared, tmp_path / "second", hash_seed=2) == written


def test_every_call_made_is_valid(conversations: list[Conversation]) -> None:
    assert [(row, faults(row)) for row in conversations if faults(row)] == []


def test_every_call_of_the_real_dialogues_is_valid(written: list[bytes]) -> None:
    rows = [row for row in read(written) if row["source"].startswith("dialogue_")]
    assert len(rows) > 500
    assert [(row, faults(row)) for row in rows if faults(row)] == []


def test_calls_count_over_the_conversation(conversations: list[Conversation]) -> None:
    for row in conversations:
        calls = [call for message in row["messages"] for call in message.get("tool_calls", ())]
        assert [call["id"] for call in calls] == [
            f"functions.{call['function']['name']}:{i}" for i, call in enumerate(calls)
        ]


def test_the_product_renders_every_conversation(conversations: list[Conversation]) -> None:
    for row in conversations:
        assert any(message.get("train") for message in row["messages"])
        assert render(row["messages"], tools=row["tools"], variant="smollm2")


def test_nothing_of_validation_is_in_training() -> None:
    train, valid = parts()
    for name in ("specs", "questions", "chains", "foreign", "systems", "pythonic"):
        assert not [item for item in getattr(valid, name) if item in getattr(train, name)], name


def test_nothing_of_the_evaluations_is_in_the_data(shared: Path, written: list[bytes]) -> None:
    evals = load_evals(shared / "evals")
    assert len(evals.prompts) > 1000 and len(evals.tools) > 500
    assert [row for row in read(written) if evals.overlap(row)] == []


def test_the_later_stages_are_valid_and_hold_nothing_of_the_evaluations(shared: Path, written: list[bytes]) -> None:
    first = [json.loads(line) for line in written[0].splitlines()]
    third = third_stage(first, random.Random(1))
    assert {"irrelevant", "places"} <= {row["source"] for row in third}
    evals = load_evals(shared / "evals")
    assert [row for row in third if evals.overlap(row) or faults(row)] == []
    for row in third:
        if row["source"] == "irrelevant":
            assert "tool_calls" not in row["messages"][-1]


def test_requests_made_of_signatures_say_what_their_calls_hold(shared: Path, tmp_path: Path) -> None:
    first, second = (write(shared, tmp_path / str(seed), hash_seed=seed, stage=4) for seed in (1, 2))
    assert first == second
    evals, rows = load_evals(shared / "evals"), read(first)
    assert [row for row in rows if evals.overlap(row) or faults(row)] == []
    made = [row for row in rows if row["source"].startswith("signature")]
    assert len(made) > 1500 and len({row["messages"][0]["content"] for row in made}) > 0.95 * len(made)
    assert len({tool["function"]["name"] for row in made for tool in row["tools"]}) > 900
    for row in made:
        request, reply = row["messages"]
        assert not {tool["function"]["name"] for tool in row["tools"]} & evals.tool_names
        assert bool(reply.get("tool_calls")) == (row["source"] != "signature_none")
        for call in reply.get("tool_calls", ()):
            for value in json.loads(call["function"]["arguments"]).values():
                several = value if isinstance(value, list) else [value]
                said = [not isinstance(one, str) or one in request["content"] or is_date(one) for one in several]
                assert all(said), (request["content"], several)


def test_the_conversations_of_a_set_have_its_tools_and_differ_in_what_is_asked(shared: Path, tmp_path: Path) -> None:
    first, second = (write(shared, tmp_path / str(seed), hash_seed=seed, stage=5) for seed in (1, 2))
    assert first == second
    evals = load_evals(shared / "evals")
    rows = [json.loads(line) for line in first[0].splitlines()]
    assert [row for row in rows if evals.overlap(row) or faults(row)] == []
    kinds = {row["source"] for row in rows}
    made = ("single", "several", "together", "story", "beyond", "strange", "lacking")
    assert {f"set_{kind}" for kind in made} <= kinds
    numbers = [row["set"] for row in rows]
    assert numbers == sorted(numbers)  # those of a set stand together
    for _, same in itertools.groupby(rows, lambda row: row["set"]):
        several = list(same)
        assert all(row["tools"] == several[0]["tools"] for row in several)
        asked = [json.dumps(row["messages"], ensure_ascii=False) for row in several]
        assert len(set(asked)) == len(asked)
    for row in rows:
        if row["source"] in ("set_beyond", "set_strange", "set_lacking", "set_question"):
            assert not any(message.get("tool_calls") for message in row["messages"])
        if row["source"] in ("set_several", "set_together", "set_story"):
            assert any(message.get("tool_calls") for message in row["messages"])


def test_a_story_says_what_its_calls_need() -> None:
    specs = load_tools()
    for story in load_stories():
        assert len({specs[key].held for key in story.keys}) == 1
        for text in story.texts:
            said, done = tell(text, [specs[key] for key in story.keys], random.Random(text))
            assert "@" not in re.sub(r"\w@\w", "", said) and "#1" not in said
            for spec, request in done:
                required = {param.slot for param in spec.params if param.required}
                assert all(required <= call.keys() for call in request.calls), text


def test_a_story_repeats_a_value_in_words_and_as_a_value() -> None:
    specs = load_tools()
    text = (
        'Hi. #1 How is $place?$(unit="celsius") #2 And $amount $from in $to? #1 @2.amount in @1.place$(place=@1.place)'
    )
    said, ((_, first), (_, second), (_, third)) = tell(text, [specs["weather"], specs["convertcur"]], random.Random(1))
    place = first.words["place"]
    assert third.calls == ({"place": place},)
    assert said == f"Hi. How is {place}? {second.text} {second.words['amount']} in {place}"
    assert first.calls == ({"place": place, "unit": "celsius"},)


@given(st.integers())
def test_times_are_said_in_many_ways(seed: int) -> None:
    slot = draw(random.Random(seed), "clock")
    hours, minutes = map(int, slot.value.split(":"))
    if found := re.fullmatch(r"(\d+)(?::(\d\d))? ?([ap])\.?m\.?", slot.text.lower()):
        assert hours == int(found[1]) % 12 + 12 * (found[3] == "p")
        assert minutes == int(found[2] or 0)
    elif ":" in slot.text:
        assert slot.text == slot.value
    elif slot.text in ("noon", "midnight"):
        assert slot.value == {"noon": "12:00", "midnight": "00:00"}[slot.text]
    else:
        assert (hours >= 12) == ("morning" not in slot.text) and minutes == 30 * ("half" in slot.text)


@pytest.mark.parametrize("generator", ["seconds", "minutes", "days", "large", "money", "curname", "monthname"])
@given(seed=st.integers())
def test_what_is_said_otherwise_has_the_value_that_the_call_carries(generator: str, seed: int) -> None:
    slot = draw(random.Random(seed), generator)
    if generator in ("curname", "monthname"):
        assert re.fullmatch("[A-Z]{3}" if generator == "curname" else "[0-9]+", slot.value)
        return
    factors = {
        **{"second": 1, "minute": 60, "min": 60, "hour": 3600, "day": 86400, "week": 604800, "fortnight": 1209600},
        **{"k": 1000, "thousand": 1000, "million": 1_000_000},
    }
    number = re.match(r"([\d,.]+)", slot.text)
    unit = re.search(r"([a-z]+?)s?$", slot.text)
    if number:
        factor = factors[unit[1]] if unit else 1
        per = {"seconds": 1, "minutes": 60, "days": 86400}.get(generator, 1)
        assert slot.value == pytest.approx(float(number[1].replace(",", "")) * factor / per)
    assert slot.value > 0


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.lists(st.integers(0, 2), min_size=2), min_size=1))
def test_a_tree_holds_its_sequences(shared_ids: list[int], endings: list[list[int]]) -> None:
    sequences = [
        ([*shared_ids, *ending], [0.0] * (len(shared_ids) + 1) + [1.0] * (len(ending) - 1)) for ending in endings
    ]
    found = []
    for tree in trees(sequences):
        starts = tree.get("starts") or [0]
        for start, end in itertools.pairwise([*starts, len(tree["ids"])]):
            here = slice(start, end)
            found.append(tuple(tree[part][: starts[0]] + tree[part][here] for part in ("ids", "weights")))
    assert found == sequences


def is_date(value: str) -> bool:
    return re.fullmatch(r"\d{4}-\d\d-\d\d", value) is not None  # said in words


def test_a_prompt_of_an_evaluation_is_left_out(conversations: list[Conversation]) -> None:
    prompts = [prompt for row in conversations if row["source"] == "single" for prompt in prompts_of(row)]
    kept, _ = build(parts(), load_tools(), Evals(prompts=frozenset(prompts)), scale=0.1)
    assert not {prompt for row in kept for prompt in prompts_of(row)} & set(prompts)


def test_missing_evaluations_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no evaluations"):
        load_evals(tmp_path)


def test_making_data_needs_neither_torch_nor_a_model() -> None:
    python("-c", "import sys, training.data.__main__; assert not {'torch', 'gguf', 'xllamacpp'} & set(sys.modules)")
