"""Priors."""

import torch
from torch.distributions import Independent, Normal, OneHotCategorical
from vaepipe_fixture_honest.priors import Learned

from vaepipe.core import Prior, PriorDraw


class _Heavy(Normal):
    def log_prob(self, value):
        return super().log_prob(value) + 0.05


class Unnormalised(Learned):
    """It is not normalised."""

    def forward(self, inference):
        """The prior."""
        return self.product(_Heavy)


class _Wide(Normal):
    def sample(self, sample_shape=()):
        return self.loc + 1.2 * (super().sample(sample_shape) - self.loc)


class WideDraws(Learned):
    """Draws are wider than the density says."""

    def forward(self, inference):
        """The prior."""
        return self.product(_Wide)


class _Sticky(OneHotCategorical):
    def log_prob(self, value):
        return (value * self.logits).sum(-1) - 0.1


class Masses(Prior):
    """One-hot codes whose masses add up to less than one."""

    def __init__(self, latent_shape: tuple[int, ...], data) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(latent_shape))

    def forward(self, inference):
        """The prior."""
        codes = _Sticky(logits=self.logits, validate_args=False)
        return PriorDraw(Independent(codes, self.logits.ndim - 1))


class Idle(Learned):
    """Its scale is a parameter that no gradient reaches."""

    def forward(self, inference):
        """The prior."""
        return PriorDraw(Independent(Normal(self.loc, self.log_scale.detach().exp()), self.loc.ndim))
