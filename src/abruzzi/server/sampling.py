"""How a request wants to have its answer sampled, in the fields that OpenAI's APIs and vLLM's have for it."""

from __future__ import annotations

import re
from typing import Any

from abruzzi.engines.base import SamplingParams
from abruzzi.protocol.errors import RequestError
from abruzzi.server.dialect import Fields

_MAX_SEED = 2**63 - 1
# What engines hold a count in.
MAX_TOKENS = 2**63 - 1
_MAX_TOP_K = 2**31 - 1
_MAX_PENALTY = 2
# Engines divide logits by it, in numbers of 32 bits, which must not overflow.
_LEAST_REPETITION = 1e-3
_MAX_BIAS = 100
# OpenAI takes 300.
_MAX_BIASES = 1024
_ID = re.compile(r"0|[1-9][0-9]{0,9}")


def sampling_params(fields: Fields, *limits: str) -> SamplingParams:
    """How to sample; `limits`: the names that the limit of tokens has, the first that is there counting.

    Raises RequestError for what is outside the ranges of OpenAI's API, or of vLLM's for its own `top_k`, `min_p` and
    `repetition_penalty`.
    """
    most = [found for key in limits if (found := fields.integer(key, 1, MAX_TOKENS)) is not None]
    return SamplingParams(
        max_tokens=most[0] if most else None,
        temperature=fields.number("temperature", 0, 2),
        top_p=fields.number("top_p", 0, 1),
        seed=fields.integer("seed", -_MAX_SEED - 1, _MAX_SEED),
        stop=_stop(fields.value.get("stop")),
        frequency_penalty=fields.number("frequency_penalty", -_MAX_PENALTY, _MAX_PENALTY),
        presence_penalty=fields.number("presence_penalty", -_MAX_PENALTY, _MAX_PENALTY),
        repetition_penalty=fields.number("repetition_penalty", _LEAST_REPETITION, _MAX_PENALTY),
        top_k=top_k_of(fields, -1),
        min_p=fields.number("min_p", 0, 1),
        logit_bias=_logit_bias(fields.object("logit_bias")),
    )


def top_k_of(fields: Fields, least: int) -> int | None:
    """Of how many tokens one is drawn; 0 (and vLLM's -1) is all of them."""
    return fields.integer("top_k", least, _MAX_TOP_K)


def _logit_bias(biases: Fields) -> tuple[tuple[int, float], ...]:
    """JSON's names are strings, and so are the ids of the tokens here."""
    if len(biases.value) > _MAX_BIASES:
        raise RequestError(f"expected at most {_MAX_BIASES} tokens, got {len(biases.value)}", biases.where)
    found = []
    for id in biases.value:
        if not _ID.fullmatch(id):
            raise RequestError(f"expected ids of tokens as names, got {id[:80]!r}", biases.where)
        bias = biases.number(id, -_MAX_BIAS, _MAX_BIAS)
        if bias is None:
            raise RequestError("expected a number, got null", biases.at(id))
        found.append((int(id), bias))
    return tuple(found)


def _stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise RequestError("expected a string or a list of strings, none of them empty", "stop")
    return tuple(stops)
