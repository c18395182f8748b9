"""The Laplace likelihood: absolute errors instead of squares."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torch.distributions import Laplace

from vaepipe.core import DataSpec
from vaepipe.likelihoods.rescaled import LocationScale
from vaepipe.likelihoods.scales import Scale


@final
class LaplaceLikelihood(LocationScale):
    """p(x | z) = prod_i Laplace(x_i; mu_i, b_i), normaliser included.

        log p(x | z) = -sum_i [ |x_i - mu_i| / b_i + log(2 b_i) ]

    Its mode for constant mu is the median, so single wild values count less than under a Gaussian.
    mu and a b that is not given are relative to the mean and the standard deviation of the data, as
    those of `gaussian`. The features are those of mu, or of (mu, b) with `per_example`; otherwise b
    does not depend on z.

    Args:
        data: shape and moments of x.
        scale: b: a number in the units of x, one learned number (`learned`), one for every
            dimension of x (`per_dimension`), or predicted from z (`per_example`); if it is not
            given, at least 1e-3 of the standard deviation.

    Example:
        >>> import torch
        >>> from vaepipe.core import SUPPORTS
        >>> head = LaplaceLikelihood(DataSpec((2,), SUPPORTS["real"], 1), scale=0.5)
        >>> head(torch.zeros(3, 2)).log_prob(torch.ones(2))[0].item()
        -4.0
    """

    def __init__(self, data: DataSpec, *, scale: Scale = "learned") -> None:
        super().__init__(data, scale)

    def law(self, loc: Tensor, scale: Tensor) -> Laplace:
        """Return a Laplace distribution."""
        return Laplace(loc, scale, validate_args=False)
