"""Masses of counts that keep their digits in float32, and the Poisson likelihood.

Written as deviances and errors of Stirling's formula (Loader, 2000, "Fast and accurate computation
of binomial probabilities"), because x log(rate) and log x! cancel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.distributions import Independent, constraints

from vaepipe.core import DataSpec, Likelihood, Shape, count_units
from vaepipe.core.units import LEAST_MEAN
from vaepipe.likelihoods.elementwise import (
    Elementwise,
    joint,
    log_positive,
    mean_of,
    piecewise,
    require_integers,
    stored,
)

_LARGE = 16.0


class CountLikelihood(Likelihood):
    """A likelihood of integers without a largest value, whose mean is m softplus(v h + c).

    Args:
        data: shape and moments of x.
        zeros: share of the counts that are zero whatever m: m is the mean of the others.
    """

    support = constraints.nonnegative_integer
    added: ClassVar[Mapping[str, float]] = {"spread": 1.0}
    """Buffers that older weights lack, and what stood in their place."""
    log_start: Tensor
    spread: Tensor

    def __init__(self, data: DataSpec, zeros: Tensor | float = 0.0) -> None:
        super().__init__()
        self.ndim = len(data.shape)
        start = mean_of(data, 1.0).clamp_min(LEAST_MEAN) / (1 - zeros)
        self.register_buffer("log_start", stored(start.log()))
        self.register_buffer("spread", count_units(data).scale)

    def log_mean(self, h: Tensor) -> Tensor:
        """log of the mean `[*batch, *x]` of features `h` `[*batch, *x]`."""
        return log_positive(self.spread * h) + self.log_start

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Load weights, also those of models from before these buffers were `added`."""
        for name, value in self.added.items():
            state_dict.setdefault(prefix + name, torch.full_like(self.get_buffer(name), value))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@final
class PoissonLikelihood(CountLikelihood):
    """p(x | z) = prod_i Poisson(x_i; rate_i), of counts whose variance is their mean.

        log p(x | z) = sum_i x_i log(rate_i) - rate_i - log(x_i!),   rate = m softplus(v h + c)

    m is the mean of the data where it is known (at least 0.001, stored with the weights), else one;
    softplus(c) = 1, so that zero features mean m. v is their standard deviation by m, at most one,
    so that features of the order of one are changes of the rate that the data have: large counts
    that vary little are told apart. The rate grows linearly in h and cannot overflow.

    Args:
        data: shape and moments of x.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> head = PoissonLikelihood(DataSpec((2,), SUPPORTS["integer"], 1))
        >>> round(head(torch.zeros(2)).log_prob(torch.tensor([0.0, 2.0])).item(), 4)
        -2.6931
    """

    def __init__(self, data: DataSpec) -> None:
        super().__init__(data)
        self.feature_shape = tuple(data.shape)

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for features `h` `[*batch, *x]`."""
        return joint(PoissonLogRate(self.log_mean(h)), self.ndim)


@final
class PoissonLogRate(Elementwise):
    """Poisson variables.

    Args:
        log_rate: `[*batch]`.
    """

    values = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate)

    @property
    def mean(self) -> Tensor:
        """The rate, `[*batch]`."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """The rate, `[*batch]`."""
        return self.log_rate.exp()

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Counts `[*sample, *batch]`."""
        return torch.poisson(self.mean.expand(*sample_shape, *self.log_rate.shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each number, in nats.

        Raises:
            ValueError: x holds something else than 0, 1, 2 …
        """
        require_integers(value)
        x = value.clamp_min(1)
        some = -x * surplus(self.log_rate - x.log()) - factorial(x)
        return torch.where(value == 0, -self.log_rate.exp(), some)


def surplus(u: Tensor) -> Tensor:
    """e^u - 1 - u, the deviance of a count x whose mean is x e^u, for each of its ones."""
    return torch.expm1(u) - u


def factorial(x: Tensor) -> Tensor:
    """log x! - (x log x - x) for x >= 1."""
    return stirling_error(x) + 0.5 * torch.log(2 * math.pi * x)


def stirling_error(x: Tensor) -> Tensor:
    """log Gamma(x + 1) - [(x + 1/2) log x - x + log(2 pi) / 2] for x > 0."""
    return piecewise(_LARGE, x, _stirling_exact, _stirling_series)


def _stirling_exact(x: Tensor) -> Tensor:
    exact = torch.lgamma(x + 1) - (x + 0.5) * x.log() + x
    return exact - 0.5 * math.log(2 * math.pi)


def _stirling_series(x: Tensor) -> Tensor:
    square = x.square()
    series = 1 / 1260 - (1 / 1680 - 1 / (1188 * square)) / square
    return (1 / 12 - (1 / 360 - series / square) / square) / x
