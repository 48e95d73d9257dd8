"""What a run leaves beside its adapters: `run.json`."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from training.lora.batches import Example


class Scores(NamedTuple):
    loss: float
    tokens_right: float
    examples_right: float  # every weighted token is the top one, given the right ones before it


class Record:
    """The run's configuration, the hashes of what went in, and how loss and scores went."""

    def __init__(self, arguments: argparse.Namespace, examples: Sequence[Example]) -> None:
        options = vars(arguments)
        inputs = [name for name in ("model", "data", "validation", "init") if options[name]]
        self.path: Path = arguments.out / "run.json"
        self.values: dict[str, Any] = {
            "configuration": {
                name: value.name if isinstance(value, Path) else value for name, value in options.items()
            },
            "sha256": {name: digest(options[name]) for name in inputs},
            "examples": len(examples),
            "tokens": sum(len(example.ids) for example in examples),
            "weighted_tokens": sum(sum(map(bool, example.weights[1:])) for example in examples),
            "torch": torch.__version__,
            "curve_columns": ["step", "seconds", "loss", "rate"],
            "curve": [],
            "validation": [],
        }

    def score(self, step: int, seconds: float, scores: Scores) -> bool:
        """Note the scores. Whether they are the best so far."""
        entry = {"step": step, "minutes": round(seconds / 60, 2), **scores._asdict()}
        self.values["validation"].append(entry)
        best = "best" not in self.values or scores.loss < self.values["best"]["loss"]
        if best:
            self.values["best"] = entry
        return best

    def save(self) -> None:
        temporary = self.path.with_name("run.json.part")
        temporary.write_text(json.dumps(self.values, indent=1) + "\n", encoding="utf-8")
        temporary.replace(self.path)


def digest(path: Path) -> str:
    with path.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
