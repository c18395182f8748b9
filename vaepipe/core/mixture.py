"""Mixtures whose density is made of matrix products where the components allow it."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import final

import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)


@final
class Mixture(MixtureSameFamily):
    r"""sum_k w_k p_k(z), with the density of every component from one matrix product.

    .. math:: \log p(z) = \log \sum_k \exp(\log w_k + \log p_k(z))

    Args:
        weights: `[K]`.
        components: batch shape `[K]`, any event shape.

    Example:
        >>> parts = Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 1)
        >>> Mixture(Categorical(logits=torch.zeros(3)), parts).log_prob(torch.zeros(7, 2)).shape
        torch.Size([7])
    """

    def __init__(self, weights: Categorical, components: Distribution) -> None:
        super().__init__(weights, components, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) `[*batch]` for z `[*batch, *event]`."""
        each = log_prob_each(self.component_distribution, value)
        return torch.logsumexp(each + self.mixture_distribution.logits, -1)


@singledispatch
def log_prob_each(components: Distribution, z: Tensor) -> Tensor:
    """log p_k(z) `[*batch, K]` of components with batch shape `[K]`, z `[*batch, *event]`.

    Register a faster way for a type of components with `log_prob_each.register`.
    """
    return components.log_prob(z.unsqueeze(-1 - len(components.event_shape)))


@log_prob_each.register
def _independent(components: Independent, z: Tensor) -> Tensor:
    if type(components.base_dist) is not Normal:
        return components.log_prob(z.unsqueeze(-1 - len(components.event_shape)))
    return _normals(components.base_dist, z, components.reinterpreted_batch_ndims)


def _normals(normal: Normal, z: Tensor, ndims: int) -> Tensor:
    """Expand the square: z^2 a - 2 z a m + a m^2, with a = 1 / (2 s^2), about the mean of m.

    The shift keeps what cancels small.
    """
    middle = normal.loc.mean(0).detach()
    loc, scale = (normal.loc - middle).flatten(1), normal.scale.flatten(1)
    y = (z - middle).flatten(-ndims)
    a = 0.5 / scale.square()
    constant = (a * loc.square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
    return 2 * y @ (a * loc).T - y.square() @ a.T - constant


@log_prob_each.register
def _full(components: MultivariateNormal, z: Tensor) -> Tensor:
    """Whiten with every component's L^-1 in one product: |L^-1 z - L^-1 m|^2."""
    scale_tril = components.scale_tril
    k, d, _ = scale_tril.shape
    eye = torch.eye(d, dtype=z.dtype, device=z.device).expand_as(scale_tril)
    inverse = torch.linalg.solve_triangular(scale_tril, eye, upper=False)  # [K, d, d]
    shift = (inverse @ components.loc.unsqueeze(-1)).squeeze(-1)
    white = (z @ inverse.reshape(k * d, d).T).unflatten(-1, (k, d)) - shift
    half_log_det = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = half_log_det + 0.5 * d * math.log(2 * math.pi)
    return -0.5 * white.square().sum(-1) - constant
