"""The Gaussian likelihood, with a fixed, a learned or a predicted scale."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributions import Independent, Normal, constraints

from vaepipe.core import DataSpec, Likelihood
from vaepipe.likelihoods import scales
from vaepipe.likelihoods.elementwise import joint
from vaepipe.likelihoods.scales import Scale

_FLOOR = 1e-3


@final
class GaussianLikelihood(Likelihood):
    """p(x | z) = prod_i N(x_i; mu_i, sigma_i^2), normaliser included.

        log p(x | z) = -1/2 sum_i [ (x_i - mu_i)^2 / sigma_i^2 + log(2 pi sigma_i^2) ]

    The features are mu, or (mu, raw sigma) with `per_example`. Otherwise sigma does not depend on
    z: it is the given number, one learned number (`learned`), or one learned number for every
    dimension of x (`per_dimension`). It starts at one, and is at least 1e-3 if it is not given, so
    that the density of a dimension that is constant in the data is bounded.

    Args:
        data: shape of x.
        scale: sigma, or how it is found.

    Example:
        >>> import torch
        >>> from vaepipe.core import SUPPORTS
        >>> head = GaussianLikelihood(DataSpec((2,), SUPPORTS["real"], 1), scale=1.0)
        >>> round(head(torch.zeros(3, 2)).log_prob(torch.zeros(2))[0].item(), 4)
        -1.8379
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
        return joint(Normal(loc, log_scale.exp(), validate_args=False), self.ndim)
