"""A training run, as each worker of a crew goes through it."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence

import torch

from training.lora.adapter import save_adapter
from training.lora.batches import MICRO_TOKENS, Example, bins, pack, steps
from training.lora.crew import Crew
from training.lora.device import DevicePasses
from training.lora.optimizer import AdamW, rate_at
from training.lora.passes import Passes
from training.lora.record import Record, Scores


class Run:
    def __init__(
        self,
        arguments: argparse.Namespace,
        passes: Passes | DevicePasses,
        crew: Crew,
        validation: Sequence[Example],
        record: Record,
        started: float,
    ) -> None:
        self.arguments, self.passes, self.crew = arguments, passes, crew
        self.validation, self.record, self.started = validation, record, started
        self.stopped = False  # end after the step under way
        self.scoring_seconds = 0.0
        self.recent: list[tuple[float, float]] = []  # loss and gradient's norm of the steps since the last line

    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def train(self, examples: Sequence[Example]) -> None:
        arguments, crew = self.arguments, self.crew
        optimizer = AdamW(self.passes.adapter.parameters)
        seen = 0
        shown = scored = 0.0
        self.checkpoint(0)
        begun = time.monotonic()
        for step, (epochs, portion) in enumerate(steps(examples, arguments.seed, arguments.batch_tokens)):
            if crew.worker == 0:
                crew.control[0] = self.progress(epochs)
                crew.control[1] = self.elapsed() - scored > arguments.score_every * 60
            crew.meet()
            progress, score = crew.control.tolist()
            if progress >= 1:
                break
            if score:
                self.checkpoint(step)
                scored = self.elapsed()
            rate = rate_at(progress, arguments.lr)
            self.recent.append(self.step(portion, optimizer, rate))
            seen += sum(len(example.ids) for batch in portion for example in batch)
            if crew.worker == 0 and self.elapsed() - shown > arguments.show_every:
                self.show(step + 1, progress, rate, seen / (time.monotonic() - begun))
                shown = self.elapsed()
        self.record.values["trained"] = {"steps": step, "tokens": seen, "seconds": self.elapsed()}
        self.checkpoint(step)

    def progress(self, epochs: float) -> float:
        """0 to 1: by data, or by time where that ends first (room left for the last scores)."""
        share = epochs / self.arguments.epochs if self.arguments.epochs else 0.0
        if self.arguments.max_minutes:
            budget = self.arguments.max_minutes * 60 - self.scoring_seconds
            share = max(share, self.elapsed() / max(budget, 1.0))
        return 1.0 if self.stopped else min(1.0, share)

    def step(self, portion: Sequence[Sequence[Example]], optimizer: AdamW, rate: float) -> tuple[float, float]:
        """One optimizer step; gives its loss and the gradient's norm."""
        crew, passes = self.crew, self.passes
        total = sum(sum(example.weights[1:]) for batch in portion for example in batch)
        passes.adapter.gradient.zero_()
        loss = 0.0
        for examples in portion[crew.worker :: crew.workers]:
            batch = pack(examples, MICRO_TOKENS)
            x, kept = passes.forward(batch, keep=True)
            losses, _, d = passes.head(batch, x, total)
            passes.backward(batch, d, kept)
            loss += float(losses @ batch.weights) / total
        crew.sums[crew.worker, 0] = loss
        crew.meet()
        # Every worker takes the same step on its own copy of the parameters.
        size = optimizer.step(crew.gradients.sum(0), rate)
        loss = float(crew.sums[:, 0].sum())
        passes.merge(crew.worker, crew.workers)
        crew.meet()
        return loss, size

    def evaluate(self) -> Scores:
        crew = self.crew
        sums = torch.zeros(5, dtype=torch.float64)
        for examples in bins(self.validation)[crew.worker :: crew.workers]:
            batch = pack(examples, MICRO_TOKENS)
            x, _ = self.passes.forward(batch, keep=False)
            losses, hits, _ = self.passes.head(batch, x, 1.0)
            whole = 0
            for span in batch.spans:
                inside = (batch.sources >= span.start) & (batch.sources < span.stop)
                whole += bool(hits[inside].all())
            loss, weight = float(losses @ batch.weights), float(batch.weights.sum())
            sums += torch.tensor([loss, weight, float(hits.sum()), len(hits), whole])
        crew.sums[crew.worker] = sums
        crew.meet()
        loss, weight, right, count, whole_sum = crew.sums.sum(0).tolist()
        crew.meet()
        return Scores(loss / weight, right / count, whole_sum / len(self.validation))

    def checkpoint(self, step: int) -> None:
        """Score, and write last.gguf, adapter.gguf (the best so far) and run.json."""
        begun = time.monotonic()
        scores = self.evaluate()
        self.scoring_seconds = time.monotonic() - begun
        if self.crew.worker:
            return
        adapter, out = self.passes.adapter, self.arguments.out
        best = self.record.score(step, self.elapsed(), scores)
        save_adapter(adapter, out / "last.gguf")
        if best:
            save_adapter(adapter, out / "adapter.gguf")
        self.record.save()
        print(
            f"validation: loss {scores.loss:.4f}, tokens right {scores.tokens_right:.4f}, "
            f"examples right {scores.examples_right:.4f} ({self.scoring_seconds:.0f} s)",
            flush=True,
        )

    def show(self, step: int, progress: float, rate: float, speed: float) -> None:
        loss, size = (sum(values) / len(self.recent) for values in zip(*self.recent, strict=True))
        self.recent.clear()
        elapsed = self.elapsed()
        self.record.values["curve"].append([step, round(elapsed), round(loss, 4), round(rate, 7)])
        left = elapsed / progress - elapsed if progress else math.nan
        print(
            f"step {step} {progress:.1%} loss {loss:.4f} gradient {size:.2f} rate {rate:.2e} "
            f"{speed:.0f} tokens/s, {elapsed / 60:.1f} min, {left / 60:.1f} min left",
            flush=True,
        )
