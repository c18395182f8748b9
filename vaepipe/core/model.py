"""The model: p(x, z) = p(x | z) p(z), with q(z | x) beside it."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaepipe.core.conditional import Conditional
from vaepipe.core.prior import Prior, PriorDraw


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
        """p(x | z) at the mean of q(z | x), for `x` `[*batch, *x]`."""
        return self.generator(self.inference(x).mean)
