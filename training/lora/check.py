"""`check`: compares next-token probabilities with those of llama.cpp, the adapter loaded in both."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from typing import Any

import torch
import xllamacpp

from training.lora import kernels
from training.lora.adapter import load_adapter
from training.lora.batches import pack, read_examples
from training.lora.errors import LoraError
from training.lora.model import load_model
from training.lora.passes import Passes


def check(arguments: argparse.Namespace) -> None:
    torch.set_grad_enabled(False)
    torch.set_num_threads(arguments.threads)
    torch.compiler.set_stance("force_eager")  # compiling takes longer than these few passes
    model = load_model(arguments.model)
    adapter = load_adapter(model, arguments.adapter)
    adapter.merge()
    passes = Passes(adapter)
    examples = read_examples(arguments.data)
    random.Random(0).shuffle(examples)
    complete = load_engine(arguments)
    same = 0
    gaps = []
    for example in examples[: arguments.examples]:
        weighted = [i for i, weight in enumerate(example.weights) if i and weight]
        every = max(1, len(weighted) // arguments.positions)
        x, _ = passes.forward(pack([example], example.aligned), keep=False)
        for index in weighted[::every][: arguments.positions]:
            h, _ = kernels.norm(x[index - 1 : index], model.norm, model.shape.epsilon, model.embedding.dtype)
            logprobs = (h @ model.embedding.T)[0].float().log_softmax(0)
            token, logprob = complete(example.ids[:index])
            same += token == int(logprobs.argmax())
            gaps.append(abs(logprob - float(logprobs[token])))
    gaps.sort()
    print(
        f"top token the same at {same} of {len(gaps)} positions ({same / len(gaps):.2%}); logprob of llama.cpp's top "
        f"token differs by {sum(gaps) / len(gaps):.4f} on average, {gaps[len(gaps) // 2]:.4f} median, "
        f"{gaps[-1]:.4f} at most"
    )


def load_engine(arguments: argparse.Namespace) -> Callable[[list[int]], tuple[int, float]]:
    """A function from token ids to llama.cpp's most probable next token and its logprob."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(arguments.model)
    parameters.n_ctx = 8192
    parameters.n_parallel = 1
    parameters.cpuparams.n_threads = arguments.threads
    parameters.cpuparams_batch.n_threads = arguments.threads
    parameters.warmup = False
    parameters.verbosity = -1
    parameters.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(arguments.adapter), 1.0)]
    server = xllamacpp.Server(parameters)

    def complete(ids: list[int]) -> tuple[int, float]:
        answer: Any = server.handle_completions({"prompt": ids, "n_predict": 1, "temperature": 0, "n_probs": 1})
        try:
            top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0]
        except (KeyError, IndexError):
            raise LoraError(f"llama.cpp gave no probabilities: {answer}") from None
        return top["id"], top["logprob"]

    return complete
