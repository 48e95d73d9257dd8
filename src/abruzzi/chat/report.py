"""What became of a turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from abruzzi.engines.base import Usage
from abruzzi.protocol.events import Problem, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Report:
    """The last item of a stream: what the model wrote, what it cost and what was done to it."""

    output: str
    usage: Usage
    guided: bool
    """Whether the engine was held to a grammar."""
    problems: tuple[Problem, ...] = ()
    """What was mended or dropped of the output, and what could not be handed on."""
    violations: Mapping[str, int] = field(default_factory=dict)
    """How often the output could not go on as it was, by the kind of what was wrong."""
    resumes: int = 0
    """How often the engine was asked to go on from what could stand."""
    resampled: int = 0
    """How often of these because it had brought nothing that could stand."""
    generated: int = 0
    """Characters that the engine wrote; of an output that could not go on as it was, up to what broke it."""
    forced: int = 0
    """Characters that were added, since every valid output has them there, or to finish a call."""
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of the content's tokens, where they were asked for and the engine tells."""
    stop: str | None = None
    """The client's stop sequence that ended the turn, where the engine tells."""
    engine: str = ""
    """What the engine is called that wrote (`engines.base.name_of`): of several the one whose output could not go on as
    it was, or the last. Clients aren't told.
    """

    @property
    def guarantee(self) -> Literal["guided", "enforced", "validated"]:
        """What it took to keep the promise: a grammar, a guard that stepped in, or a look at what came."""
        if self.resumes or self.forced or self.violations:
            return "enforced"
        return "guided" if self.guided else "validated"

    def told(self) -> dict[str, Any]:
        """What was done to keep the promise, as JSON has it."""
        return {
            "guarantee": self.guarantee,
            "resumes": self.resumes,
            "resampled": self.resampled,
            "generated_characters": self.generated,
            "forced_characters": self.forced,
            "forced_tokens": self.usage.forced,
            "violations": self.violations,
            "problems": [
                {"kind": one.kind, "action": one.action, "name": one.name, "detail": one.detail}
                for one in self.problems
            ],
        }


def usage_of(reports: Mapping[int, Report], answers: int) -> Usage:
    """What the answers of one request cost in all, by their indices. There are `answers` in a row to each prompt, which
    is read once for them.
    """
    read: dict[int, tuple[int, int]] = {}
    for index, report in reports.items():
        prompt, cached = read.get(index // answers, (0, 0))
        read[index // answers] = max(prompt, report.usage.prompt), max(cached, report.usage.cached)
    return Usage(
        prompt=sum(prompt for prompt, _ in read.values()),
        completion=sum(report.usage.completion for report in reports.values()),
        cached=sum(cached for _, cached in read.values()),
        forced=sum(report.usage.forced for report in reports.values()),
    )
