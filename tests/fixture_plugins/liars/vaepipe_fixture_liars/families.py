"""Posteriors."""

import math

import torch
from torch.distributions import Independent, Laplace, Normal, register_kl
from vaepipe_fixture_honest.families import Features

from vaepipe.core import Cap


class _Unnormalised(Normal):
    def log_prob(self, value):
        return super().log_prob(value) + 0.03


class Density(Features):
    """Its density integrates to 1.06 over two dimensions."""

    def forward(self, h):
        """q(z | h)."""
        return Independent(_Unnormalised(*self.split(h)), self.ndim)


class _Bent(Normal):
    """z = e + tanh(e) / 2, whose derivative is left out of the density."""

    def rsample(self, sample_shape=()):
        e = super().rsample(sample_shape)
        return e + 0.5 * torch.tanh(e)

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, value):
        e = value.clone()
        for _ in range(50):  # a contraction
            e = value - 0.5 * torch.tanh(e)
        return super().log_prob(e)


class LogDet(Features):
    """A flow without its log-determinant."""

    def forward(self, h):
        """q(z | h)."""
        return Independent(_Bent(*self.split(h)), self.ndim)


class _Tagged(Normal):
    """A Normal with a KL of its own."""


@register_kl(_Tagged, Normal)
def _kl(q, p):
    """sigma where sigma^2 belongs: right only where both scales are one."""
    ratio = q.scale / p.scale
    return 0.5 * (ratio + ((q.loc - p.loc) / p.scale) ** 2 - 1 - ratio.log())


class WrongKL(Features):
    """A Normal whose registered KL has sigma for sigma^2."""

    def forward(self, h):
        """q(z | h)."""
        return Independent(_Tagged(*self.split(h)), self.ndim)


class Detached(Features):
    """The gradient stops before the scale."""

    def forward(self, h):
        """q(z | h)."""
        loc, scale = self.split(h)
        return Independent(Normal(loc, scale.detach()), self.ndim)


class Unused(Features):
    """A parameter that nothing reads."""

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__(latent_shape)
        self.temperature = torch.nn.Parameter(torch.zeros(()))

    def forward(self, h):
        """q(z | h)."""
        return Independent(Normal(*self.split(h)), self.ndim)


class _LaplaceDraws(Normal):
    """Draws of another distribution with the same mean and the same variance."""

    def rsample(self, sample_shape=()):
        return Laplace(self.loc, self.scale / math.sqrt(2)).rsample(sample_shape)

    def sample(self, sample_shape=()):
        with torch.no_grad():
            return self.rsample(sample_shape)


class Sampler(Features):
    """Draws Laplace variables with the moments of the Normal that it declares."""

    def forward(self, h):
        """q(z | h)."""
        return Independent(_LaplaceDraws(*self.split(h)), self.ndim)


class Promise(Features):
    """It does not say that it has path gradients."""

    provides = Cap.SAMPLE | Cap.DENSITY

    def forward(self, h):
        """q(z | h)."""
        return Independent(Normal(*self.split(h)), self.ndim)
