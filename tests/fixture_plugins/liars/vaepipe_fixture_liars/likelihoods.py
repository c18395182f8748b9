"""Likelihoods."""

import torch
from torch.distributions import Bernoulli, Independent, Normal, constraints
from vaepipe_fixture_honest.likelihoods import Gaussian

from vaepipe.core import Likelihood


class _SquaredError(Normal):
    def log_prob(self, value):
        return -0.5 * (value - self.loc) ** 2 / self.scale**2


class Constant(Gaussian):
    """A squared error: the normaliser log(2 pi) / 2 is dropped."""

    def forward(self, h):
        """p(x | h)."""
        return self.product(_SquaredError, h)


class _Mean(Independent):
    def log_prob(self, value):
        nats = self.base_dist.log_prob(value)
        return nats.flatten(nats.ndim - self.reinterpreted_batch_ndims).mean(-1)


class PixelMean(Gaussian):
    """The mean over pixels, where the sum belongs."""

    def forward(self, h):
        """p(x | h)."""
        return _Mean(Normal(h, torch.ones_like(h)), len(self.feature_shape))


class BatchMean(Gaussian):
    """The scale is measured on the batch, so that examples see each other."""

    def forward(self, h):
        """p(x | h)."""
        scale = 1 + h.flatten(1).var() if h.ndim > len(self.feature_shape) else torch.ones(())
        return Independent(Normal(h, scale.expand_as(h)), len(self.feature_shape))


class Grey(Likelihood):
    """Cross entropy that accepts grey pixels."""

    support = constraints.boolean

    def __init__(self, data) -> None:
        super().__init__()
        self.feature_shape = tuple(data.shape)

    def forward(self, h):
        """p(x | h)."""
        return Independent(
            Bernoulli(logits=h, validate_args=False), len(self.feature_shape), validate_args=False
        )
