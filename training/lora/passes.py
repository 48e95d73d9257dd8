"""The model's forward and backward pass, written out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.lora import kernels
from training.lora.adapter import Adapter
from training.lora.attention import attend, attend_backward
from training.lora.batches import Batch

# Positions whose logits are computed at once: each is a row as long as the vocabulary.
HEAD_ROWS = 256


@dataclass
class Saved:
    """What a block's backward pass needs from its forward pass."""

    x: Tensor
    h: Tensor
    inverse: Tensor
    qkv: Tensor
    sums: list[Tensor]
    attended: Tensor
    middle: Tensor
    middle_h: Tensor
    middle_inverse: Tensor
    gu: Tensor
    act: Tensor


class Passes:
    """Computes with the merged weights: `Adapter.merge` must have put them there."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter, self.model = adapter, adapter.model
        shape = adapter.model.shape
        self.rotated = (shape.heads + shape.kv_heads) * shape.head  # columns of q and k in qkv

    def merge(self, worker: int = 0, workers: int = 1) -> None:
        """Put the adapter's parameters as they are now into the weights (a worker's share of them)."""
        self.adapter.merge(worker, workers)

    def forward(self, batch: Batch, *, keep: bool) -> tuple[Tensor, list[Saved]]:
        """The last block's output, and what backward needs if it is to be kept."""
        model, shape = self.model, self.model.shape
        turn = model.turn[batch.positions]
        y = model.embedding[batch.ids]
        x = torch.zeros(y.shape)
        kept = []
        for block in model.blocks:
            x, h, inverse = kernels.add_norm(x, y, block.attn_norm, shape.epsilon)
            qkv = h @ block.merged["qkv"].T
            kernels.rotate(qkv, turn, self.rotated)
            attended, sums = attend(shape, qkv, batch)
            y = attended @ block.merged["out"].T
            middle, middle_h, middle_inverse = kernels.add_norm(x, y, block.ffn_norm, shape.epsilon)
            gu = middle_h @ block.merged["up"].T
            act = kernels.gate(*gu.chunk(2, 1))
            y = act @ block.merged["down"].T
            if keep:
                kept.append(Saved(x, h, inverse, qkv, sums, attended, middle, middle_h, middle_inverse, gu, act))
            x = middle
        return x + y, kept

    def backward(self, batch: Batch, d: Tensor, kept: list[Saved]) -> None:
        """Add the adapter's gradients for d, the gradient of the last block's output. Uses up `kept`."""
        model, shape = self.model, self.model.shape
        turn = model.turn[batch.positions].conj().resolve_conj()
        for index in reversed(range(shape.blocks)):
            block, saved = model.blocks[index], kept.pop()
            dact = self.linear_backward(index, "down", saved.act, d.to(saved.act.dtype))
            dgu = kernels.gate_backward(dact, *saved.gu.chunk(2, 1))
            dh = self.linear_backward(index, "up", saved.middle_h, *dgu)
            d = kernels.norm_backward(d, dh, saved.middle, saved.middle_inverse, block.ffn_norm)
            dout = self.linear_backward(index, "out", saved.attended, d.to(saved.act.dtype))
            dqkv = attend_backward(shape, dout, saved.qkv, saved.attended, saved.sums, batch)
            kernels.rotate(dqkv, turn, self.rotated)
            dh = self.linear_backward(index, "qkv", saved.h, dqkv)
            if index:  # nothing is trained below the first block
                d = kernels.norm_backward(d, dh, saved.x, saved.inverse, block.attn_norm)

    def linear_backward(self, index: int, group: str, x: Tensor, *dys: Tensor) -> Tensor:
        """Add the gradients of A and B, and give the one of x. The output's gradient comes in one piece, or in one
        for each layer of the group.
        """
        factors, gradients = self.adapter.factors[index][group], self.adapter.gradients[index][group]
        scale = self.adapter.scale
        sizes = [b.shape[0] for b in factors.b]
        parts: Sequence[Tensor] = dys if len(dys) == len(sizes) else torch.split_with_sizes(dys[0], sizes, 1)
        projections = (x @ factors.a.to(x.dtype).T).chunk(len(sizes), 1)
        inner = []
        for part, projection, b, gradient in zip(parts, projections, factors.b, gradients.b, strict=True):
            gradient.add_((projection.T @ part).T, alpha=scale)
            inner.append(part @ b.to(x.dtype))
        gradients.a.add_(torch.cat(inner, 1).T @ x, alpha=scale)
        weights = torch.split_with_sizes(self.model.blocks[index].merged[group], [dy.shape[1] for dy in dys])
        dx = dys[0] @ weights[0]
        for dy, weight in zip(dys[1:], weights[1:], strict=True):
            dx.addmm_(dy, weight)
        return dx

    def head(self, batch: Batch, x: Tensor, total: float) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and correctness of every weighted position, and the gradient of x for their weighted mean, `total`
        being the sum of the whole step's weights.
        """
        model = self.model
        count = len(batch.sources)
        padding = (0, -count % HEAD_ROWS)
        sources, targets, weights = (
            torch.nn.functional.pad(t, padding) for t in (batch.sources, batch.targets, batch.weights / total)
        )
        picked = x[sources]
        h, inverse = kernels.norm(picked, model.norm, model.shape.epsilon, model.embedding.dtype)
        dh = torch.empty_like(h)
        losses, hits = [], []
        for start in range(0, len(sources), HEAD_ROWS):
            rows = slice(start, start + HEAD_ROWS)
            loss, d, hit = kernels.head_backward(h[rows] @ model.embedding.T, targets[rows], weights[rows])
            torch.mm(d, model.embedding, out=dh[rows])
            losses.append(loss)
            hits.append(hit)
        gradient = torch.zeros_like(x)
        dx = kernels.norm_backward(torch.zeros_like(picked), dh, picked, inverse, model.norm)
        gradient.index_add_(0, sources, dx)
        return torch.cat(losses)[:count], torch.cat(hits)[:count], gradient
