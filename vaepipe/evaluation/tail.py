"""How heavy the tail of importance weights is: can their mean be trusted at all?"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST = 5
"""Fewest weights above the cutoff that say something about the shape of a tail."""
_UNDERFLOW = math.log(torch.finfo(torch.double).tiny)
"""Log weights below this, relative to the largest one, are zero."""


def reliable_below(k: float) -> float:
    """Return the Pareto shape up to which the mean of k weights can be trusted.

        min(0.7, 1 - 1 / log10 k)

    Vehtari et al. (2024), *Pareto smoothed importance sampling*, section 3.2.4, eq. 13: a heavier
    tail needs more than k weights, and above 0.7 more than can be afforded.

    Example:
        >>> [round(reliable_below(k), 2) for k in (10, 100, 500, 5000)]
        [0.0, 0.5, 0.63, 0.7]
    """
    return min(0.7, 1 - 1 / math.log10(k)) if k > 1 else -math.inf


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
    (2024), *Pareto smoothed importance sampling*, appendix. Above 1/2 the weights have no finite
    variance and standard errors are too small; above `reliable_below` their mean cannot be trusted,
    and `log_evidence` is too low by an unknown amount. https://arxiv.org/abs/1507.02646

    Only weights above the cutoff are the tail, as in the package `arviz`: weights of discrete
    latents are often equal, and one that equals the cutoff exceeds nothing.

    Args:
        log_tail: the largest log weights and, smallest of them, the cutoff, `[n + 1, *batch]`, in
            any order.

    Returns:
        k-hat `[*batch]`, no unit; NaN where n < 5, or where no weight exceeds the cutoff; infinity
        where some do, but fewer than 5.

    Example:
        >>> equal, one = torch.zeros(41), torch.tensor([0.0] + [-2000.0] * 40)
        >>> pareto_k(torch.stack([equal, one], 1)).tolist()
        [nan, inf]
    """
    n = len(log_tail) - 1
    shapes = torch.full_like(log_tail[0].flatten(), torch.nan, dtype=torch.double)
    if n < LEAST:
        return shapes.reshape(log_tail.shape[1:])
    log_w = log_tail.double().reshape(n + 1, -1).sort(0).values
    log_w = log_w - log_w[-1]
    cutoff = log_w[0].clamp(min=_UNDERFLOW)
    exceeding = (log_w > cutoff).sum(0)
    shapes[(exceeding > 0) & (exceeding < LEAST)] = torch.inf
    for count in exceeding[exceeding >= LEAST].unique().tolist():
        rows = exceeding == count
        y = log_w[-count:, rows].exp() - cutoff[rows].exp()
        shapes[rows] = _zhang_stephens(y, count)
    return shapes.reshape(log_tail.shape[1:])


def _zhang_stephens(y: Tensor, n: int) -> Tensor:
    """The fit to exceedances `[n, batch]`, positive and ascending.

    An average over a grid of b = -k / s.
    """
    grid = 30 + math.isqrt(n)
    steps = torch.arange(1, grid + 1, dtype=y.dtype, device=y.device) - 0.5
    steps = (1 - (grid / steps).sqrt()).reshape(-1, *[1] * (y.ndim - 1))
    b = 1 / y[-1] + steps / (3 * y[math.floor(n / 4 + 0.5) - 1])  # [grid, *batch]
    k = torch.stack([torch.log1p(-each * y).mean(0) for each in b])
    likelihood = n * (torch.log(-b / k) - k - 1)
    weights = likelihood.softmax(0)
    b = (b * weights).sum(0)
    shape = torch.log1p(-b * y).mean(0)
    return (n * shape + 5) / (n + 10)
