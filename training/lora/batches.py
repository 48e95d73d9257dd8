"""Examples, and how they are packed into batches that all have the same number of tokens."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.lora.errors import LoraError

# Tokens that a worker computes at once, and tokens of a step, where nothing else is said.
MICRO_TOKENS, BATCH_TOKENS = 2048, 4096
# Sequences start at multiples of this, and so do their lengths.
ALIGN = 16
# Batches that wait for a last example that fits.
OPEN = 32


@dataclass(frozen=True)
class Example:
    """A sequence; or a tree of several that begin alike, one after the other behind what they share."""

    ids: list[int]
    weights: list[float]  # weights[i]: of predicting ids[i]; the first has nothing before it and is ignored
    starts: Sequence[int] = ()  # of a tree: where each sequence's own part begins

    @property
    def branches(self) -> list[int]:
        """To which sequence a token belongs, from 1 on; 0 for what all share."""
        bounds = [0, *self.starts, len(self.ids)]
        return [number for number, (a, b) in enumerate(itertools.pairwise(bounds)) for _ in range(b - a)]

    @property
    def aligned(self) -> int:
        return -len(self.ids) // ALIGN * -ALIGN


def read_examples(path: Path) -> list[Example]:
    with path.open(encoding="utf-8") as lines:
        examples = [Example(**json.loads(line)) for line in lines]
    fitting = [example for example in examples if len(example.ids) <= MICRO_TOKENS]
    if not fitting:
        raise LoraError(f"{path}: no examples of up to {MICRO_TOKENS} tokens")
    if len(fitting) < len(examples):
        print(f"{path}: {len(examples) - len(fitting)} examples of more than {MICRO_TOKENS} tokens left out")
    return fitting


@dataclass
class Batch:
    ids: Tensor
    positions: Tensor
    branches: Tensor  # a token sees those before it in its span that have its own number, or 0
    spans: list[slice]  # of the examples
    masks: list[Tensor | None]  # of the trees: 0 where a row's token sees a column's, else -inf
    sources: Tensor  # where a token with a loss weight is predicted from
    targets: Tensor
    weights: Tensor


def pack(examples: Sequence[Example], size: int) -> Batch:
    """Lay examples behind each other, in at least `size` tokens altogether.

    What fills up comes after the tokens of its sequence, and carries no loss: it changes nothing.
    """
    ids: list[int] = []
    positions: list[int] = []
    branches: list[int] = []
    spans: list[slice] = []
    masks: list[Tensor | None] = []
    predicted: list[tuple[int, int, float]] = []
    for example in examples:
        start, length = len(ids), example.aligned
        ids += example.ids + [0] * (length - len(example.ids))
        own = example.branches
        own += own[-1:] * (length - len(own))
        shared = own.count(0)
        begins = dict(zip(itertools.count(1), example.starts, strict=False))
        positions += (i if not branch else shared + i - begins[branch] for i, branch in enumerate(own))
        branches += own
        spans.append(slice(start, start + length))
        masks.append(_mask(torch.tensor(own)) if example.starts else None)
        for index, (id, weight) in enumerate(zip(example.ids, example.weights, strict=True)):
            if index and weight:
                before = shared if index in example.starts else index
                predicted.append((start + before - 1, id, weight))
    rest = [0] * (size - len(ids))
    sources, targets, weights = zip(*predicted, strict=True)
    return Batch(
        torch.tensor(ids + rest),
        torch.tensor(positions + rest),
        torch.tensor(branches + rest),
        spans,
        masks,
        torch.tensor(sources),
        torch.tensor(targets),
        torch.tensor(weights, dtype=torch.float32),
    )


def _mask(branches: Tensor) -> Tensor:
    seen = ((branches == 0) | (branches == branches[:, None])).tril()
    return torch.zeros(seen.shape).masked_fill_(~seen, -torch.inf)


def bins(examples: Sequence[Example]) -> list[list[Example]]:
    """Distribute examples, in their order as far as it goes, over batches of MICRO_TOKENS."""
    closed: list[list[Example]] = []
    opened: list[tuple[int, list[Example]]] = []
    for example in examples:
        fitting = [entry for entry in opened if entry[0] >= example.aligned]
        left, content = min(fitting, key=lambda entry: entry[0], default=(MICRO_TOKENS, []))
        if fitting:
            opened.remove((left, content))
        content.append(example)
        opened.append((left - example.aligned, content))
        if len(opened) > OPEN:
            fullest = min(opened, key=lambda entry: entry[0])
            opened.remove(fullest)
            closed.append(fullest[1])
    return closed + [content for _, content in opened]


def steps(
    examples: Sequence[Example], seed: int, batch_tokens: int = BATCH_TOKENS
) -> Iterator[tuple[float, list[list[Example]]]]:
    """The batches of each step, without end, after how many epochs done; every epoch in another order."""
    order = random.Random(seed)
    shuffled = list(examples)
    together = max(1, batch_tokens // MICRO_TOKENS)
    for epoch in itertools.count():
        order.shuffle(shuffled)
        batches = bins(shuffled)
        order.shuffle(batches)
        for start in range(0, len(batches), together):
            yield epoch + start / len(batches), batches[start : start + together]
