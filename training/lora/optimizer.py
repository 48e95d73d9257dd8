"""AdamW without weight decay over the adapter's flat vector, and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ONE, TWO = 0.9, 0.99  # decay of the gradient's first and second moment
CLIP = 1.0  # largest norm of the gradient
WARMUP, FLOOR = 0.03, 0.01  # share of the run, and of the highest rate


class AdamW:
    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters
        self.first = torch.zeros_like(parameters)
        self.second = torch.zeros_like(parameters)
        self.steps = 0

    def step(self, gradient: Tensor, rate: float) -> float:
        """Change the parameters, unless the gradient is not finite. Gives its norm before clipping."""
        size = float(gradient.norm())
        if not math.isfinite(size):
            return size
        gradient.mul_(min(1.0, CLIP / (size + 1e-12)))
        self.steps += 1
        self.first.lerp_(gradient, 1 - ONE)
        self.second.mul_(TWO).addcmul_(gradient, gradient, value=1 - TWO)
        root = (self.second / (1 - TWO**self.steps)).sqrt_().add_(1e-8)
        self.parameters.addcdiv_(self.first, root, value=-rate / (1 - ONE**self.steps))
        return size


def rate_at(progress: float, peak: float) -> float:
    """Linear warmup, then a cosine that ends where progress does."""
    if progress < WARMUP:
        return peak * (progress + 1e-3) / (WARMUP + 1e-3)
    through = min(1.0, (progress - WARMUP) / (1 - WARMUP))
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * through)))
