"""The whole: how many conversations of each kind, and none twice or from an evaluation."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from training.data.catalog import JsonObject, Spec
from training.data.evals import Evals
from training.data.maker import Maker
from training.data.parts import Part

Kind = Callable[[Maker], JsonObject]

# How many are made for training and for validation.
COUNTS: Mapping[Kind, tuple[int, int]] = {
    Maker.single: (930, 30),
    Maker.copying: (190, 0),
    Maker.structured: (110, 4),
    Maker.same_tool: (230, 12),
    Maker.two_tools: (230, 12),
    Maker.after_result: (330, 15),
    Maker.going_on: (100, 5),
    Maker.follow_up: (70, 3),
    Maker.chain: (170, 6),
    Maker.question: (430, 15),
    Maker.refusal: (170, 8),
    Maker.plain_chat: (200, 6),
    Maker.toolless: (160, 6),
    Maker.missing: (210, 6),
    Maker.pythonic: (280, 8),
    Maker.foreign: (240, 8),
}
# Of the real dialogues: all that training has.
DIALOGUES = (10_000, 30)


def build(
    parts: Sequence[Part], specs: Mapping[str, Spec], evals: Evals, *, seed: int = 1, scale: float = 1.0
) -> tuple[list[JsonObject], list[JsonObject]]:
    """The conversations for training, as many made ones as `scale` says, and for validation."""

    def one(index: int, scale: float) -> list[JsonObject]:
        rng = random.Random(seed * 1000 + index)
        maker = Maker(parts[index], specs, rng)
        kept: dict[str, JsonObject] = {}
        for kind, counts in COUNTS.items():
            count = round(counts[index] * scale)
            # A kind with little material repeats itself: there is an end to trying.
            keep(kept, (kind(maker) for _ in range(count * 3)), count, evals)
        keep(kept, reversed(parts[index].dialogues), DIALOGUES[index], evals)
        conversations = list(kept.values())
        rng.shuffle(conversations)
        return conversations

    return one(0, scale), one(1, 1.0)


def keep(kept: dict[str, JsonObject], rows: Iterator[JsonObject], count: int, evals: Evals) -> None:
    """Add up to `count` conversations that are new and touch no evaluation."""
    goal = len(kept) + count
    while len(kept) < goal and (row := next(rows, None)):
        key = json.dumps([row["messages"], row["tools"]], ensure_ascii=False, sort_keys=True)
        if key not in kept and not evals.overlap(row):
            kept[key] = row
