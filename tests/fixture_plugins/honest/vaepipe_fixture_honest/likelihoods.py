"""Likelihoods."""

import torch
from torch.distributions import Independent, Normal, constraints

from vaepipe.core import Likelihood


class Gaussian(Likelihood):
    support = constraints.real

    def __init__(self, data) -> None:
        super().__init__()
        self.feature_shape = tuple(data.shape)

    def product(self, kind, h):
        return Independent(kind(h, torch.ones_like(h)), len(self.feature_shape))


class Honest(Gaussian):
    """p(x | z) = prod_i N(x_i; mu_i, 1)."""

    def forward(self, h):
        """p(x | h)."""
        return self.product(Normal, h)
