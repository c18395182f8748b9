"""The Gaussian likelihood, with a fixed, a learned or a predicted scale."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributions import Normal

from vaepipe.core import DataSpec
from vaepipe.likelihoods.rescaled import LocationScale
from vaepipe.likelihoods.scales import Scale


@final
class GaussianLikelihood(LocationScale):
    """p(x | z) = prod_i N(x_i; mu_i, sigma_i^2), normaliser included.

        log p(x | z) = -1/2 sum_i [ (x_i - mu_i)^2 / sigma_i^2 + log(2 pi sigma_i^2) ]

    mu and a sigma that is not given are relative to the mean m and the standard deviation d of the
    data where these are known, of each dimension of real data, of all together in [0, 1]:
    mu = m + d h for features h, and sigma = d s. The features are h, or (h, raw s) with
    `per_example`. Otherwise s is one learned number (`learned`), or one for every dimension of x
    (`per_dimension`). s starts at one, and is at least 1e-3, so that the density of a dimension
    that is constant in the data is bounded. A number is sigma itself, in the units of x.

    Args:
        data: shape and moments of x.
        scale: sigma, or how it is found.

    Example:
        >>> import torch
        >>> from vaepipe.core import SUPPORTS
        >>> head = GaussianLikelihood(DataSpec((2,), SUPPORTS["real"], 1), scale=1.0)
        >>> round(head(torch.zeros(3, 2)).log_prob(torch.zeros(2))[0].item(), 4)
        -1.8379
    """

    def __init__(self, data: DataSpec, *, scale: Scale = "learned") -> None:
        super().__init__(data, scale)

    def law(self, loc: Tensor, scale: Tensor) -> Normal:
        """Return a normal distribution."""
        return Normal(loc, scale, validate_args=False)
