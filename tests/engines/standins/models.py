"""What a stand-in's weights write: a model is asked with a prompt, and tells what comes behind it.

It gives tokens, or texts that are made tokens of. It ends with its turn: what engines do then (`<|im_end|>`, and what
comes where that doesn't stop them) is theirs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from abruzzi.protocol.tokens import Tokenizer
from tests.engines.standins.constraints import LEANING
from tests.engines.standins.vocabulary import SIZE, closing

_MIDDLE = "<|im_middle|>"


@dataclass(frozen=True)
class Asked:
    """A prompt, as tokens and spelled, and the request's body."""

    ids: tuple[int, ...]
    text: str
    body: Mapping[str, Any]

    @property
    def begun(self) -> str:
        """What of the turn the prompt ends with."""
        return self.text.rpartition(_MIDDLE)[2]


Model = Callable[[Asked], Iterable[int | str]]


def scripted(*texts: str) -> Model:
    """Writes these, one a request, whatever it is asked; the last one again and again."""
    left = list(texts)
    return lambda _: [left.pop(0) if len(left) > 1 else left[0]]


def continuing(turn: str) -> Model:
    """Goes on with `turn` where the prompt ends; where that isn't in it, behind the latest that is."""

    def write(asked: Asked) -> list[str]:
        begun = asked.begun
        known = next(begun[i:] for i in range(len(begun) + 1) if begun[i:] in turn)
        return [turn[turn.index(known) + len(known) :]]

    return write


def random_weights(tokenizer: Tokenizer, seed: int = 0) -> Model:
    """Any token behind any other, markers and what closes JSON more often; it never ends."""
    chance, likely = random.Random(seed), closing(tokenizer)

    def write(_: Asked) -> Iterator[int]:
        while True:
            id = chance.choice(likely) if chance.random() < LEANING else chance.randrange(SIZE)
            if id in tokenizer.controls.values() or id < len(tokenizer._encoding._mergeable_ranks):
                yield id

    return write
