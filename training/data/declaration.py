"""A tool under a name: the same tool is declared in ever new ways, so that a model can't know it by heart."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.data.catalog import JsonObject, Param, Spec
from training.data.slots import is_converted
from training.data.words import made_up


@dataclass(frozen=True)
class Declared:
    """A tool under a name, with the parameters it has this time."""

    key: str
    name: str
    openai: JsonObject
    names: Mapping[str, str]
    fractions: frozenset[str] = frozenset()  # the slots whose values, percentages, it takes as fractions

    def arguments(self, by_slot: Mapping[str, Any]) -> JsonObject:
        """Arguments under their declared names, in the declared order."""
        return {
            name: round(by_slot[slot] / 100, 6) if slot in self.fractions else by_slot[slot]
            for slot, name in self.names.items()
            if slot in by_slot
        }


def styled(words: str, style: str) -> str:
    parts = words.split()
    if style == "camel":
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    if style == "pascal":
        return "".join(part[0].upper() + part[1:] for part in parts)
    if style == "kebab":
        return "-".join(parts)
    return "_".join(parts)


def declare(
    spec: Spec, rng: random.Random, used: Sequence[str] = (), *, python: bool = False, kept: float = 0.5
) -> Declared:
    """Name the tool and its parameters, keeping the optional ones that are used and a share of the others."""
    style = rng.choices(["snake", "camel", "kebab", "pascal"], [58, 25, 0 if python else 11, 6])[0]
    words = spec.names[0] if rng.random() < 0.3 else rng.choice(spec.names)
    name = styled(words, style)
    prefix = rng.random()
    if prefix < 0.05:
        name = f"{spec.domain}.{name}"
    elif prefix < 0.1:
        name = f"{spec.domain}_{name}"
    elif prefix < 0.15:
        server = rng.choice([spec.domain, made_up(rng).lower(), "server", "local"])
        name = f"mcp__{server}__{styled(words, 'snake')}"
    params = [p for p in spec.params if p.required or p.slot in used or rng.random() < kept]
    if rng.random() < 0.2:
        rng.shuffle(params)
    names = parameter_names(params, rng, "camel" if style in ("camel", "pascal") else "snake")
    properties, required = {}, []
    described = rng.choice([0.0, 0.6, 1.0, 1.0, 1.0])
    for param in params:
        schema = param.schema()
        if param.generator.startswith("of(") and rng.random() < (0.6 if param.kind == "s[]" else 0.25):
            enumerated(param, schema)
        if is_converted(param.generator) or rng.random() < described:
            schema["description"] = parameter_description(param, names[param.slot], rng)
        properties[names[param.slot]] = schema
        if param.required or (param.slot in used and rng.random() < 0.12):
            required.append(names[param.slot])
    parameters: JsonObject = {"type": "object", "properties": properties, "required": required}
    function: JsonObject = {"name": name}
    if rng.random() < 0.93:
        function["description"] = rng.choice(spec.descriptions)
    function["parameters"] = parameters
    return Declared(spec.key, name, {"type": "function", "function": function}, names)


def enumerated(param: Param, schema: JsonObject) -> None:
    """Declare texts that are drawn from a few as the only ones."""
    if param.kind in ("s", "s[]"):
        one = schema["items"] if param.kind == "s[]" else schema
        one["enum"] = param.generator[3:-1].split("/")


def parameter_names(params: Sequence[Param], rng: random.Random, style: str) -> dict[str, str]:
    """A name for each slot, no name twice."""
    names: dict[str, str] = {}
    for param in params:
        choice = styled(param.names[0] if rng.random() < 0.3 else rng.choice(param.names), style)
        if choice in names.values():
            choice = next(name for name in (styled(n, style) for n in param.names) if name not in names.values())
        names[param.slot] = choice
    # Origin and destination read as a pair only when both come from the same row of synonyms.
    pair = [p for p in params if p.required and len(p.names) > 3 and p.kind in "sn"]
    if len(pair) == 2 and len(pair[0].names) == len(pair[1].names):
        row = rng.randrange(len(pair[0].names))
        first, second = (styled(p.names[row], style) for p in pair)
        others = {names[p.slot] for p in params if p not in pair}
        if first != second and not {first, second} & others:
            names[pair[0].slot], names[pair[1].slot] = first, second
    return names


def parameter_description(param: Param, name: str, rng: random.Random) -> str:
    if param.descriptions:
        return rng.choice(param.descriptions)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()
    return rng.choice([f"The {plain}", plain.capitalize(), f"{plain.capitalize()} to use"])


def plain_weather(rng: random.Random) -> Declared:
    """The tool of everybody's first example."""
    schema: JsonObject = {"type": "string"}
    if rng.random() < 0.5:
        schema["description"] = rng.choice(["City name", "The city", "The location", "City, e.g. Paris"])
    name = rng.choice(["location", "location", "city"])
    parameters = {"type": "object", "properties": {name: schema}, "required": [name]}
    function: JsonObject = {"name": rng.choice(["get_weather", "get_weather", "get_current_weather"])}
    if rng.random() < 0.85:
        function["description"] = rng.choice(["Get the weather", "Get weather at a location", "Weather of a city."])
    function["parameters"] = parameters
    return Declared("weather", function["name"], {"type": "function", "function": function}, {"place": name})
