"""The embedded model in OpenVINO GenAI beside llama.cpp: load, reading of a prompt with five tools, generation.

    pip install openvino-genai gguf            # 300 MB
    python bench/runtimes.py [--threads N]

OpenVINO takes no llama.cpp adapter, so the adapter is merged into the weights (as Q8_0, in a temporary file). llama.cpp
is measured with that file, too, and with what the product loads: Q4_1 and the adapter beside it. Each in a process of
its own, greedy, no grammar, medians of five; ratios are to what the product loads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

REPEAT, GENERATED = 5, 64
ADAPTER = Path(str(files("abruzzi.engines.local") / "adapter.gguf"))


def merge(base: Path, adapter: Path, out: Path) -> None:
    """Write base + adapter as one GGUF of Q8_0."""
    import gguf
    import numpy as np
    from gguf.constants import GGMLQuantizationType, GGUFValueType

    reader, factors = gguf.GGUFReader(base), gguf.GGUFReader(adapter)
    low = {tensor.name: tensor.data.astype(np.float32) for tensor in factors.tensors}
    alpha = factors.get_field("adapter.lora.alpha")
    assert alpha is not None
    writer = gguf.GGUFWriter(out, "llama")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind, *inner = field.types
        writer.add_key_value(name, field.contents(), kind, inner[0] if kind == GGUFValueType.ARRAY else None)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if f"{tensor.name}.lora_a" in low:
            a, b = low[f"{tensor.name}.lora_a"], low[f"{tensor.name}.lora_b"]
            weight += float(alpha.contents()) / len(a) * (b @ a)
        if weight.ndim == 2:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor.name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def prompt() -> str:
    from abruzzi.protocol.messages import Message
    from abruzzi.protocol.template import render_prompt
    from bench.embedded import TOOLS

    message = Message.from_openai({"role": "user", "content": "What's the weather like in Lisbon?"}, "message")
    return str(render_prompt([message], tools=TOOLS, variant="smollm2"))


def openvino(model: Path, threads: int) -> Callable[[str, int], object]:
    import openvino_genai

    pipe = openvino_genai.LLMPipeline(str(model), "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(text: str, count: int) -> object:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.apply_chat_template = count, True, False
        return pipe.generate(text, config)

    return generate


def llama(model: Path, threads: int, adapter: Path | None) -> Callable[[str, int], object]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel, params.verbosity = str(model), 2048, 1, -1
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = threads, os.cpu_count() or 1
    if adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    server = xllamacpp.Server(params)

    def generate(text: str, count: int) -> object:
        body = {"prompt": text, "n_predict": count, "temperature": 0.0, "ignore_eos": True, "cache_prompt": False}
        return server.handle_completions(body)

    return generate


def measure(engine: str, model: Path, threads: int) -> dict[str, float]:
    """In this process."""
    begun = time.monotonic()
    if engine == "openvino":
        generate = openvino(model, threads)
    else:
        generate = llama(model, threads, ADAPTER if engine == "product" else None)
    text = prompt()
    loaded = time.monotonic() - begun
    begun = time.monotonic()
    generate(text, 1)
    first = time.monotonic() - begun

    def median(count: int) -> float:
        seconds = []
        for number in range(REPEAT):
            begun = time.monotonic()
            # Another first word each time: nothing of the prompt is cached.
            generate(f"{number} {text}", count)
            seconds.append(time.monotonic() - begun)
        return statistics.median(seconds)

    read = median(1)
    return {"load": loaded, "first": first, "read": read, "token": (median(1 + GENERATED) - read) / GENERATED}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1, help="that generate")
    parser.add_argument("--measure", nargs=2, metavar=("ENGINE", "MODEL"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], Path(options.measure[1]), options.threads)))
        return
    from abruzzi.engines.local.weights import SMOLLM2

    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / "merged.gguf"
        merge(SMOLLM2.path, ADAPTER, merged)
        found = {}
        for engine, model in (("product", SMOLLM2.path), ("llama.cpp", merged), ("openvino", merged)):
            command = [sys.executable, __file__, "--threads", str(options.threads), "--measure", engine, str(model)]
            output = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
            found[engine] = json.loads(output.splitlines()[-1])
    print(f"{'':12}{'load s':>10}{'first s':>10}{'prompt s':>16}{'ms a token':>16}")
    base = found["product"]
    for engine, one in found.items():
        read, token = one["read"], one["token"]
        print(
            f"{engine:12}{one['load']:10.2f}{one['first']:10.2f}{read:9.2f} ({read / base['read']:.2f})"
            f"{1000 * token:9.1f} ({token / base['token']:.2f})"
        )


if __name__ == "__main__":
    main()
