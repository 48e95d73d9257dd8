"""The element-wise parts of the passes, each fused into one loop by torch.compile when it is first called."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.compile(dynamic=True)
def norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """RMS norm, and the inverse root that its backward needs."""
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
    return (x * inverse * weight).to(dtype), inverse


@torch.compile(dynamic=True)
def add_norm(x: Tensor, y: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of x and y, and its norm."""
    x = x + y
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)
    return x, (x * inverse * weight).to(y.dtype), inverse


@torch.compile(dynamic=True)
def norm_backward(d: Tensor, dh: Tensor, x: Tensor, inverse: Tensor, weight: Tensor) -> Tensor:
    """d: gradient that reaches x past the norm; dh: the one that comes through it."""
    dn = dh.float() * weight
    n = x * inverse
    return d + inverse * (dn - n * (dn * n).mean(-1, keepdim=True))


def rotate(qkv: Tensor, turn: Tensor, columns: int) -> None:
    """Rotary embedding, in place, on adjacent pairs of the first `columns`. Not compiled: that is slower."""
    pairs = qkv[:, :columns].float().view(qkv.shape[0], -1, turn.shape[1], 2)
    turned = torch.view_as_complex(pairs).mul_(turn[:, None])
    qkv[:, :columns] = torch.view_as_real(turned).view(-1, columns)


@torch.compile(dynamic=True)
def gate(g: Tensor, u: Tensor) -> Tensor:
    x = g.float()
    return (x * torch.sigmoid(x) * u.float()).to(g.dtype)


@torch.compile(dynamic=True)
def gate_backward(d: Tensor, g: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    d, x = d.float(), g.float()
    s = torch.sigmoid(x)
    return (d * u.float() * s * (1 + x * (1 - s))).to(g.dtype), (d * x * s).to(g.dtype)


@torch.compile(dynamic=True)
def scores_backward(
    s: Tensor,
    dp: Tensor,
    lse: Tensor,
    delta: Tensor,
    rows: Tensor,
    keys: Tensor,
    row_branches: Tensor,
    key_branches: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """From raw scores and the gradient of the probabilities: the probabilities, and the gradient of the raw scores."""
    seen = (keys <= rows) & ((key_branches == 0) | (key_branches == row_branches))
    # Only what is seen is in lse: the rest may be far above it.
    p = torch.where(seen, torch.exp(s.float() * scale - lse), 0.0)
    return p.to(s.dtype), (p * (dp.float() - delta) * scale).to(s.dtype)


@torch.compile(dynamic=True)
def head_backward(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each position, gradient of the logits, and whether the target is the top token."""
    x = logits.float()
    top = x.amax(-1, keepdim=True)
    total = torch.exp(x - top).sum(-1, keepdim=True)
    picked = x.gather(1, targets[:, None])
    loss = total.log() + top - picked
    p = torch.exp(x - top) / total
    columns = torch.arange(x.shape[1])
    d = (p - (columns == targets[:, None]).float()) * weights[:, None]
    return loss[:, 0], d.to(logits.dtype), picked[:, 0] >= top[:, 0]
