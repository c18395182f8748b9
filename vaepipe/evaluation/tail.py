"""How heavy the tail of importance weights is: can their mean be trusted at all?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 5
"""Fewest weights of a tail that say something about its shape."""
UNRELIABLE = 0.7
"""Shapes above this make the mean of any affordable number of weights unreliable."""

_TINY = 1e-290
"""Stands for weights too small for a float, where one outweighs all."""


def tail_size(k: int) -> int:
    """How many of k weights are the tail: min(k / 5, 3 sqrt(k)).

    Vehtari et al. (2024), section 3.1.

    Example:
        >>> tail_size(5000), tail_size(20)
        (213, 4)
    """
    return math.ceil(min(0.2 * k, 3 * math.sqrt(k)))


def pareto_k(log_tail: Tensor) -> Tensor:
    """The shape of a generalised Pareto distribution fitted to the largest weights.

        p(y | s, k) = (1 + k y / s)^(-1/k - 1) / s,   y = w - cutoff

    The estimate of Zhang and Stephens (2009), drawn a little towards 1/2 as in Vehtari et al.
    (2024), *Pareto smoothed importance sampling*, appendix. Below 1/2 the weights have a finite
    variance; above 0.7 their mean cannot be trusted, and `log_evidence` is too low by an unknown
    amount. https://arxiv.org/abs/1507.02646

    Args:
        log_tail: the largest log weights and, smallest of them, the cutoff, `[n + 1, *batch]`, in
            any order.

    Returns:
        k-hat `[*batch]`, no unit; NaN where n < 5, or where the tail's weights do not differ.
    """
    log_w = log_tail.double().sort(0).values
    n = len(log_w) - 1
    if n < LEAST:
        return torch.full(log_w.shape[1:], torch.nan, dtype=torch.double, device=log_w.device)
    w = torch.exp(log_w - log_w[-1])
    return _zhang_stephens(w[1:] - w[0], n)


def _zhang_stephens(y: Tensor, n: int) -> Tensor:
    """The fit to exceedances `[n, *batch]`, ascending: an average over a grid of b = -k / s."""
    y, differ = y.clamp(min=_TINY), y[0] < y[-1]
    grid = 30 + math.isqrt(n)
    steps = torch.arange(1, grid + 1, dtype=y.dtype, device=y.device) - 0.5
    steps = (1 - (grid / steps).sqrt()).reshape(-1, *[1] * (y.ndim - 1))
    b = 1 / y[-1] + steps / (3 * y[math.floor(n / 4 + 0.5) - 1])  # [grid, *batch]
    k = torch.stack([torch.log1p(-each * y).mean(0) for each in b])
    likelihood = n * (torch.log(-b / k) - k - 1)
    weights = likelihood.softmax(0)
    b = (b * weights).sum(0)
    shape = torch.log1p(-b * y).mean(0)
    return torch.where(differ, (n * shape + 5) / (n + 10), torch.nan)
