"""The same calls in all the ways in which hosts tell them: each comes out once, as it was meant."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

import pytest

from abruzzi import Message, Tool, parse
from abruzzi.engines.chat_spelling import ChatSpelling
from abruzzi.protocol.template import render_prompt
from tests.conftest import section

NAMES = ("get_weather", "ping", "weather_now", "add")
PROMPT = render_prompt(
    [Message("user", "Go.")], tools=[Tool(name, None, {"type": "object"}) for name in NAMES], variant="k2"
)
ARGUMENTS = ({}, {"a": 'b{"'}, {"a": [1, {"b": "]}"}]}, {"a": "<|tool_call_end|>"}, {"a": "y" * 40})
Call = tuple[str, str]
Part = tuple[int | None, str | None, str, str]


def told(call: Call, number: int, index: str, ids: str, names: str, rng: random.Random) -> list[Part]:
    """The parts of a call: its index each or none or always 0; its id with the first, with each the same, with each a
    new one, or none; its name with the first, with each, in two pieces, or each time as far as it is known.
    """
    name, arguments = call
    cuts = sorted(rng.sample(range(len(arguments) + 1), rng.randint(0, 2)))
    pieces = [arguments[at:end] for at, end in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
    half = len(name) // 2
    heads = {
        "first": [name],
        "each": [name] * len(pieces),
        "pieces": [name[:half], name[half:]],
        "growing": [name[:half], name],
    }[names]
    pieces = [""] * (0 if names == "each" else len(heads) - 1) + pieces
    heads += [""] * (len(pieces) - len(heads))
    return [
        (
            {"each": number, "none": None, "same": 0}[index],
            {"first": None if i else f"id{number}", "same": f"id{number}", "new": f"{number}-{i}", "none": None}[ids],
            *(head, piece),
        )
        for i, (head, piece) in enumerate(zip(heads, pieces, strict=True))
    ]


WAYS = [
    *(("each", ids, names) for ids in ("first", "same", "none") for names in ("first", "each", "pieces", "growing")),
    *(("each", "new", names) for names in ("first", "pieces", "growing")),
    *(("none", "same", names) for names in ("first", "each", "pieces", "growing")),
    *(("none", "first", names) for names in ("first", "pieces", "growing")),
    *(("same", ids, names) for ids in ("first", "same", "new") for names in ("first", "pieces", "growing")),
    ("same", "none", "first"),
]


@pytest.mark.parametrize(("index", "ids", "names"), WAYS)
def test_each_call_comes_out_once_as_it_was_meant(index: str, ids: str, names: str) -> None:
    for seed in range(150):
        rng = random.Random(seed)
        # Without ids and with one index two calls that are the same would be one that is told twice.
        drawn = [(rng.choice(NAMES), json.dumps(rng.choice(ARGUMENTS))) for _ in range(rng.randint(1, 4))]
        calls = list(dict.fromkeys(drawn)) if (index, ids) == ("same", "none") else drawn
        parts = [told(call, number, index, ids, names, rng) for number, call in enumerate(calls)]
        if index == "each" or (index, ids) == ("none", "same"):
            calls, flat = side_by_side(calls, parts, rng)
        else:
            flat = [part for several in parts for part in several]
        leak = section(*((f"functions.{name}:{i}", arguments) for i, (name, arguments) in enumerate(calls)))
        where = rng.choice(("nowhere", "before", "behind"))
        spelling = ChatSpelling(PROMPT)
        texts = [spelling.content("Hi. "), *(map(spelling.content, leak) if where == "before" else ())]
        texts += [spelling.call(*part) for part in flat]
        texts += map(spelling.content, leak) if where == "behind" else ()
        message = parse("".join([*texts, spelling.close(cut=False)]), tools=None, variant="k2")
        got = [(call.function.name, call.function.arguments) for call in message.tool_calls]
        assert (got, message.content) == (calls, "Hi. "), (seed, flat)


def side_by_side(
    calls: Sequence[Call], parts: Sequence[list[Part]], rng: random.Random
) -> tuple[list[Call], list[Part]]:
    """The parts mixed, each call's in their order; and the calls as they begin."""
    flat, begun, left = [], list[int](), [list(several) for several in parts]
    while any(left):
        at = rng.choice([at for at, several in enumerate(left) if several])
        flat.append(left[at].pop(0))
        begun += [] if at in begun else [at]
    return [calls[at] for at in begun], flat
