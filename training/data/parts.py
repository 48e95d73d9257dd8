"""Divides the material into a training and a validation part, so that nothing of the second occurs in the first."""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from training.data import material
from training.data.catalog import JsonObject, Spec
from training.data.chain import Chain, load_chains
from training.data.dialogues import clipped
from training.data.evals import Evals

Row = TypeVar("Row")
Pair = tuple[str, str]


@dataclass(frozen=True)
class Part:
    """What one part may draw from."""

    specs: list[Spec]
    questions: list[Pair]  # with their answers; asked with tools at hand
    chats: list[Pair]  # the same, asked without
    chains: list[Chain]
    foreign: list[tuple[str, str, str]]  # language, key of the tool, request
    systems: list[str]
    pythonic: list[str]  # system prompts that ask for Python syntax
    strangers: list[JsonObject]  # tools that are declared and never called
    dialogues: list[JsonObject]


def load_distilled(path: Path) -> list[Pair]:
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [(row["prompt"], row["answer"]) for row in rows]


def load_strangers(path: Path, evals: Evals, rng: random.Random) -> list[JsonObject]:
    """Real tools of MCP servers whose signature is short, those of the evaluations left out by name."""
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        tools = [json.loads(line)["tool"] for line in lines]
    short = []
    for tool in tools:
        function = tool["function"]
        properties = (function.get("parameters") or {}).get("properties") or {}
        named = re.fullmatch(r"[\w.-]{3,40}", function["name"], re.ASCII)
        if named and function["name"] not in evals.tool_names and len(properties) <= 4 and len(json.dumps(tool)) < 700:
            function["description"] = clipped(function.get("description") or "", 80)
            short.append(tool)
    rng.shuffle(short)
    return short[:400]


def divided(
    specs: Mapping[str, Spec], distilled: list[Pair], strangers: list[JsonObject], dialogues: list[JsonObject]
) -> tuple[Part, Part]:
    """The training part and the validation part."""
    questions = [parted(line, " => ") for line in material.lines("qa")]
    held = {key for key, spec in specs.items() if spec.held}
    chains = load_chains()
    held_chains = [chain for i, chain in enumerate(chains) if i % 9 == 8 or not held.isdisjoint(chain.keys)]

    def part(valid: bool, dialogues: list[JsonObject]) -> Part:
        return Part(
            specs=[spec for spec in specs.values() if spec.held == valid],
            questions=every(questions, 9, valid) + every(distilled, 9, valid),
            chats=every(questions, 9, valid) + every(distilled, 9, valid) * 2,
            chains=[chain for chain in chains if (chain in held_chains) == valid],
            foreign=[request(line) for line in every(material.lines("languages"), 11, valid)],
            systems=every(material.lines("systems"), 6, valid),
            pythonic=every(material.lines("pythonic_systems"), 4, valid),
            strangers=every(strangers, 8, valid),
            dialogues=dialogues,
        )

    own, others = dialogues[:60], dialogues[60:]
    names = {tool["function"]["name"] for row in own for tool in row["tools"]}
    unseen = [row for row in others if names.isdisjoint(tool["function"]["name"] for tool in row["tools"])]
    return part(False, unseen), part(True, own)


def every(rows: Sequence[Row], step: int, valid: bool) -> list[Row]:
    """Each `step`th row for validation, the others for training."""
    return [row for i, row in enumerate(rows) if (i % step == step - 1) == valid]


def parted(line: str, divider: str) -> Pair:
    left, _, right = line.partition(divider)
    return left, right


def request(line: str) -> tuple[str, str, str]:
    language, key, text = line.split(" ", 2)
    return language, key, text
