"""The planar posterior."""

from __future__ import annotations

import math
from typing import Annotated, final

import torch
from annotated_types import Ge
from torch import Tensor

from vaepipe.core import Cap, Family, Shape, positive
from vaepipe_flows.flow import Affine, Flow, Step
from vaepipe_flows.solve import increasing_root

_TINY = 1e-12
_LEAST = 1e-3


@final
class Planar(Family):
    """q(z | x) by planar flow: each step pushes z along one direction.

        z_0 = mu + sigma * e,   z_t = z_{t-1} + u_t tanh(w_t . z_{t-1} + b_t)
        log |det dz_t/dz_{t-1}| = log (1 + (1 - tanh^2) w_t . u_t)

    Rezende and Mohamed (2015), eqs. 10-12; a step can be inverted where w . u > -1, which u is
    bent to satisfy (their appendix A.1; here 1 + w . u = 0.001 + softplus(w . u + 0.54)). The
    features are (mu, raw sigma) and, of each step, (u, w, b).

    The density of any z is that of the inverse, one root of one increasing function a step.

    Args:
        latent_shape: shape of z.
        steps: number of steps T.

    Example:
        >>> q = Planar((3,), steps=2)(torch.zeros(5, 20))
        >>> q.log_prob(q.rsample((7,))).shape
        torch.Size([7, 5])
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(self, latent_shape: Shape, *, steps: Annotated[int, Ge(1)] = 8) -> None:
        super().__init__()
        self.latent_shape, self.d = tuple(latent_shape), math.prod(latent_shape)
        self.steps = steps
        self.feature_shape = (2 * self.d + steps * (2 * self.d + 1),)

    def forward(self, h: Tensor) -> Flow:
        """q(z | h) for features `h` `[*batch, 2 d + T (2 d + 1)]`."""
        loc, exact = h[..., : self.d], lambda: self._steps(h.double())
        return Flow(self._steps(h), loc, self.latent_shape, exact)

    def _steps(self, h: Tensor) -> list[Step]:
        d = self.d
        loc, raw, rest = h.split([d, d, h.shape[-1] - 2 * d], -1)
        each = rest.unflatten(-1, (self.steps, 2 * d + 1)).unbind(-2)
        return [Affine(loc, positive(raw)), *(Push(*step.split([d, d, 1], -1)) for step in each)]


@final
class Push(Step):
    """z = v + u tanh(w . v + b).

    Args:
        raw: `[*batch, d]`, the direction before it is bent so that 1 + w . u > 0.
        w: `[*batch, d]`.
        b: `[*batch, 1]`.
    """

    def __init__(self, raw: Tensor, w: Tensor, b: Tensor) -> None:
        product = (raw * w).sum(-1, keepdim=True)
        square = w.square().sum(-1, keepdim=True) + _TINY
        self.slope = _LEAST + (1 - _LEAST) * positive(product)  # 1 + w . u
        self.u = raw + (self.slope - 1 - product) * w / square
        self.w, self.b = w, b

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """z and its log-determinant."""
        a = (self.w * u).sum(-1, keepdim=True)
        return u + self.u * (a + self.b).tanh(), self._derivative(a).log().squeeze(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """a = w . v solves a + (w . u) tanh(a + b) = w . z; then v = z - u tanh(a + b)."""
        target = (self.w * z).sum(-1, keepdim=True)
        values = [v.detach().double() for v in (self.slope, self.b, target)]
        root = increasing_root(lambda a: _excess(a, *values), values[2], (values[0] - 1).abs()).to(
            z.dtype
        )
        gap = _excess(root, self.slope, self.b, target)
        a = root - gap / self._derivative(root).detach()
        return z - self.u * (a + self.b).tanh(), self._derivative(a).log().squeeze(-1)

    def _derivative(self, a: Tensor) -> Tensor:
        """1 + (1 - tanh^2) w . u = tanh^2 + (1 - tanh^2) (1 + w . u): a sum of positive numbers."""
        bend = (a + self.b).tanh().square()
        return bend + (1 - bend) * self.slope


def _excess(a: Tensor, slope: Tensor, b: Tensor, target: Tensor) -> Tensor:
    return a + (slope - 1) * torch.tanh(a + b) - target
