"""The tools of the catalogue, as material/tools.txt describes them, before they get a name."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from training.data import material, slots

JsonObject = dict[str, Any]

JSON_TYPES = {"s": "string", "i": "integer", "n": "number", "b": "boolean"}


@dataclass(frozen=True)
class Param:
    """A parameter: under which names it goes, and which values users give it."""

    slot: str
    required: bool
    kind: str
    generator: str
    names: tuple[str, ...]
    descriptions: tuple[str, ...]
    choices: tuple[tuple[str, str], ...]  # of kind e: value, and how it is said
    fields: tuple[tuple[str, str, bool], ...]  # of kind o: name, generator, whether required

    def schema(self) -> JsonObject:
        if self.kind == "e":
            return {"type": "string", "enum": [value for value, _ in self.choices]}
        if self.kind.endswith("[]"):
            return {"type": "array", "items": {"type": JSON_TYPES[self.kind[0]]}}
        if self.kind == "o":
            kinds = {name: field_type(generator) for name, generator, _ in self.fields}
            return {
                "type": "object",
                "properties": {name: {"type": kind} for name, kind in kinds.items()},
                "required": [name for name, _, required in self.fields if required],
            }
        if self.kind.startswith("@"):
            return copy.deepcopy(slots.SPECIAL[self.kind][1])
        return {"type": JSON_TYPES[self.kind]}


@dataclass
class Spec:
    """A tool before it gets its name."""

    key: str
    domain: str
    held: bool  # for validation
    names: tuple[str, ...] = ()
    descriptions: tuple[str, ...] = ()
    params: list[Param] = field(default_factory=list)
    deed: str = ""  # what can't be done without it
    requests: list[str] = field(default_factory=list)
    several: list[str] = field(default_factory=list)  # requests for several calls
    beyond: list[str] = field(default_factory=list)  # requests that come near and that it can't do
    lacking: list[tuple[str, str]] = field(default_factory=list)  # a request, and what to ask
    results: list[tuple[str, str]] = field(default_factory=list)  # a result, and what to say

    def param(self, slot: str) -> Param:
        return next(param for param in self.params if param.slot == slot)


def field_type(generator: str) -> str:
    return "integer" if generator.startswith("int") else "number" if generator.startswith("dec") else "string"


def load_tools() -> dict[str, Spec]:
    """All tools of the catalogue, by key."""
    return {spec.key: spec for spec in map(parse_tool, material.blocks("tools"))}


def parse_tool(lines: Sequence[str]) -> Spec:
    head = lines[0].split()
    spec = Spec(head[1], head[2], held=head[3:] == ["*"])
    for line in lines[1:]:
        kind, _, rest = line.partition(" ")
        if kind == "n":
            spec.names = tuple(rest.split("; "))
        elif kind == "d":
            spec.descriptions = tuple(rest.split("; "))
        elif kind == "p":
            spec.params.append(parse_param(rest))
        elif kind == "do":
            spec.deed = rest
        elif kind == "s":
            spec.requests.append(rest)
        elif kind == "m":
            spec.several.append(rest)
        elif kind == "x":
            spec.beyond.append(rest)
        elif kind in ("a", "r"):
            left, _, right = rest.partition(" => ")
            (spec.lacking if kind == "a" else spec.results).append((left, right))
        else:
            raise ValueError(f"tool {spec.key}: can't read {line!r}")
    return spec


def parse_param(text: str) -> Param:
    head, names, *descriptions = text.split(" | ")
    slot, kind, *generator = head.split(" ", 2)
    rest = generator[0] if generator else ""
    choices = tuple(parse_choice(choice) for choice in rest.split(",")) if kind == "e" else ()
    fields = tuple(parse_field(one) for one in split_outside(rest)) if kind == "o" else ()
    return Param(
        slot.rstrip("!"),
        slot.endswith("!"),
        kind,
        rest,
        tuple(names.split("; ")),
        tuple(descriptions[0].split("; ")) if descriptions else (),
        choices,
        fields,
    )


def parse_choice(text: str) -> tuple[str, str]:
    value, _, spoken = text.partition(":")
    return value, spoken or value


def parse_field(text: str) -> tuple[str, str, bool]:
    name, _, generator = text.partition(":")
    return name.rstrip("?"), generator, not name.endswith("?")


def split_outside(text: str) -> list[str]:
    """Split at commas that are not inside parentheses."""
    return re.split(r",(?![^(]*\))", text)
