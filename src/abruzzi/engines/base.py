"""The seam between the rest of the program and whatever generates text."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

import msgspec

from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant

ALTERNATIVES = 5
"""As many as the guard asks for where an output broke: OpenAI's limit. Some engines offer fewer."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to sample. None leaves a value to the engine."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    frequency_penalty: float | None = None
    """-2 to 2: how much less likely a token is made for each time that it has come."""
    presence_penalty: float | None = None
    """-2 to 2: how much less likely it is made once it has come."""
    repetition_penalty: float | None = None
    """Above 0, to 2: by what the likelihood of a token is divided that has come; 1 leaves it."""
    top_k: int | None = None
    """How many of the likeliest tokens there are to draw from; -1 and 0: all of them."""
    min_p: float | None = None
    """0 to 1: how likely a token must be, as a share of the likeliest one's probability, to be drawn."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Ids of tokens, and what is added to the logit of each: -100 to 100."""
    logprobs: int | None = None
    """How many alternatives to offer with each token, where the engine can."""
    # What an engine that refuses it does without.
    alternatives: int = 0
    """As `logprobs`: so many at least."""
    least_temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.max_tokens is not None and self.max_tokens < 1:
            raise RequestError(f"expected at least one token, got {self.max_tokens}", "max_tokens")

    @property
    def offered(self) -> int | None:
        """How many alternatives to offer with each token in all; None where its likelihood isn't asked for, either."""
        return max(self.logprobs or 0, self.alternatives) if self.alternatives else self.logprobs

    @property
    def heat(self) -> float | None:
        """The temperature in all."""
        return max(self.temperature or 0.0, self.least_temperature) if self.least_temperature else self.temperature


@dataclass(frozen=True, slots=True)
class Usage:
    """What a completion cost, in tokens. Of the prompt's, `cached` had been read before; of the completion's,
    `forced` followed from the grammar and were not generated."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    forced: int = 0


class Piece(msgspec.Struct, frozen=True, gc=False):
    """More output, or its end: the last piece has a `finish_reason` and, where the engine counts, `usage`.

    There is one a token: a frozen dataclass takes ten times as long to make.
    """

    text: str = ""
    finish_reason: Literal["stop", "length"] | None = None
    usage: Usage | None = None
    stop: str | None = None
    """With a `finish_reason` of `stop`: which of the request's stop sequences it was, where the engine tells."""
    ids: tuple[int, ...] = ()
    """The tokens, where the engine gives them and has a tokenizer; what they say counts, whatever `text` says."""
    logprob: float | None = None
    """For a piece of one token: the logarithm of its probability."""
    guided: bool = False
    """With a `finish_reason`: whether all of the output was held to the grammar."""
    alternatives: tuple[tuple[str, float], ...] = ()
    """For a piece of one token: others that might have come, and the logarithms of their probabilities."""
    engine: str | None = None
    """From a pool, with the first piece of each engine that serves the request: its `name_of`."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine offers."""

    model: str
    """The name under which it serves the model."""
    variant: Variant
    """The format in which its model reads and writes."""
    constrains: bool
    """Whether it keeps its output within a `Grammar`."""
    constrains_within: bool = False
    """Whether it does so for a prompt that ends inside of a turn."""
    continues: bool = True
    """Whether it goes on behind what a prompt ends with. One that doesn't reads the prompt's conversation, and answers
    anew.
    """
    shows_controls: bool = True
    """Whether control tokens that the model writes may stand in its text."""
    most_tools: int | None = None
    """How many tools a grammar may have that it is given; None: any number."""
    context_length: int | None = None
    tokenizer: Tokenizer | None = None
    """The model's own, of an engine that gives token ids."""
    counter: Tokenizer | None = None
    """The model's own, of an engine that gives none: for counting."""


@runtime_checkable
class Engine(Protocol):
    """Raw completions. An iterator that is closed early stops the engine's work on it at once. Event loops of several
    threads, and one after another, may share an engine.
    """

    @property
    def capabilities(self) -> Capabilities: ...

    def complete(self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None) -> AsyncGenerator[Piece, None]:
        """Continue the prompt. Raises RequestError for a prompt that doesn't fit, EngineError when the engine fails.

        A grammar tells of the whole turn: `grammar.written` of it ends the prompt.
        """
        ...

    async def aclose(self) -> None: ...


def name_of(engine: Engine) -> str:
    """What an engine is called where it is counted."""
    return called(getattr(engine, "url", None), engine.capabilities.model)


def called(url: str | None, model: str) -> str:
    """The `host:port` at which an engine is reached, with the path where that is more than `/v1`; of one without a URL,
    its model's name. No credentials.
    """
    if url is None:
        return model
    parts = urlsplit(url)
    return parts.netloc.rpartition("@")[2] + parts.path.removesuffix("/v1")
