"""Likelihoods of a location and a scale, in the units of the data."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints
from torch.distributions.constraints import Constraint

from vaepipe.core import DataSpec, Likelihood, Shape, Units, units_of
from vaepipe.likelihoods import scales
from vaepipe.likelihoods.elementwise import joint
from vaepipe.likelihoods.scales import Scale

_FLOOR = 1e-3


class LocationScale(Likelihood):
    """p(x | z) = prod_i f((x_i - l_i) / s_i) / s_i, for a density f of mean zero.

    With the mean m_i and the standard deviation d_i of the data (`units_of`), l_i = m_i + d_i h_i
    for features h, and s_i is d_i times what is learned. So zero features mean the data's mean and
    spread, and an affine change of x changes nothing but the unit of the density. A scale that is
    given as a number is in the units of x, and stays what it is.
    """

    support = constraints.real
    log_scale: Tensor | None

    def __init__(self, data: DataSpec, scale: Scale) -> None:
        super().__init__()
        self.feature_shape = scales.feature_shape(data, scale)
        self.ndim = len(data.shape)
        self.given = not isinstance(scale, str)
        self.floor = _FLOOR if isinstance(scale, str) else scale
        self.units = units_of(data)
        scales.keep(self, scales.own_log_scale(data, scale))

    @abstractmethod
    def law(self, loc: Tensor, scale: Tensor) -> Distribution:
        """The distribution of each value by location and scale."""

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for features `h` `[*batch, *feature_shape]`."""
        loc, log_scale = scales.location_and_log_scale(h, self.log_scale, self.ndim, self.floor)
        if self.given:
            log_scale = log_scale - self.units.log_scale
        each = Rescaled(self.law(loc, log_scale.exp()), self.units)
        return joint(each, self.ndim)


@final
class Rescaled(Distribution):
    """x = mean + scale u, for u of a given distribution.

        log p(x) = log p(u) - log(scale),   u = (x - mean) / scale

    Computed with u throughout: a mean that is large beside the scale costs no digits of log p.

    Args:
        each: distribution of u, of batch shape `[*batch, *x]`.
        units: mean and scale `[*x]`.
    """

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    has_rsample = True

    def __init__(self, each: Distribution, units: Units) -> None:
        self.each, self.units = each, units
        super().__init__(each.batch_shape, validate_args=False)

    @property
    def support(self) -> Constraint | None:
        """That of u."""
        return self.each.support

    @property
    def mean(self) -> Tensor:
        """The mean of x, `[*batch, *x]`."""
        return self._back(self.each.mean)

    @property
    def mode(self) -> Tensor:
        """The mode of x, `[*batch, *x]`."""
        return self._back(self.each.mode)

    @property
    def variance(self) -> Tensor:
        """The variance of x, `[*batch, *x]`."""
        return self.stddev.square()

    @property
    def stddev(self) -> Tensor:
        """The standard deviation of x, `[*batch, *x]`."""
        return self.units.scale * self.each.stddev

    def expand(self, batch_shape: Shape, _instance: Any = None) -> Self:
        """The same distribution for a larger batch."""
        return type(self)(self.each.expand(torch.Size(batch_shape)), self.units)

    def rsample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws of x `[*sample, *batch, *x]` that carry gradients."""
        return self._back(self.each.rsample(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each value, in nats."""
        return self.each.log_prob(self.units(value)) - self.units.log_scale

    def _back(self, u: Tensor) -> Tensor:
        return self.units.back(u).to(u.dtype)
