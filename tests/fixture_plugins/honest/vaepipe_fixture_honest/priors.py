"""Priors."""

import torch
from torch.distributions import Independent, Normal

from vaepipe.core import Prior, PriorDraw


class Learned(Prior):
    def __init__(self, latent_shape: tuple[int, ...], data) -> None:
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(latent_shape))
        self.log_scale = torch.nn.Parameter(torch.zeros(latent_shape))

    def product(self, kind):
        return PriorDraw(Independent(kind(self.loc, self.log_scale.exp()), self.loc.ndim))


class Honest(Learned):
    """p(z) = prod_d N(z_d; m_d, s_d^2), learned."""

    def forward(self, inference):
        """The prior."""
        return self.product(Normal)
