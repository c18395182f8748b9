"""Mean and standard deviation of a posterior, in closed form where its type has one."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent

DRAWS = 256
"""Samples of q(z | x), at least, behind a mean that has no closed form and is compared over x."""


def has_moments(q: Distribution) -> bool:
    """Whether the distribution's type defines its mean and variance (some flows do not)."""
    if isinstance(q, Independent):
        return has_moments(q.base_dist)
    cls = type(q)
    return cls.mean is not Distribution.mean and cls.variance is not Distribution.variance


def moments(q: Distribution, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[batch, *latent]`, from samples `[k, batch, *latent]` if needed.

    Raises:
        ValueError: the moments have no closed form and no samples were given.
    """
    if has_moments(q):
        return q.mean, q.stddev
    if z is None:
        raise ValueError(f"{type(q).__name__} has no closed-form moments: give samples.")
    return z.mean(0), z.std(0)


def typical(p: Distribution, draws: int) -> Tensor:
    """What to show for a distribution of examples: its mean; words, which have none, the mode.

    Args:
        p: p(x | z), say, of batch shape `[*batch]`.
        draws: samples behind the mean of a type that defines neither.

    Returns:
        `[*batch, *event]`.
    """
    if has_moments(p):
        return p.mean
    if type(p).mode is not Distribution.mode:
        return p.mode
    return p.sample((draws,)).mean(0)
