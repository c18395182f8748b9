"""The model: p(x, z) = p(x | z) p(z), with q(z | x) beside it."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent

from vaepipe.core.conditional import Conditional
from vaepipe.core.prior import Prior, PriorDraw

MOMENT_DRAWS, DRAWS_AT_ONCE = 256, 16
"""Samples of q(z | x) behind a mean or a standard deviation that has no closed form, in every
command; how many of them are held at the same time."""


@final
class LatentModel(nn.Module):
    """p(x, z) = p(x | z) p(z) and its approximate posterior q(z | x).

    Args:
        inference: q(z | x), from `[*batch, *x]`.
        prior: p(z).
        generator: p(x | z), from `[*batch, *z]`.

    Example:
        >>> import torch
        >>> from vaepipe.testing.exact import PPCA
        >>> model = PPCA.random(5, 2, seed=0).model()
        >>> model.sample(3).mean.shape
        torch.Size([3, 5])
    """

    def __init__(self, inference: Conditional, prior: Prior, generator: Conditional) -> None:
        super().__init__()
        self.inference = inference
        self.prior = prior
        self.generator = generator

    def p_z(self) -> PriorDraw:
        """The prior, built for the current parameters."""
        return self.prior(self.inference)

    @torch.no_grad()
    def sample(self, n: int) -> Distribution:
        """p(x | z) for `n` draws z ~ p(z): batch shape `[n]`; take its `mean` or a `sample()`."""
        return self.generator(self.p_z().z.sample((n,)))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Distribution:
        """p(x | z) at the `centre` of q(z | x), for `x` `[*batch, *x]`."""
        return self.generator(centre(self.inference(x)))


def centre(q: Distribution) -> Tensor:
    """One latent that stands for q(z | x), among those that a decoder was trained on.

    The mean where the type of q defines one, else the mean of 256 draws (flows, stochastic layers,
    concrete codes), which the global random state decides. Of discrete latents the mode: their
    mean, such as half a bit, is no latent; a bit that is as likely 0 as 1 counts as 0, as in stored
    codes.

    Args:
        q: a distribution of batch shape `[*batch]`.

    Returns:
        `[*batch, *latent]`.

    Example:
        >>> from torch.distributions import Bernoulli, Independent, Normal
        >>> centre(Normal(torch.tensor([1.5]), 1.0)).tolist()
        [1.5]
        >>> centre(Independent(Bernoulli(torch.tensor([0.2, 0.5, 0.9])), 1)).tolist()
        [0.0, 0.0, 1.0]
    """
    if _is_discrete(q) and _defines(q, "mode"):
        return q.mode.nan_to_num(0.0)  # torch's mode of a fair bit is NaN
    if _defines(q, "mean"):
        return q.mean
    parts = range(MOMENT_DRAWS // DRAWS_AT_ONCE)
    return torch.stack([q.sample((DRAWS_AT_ONCE,)).mean(0) for _ in parts]).mean(0)


def _is_discrete(q: Distribution) -> bool:
    support = q.support if _defines(q, "support") else None
    return support is not None and support.is_discrete


def _defines(q: Distribution, name: str) -> bool:
    """Whether a property is the type's own, not the one that raises."""
    kind = q
    while isinstance(kind, Independent):
        kind = kind.base_dist
    return getattr(type(kind), name) is not getattr(Distribution, name)
