"""Distributions that know the density of what they drew, and pay for that of anything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Size, Tensor
from torch.distributions import Distribution


class OwnDraws(Distribution, ABC):
    """A distribution whose density is cheap for its own latest draw: a flow, seen from its base.

        z = f(e),   e ~ p(e),   log q(z) = log p(e) - log |det df/de|

    A draw has its log density at hand; for any other z the base e must be found first. The latest
    draw and its density are kept, and `log_prob` of that very tensor gives what was kept. Its
    gradient is the total derivative with respect to the parameters, along the path of z and
    through the density, as if `density` had been asked; it does not pass through z itself. What
    was drawn without gradients has no such derivative, so where gradients are wanted `density` is
    asked after all.

    Authors write `draw` and `density`.
    """

    has_rsample = True
    _latest: tuple[Tensor, Tensor, bool] | None = None

    @abstractmethod
    def draw(self, sample_shape: Size) -> tuple[Tensor, Tensor]:
        """z `[*sample, *batch, *event]` and log q(z) `[*sample, *batch]`, nats, with gradients."""

    @abstractmethod
    def density(self, value: Tensor) -> Tensor:
        """log q(z) for any z: the same function of z and of the parameters."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw that carries gradients."""
        z, log_q = self.draw(Size(sample_shape))
        self.remember(z, log_q)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """log q(z), from memory for the latest draw."""
        kept = self._latest
        if kept is None or value is not kept[0]:
            return self.density(value)
        if torch.is_grad_enabled():
            return kept[1] if kept[2] else self.density(value)
        return kept[1].detach()

    def remember(self, z: Tensor, log_q: Tensor) -> None:
        """Keep z as the latest draw; its density was made under the present gradient mode."""
        self._latest = (z, log_q, torch.is_grad_enabled())


def join_draws(q: Distribution, parts: Sequence[tuple[Distribution, Tensor]], dim: int) -> Tensor:
    """Draws of the pieces of a batch, as one tensor; q knows their density if the pieces do.

    Args:
        q: the distribution of the whole batch, of batch shape `[batch]`.
        parts: the same distribution of some rows, with what it drew, in the order of the rows.
        dim: the dimension of the draws that counts the rows.
    """
    z = torch.cat([draws for _, draws in parts], dim)
    if isinstance(q, OwnDraws):
        q.remember(z, torch.cat([part.log_prob(draws) for part, draws in parts], dim))
    return z
