"""Posteriors."""


from torch.distributions import Independent, Normal
from torch.nn.functional import softplus

from vaepipe.core import Cap, Family


class Features(Family):
    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(self, latent_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.ndim = len(latent_shape)
        self.feature_shape = (2, *latent_shape)

    def split(self, h):
        loc, raw = h.unbind(-1 - self.ndim)
        return loc, softplus(raw) + 1e-3


class Honest(Features):
    """q(z | x) = prod_d N(z_d; mu_d, sigma_d^2)."""

    def forward(self, h):
        """q(z | h)."""
        return Independent(Normal(*self.split(h)), self.ndim)
