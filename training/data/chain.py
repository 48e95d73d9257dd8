"""Requests whose second call needs the first one's result, from material/chains.txt."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from training.data import material
from training.data.catalog import JsonObject, Spec
from training.data.result import spelled


class Step(NamedTuple):
    """A call and its result; `arguments` is `slot=$name; slot=words`."""

    key: str
    arguments: str
    result: str


@dataclass(frozen=True)
class Chain:
    keys: tuple[str, ...]  # of the tools it uses
    lets: tuple[tuple[str, str], ...]  # names, and the generators of their values
    requests: tuple[str, ...]
    steps: tuple[Step, ...]
    answer: str


def load_chains() -> list[Chain]:
    chains = []
    for block in material.blocks("chains"):
        rows = [cut(line) for line in block]
        calls = [cut(rest) for kind, rest in rows if kind == "c"]
        results = [rest for kind, rest in rows if kind == "r"]
        chains.append(
            Chain(
                keys=tuple(rows[0][1].split()),
                lets=tuple(cut(rest) for kind, rest in rows if kind == "let"),
                requests=tuple(rest for kind, rest in rows if kind == "u"),
                steps=tuple(Step(*call, result) for call, result in zip(calls, results, strict=True)),
                answer=next(rest for kind, rest in rows if kind == "t"),
            )
        )
    return chains


def cut(line: str) -> tuple[str, str]:
    """The first word and the rest."""
    first, _, rest = line.partition(" ")
    return first, rest


def said(template: str, words: Mapping[str, str], *, escape: bool = False) -> str:
    """The text with words in the place of `$name`, escaped where it is JSON."""
    return re.sub(r"\$([a-z]+)", lambda match: spelled(words[match[1]], escape), template)


def arguments_of(step: Step, spec: Spec, words: Mapping[str, str], values: Mapping[str, Any]) -> JsonObject:
    """A step's arguments by slot."""
    arguments: JsonObject = {}
    for assignment in filter(None, step.arguments.split("; ")):
        slot, _, template = assignment.partition("=")
        kind = spec.param(slot).kind
        if kind == "o":
            arguments[slot] = json.loads(said(template, {name: str(value) for name, value in values.items()}))
        elif whole := re.fullmatch(r"\$([a-z]+)", template):
            arguments[slot] = values[whole[1]]
        else:
            text = said(template, words)
            arguments[slot] = int(text) if kind in ("i", "n") else text
    return arguments
