"""The passes on a GPU, by torch's autograd: what `passes` writes out by hand pays on a CPU alone. Parameters, optimizer
and files stay where they are; a step takes the parameters over and brings the gradients back.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, rms_norm, scaled_dot_product_attention, silu

from training.lora.adapter import Adapter, Factors
from training.lora.batches import Batch


class DevicePasses:
    """The same as `Passes`, on a device. Nothing is merged: the adapter stands beside the base."""

    def __init__(self, adapter: Adapter, device: str) -> None:
        self.adapter, self.device = adapter, torch.device(device)
        model = adapter.model
        self._shape = model.shape
        self._embedding, self._norm, self._turn = (
            part.to(self.device) for part in (model.embedding, model.norm, model.turn)
        )
        self._blocks = [
            (
                {group: weights.to(self.device) for group, weights in block.base.items()},
                block.attn_norm.to(self.device),
                block.ffn_norm.to(self.device),
            )
            for block in model.blocks
        ]
        self._parameters = torch.empty_like(adapter.parameters, device=self.device).requires_grad_()
        self.merge()

    def merge(self, worker: int = 0, workers: int = 1) -> None:
        """Take over the adapter's parameters as they are now."""
        with torch.no_grad():
            self._parameters.copy_(self.adapter.parameters)

    def forward(self, batch: Batch, *, keep: bool) -> tuple[Tensor, None]:
        """The last block's output; what backward needs is in its graph."""
        with torch.set_grad_enabled(keep):
            factors = self.adapter.views(self._parameters)
            ids, turn = batch.ids.to(self.device), self._turn[batch.positions.to(self.device)]
            mask = self._mask(batch)
            x = self._embedding[ids].float()
            for (weights, attn_norm, ffn_norm), own in zip(self._blocks, factors, strict=True):
                h = self._normed(x, attn_norm)
                attended = self._attended(self._linear(h, weights["qkv"], own["qkv"]), turn, mask)
                x = x + self._linear(attended, weights["out"], own["out"])
                gate, up = self._linear(self._normed(x, ffn_norm), weights["up"], own["up"]).chunk(2, 1)
                act = (silu(gate.float()) * up.float()).to(gate.dtype)
                x = x + self._linear(act, weights["down"], own["down"])
        return x, None

    def head(self, batch: Batch, x: Tensor, total: float) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and correctness of every weighted position; and their weighted mean, `total` being the sum of the whole
        step's weights.
        """
        sources, targets, weights = (part.to(self.device) for part in (batch.sources, batch.targets, batch.weights))
        with torch.set_grad_enabled(x.requires_grad):
            logits = (self._normed(x[sources], self._norm) @ self._embedding.T).float()
            losses = cross_entropy(logits, targets, reduction="none")
            mean = losses @ weights / total
        return losses.detach().cpu(), (logits.argmax(1) == targets).cpu(), mean

    def backward(self, batch: Batch, d: Tensor, kept: None) -> None:
        """Add the adapter's gradients for `d`, the mean that `head` gave."""
        d.backward()
        assert self._parameters.grad is not None
        self.adapter.gradient.add_(self._parameters.grad.cpu())
        self._parameters.grad = None

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight.shape, weight, self._shape.epsilon).to(self._embedding.dtype)

    def _linear(self, x: Tensor, weight: Tensor, factors: Factors) -> Tensor:
        inner = (x @ factors.a.to(x.dtype).T).chunk(len(factors.b), 1)
        low = torch.cat([part @ b.to(x.dtype).T for part, b in zip(inner, factors.b, strict=True)], 1)
        return x @ weight.T + self.adapter.scale * low

    def _attended(self, qkv: Tensor, turn: Tensor, mask: Tensor) -> Tensor:
        shape = self._shape
        kv = shape.kv_heads * shape.head
        q, k, v = torch.split_with_sizes(qkv, [shape.width, kv, kv], 1)
        q, k, v = self._heads(_turned(q, turn, shape.head)), self._heads(_turned(k, turn, shape.head)), self._heads(v)
        out = scaled_dot_product_attention(q[None], k[None], v[None], mask, scale=shape.head**-0.5)[0]
        return out.transpose(0, 1).reshape(len(qkv), shape.width)

    def _heads(self, x: Tensor) -> Tensor:
        """(tokens, heads * head) to (heads, tokens, head), shared heads repeated."""
        parts = x.view(len(x), -1, self._shape.head)
        return parts.repeat_interleave(self._shape.heads // parts.shape[1], 1).transpose(0, 1)

    def _mask(self, batch: Batch) -> Tensor:
        """Which token attends to which: each to those before it in its sequence. What fills up is a sequence, too."""
        example = torch.full((len(batch.ids),), -1, device=self.device)
        for number, span in enumerate(batch.spans):
            example[span] = number
        branch = batch.branches.to(self.device)
        seen = (example == example[:, None]) & ((branch == 0) | (branch == branch[:, None]))
        return seen.tril()


def _turned(x: Tensor, turn: Tensor, head: int) -> Tensor:
    """With the rotary embedding, on adjacent pairs."""
    pairs = torch.view_as_complex(x.float().view(len(x), -1, head // 2, 2))
    return torch.view_as_real(pairs * turn[:, None]).view(x.shape).to(x.dtype)
