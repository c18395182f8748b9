"""Mean and standard deviation of a posterior, in closed form where its type has one."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from vaepipe.core import DRAWS_AT_ONCE, MOMENT_DRAWS


def has_moments(q: Distribution) -> bool:
    """Whether the distribution's type defines its mean and variance (some flows do not)."""
    if isinstance(q, Independent):
        return has_moments(q.base_dist)
    cls = type(q)
    return cls.mean is not Distribution.mean and cls.variance is not Distribution.variance


def sampled_moments(q: Distribution) -> Moments:
    """Return the moments of q, from 256 draws of torch's generators where it has no closed form."""
    moments = Moments(q)
    while moments.wanted:
        moments.add(q.sample(torch.Size((min(moments.wanted, DRAWS_AT_ONCE),))))
    return moments


@final
class Moments:
    """Mean and standard deviation of q `[batch, *latent]`, float64, from draws as they stream by.

        mean = (1/n) sum_i z_i,   scale^2 = (n / (n - 1)) ((1/n) sum_i z_i^2 - mean^2)

    Draws are needed only where the type of q has no closed form. Over examples such a mean varies
    by scale^2 / n more than E_q z: whoever compares means takes the mean of `mean_se`^2 off.
    """

    def __init__(self, q: Distribution) -> None:
        self.q, self.known, self.count = q, has_moments(q), 0
        self._first: Tensor | None = None
        self._second: Tensor | None = None

    def add(self, z: Tensor) -> None:
        """Take in draws `[c, batch, *latent]`."""
        if self.known:
            return
        first, second = z.double().sum(0), (z.double() ** 2).sum(0)
        self.count += len(z)
        self._first = first if self._first is None else self._first + first
        self._second = second if self._second is None else self._second + second

    @property
    def wanted(self) -> int:
        """How many more draws are needed before means may be compared over examples."""
        return 0 if self.known else max(0, MOMENT_DRAWS - self.count)

    def like(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in the precision of `h`."""
        return self.mean.to(h.dtype), self.scale.to(h.dtype)

    @property
    def mean(self) -> Tensor:
        """E_q z."""
        if self.known:
            return self.q.mean.double()
        assert self._first is not None
        return self._first / self.count

    @property
    def mean_se(self) -> Tensor:
        """Standard error of the mean."""
        return torch.zeros_like(self.scale) if self.known else self.scale / math.sqrt(self.count)

    @property
    def scale(self) -> Tensor:
        """Standard deviations of q."""
        if self.known:
            return self.q.stddev.double()
        assert self._second is not None
        spread = (self._second / self.count - self.mean**2).clamp(min=0)
        return (spread * self.count / (self.count - 1)).sqrt()


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
