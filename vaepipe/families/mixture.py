"""A mixture of Normals as the posterior."""

from __future__ import annotations

import math
from typing import Annotated, final

from annotated_types import Ge
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

from vaepipe.core import Cap, Family, Mixture, Shape, positive


@final
class MixtureFamily(Family):
    """q(z | x) = sum_k w_k prod_d N(z_d; mu_kd, sigma_kd^2): a posterior with several modes.

    Objectives draw from every component and weight what they find (`stratified`: Morningstar et
    al., 2021), so that the weights learn however far apart the components are; each sample decodes
    K latents. Only `dreg` needs the path of a draw, through the chain of conditional distribution
    functions (`through_mixture`). No KL to a prior has a closed form, so objectives sample it. The
    features are the logits of w and, of each component, mu and the raw sigma.

    Args:
        latent_shape: shape of z.
        components: K.

    Example:
        >>> import torch
        >>> head = MixtureFamily((3,), components=4)
        >>> q = head(torch.zeros(5, *head.feature_shape))
        >>> q.batch_shape, q.rsample((7,)).shape
        (torch.Size([5]), torch.Size([7, 5, 3]))
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(self, latent_shape: Shape, *, components: Annotated[int, Ge(1)] = 5) -> None:
        super().__init__()
        self.latent_shape, self.components = tuple(latent_shape), components
        self.feature_shape = (components * (1 + 2 * math.prod(latent_shape)),)

    def forward(self, h: Tensor) -> Mixture:
        """q(z | h) for features `h` `[*batch, K (1 + 2 d)]`."""
        each = h.unflatten(-1, (self.components, -1))  # [*batch, K, 1 + 2 d]
        loc, raw = each[..., 1:].unflatten(-1, (2, *self.latent_shape)).unbind(each.ndim - 1)
        normal = Normal(loc, positive(raw), validate_args=False)
        parts = Independent(normal, len(self.latent_shape), validate_args=False)
        return Mixture(Categorical(logits=each[..., 0], validate_args=False), parts)
