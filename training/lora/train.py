"""`train`: reads what is needed, and starts a worker a core."""

from __future__ import annotations

import argparse
import random
import signal
import time
from collections.abc import Sequence

import torch

from training.lora.adapter import load_adapter, new_adapter, widened
from training.lora.batches import Example, read_examples
from training.lora.crew import FORK, Crew
from training.lora.device import DevicePasses
from training.lora.errors import LoraError
from training.lora.model import load_model
from training.lora.passes import Passes
from training.lora.record import Record
from training.lora.run import Run

RANK = 16


def train(arguments: argparse.Namespace) -> None:
    if not arguments.epochs and not arguments.max_minutes:
        raise LoraError("give --epochs or --max-minutes")
    started = time.monotonic()
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)  # a process a core instead
    examples = read_examples(arguments.data)
    validation = read_examples(arguments.validation)
    random.Random(0).shuffle(validation)
    model = load_model(arguments.model, is_gpu=not arguments.device.startswith("cpu"))
    if arguments.init:
        adapter = load_adapter(model, arguments.init)
        if arguments.rank:
            adapter = widened(adapter, arguments.rank, arguments.seed)
    else:
        adapter = new_adapter(model, arguments.rank or RANK, arguments.seed)
    adapter.merge()
    arguments.out.mkdir(parents=True, exist_ok=True)
    record = Record(arguments, examples)
    print("{examples} examples, {tokens} tokens, {weighted_tokens} with a loss".format(**record.values), flush=True)
    on_cpu = arguments.device == "cpu"
    crew = Crew(arguments.threads if on_cpu else 1, len(adapter.parameters))
    passes = Passes(adapter) if on_cpu else DevicePasses(adapter, arguments.device)
    launch(Run(arguments, passes, crew, validation, record, started), examples)


def launch(run: Run, examples: Sequence[Example]) -> None:
    """Go through the run in this process, the first worker, and the others in forks of it."""
    others = [
        FORK.Process(target=work, args=(run, worker, examples), daemon=True) for worker in range(1, run.crew.workers)
    ]
    for process in others:
        process.start()

    def ended(*_: object) -> None:
        # Compilers that torch starts end too: only our own count.
        for process in others:
            if process.exitcode:
                raise LoraError(f"a worker ended early (exit code {process.exitcode}); what is in --out stays usable")

    def stop(*_: object) -> None:
        run.stopped = True

    signal.signal(signal.SIGCHLD, ended)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    work(run, 0, examples)


def work(run: Run, worker: int, examples: Sequence[Example]) -> None:
    if worker:
        # Ctrl-C reaches every process; the first one ends the run for all.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    run.crew.worker = worker
    run.passes.adapter.use_gradient(run.crew.gradients[worker])
    try:
        run.train(examples)
    except BaseException:
        run.crew.barrier.abort()
        raise
