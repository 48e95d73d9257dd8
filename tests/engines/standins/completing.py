"""A completion as it grows, whichever engine writes it."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from abruzzi.protocol.tokens import Tokenizer
from tests.engines.standins.constraints import Backend, Guide, compiled, held
from tests.engines.standins.models import Asked, Model
from tests.engines.standins.serving import Standin
from tests.engines.standins.vocabulary import EOS, IM_END, IM_USER, SIZE, closing, ids_of

# What a K2 writes behind its turn where nothing stops it.
Request = TypeVar("Request", bound=BaseModel)
_BEHIND: tuple[int | str, ...] = (IM_END, IM_USER, "user", EOS)


@dataclass
class Writing:
    """What has been written by now, and how it ended."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    reason: str | None = None
    matched: int | str | None = None


async def last(writing: AsyncIterator[Writing]) -> Writing:
    """How it stands when it is whole."""
    return [now async for now in writing][-1]


class Refused(Exception):
    """A request that the engine doesn't take, in its words."""


class CompletionsStandin(Standin):
    """An engine's server, whose weights are a `Model`."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        backend: Backend | None = "llguidance",
        context_length: int = 4096,
        served: str = "kimi-k2",
        pause: float = 0.0,
    ) -> None:
        """`backend` compiles grammars; `pause`: seconds before each token."""
        super().__init__()
        self.model, self.tokenizer, self.backend = model, tokenizer, backend
        self.context_length, self.served, self.pause = context_length, served, pause
        self.healthy = True

    def prompt(self, prompt: str | list[Any]) -> list[int]:
        """A request's only prompt as tokens. Raises Refused for none, several, and tokens that no K2 has."""
        ids = ids_of(self.tokenizer, prompt) if isinstance(prompt, str) else prompt
        if not ids or not all(isinstance(id, int) and 0 <= id < SIZE for id in ids):
            raise Refused(f"expected a prompt of text or of token ids below {SIZE}, got {str(prompt)[:80]}")
        return ids

    def tokens(
        self, ids: list[int], body: dict[str, Any], guide: Guide | None, stops: tuple[int, ...]
    ) -> Iterator[int]:
        """What the model writes, held to the grammar. Raises ValueError for one that isn't compiled."""
        asked = Asked(tuple(ids), self.tokenizer.decode(ids), body)
        if likeliest := [int(id) for id, bias in (body.get("logit_bias") or {}).items() if bias >= 100]:
            return iter(likeliest * 1000)
        constraint = None
        if guide is not None and self.backend is not None:
            constraint = compiled(guide, self.backend, self.tokenizer, stops)
        wanted = (
            id
            for part in chain(self.model(asked), _BEHIND)
            for id in ([part] if isinstance(part, int) else ids_of(self.tokenizer, part))
        )
        if constraint is None:
            return wanted
        seed = body.get("seed")
        chance = random.Random(len(self.asked) if seed is None else seed)
        return held(wanted, constraint, chance, closing(self.tokenizer))

    def logprobs(self, ids: list[int]) -> dict[str, Any]:
        """Of these tokens, each of which is as good as sure."""
        tokens = [self.tokenizer.decode([id]) for id in ids]
        return {
            "text_offset": [0] * len(ids),
            "token_logprobs": [-0.1] * len(ids),
            "tokens": tokens,
            "top_logprobs": [{token: -0.1} for token in tokens],
        }

    def read(self, kind: type[Request], body: bytes) -> Request:
        """A body as an engine's request model takes it, noted as it came. Raises Refused, with FastAPI's words."""
        try:
            value = json.loads(body)
            self.note(asked=value)
            return kind.model_validate(value)
        except ValidationError as error:
            errors = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        except ValueError as error:
            errors = [{"type": "json_invalid", "loc": ("body", 0), "msg": f"JSON decode error: {error}"}]
        count = f"{len(errors)} validation error{'s' * (len(errors) > 1)}"
        raise Refused("\n".join((f"{count}:", *(f"  {one}" for one in errors))))
