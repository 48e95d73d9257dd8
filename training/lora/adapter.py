"""The adapter: low-rank factors of every linear layer, kept in llama.cpp's GGUF form."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from training.lora.errors import LoraError
from training.lora.model import GROUPS, Model


@dataclass
class Factors:
    """Of one group: `a` holds its layers' A below each other, `b` each layer's B."""

    a: Tensor
    b: list[Tensor]


class Adapter:
    """All parameters, and likewise their gradients, are views into one flat float32 vector."""

    def __init__(self, model: Model, rank: int, alpha: float) -> None:
        self.model, self.rank, self.scale = model, rank, alpha / rank
        self.parameters = torch.zeros(
            sum(
                rank * (weight.shape[1] * len(block.sizes[group]) + weight.shape[0])
                for block in model.blocks
                for group, weight in block.base.items()
            )
        )
        self.factors = self.views(self.parameters)
        self.use_gradient(torch.zeros_like(self.parameters))

    def use_gradient(self, flat: Tensor) -> None:
        """Gradients are added up in this vector from now on."""
        self.gradient, self.gradients = flat, self.views(flat)

    def views(self, flat: Tensor) -> list[dict[str, Factors]]:
        position = 0

        def take(rows: int, columns: int) -> Tensor:
            nonlocal position
            position += rows * columns
            return flat[position - rows * columns : position].view(rows, columns)

        return [
            {
                group: Factors(
                    a=take(self.rank * len(sizes), block.base[group].shape[1]),
                    b=[take(size, self.rank) for size in sizes],
                )
                for group, sizes in block.sizes.items()
            }
            for block in self.model.blocks
        ]

    def layers(self) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, A and B of every adapted layer."""
        for index, groups in enumerate(self.factors):
            for group, factors in groups.items():
                parts = factors.a.chunk(len(factors.b))
                for name, a, b in zip(GROUPS[group], parts, factors.b, strict=True):
                    yield f"blk.{index}.{name}.weight", a, b

    def merge(self, worker: int = 0, workers: int = 1) -> None:
        """Put base + adapter into the weights that the passes use (a worker's share of the blocks)."""
        pairs = list(zip(self.model.blocks, self.factors, strict=True))
        for block, groups in pairs[worker::workers]:
            for group, factors in groups.items():
                base, merged = block.base[group], block.merged[group]
                stacked = (factors.a * self.scale).to(base.dtype).chunk(len(factors.b))
                rows = 0
                for a, b in zip(stacked, factors.b, strict=True):
                    span = slice(rows, rows + b.shape[0])
                    torch.addmm(base[span], b.to(base.dtype), a, out=merged[span])
                    rows = span.stop


def new_adapter(model: Model, rank: int, seed: int) -> Adapter:
    """One that changes nothing yet: A is random, B is 0."""
    adapter = Adapter(model, rank, alpha=2.0 * rank)
    generator = torch.Generator().manual_seed(seed)
    for groups in adapter.factors:
        for factors in groups.values():
            bound = 1 / math.sqrt(factors.a.shape[1])
            factors.a.uniform_(-bound, bound, generator=generator)
    return adapter


def widened(adapter: Adapter, rank: int, seed: int) -> Adapter:
    """One of a higher rank that does the same: what is added to A is random, and 0 to B."""
    if rank < adapter.rank:
        raise LoraError(f"--rank {rank}: the adapter to start from has rank {adapter.rank}, which can't be made less")
    wide = new_adapter(adapter.model, rank, seed)
    wide.scale = adapter.scale
    for (_, a, b), (_, old_a, old_b) in zip(wide.layers(), adapter.layers(), strict=True):
        a[: adapter.rank] = old_a
        b[:, : adapter.rank] = old_b
    return wide


def save_adapter(adapter: Adapter, path: Path) -> None:
    """Write the GGUF beside its place and move it there: a reader never sees half a file."""
    temporary = path.with_name(path.name + ".part")
    writer = gguf.GGUFWriter(temporary, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", adapter.scale * adapter.rank)
    for name, a, b in adapter.layers():
        writer.add_tensor(f"{name}.lora_a", a.numpy().astype(np.float16))
        writer.add_tensor(f"{name}.lora_b", b.numpy().astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.replace(path)


def load_adapter(model: Model, path: Path) -> Adapter:
    reader = gguf.GGUFReader(path)
    alpha = reader.get_field("adapter.lora.alpha")
    if alpha is None:
        raise LoraError(f"{path}: not a LoRA adapter")
    tensors = {tensor.name: torch.from_numpy(tensor.data.astype(np.float32)) for tensor in reader.tensors}
    rank = next(tensor.shape[1] for name, tensor in tensors.items() if name.endswith(".lora_b"))
    adapter = Adapter(model, rank, float(alpha.contents()))
    for name, a, b in adapter.layers():
        a.copy_(tensors[f"{name}.lora_a"])
        b.copy_(tensors[f"{name}.lora_b"])
    return adapter
