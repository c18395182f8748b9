"""Mixtures as priors: of anything, and of factorised Normals in little time and memory."""

from __future__ import annotations

import math
from typing import Any, final

import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    Normal,
    constraints,
)

from vaepipe.core import Shape

_BLOCK = 2**20


def mixture(logits: Tensor, parts: Distribution) -> Distribution:
    """p(z) = sum_k softmax(logits)_k parts_k(z).

    Args:
        logits: `[K]`.
        parts: batch shape `[K]`, event shape `latent_shape`.

    Example:
        >>> parts = Independent(Normal(torch.zeros(3, 2), 1.0), 1)
        >>> mixture(torch.zeros(3), parts).sample((5,)).shape
        torch.Size([5, 2])
    """
    if isinstance(parts, Independent) and type(parts.base_dist) is Normal:
        return NormalMixture(logits, parts.base_dist.loc, parts.base_dist.scale)
    weights = Categorical(logits=logits, validate_args=False)
    return MixtureSameFamily(weights, parts, validate_args=False)


@final
class NormalMixture(Distribution):
    """p(z) = sum_k pi_k prod_d N(z_d; m_kd, s_kd^2).

    The same numbers as `MixtureSameFamily`, without ever holding `[*batch, K, d]`: distances are
    taken block by block on the way forward, and are matrix products on the way back.

    Args:
        logits: log pi, up to a constant: `[K]`.
        loc: m, `[K, *latent]`.
        scale: s, `[K, *latent]`.
    """

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.logits, self.loc, self.scale = logits, loc, scale
        super().__init__(torch.Size(), loc.shape[1:], validate_args=False)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """What the parameters must be; they are not checked, so that no host waits for a GPU."""
        return {
            "logits": constraints.real_vector,
            "loc": constraints.real,
            "scale": constraints.positive,
        }

    @property
    def support(self) -> constraints.Constraint:
        """Every real latent."""
        return constraints.independent(constraints.real, len(self.event_shape))

    @property
    def mean(self) -> Tensor:
        """sum_k pi_k m_k, `[*latent]`."""
        return torch.tensordot(self.logits.softmax(0), self.loc, 1)

    @property
    def variance(self) -> Tensor:
        """sum_k pi_k (s_k^2 + m_k^2) - mean^2, `[*latent]`."""
        second = self.scale.square() + self.loc.square()
        return torch.tensordot(self.logits.softmax(0), second, 1) - self.mean.square()

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """`[*sample, *latent]`."""
        chosen = Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
        return torch.normal(self.loc[chosen], self.scale[chosen])

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z), nats, `[*batch]`, for z `[*batch, *latent]`."""
        batch = z.shape[: z.ndim - len(self.event_shape)]
        loc, scale = self.loc.flatten(1), self.scale.flatten(1)
        distance = _Distances.apply(z.reshape(math.prod(batch), -1), loc, 1 / scale)
        log_norm = scale.log().sum(-1) + 0.5 * math.log(2 * math.pi) * loc.shape[1]
        log_joint = self.logits.log_softmax(0) - log_norm - 0.5 * distance  # [n, K]
        return log_joint.logsumexp(-1).reshape(batch)


class _Distances(Function):
    """sum_d ((z_nd - m_kd) r_kd)^2, `[n, K]`, for z `[n, d]`, m and r = 1 / s `[K, d]`."""

    @staticmethod
    def forward(z: Tensor, loc: Tensor, precision: Tensor) -> Tensor:
        out = z.new_empty(len(z), len(loc))
        rows = max(1, _BLOCK // loc.numel())
        for some, target in zip(z.split(rows), out.split(rows), strict=True):
            scaled = (some.unsqueeze(1) - loc).mul_(precision)
            torch.sum(scaled.square_(), -1, out=target)
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z, loc, precision = ctx.saved_tensors
        weight = precision.square()
        total, first = grad.sum(0).unsqueeze(1), grad.T @ z
        by_z = z * (grad @ weight) - grad @ (loc * weight)
        by_loc = weight * (loc * total - first)
        second = grad.T @ z.square() - 2 * loc * first + loc.square() * total
        return 2 * by_z, 2 * by_loc, 2 * precision * second
