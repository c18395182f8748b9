"""Mixtures whose density is made of matrix products where the components allow it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import singledispatch
from typing import cast, final

import torch
from torch import Size, Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from vaepipe.core.implicit import through_mixture


@final
class Mixture(MixtureSameFamily):
    """p(z) = sum_k w_k p_k(z), the densities of all components from a few matrix products.

        log p(z) = log sum_k exp(log w_k + log p_k(z))

    The same numbers as `MixtureSameFamily`, without its tensors of shape `[*batch, K, *event]`
    where `log_prob_each` knows a way around them. Mixtures of factorised Normals have draws with
    exact gradients (`through_mixture`).

    Args:
        mixture_distribution: w, `[*batch, K]`.
        component_distribution: batch shape `[*batch, K]`, any event shape.

    Example:
        >>> from torch.distributions import Categorical
        >>> parts = Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 1)
        >>> Mixture(Categorical(logits=torch.zeros(3)), parts).log_prob(torch.zeros(7, 2)).shape
        torch.Size([7])
    """

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z) `[*batch]` for z `[*batch, *event]`."""
        each = log_prob_each(self.component_distribution, value)
        return torch.logsumexp(each + self.mixture_distribution.logits, -1)

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Are the components Normals that factorise?"""
        return _factorises(self.component_distribution)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws `[*sample, *batch, *event]` whose gradients reach weights, means and scales."""
        if not self.has_rsample:
            raise NotImplementedError("only mixtures of factorised Normals have such draws")
        z, ndims = self.sample(Size(sample_shape)), len(self.event_shape)
        normal = cast(Normal, cast(Independent, self.component_distribution).base_dist)
        flat = Normal(normal.loc.flatten(-ndims), normal.scale.flatten(-ndims), validate_args=False)
        moved = through_mixture(z.flatten(-ndims), self.mixture_distribution.logits, flat)
        return moved.reshape(z.shape)


def _factorises(components: Distribution) -> bool:
    return isinstance(components, Independent) and type(components.base_dist) is Normal


@singledispatch
def log_prob_each(components: Distribution, z: Tensor) -> Tensor:
    """log p_k(z) `[*lead, *batch, K]` of components `[*batch, K]`, z `[*lead, *batch, *event]`.

    Register a faster way for a type of components with `log_prob_each.register`.
    """
    return components.log_prob(z.unsqueeze(-1 - len(components.event_shape)))


@log_prob_each.register
def _independent(components: Independent, z: Tensor) -> Tensor:
    if not _factorises(components):
        return components.log_prob(z.unsqueeze(-1 - len(components.event_shape)))
    return _normals(components.base_dist, z, components.reinterpreted_batch_ndims)


def _normals(normal: Normal, z: Tensor, ndims: int) -> Tensor:
    """Expand the square: -a z^2 + 2 a m z - a m^2, with a = 1 / (2 s^2), as matrix products.

    In double precision, where what cancels is harmless: narrow components lose no digits.
    """
    loc, scale = normal.loc.flatten(-ndims).double(), normal.scale.flatten(-ndims).double()
    y, a = z.flatten(-ndims).double(), 0.5 / scale.square()
    constant = (a * loc.square() + scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1)
    return (2 * _products(y, a * loc) - _products(y.square(), a) - constant).to(z.dtype)


def _products(y: Tensor, rows: Tensor) -> Tensor:
    """y . rows_k `[*lead, *batch, K]` for y `[*lead, *batch, d]`, rows `[*batch, K, d]`."""
    return y @ rows.T if rows.ndim == 2 else torch.einsum("...d,...kd->...k", y, rows)


@log_prob_each.register
def _full(components: MultivariateNormal, z: Tensor) -> Tensor:
    """Whiten with every component's L^-1 in one product: |L^-1 z - L^-1 m|^2."""
    if len(components.batch_shape) != 1:
        return components.log_prob(z.unsqueeze(-2))
    scale_tril = components.scale_tril
    k, d, _ = scale_tril.shape
    eye = torch.eye(d, dtype=z.dtype, device=z.device).expand_as(scale_tril)
    inverse = torch.linalg.solve_triangular(scale_tril, eye, upper=False)  # [K, d, d]
    shift = (inverse @ components.loc.unsqueeze(-1)).squeeze(-1)
    white = (z @ inverse.reshape(k * d, d).T).unflatten(-1, (k, d)) - shift
    half_log_det = scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    constant = half_log_det + 0.5 * d * math.log(2 * math.pi)
    return -0.5 * white.square().sum(-1) - constant
