"""A learned mixture of Normals as the prior."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Ge
from torch.distributions import Categorical, Independent, Normal

from vaepipe.core import Conditional, DataSpec, Mixture, Prior, PriorDraw, Shape


@final
class MixturePrior(Prior):
    """p(z) = sum_j pi_j prod_d N(z_d; m_jd, s_jd^2), with learned weights, means and scales.

    The KL to it has no closed form, so objectives sample it. Means start as standard Normal draws,
    scales at one, weights equal.

    Args:
        latent_shape: shape of z.
        data: ignored.
        components: how many Normals.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> data = DataSpec((4,), SUPPORTS["real"], 100)
        >>> MixturePrior((2,), data, components=3)(None).z.sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, latent_shape: Shape, data: DataSpec, *, components: Annotated[int, Ge(1)] = 10
    ) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(components))
        self.loc = torch.nn.Parameter(torch.randn(components, *latent_shape))
        self.log_scale = torch.nn.Parameter(torch.zeros(components, *latent_shape))

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The mixture; `inference` is not looked at."""
        normal = Normal(self.loc, self.log_scale.exp(), validate_args=False)
        parts = Independent(normal, self.loc.ndim - 1, validate_args=False)
        weights = Categorical(logits=self.logits, validate_args=False)
        return PriorDraw(Mixture(weights, parts))
