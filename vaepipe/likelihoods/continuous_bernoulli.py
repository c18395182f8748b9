"""The continuous Bernoulli likelihood of values in the unit interval."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import Independent, constraints

from vaepipe.core import DataSpec, Likelihood, Shape
from vaepipe.likelihoods.elementwise import (
    Elementwise,
    joint,
    matching,
    mean_of,
    piecewise,
    require,
    stored,
)

_START = (0.05, 0.95)
_SMALL = 0.5
_SERIES = [
    1 / 6,
    -1 / 180,
    1 / 2835,
    -1 / 37800,
    1 / 467775,
    -691 / 3831077250,
    2 / 127702575,
    -3617 / 2605132530000,
    43867 / 350813659321125,
    -174611 / 15313294652906250,
]
"""log(sinh(a) / a) = sum_n (-1)^(n+1) zeta(2n) / (n pi^(2n)) a^(2n); its
truncation is below the rounding of double precision for a <= 1/2."""


@final
class ContinuousBernoulliLikelihood(Likelihood):
    """p(x | z) = prod_i C(l_i) exp(l_i x_i) on [0, 1]: the exponential family with x as statistic.

        log p(x | z) = sum_i x_i l_i - log((e^{l_i} - 1) / l_i),   l = features + offset

    Loaiza-Ganem and Cunningham (2019), with l = logit(lambda). A Bernoulli on grey
    values leaves out log C, which is 1.01 nats a pixel at lambda = 0.1. Features of zero mean the
    mean of the data where it is known (clipped to [0.05, 0.95], stored with the weights).

    Args:
        data: shape and mean of x.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> head = ContinuousBernoulliLikelihood(DataSpec((784,), SUPPORTS["unit_interval"], 1))
        >>> abs(head(torch.zeros(784)).log_prob(torch.rand(784)).item()) < 1e-6
        True
    """

    support = constraints.unit_interval
    offset: Tensor

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.feature_shape = tuple(data.shape)
        start = matching(_mean, mean_of(data, 0.5).clamp(*_START), -30.0, 30.0)
        self.register_buffer("offset", stored(start))

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for features `h` `[*batch, *x]`."""
        return joint(TiltedUniform(h + self.offset), len(self.feature_shape))


@final
class TiltedUniform(Elementwise):
    """The density e^{l x} l / (e^l - 1) on [0, 1], exact in the precision of `logits` for any l.

    Written with a = l / 2 as exp(l (x - 1/2)) a / sinh(a), and a series where a is small.

    Args:
        logits: l, `[*batch]`.
    """

    values = constraints.unit_interval

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits)

    @property
    def mean(self) -> Tensor:
        """1/2 + (coth(l/2) - 2/l) / 2, `[*batch]`."""
        return _mean(self.logits)

    @property
    def variance(self) -> Tensor:
        """1/l^2 - 1/(4 sinh^2(l/2)), `[*batch]`."""
        return _variance(self.logits)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws in [0, 1], `[*sample, *batch]`: the inverse of the distribution function."""
        (logits,) = self._wide(sample_shape)
        rate = logits.abs().clamp_min(1e-6)
        low = -torch.log1p(torch.rand_like(rate) * torch.expm1(-rate)) / rate
        return torch.where(logits > 0, 1 - low, low).clamp(0, 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each number, in nats.

        Raises:
            ValueError: x holds a value outside [0, 1].
        """
        require((value >= 0) & (value <= 1), _OUTSIDE)
        return self.logits * (value - 0.5) - log_sinhc(self.logits / 2)


def log_sinhc(a: Tensor) -> Tensor:
    """log(sinh(a) / a), an even function, without cancellation or overflow."""
    return piecewise(_SMALL, a.abs(), lambda v: _series(v.square(), _SERIES), _large_log_sinhc)


def _large_log_sinhc(a: Tensor) -> Tensor:
    return a + torch.log(-torch.expm1(-2 * a)) - torch.log(2 * a)


def _mean(logits: Tensor) -> Tensor:
    """Half the derivative of log_sinhc at l/2, from 1/2."""
    a = logits / 2
    ratio = piecewise(_SMALL, a.abs(), _small_slope, lambda v: (1 / torch.tanh(v) - 1 / v) / v)
    return 0.5 + 0.5 * a * ratio


def _small_slope(a: Tensor) -> Tensor:
    """The derivative of log_sinhc, divided by a."""
    slopes = [2 * n * c for n, c in enumerate(_SERIES, start=1)]
    return slopes[0] + _series(a.square(), slopes[1:])


def _variance(logits: Tensor) -> Tensor:
    """A quarter of the second derivative of log_sinhc at l/2."""
    return piecewise(_SMALL, (logits / 2).abs(), _small_bend, _large_bend) / 4


def _small_bend(a: Tensor) -> Tensor:
    bends = [2 * n * (2 * n - 1) * c for n, c in enumerate(_SERIES, start=1)]
    return bends[0] + _series(a.square(), bends[1:])


def _large_bend(a: Tensor) -> Tensor:
    decay = torch.exp(-2 * a)
    return a.square().reciprocal() - 4 * decay / (1 - decay).square()


def _series(square: Tensor, coefficients: list[float]) -> Tensor:
    """sum_n c_n square^n from n = 1, by Horner's rule."""
    total = torch.zeros_like(square)
    for c in reversed(coefficients):
        total = (total + c) * square
    return total


_OUTSIDE = (
    "a continuous Bernoulli likelihood was given values outside [0, 1]. Scale the data, or choose "
    "a likelihood of real values."
)
