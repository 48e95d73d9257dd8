"""What a request's grammar lets an engine write: compiled by the very libraries that engines have for it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Protocol

import llguidance
import tiktoken
from llguidance import LLMatcher, LLTokenizer
from llguidance.tiktoken import lltokenizer_from_encoding

from abruzzi.protocol.tokens import Tokenizer
from tests.engines.standins.vocabulary import EOS, IM_END, SIZE

Backend = Literal["llguidance", "xgrammar"]
# How often a model that knows nothing takes a token that brings things to their end.
LEANING = 0.3
_TRIES = 64


@dataclass(frozen=True)
class Guide:
    """The grammar of a request, as engines pass it on."""

    kind: Literal["json", "regex", "ebnf", "structural_tag"]
    text: str


class Constraint(Protocol):
    """Where a completion stands in its grammar."""

    def mask(self) -> bytes:
        """A bit a token, the first one lowest: which may come next."""
        ...

    def accept(self, id: int) -> None:
        """Go on behind a token that `mask` allows."""
        ...


def compiled(guide: Guide, backend: Backend, tokenizer: Tokenizer, stops: tuple[int, ...]) -> Constraint:
    """`stops`: tokens that may end the output. Raises ValueError, in the library's words, for what isn't compiled."""
    return _Llguidance(guide, tokenizer, stops) if backend == "llguidance" else _Xgrammar(guide, tokenizer, stops)


def held(wanted: Iterable[int], constraint: Constraint, chance: random.Random, closing: Iterable[int]) -> Iterator[int]:
    """What a model writes that is held to a grammar: what it wanted, and from the first token on that isn't allowed
    anything that is, of `closing` more often than of others. Where it wanted to end its turn and may end the output, it
    does.
    """
    for id in wanted:
        mask = constraint.mask()
        if not _allows(mask, id) and id == IM_END and _allows(mask, EOS):
            id = EOS
        if not _allows(mask, id):
            break
        constraint.accept(id)
        yield id
    while True:
        id = _any(constraint.mask(), chance, closing)
        constraint.accept(id)
        yield id


def _allows(mask: bytes, id: int) -> bool:
    return bool(mask[id >> 3] >> (id & 7) & 1)


def _any(mask: bytes, chance: random.Random, closing: Iterable[int]) -> int:
    leaning = [id for id in closing if _allows(mask, id)]
    if leaning and chance.random() < LEANING:
        return chance.choice(leaning)
    for _ in range(_TRIES):
        if _allows(mask, id := chance.randrange(SIZE)):
            return id
    return chance.choice([8 * i + bit for i, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1])


class _Llguidance:
    def __init__(self, guide: Guide, tokenizer: Tokenizer, stops: tuple[int, ...]) -> None:
        if guide.kind == "structural_tag":
            raise ValueError("llguidance knows no structural tags of the second version")
        grammar = llguidance.grammar_from(guide.kind, guide.text)
        self._matcher = LLMatcher(_llguidance_tokenizer(tokenizer, stops), grammar)
        if self._matcher.is_error():
            raise ValueError(self._matcher.get_error())

    def mask(self) -> bytes:
        return self._matcher.compute_bitmask()

    def accept(self, id: int) -> None:
        assert self._matcher.consume_token(id)


@lru_cache(maxsize=8)
def _llguidance_tokenizer(tokenizer: Tokenizer, stops: tuple[int, ...]) -> LLTokenizer:
    encoding = tiktoken.Encoding(
        "kimi-k2",
        pat_str=tokenizer._encoding._pat_str,
        mergeable_ranks=tokenizer._encoding._mergeable_ranks,
        special_tokens={str(spelling): id for spelling, id in tokenizer.controls.items()},
    )
    return lltokenizer_from_encoding(encoding, n_vocab=SIZE, eos_token=list(stops))


class _Xgrammar:
    def __init__(self, guide: Guide, tokenizer: Tokenizer, stops: tuple[int, ...]) -> None:
        import xgrammar  # type: ignore[import-not-found]

        compiler = _xgrammar_compiler(tokenizer, stops)
        try:
            if guide.kind == "structural_tag":
                compiled = compiler.compile_structural_tag(guide.text)
            elif guide.kind == "json":
                compiled = compiler.compile_json_schema(guide.text)
            elif guide.kind == "regex":
                compiled = compiler.compile_regex(guide.text)
            else:
                compiled = compiler.compile_grammar(guide.text)
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        self._matcher = xgrammar.GrammarMatcher(compiled)
        self._bits = xgrammar.allocate_token_bitmask(1, SIZE)

    def mask(self) -> bytes:
        self._matcher.fill_next_token_bitmask(self._bits)
        return bytes(self._bits.numpy().tobytes())

    def accept(self, id: int) -> None:
        assert self._matcher.accept_token(id)


@lru_cache(maxsize=8)
def _xgrammar_compiler(tokenizer: Tokenizer, stops: tuple[int, ...]) -> Any:
    import xgrammar

    vocabulary = [b""] * SIZE
    for token, id in tokenizer._encoding._mergeable_ranks.items():
        vocabulary[id] = token
    for spelling, id in tokenizer.controls.items():
        vocabulary[id] = spelling.encode()
    info = xgrammar.TokenizerInfo(
        vocabulary, vocab_type=xgrammar.VocabType.RAW, vocab_size=SIZE, stop_token_ids=list(stops)
    )
    return xgrammar.GrammarCompiler(info)
