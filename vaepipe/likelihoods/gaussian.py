"""The Gaussian likelihood, with a fixed or a learned scale."""

from __future__ import annotations

import math
from typing import Annotated, Literal, final

import torch
from annotated_types import Gt
from torch import Tensor
from torch.distributions import Independent, Normal, constraints

from vaepipe.core import DataSpec, Likelihood


@final
class GaussianLikelihood(Likelihood):
    """p(x | z) = prod_i N(x_i; mu_i, sigma_i^2), normaliser included.

        log p(x | z) = -1/2 sum_i [ (x_i - mu_i)^2 / sigma_i^2 + log(2 pi sigma_i^2) ]

    The features are mu. sigma does not depend on z: it is the given number, one learned number
    (`learned`), or one learned number for every dimension of x (`per_dimension`); learned ones
    start at one, and at least 1e-3 keeps the density of a dimension that is constant in the data
    bounded.

    Args:
        data: shape of x.
        scale: sigma, or how it is learned.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> head = GaussianLikelihood(DataSpec((2,), SUPPORTS["real"], 1), scale=1.0)
        >>> round(head(torch.zeros(3, 2)).log_prob(torch.zeros(2))[0].item(), 4)
        -1.8379
    """

    support = constraints.real

    def __init__(
        self,
        data: DataSpec,
        *,
        scale: Annotated[float, Gt(0)] | Literal["learned", "per_dimension"] = "learned",
    ) -> None:
        super().__init__()
        self.feature_shape = tuple(data.shape)
        if isinstance(scale, str):
            shape = data.shape if scale == "per_dimension" else ()
            self.log_scale = torch.nn.Parameter(torch.zeros(shape))
        else:
            self.register_buffer("log_scale", torch.tensor(math.log(scale)))

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for means `h` `[*batch, *x]`."""
        scale = self.log_scale.exp().expand_as(h)
        normal = Normal(h, scale, validate_args=False)
        return Independent(normal, len(self.feature_shape), validate_args=False)
