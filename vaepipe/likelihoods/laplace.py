"""The Laplace likelihood: absolute errors instead of squares."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributions import Independent, Laplace, constraints

from vaepipe.core import DataSpec, Likelihood
from vaepipe.likelihoods import scales
from vaepipe.likelihoods.elementwise import joint
from vaepipe.likelihoods.scales import Scale

_FLOOR = 1e-3


@final
class LaplaceLikelihood(Likelihood):
    """p(x | z) = prod_i Laplace(x_i; mu_i, b_i), normaliser included.

        log p(x | z) = -sum_i [ |x_i - mu_i| / b_i + log(2 b_i) ]

    Its mode for constant mu is the median, so single wild values count less than under a Gaussian.
    The features are mu, or (mu, raw b) with `per_example`; otherwise b does not depend on z.

    Args:
        data: shape of x.
        scale: b: a number, one learned number (`learned`), one for every dimension of x
            (`per_dimension`), or predicted from z (`per_example`); if not given, at least 1e-3.

    Example:
        >>> import torch
        >>> from vaepipe.core import SUPPORTS
        >>> head = LaplaceLikelihood(DataSpec((2,), SUPPORTS["real"], 1), scale=0.5)
        >>> head(torch.zeros(3, 2)).log_prob(torch.ones(2))[0].item()
        -4.0
    """

    support = constraints.real
    log_scale: Tensor | None

    def __init__(self, data: DataSpec, *, scale: Scale = "learned") -> None:
        super().__init__()
        self.feature_shape = scales.feature_shape(data, scale)
        self.ndim = len(data.shape)
        self.floor = _FLOOR if isinstance(scale, str) else scale
        scales.keep(self, scales.own_log_scale(data, scale))

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for features `h` `[*batch, *feature_shape]`."""
        loc, log_scale = scales.location_and_log_scale(h, self.log_scale, self.ndim, self.floor)
        return joint(Laplace(loc, log_scale.exp(), validate_args=False), self.ndim)
