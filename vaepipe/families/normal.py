"""Normal posteriors, with a diagonal or a full covariance."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    MultivariateNormal,
    Normal,
    register_kl,
)
from torch.distributions.kl import kl_divergence

from vaepipe.core import Cap, Family, Shape
from vaepipe.core.scales import positive as positive
from vaepipe.core.scales import raw_of as raw_of
from vaepipe.errors import CompatibilityError


@final
class DiagonalNormal(Family):
    """q(z | x) = prod_d N(z_d; mu_d, sigma_d^2): mean-field inference.

        z = mu + sigma * eps,   eps ~ N(0, 1)

    Kingma and Welling (2014), eq. 9 and appendix B. The features are (mu, raw sigma), the second
    through `positive`. The distribution skips torch's own argument checks: sigma is positive by
    construction, and each check would make the host wait for the device.

    Args:
        latent_shape: shape of z.

    Example:
        >>> q = DiagonalNormal((3,))(torch.zeros(5, 2, 3))
        >>> q.batch_shape, q.event_shape, round(q.stddev[0, 0].item(), 5)
        (torch.Size([5]), torch.Size([3]), 1.0)
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.feature_shape = (2, *latent_shape)

    def forward(self, h: Tensor) -> Independent:
        """q(z | h) for features `h` `[*batch, 2, *latent]`."""
        ndim = len(self.latent_shape)
        loc, raw = h.unbind(-1 - ndim)
        normal = Normal(loc, positive(raw), validate_args=False)
        return Independent(normal, ndim, validate_args=False)


@final
class FullNormal(Family):
    """q(z | x) = N(z; mu, L L^T) with a lower-triangular L.

        z = mu + L eps,   eps ~ N(0, 1)

    The features are mu, the raw diagonal of L (through `positive`) and, row by row, its strict
    lower triangle divided by sqrt(d), so that rows of L start with a norm of order one.

    Args:
        latent_shape: `[d]`.

    Raises:
        CompatibilityError: the latent shape has not exactly one dimension.

    Example:
        >>> q = FullNormal((3,))(torch.zeros(5, 9))
        >>> q.batch_shape, q.event_shape
        (torch.Size([5]), torch.Size([3]))
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY
    places: Tensor

    def __init__(self, latent_shape: Shape) -> None:
        super().__init__()
        if len(latent_shape) != 1:
            raise CompatibilityError(
                f"family 'full_normal' needs a latent_shape of one dimension, got "
                f"{list(latent_shape)}: write {[math.prod(latent_shape)]}."
            )
        self.d = latent_shape[0]
        self.feature_shape = (2 * self.d + self.d * (self.d - 1) // 2,)
        below, diagonal = torch.tril_indices(self.d, self.d, offset=-1), torch.arange(self.d)
        places = torch.cat([diagonal.expand(2, -1), below], dim=1)
        self.register_buffer("places", places, persistent=False)

    def forward(self, h: Tensor) -> MultivariateNormal:
        """q(z | h) for features `h` `[*batch, 2 d + d (d - 1) / 2]`."""
        loc, raw, below = h.split([self.d, self.d, h.shape[-1] - 2 * self.d], dim=-1)
        rows, columns = self.places
        scale_tril = h.new_zeros(*h.shape[:-1], self.d, self.d)
        scale_tril[..., rows, columns] = torch.cat([positive(raw), below / math.sqrt(self.d)], -1)
        return MultivariateNormal(loc, scale_tril=scale_tril, validate_args=False)


@register_kl(MultivariateNormal, Independent)
def _kl_full_factorised(q: MultivariateNormal, p: Independent) -> Tensor:
    """To a product of densities: look up what the product is made of."""
    return kl_divergence(q, p.base_dist)


@register_kl(MultivariateNormal, Normal)
def _kl_full_normals(q: MultivariateNormal, p: Normal) -> Tensor:
    """KL(N(mu, L L^T) || prod_d N(m_d, s_d^2)), `p` holding the d factors in its last dimension.

    1/2 sum_d [ ((L L^T)_dd + (mu_d - m_d)^2) / s_d^2 - 1 + 2 log s_d - 2 log L_dd ]
    """
    scale_tril = q._unbroadcasted_scale_tril
    variance = scale_tril.square().sum(-1)
    log_scale = scale_tril.diagonal(dim1=-2, dim2=-1).log()
    distance = (variance + (q.loc - p.loc).square()) / p.scale.square()
    return 0.5 * (distance - 1 + 2 * (p.scale.log() - log_scale)).sum(-1)
