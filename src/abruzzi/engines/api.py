"""What a server of `/v1/completions` takes beyond OpenAI's fields: each engine's own file says how it is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from abruzzi.guide.grammar import Grammar

Ids = Mapping[str, int]
"""Control tokens of a vocabulary: their ids by their spelling."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """A way to hold an engine to a grammar."""

    name: str
    """What it is called where people read of it: the request's field, and what reads it there."""
    fields: Callable[[Grammar, Ids], dict[str, Any]]
    """The request's fields that hold a completion to a grammar."""


@dataclass(frozen=True, slots=True)
class Api:
    """How the servers of one engine are asked. By itself it assumes nothing: OpenAI's fields alone."""

    name: str = "a completions server"
    owner: str = ""
    """What `/v1/models` of it says that its models are `owned_by`."""
    version: str = ""
    """The path that tells its version, and..."""
    version_key: str = "version"
    """...the member of the answer that is it."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What every request of ours has: special tokens are kept, which engines hide, and K2's markers are such."""
    unlimited: bool = False
    """Whether it goes on to the end of its context where it is given no `max_tokens`; OpenAI's stops after 16."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Parameters of sampling that it has under other names than vLLM's."""
    stops_at_ids: bool = False
    """Whether it knows `stop_token_ids`: an engine may stop at [EOS], and write on behind `<|im_end|>`."""
    ids_out: Mapping[str, Any] = field(default_factory=dict)
    """What makes it tell the ids of the tokens that it writes, beside their text; nothing where it can't."""
    tokenize: Callable[[str, str], tuple[str, dict[str, Any]]] | None = None
    """The path and the request that make it tell the ids of a model's text, as the member `tokens`."""
    constraints: tuple[Constraint, ...] = ()
    """The best first."""

    @property
    def is_known(self) -> bool:
        """Whether it is an engine's."""
        return bool(self.owner)


# Engines hide special tokens unless told otherwise, and what hides them under another name is lost anyway.
PLAIN = Api(fields={"skip_special_tokens": False})
# For servers that refuse a field which isn't OpenAI's.
STRICT = Api()
