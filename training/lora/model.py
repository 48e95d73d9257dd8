"""The base model: a Llama with tied embeddings, read from a GGUF."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from training.lora.errors import LoraError

# The linear layers that read the same input are one product: their weights lie below each other.
GROUPS: dict[str, tuple[str, ...]] = {
    "qkv": ("attn_q", "attn_k", "attn_v"),
    "out": ("attn_output",),
    "up": ("ffn_gate", "ffn_up"),
    "down": ("ffn_down",),
}


@dataclass(frozen=True)
class Shape:
    blocks: int
    width: int
    heads: int
    kv_heads: int
    epsilon: float
    rope_base: float
    context: int

    @property
    def head(self) -> int:
        return self.width // self.heads


@dataclass
class Block:
    attn_norm: Tensor
    ffn_norm: Tensor
    base: dict[str, Tensor]  # per group, frozen
    merged: dict[str, Tensor]  # per group, base + adapter as of the last merge
    sizes: dict[str, list[int]]  # per group, output rows of each layer in it


@dataclass
class Model:
    shape: Shape
    embedding: Tensor  # also the LM head
    norm: Tensor
    blocks: list[Block]
    turn: Tensor  # of the rotary embedding, complex, by position


def shared(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros in memory that processes forked later have in common."""
    count = math.prod(shape)
    memory = mmap.mmap(-1, count * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(*shape)


def load_model(path: Path, *, is_gpu: bool = False) -> Model:
    """Read and dequantize the GGUF: the adapter is trained on the weights it will sit on."""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}

    def value(name: str) -> Any:
        return reader.fields[name].contents()

    def weight(name: str) -> Tensor:
        tensor = tensors[f"{name}.weight"]
        return torch.from_numpy(gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))

    if value("general.architecture") != "llama" or "output.weight" in tensors:
        raise LoraError(f"{path}: not a Llama model with tied embeddings")
    shape = Shape(
        blocks=value("llama.block_count"),
        width=value("llama.embedding_length"),
        heads=value("llama.attention.head_count"),
        kv_heads=value("llama.attention.head_count_kv"),
        epsilon=value("llama.attention.layer_norm_rms_epsilon"),
        rope_base=value("llama.rope.freq_base"),
        context=value("llama.context_length"),
    )
    # On a CPU without instructions for it bfloat16 is ten times slower.
    fast = is_gpu or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return build_model(shape, weight, torch.bfloat16 if fast else torch.float32)


def build_model(shape: Shape, weight: Callable[[str], Tensor], dtype: torch.dtype) -> Model:
    """Put together a model from its weights by name (without `.weight`)."""
    blocks = []
    for index in range(shape.blocks):
        parts = {group: [weight(f"blk.{index}.{name}") for name in names] for group, names in GROUPS.items()}
        base = {group: torch.cat(weights).to(dtype) for group, weights in parts.items()}
        blocks.append(
            Block(
                attn_norm=weight(f"blk.{index}.attn_norm"),
                ffn_norm=weight(f"blk.{index}.ffn_norm"),
                base=base,
                merged={group: shared(weights.shape, dtype) for group, weights in base.items()},
                sizes={group: [w.shape[0] for w in weights] for group, weights in parts.items()},
            )
        )
    inverse = shape.rope_base ** (-torch.arange(0, shape.head, 2, dtype=torch.float64) / shape.head)
    angles = torch.arange(shape.context, dtype=torch.float64)[:, None] * inverse
    return Model(
        shape=shape,
        embedding=weight("token_embd").to(dtype),
        norm=weight("output_norm"),
        blocks=blocks,
        turn=torch.polar(torch.ones_like(angles), angles).to(torch.complex64),
    )
