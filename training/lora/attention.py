"""Causal attention of packed sequences, each to itself, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from training.lora.batches import Batch
from training.lora.kernels import scores_backward
from training.lora.model import Shape

# Rows of queries taken at once in the backward pass: keys after them are skipped.
CHUNK = 512


def split_qkv(shape: Shape, qkv: Tensor) -> Sequence[Tensor]:
    kv = shape.kv_heads * shape.head
    return torch.split_with_sizes(qkv, [shape.width, kv, kv], 1)


def attend(shape: Shape, qkv: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """What each token attends to, and the log-sum of the exponentials of its scores."""
    result = torch.zeros(qkv.shape[0], shape.width, dtype=qkv.dtype)  # rows of no sequence stay 0
    sums = []
    groups = shape.heads // shape.kv_heads
    for span, mask in zip(batch.spans, batch.masks, strict=True):
        q, k, v = (
            # Heads that share k and v are one batch entry; k and v are repeated without a copy.
            part.view(part.shape[0], shape.kv_heads, -1, shape.head).permute(1, 2, 0, 3).expand(-1, groups, -1, -1)
            for part in split_qkv(shape, qkv[span])
        )
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, mask is None, attn_mask=None if mask is None else mask.to(q.dtype), scale=shape.head**-0.5
        )
        target = result[span].view(-1, shape.kv_heads, groups, shape.head)
        target.copy_(out.permute(2, 0, 1, 3))
        sums.append(lse)
    return result, sums


def attend_backward(
    shape: Shape, d: Tensor, qkv: Tensor, attended: Tensor, sums: Sequence[Tensor], batch: Batch
) -> Tensor:
    """The gradient of qkv from d, that of `attended`.

    PyTorch's own backward of attention is many times slower than its forward on a CPU; plain products over the
    probabilities, computed again, take half its time.
    """
    result = torch.zeros_like(qkv)  # rows of no sequence stay 0
    kv, groups = shape.kv_heads, shape.heads // shape.kv_heads

    def rows(t: Tensor) -> Tensor:
        # (tokens, heads * head) to (kv head, token and head of its group, head)
        return t.reshape(-1, kv, groups, shape.head).transpose(0, 1).reshape(kv, -1, shape.head)

    for span, lse in zip(batch.spans, sums, strict=True):
        tokens, branches = span.stop - span.start, batch.branches[span]
        _, k, v = split_qkv(shape, qkv[span])
        k, v = (t.reshape(tokens, kv, shape.head).transpose(0, 1).contiguous() for t in (k, v))
        dk, dv = torch.zeros_like(k), torch.zeros_like(v)
        for start in range(0, tokens, CHUNK):
            end = min(start + CHUNK, tokens)
            here = slice(span.start + start, span.start + end)
            q, do = rows(qkv[here, : shape.width]), rows(d[here])
            delta = (do * rows(attended[here])).sum(-1, keepdim=True, dtype=torch.float32)
            p, ds = scores_backward(
                torch.bmm(q, k[:, :end].transpose(1, 2)),
                torch.bmm(do, v[:, :end].transpose(1, 2)),
                lse[:, :, start:end].transpose(1, 2).reshape(delta.shape),
                delta,
                torch.arange(start, end).repeat_interleave(groups)[:, None],
                torch.arange(end),
                branches[start:end].repeat_interleave(groups)[:, None],
                branches[:end],
                shape.head**-0.5,
            )
            dq = torch.bmm(ds, k[:, :end])
            dk[:, :end] += torch.bmm(ds.transpose(1, 2), q)
            dv[:, :end] += torch.bmm(p.transpose(1, 2), do)
            result[here, : shape.width].view(-1, kv, groups, shape.head).copy_(
                dq.view(kv, end - start, groups, shape.head).transpose(0, 1)
            )
        for target, source in zip(split_qkv(shape, result[span])[1:], (dk, dv), strict=True):
            target.view(tokens, kv, shape.head).copy_(source.transpose(0, 1))
    return result
