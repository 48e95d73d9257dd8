"""The command line: `python -m training.lora train ...` and `python -m training.lora check ...`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from training.lora.errors import LoraError

# glibc, OpenMP and torch read these when they are loaded, so the process starts itself again with them. Passive
# waiting, because spinning threads collapse as soon as anything else wants a core.
ENVIRONMENT = {
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    "MALLOC_MMAP_THRESHOLD_": "20000000000",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TOP_PAD_": "268435456",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "OMP_WAIT_POLICY": "passive",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "8192",
    # Its pool of compiler processes would not survive our fork.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


def parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", type=Path, required=True, help="base model, GGUF")
    common.add_argument("--data", type=Path, required=True, help="examples, as training.encode writes them")
    common.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    top = argparse.ArgumentParser(prog="python -m training.lora", description="LoRA training of a small Llama.")
    commands = top.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", parents=[common], help="write adapter.gguf, last.gguf and run.json")
    train.add_argument("--validation", type=Path, required=True, help="examples to score on")
    train.add_argument("--out", type=Path, required=True, help="folder to write to")
    train.add_argument("--epochs", type=int, help="rounds through the data")
    train.add_argument("--max-minutes", type=float, help="end by then, the learning rate with it")
    train.add_argument("--rank", type=int, help="default: 16, or that of --init")
    train.add_argument("--init", type=Path, help="adapter to start from, widened where --rank says so")
    train.add_argument("--lr", type=float, default=1.5e-3, help="highest learning rate")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="cpu", help="cpu, or a GPU as torch names it, such as cuda")
    train.add_argument("--batch-tokens", type=int, default=4096, help="tokens of a step")
    train.add_argument("--score-every", type=float, default=5.0, help="minutes")
    train.add_argument("--show-every", type=float, default=10.0, help="seconds")
    check = commands.add_parser("check", parents=[common], help="compare with llama.cpp, adapter loaded")
    check.add_argument("--adapter", type=Path, required=True)
    check.add_argument("--examples", type=int, default=20)
    check.add_argument("--positions", type=int, default=10, help="compared in each example")
    return top


def main() -> int:
    arguments = parser().parse_args()
    if not ENVIRONMENT.keys() <= os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**ENVIRONMENT, **os.environ})
    # Only now, for these load torch.
    from training.lora.check import check
    from training.lora.train import train

    try:
        {"train": train, "check": check}[arguments.command](arguments)
    except LoraError as error:
        print(f"training.lora: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
