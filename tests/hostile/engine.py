"""What the engines have in common: how they cut their output into pieces, and what they remember of what was asked."""

from __future__ import annotations

import random
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from itertools import islice
from typing import Literal

from abruzzi.engines.base import Capabilities, Piece, Usage
from abruzzi.protocol.markers import THINK_BEGIN
from abruzzi.protocol.prompt import Prompt, unescape
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant

MOST_ASKED = 40
"""Requests that one turn may cost, by far."""
PATIENCE = 400_000
"""Characters that one turn may pull, by far."""


def written(prompt: Prompt) -> str:
    """What stands of the assistant's turn at the end of a prompt."""
    row = prompt.variant
    head = row.turn_begin["assistant"] + row.labels["assistant"] + row.middle
    head += THINK_BEGIN if row.opens_thinking else ""
    return unescape(str(prompt).rpartition(head)[2], row)


Ids = Literal["right", "wrong"]


def with_ids(texts: Iterator[str], rng: random.Random, tokenizer: Tokenizer, ids: Ids) -> Iterator[Piece]:
    """Pieces of one token or a few, with their ids: `right` ones, or `wrong` ones that say something else. A text that
    is cut off ends with the half of a character.
    """
    controls = re.compile("(" + "|".join(map(re.escape, tokenizer.controls)) + ")")
    for text in texts:
        tokens: list[int] = []
        for part in controls.split(re.sub("[\ud800-\udfff]", "\ufffd", text)):
            tokens += [tokenizer.controls[part]] if part in tokenizer.controls else tokenizer.encode(part)
        while tokens:
            count = rng.choice((1, 1, 1, 2, 5))
            some, tokens = tokens[:count], tokens[count:]
            if ids == "right":
                yield Piece(tokenizer.decode(some), ids=tuple(some))
            else:
                others = (*tokenizer.controls.values(), *range(1000))
                yield Piece(tokenizer.decode(some), ids=tuple(rng.choices(others, k=len(some))))
        yield Piece()
    if ids == "right" and rng.random() < 0.3:
        yield Piece(ids=tuple(tokenizer.encode("\U0001f9ff")[:1]))


# How an engine cuts its output into pieces


def whole(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    while several := list(islice(texts, 500)):
        yield "".join(several)


def characters(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    for text in texts:
        yield from text or ("",)


def single_bytes(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    """A piece a byte; those that end no character hold nothing."""
    for text in texts:
        yield from ("",) if not text else ()
        for character in text:
            yield from ("",) * (len(character.encode("utf-8", "surrogatepass")) - 1)
            yield character


def anywhere(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    for text in texts:
        at = 0
        while at < len(text) or not text:
            size = rng.choice((0, 1, 2, 3, 7, 40))
            yield text[at : at + size]
            at += size
            if not text:
                break


def as_tokens(texts: Iterator[str], rng: random.Random) -> Iterator[str]:
    return texts


Cut = Callable[[Iterator[str], random.Random], Iterator[str]]
CUTS: Mapping[str, Cut] = {
    "whole": whole,
    "characters": characters,
    "bytes": single_bytes,
    "anywhere": anywhere,
    "tokens": as_tokens,
}


class BaseEngine:
    """What both engines have: they remember what was asked of them."""

    fails = False
    """Whether it may raise EngineError."""
    cuts = False
    """Whether a limit may end its output."""

    def __init__(
        self, variant: Variant, rng: random.Random, cut: str, constrains: bool, tokenizer: Tokenizer | None, ids: Ids
    ) -> None:
        self.capabilities = Capabilities("hostile", variant, constrains, tokenizer=tokenizer)
        self._ids = ids
        self.asked: list[Prompt] = []
        self.pulled = 0
        self.closed = 0
        self._rng = rng
        self._cut, self._cut_rng = CUTS[cut], random.Random(cut)

    def _ask(self, prompt: Prompt) -> None:
        self.asked.append(prompt)
        assert str(prompt).startswith(str(self.asked[0]).removesuffix(written(self.asked[0]))), "another conversation"
        assert len(self.asked) <= MOST_ASKED, "it is asked without end"

    async def _say(self, texts: Iterator[str], most: int | None) -> AsyncGenerator[Piece, None]:
        """The text in pieces, of at most so many tokens; then nothing, or a piece that tells of the limit."""
        finished = False
        try:
            for count, piece in enumerate(self._pieces(islice(texts, most))):
                self.pulled += len(piece.text)
                assert self.pulled <= PATIENCE and count <= PATIENCE, "nobody stops it"
                yield piece
            if most is not None and next(texts, None) is not None:
                yield Piece("", "length", Usage(1, most))
            finished = True
        finally:
            self.closed += not finished

    def _pieces(self, texts: Iterator[str]) -> Iterator[Piece]:
        if (tokenizer := self.capabilities.tokenizer) is None:
            return map(Piece, self._cut(texts, self._cut_rng))
        return with_ids(texts, self._cut_rng, tokenizer, self._ids)

    async def aclose(self) -> None:
        pass
