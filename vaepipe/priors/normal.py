"""Normal priors that factorise: the standard one, and one that is learned."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import Independent, Normal

from vaepipe.core import Conditional, DataSpec, Prior, PriorDraw, Shape


@final
class StandardNormal(Prior):
    """p(z) = prod_d N(z_d; 0, 1). Nothing is learned.

    Args:
        latent_shape: shape of z.
        data: ignored.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = StandardNormal((2,), DataSpec((4,), SUPPORTS["real"], 100))
        >>> round(prior(None).z.log_prob(torch.zeros(2)).item(), 4)
        -1.8379
    """

    zero: Tensor

    def __init__(self, latent_shape: Shape, data: DataSpec) -> None:
        super().__init__()
        self.register_buffer("zero", torch.zeros(latent_shape), persistent=False)

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The prior; `inference` is not looked at."""
        normal = Normal(self.zero, torch.ones_like(self.zero), validate_args=False)
        return PriorDraw(Independent(normal, self.zero.ndim, validate_args=False))


@final
class LearnedNormal(Prior):
    """p(z) = prod_d N(z_d; m_d, s_d^2), with learned means and scales.

    The KL from `diagonal_normal` and `full_normal` is exact. It starts at the standard Normal.

    Args:
        latent_shape: shape of z.
        data: ignored.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = LearnedNormal((2,), DataSpec((4,), SUPPORTS["real"], 100))
        >>> round(prior(None).z.log_prob(torch.zeros(2)).item(), 4)
        -1.8379
    """

    def __init__(self, latent_shape: Shape, data: DataSpec) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(latent_shape))
        self.log_scale = torch.nn.Parameter(torch.zeros(latent_shape))

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The prior; `inference` is not looked at."""
        normal = Normal(self.loc, self.log_scale.exp(), validate_args=False)
        return PriorDraw(Independent(normal, self.loc.ndim, validate_args=False))
