"""Processes that compute a step together."""

from __future__ import annotations

import multiprocessing
import threading

import torch

from training.lora.errors import LoraError
from training.lora.model import shared

FORK = multiprocessing.get_context("fork")


class Crew:
    """All workers do the same on the same data, but for their share of the batches and what only the first one does:
    decide, write and talk.
    """

    def __init__(self, workers: int, parameters: int) -> None:
        self.workers = workers
        self.worker = 0  # which one this process is
        self.gradients = shared((workers, parameters), torch.float32)
        self.sums = shared((workers, 5), torch.float64)
        self.control = shared((2,), torch.float64)  # written by the first worker: progress, whether to score now
        self.barrier = FORK.Barrier(workers)

    def meet(self) -> None:
        try:
            self.barrier.wait(timeout=900)
        except threading.BrokenBarrierError:
            raise LoraError("another worker of this run has ended early") from None
