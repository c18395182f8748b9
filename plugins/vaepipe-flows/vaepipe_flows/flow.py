"""A distribution made of invertible steps that start from a standard Normal."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from torch import Size, Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from vaepipe.core import OwnDraws, Shape


class Step(ABC):
    """An invertible map u -> z of vectors `[*lead, *batch, d]`.

    Its parameters are tensors that were read when the step was made. So a family whose parameters
    were held constant then (`vaepipe.core.frozen`) has constant steps for good.
    """

    @abstractmethod
    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """z, and log |det dz/du| `[*lead, *batch]` or something that broadcasts to it."""

    @abstractmethod
    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u, and log |det dz/du| there."""


@final
class Flow(OwnDraws):
    """q(z) of z = f_T(... f_1(e)), e ~ N(0, I).

        log q(z) = log N(e; 0, I) - sum_t log |det df_t/du_{t-1}|,   u_0 = e

    Rezende and Mohamed (2015), eq. 7. A draw has its density at hand; any other z is taken back
    through the inverses of the steps. A step may bring values together a thousandfold, and its
    inverse enlarges every rounding as much: where there is an `exact`, inverses are computed in
    float64.

    Args:
        steps: f_1 ... f_T.
        like: a tensor `[*batch, d]` whose shape, type and device e takes.
        event_shape: shape of z; its size is d.
        exact: makes the same steps in float64.

    Example:
        >>> loc = torch.ones(5, 6)
        >>> q = Flow([Affine(loc, 2 * loc)], loc, (2, 3))
        >>> z = q.rsample((4,))
        >>> z.shape, q.log_prob(z).shape
        (torch.Size([4, 5, 2, 3]), torch.Size([4, 5]))
    """

    arg_constraints = {}  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        steps: Sequence[Step],
        like: Tensor,
        event_shape: Shape,
        exact: Callable[[], Sequence[Step]] | None = None,
    ) -> None:
        self.steps, self.exact = tuple(steps), exact
        self.like = like
        super().__init__(like.shape[:-1], Size(event_shape), validate_args=False)

    @property
    def support(self) -> Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        """All of R^latent."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def draw(self, sample_shape: Size) -> tuple[Tensor, Tensor]:
        """z `[*sample, *batch, *event]` and its log density."""
        shape = (*sample_shape, *self.like.shape)
        z = torch.randn(shape, dtype=self.like.dtype, device=self.like.device)
        log_q = _log_normal(z)
        for step in self.steps:
            z, log_det = step.forward(z)
            log_q = log_q - log_det
        return z.reshape(*shape[:-1], *self.event_shape), log_q

    def density(self, value: Tensor) -> Tensor:
        """log q(z) through the inverses, for z `[*lead, *batch, *event]`."""
        lead = value.shape[: value.ndim - len(self.event_shape)]
        z = value.reshape(*lead, self.like.shape[-1])
        z = z.expand(torch.broadcast_shapes(z.shape, self.like.shape))
        if self.exact is None:
            return _log_density(self.steps, z)
        return _log_density(self.exact(), z.double()).to(value.dtype)


@final
class Affine(Step):
    """z = loc + scale * u."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """z and its log-determinant, the same for every u."""
        return self.loc + self.scale * u, self.scale.log().sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u = (z - loc) / scale."""
        return (z - self.loc) / self.scale, self.scale.log().sum(-1)


@final
class Reverse(Step):
    """The coordinates in reverse order."""

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """u from its last coordinate to its first."""
        return u.flip(-1), u.new_zeros(())

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The same."""
        return self.forward(z)


def _log_density(steps: Sequence[Step], z: Tensor) -> Tensor:
    """log q(z) through the inverses, for vectors `[*lead, *batch, d]`."""
    log_dets = []
    for step in reversed(steps):
        z, log_det = step.inverse(z)
        log_dets.append(log_det)
    return _log_normal(z) - sum(log_dets)


def doubled(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the parameters of a network in float64."""
    return {name: value.double() for name, value in parameters.items()}


def _log_normal(e: Tensor) -> Tensor:
    """log N(e; 0, I) over the last dimension."""
    return -0.5 * (e.square().sum(-1) + e.shape[-1] * math.log(2 * math.pi))
