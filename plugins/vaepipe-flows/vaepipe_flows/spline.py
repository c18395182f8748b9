"""The spline posterior, and zuko's transforms as steps."""

from __future__ import annotations

import math
from typing import Annotated, final

import torch
import zuko
from annotated_types import Ge
from torch import Tensor, nn

from vaepipe.core import Cap, Family, Shape, positive
from vaepipe_flows.flow import Affine, Flow, Step, doubled

SLOPE = 0.02
"""Least slope of a spline. Much flatter pieces lose their slope's sign to rounding in float32."""


@final
class SplineCoupling(Family):
    """q(z | x) by neural spline flow: monotonic rational-quadratic splines in coupling layers.

        e ~ N(0, I),   u = spline_T(... spline_1(e; c)),   z = mu + sigma * u

    Durkan et al. (2019), section 3, as implemented by zuko. Each layer bends one half of the
    coordinates with splines whose knots read the other half and c, inside [-5, 5]; outside it is
    the identity. The features are (mu, raw sigma, c). Both directions cost about as much, so the
    density of any z is cheap.

    Args:
        latent_shape: shape of z.
        steps: number of layers T; the halves change places between them.
        hidden: widths of the hidden layers of each network.
        bins: pieces of each spline.
        context: size of c, what the networks are told about x.

    Example:
        >>> head = SplineCoupling((3,), hidden=[16], context=4)
        >>> q = head(torch.zeros(5, 10))
        >>> q.log_prob(q.rsample((7,))).shape
        torch.Size([7, 5])
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(
        self,
        latent_shape: Shape,
        *,
        steps: Annotated[int, Ge(1)] = 2,
        hidden: list[Annotated[int, Ge(1)]] = [128],  # noqa: B006 (read, never written)
        bins: Annotated[int, Ge(2)] = 8,
        context: Annotated[int, Ge(0)] = 32,
    ) -> None:
        super().__init__()
        self.latent_shape, self.d = tuple(latent_shape), math.prod(latent_shape)
        self.feature_shape = (2 * self.d + context,)
        flow = zuko.flows.NSF(
            self.d,
            context,
            bins=bins,
            slope=SLOPE,
            transforms=steps,
            passes=2,
            hidden_features=hidden,
        )
        self.runner = Runner(flow.transform)

    def forward(self, h: Tensor) -> Flow:
        """q(z | h) for features `h` `[*batch, 2 d + context]`."""
        loc, raw, c = h.split([self.d, self.d, h.shape[-1] - 2 * self.d], -1)
        bent = ZukoStep(self.runner, c if c.shape[-1] else None)

        def exact() -> list[Step]:
            return [bent.double(), Affine(loc.double(), positive(raw.double()))]

        return Flow([bent, Affine(loc, positive(raw))], loc, self.latent_shape, exact)


@final
class Runner(nn.Module):
    """One of zuko's lazy transforms, from its context to the image of a vector, in one call."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, c: Tensor | None, v: Tensor, *, back: bool) -> tuple[Tensor, Tensor]:
        """The image (`back`: the preimage) of v, and the map's log-determinant there."""
        made = self.transform(c)
        return (made.inv if back else made).call_and_ladj(v)


@final
class ZukoStep(Step):
    """One of zuko's transforms, whose networks use the parameters that they had when it was made.

    zuko runs its networks when a vector comes; by then a parameter that was held constant for a
    call may be itself again.

    Args:
        runner: the transform.
        c: its context, `[*batch, context]`.
        density: the transform goes from z to u, so that densities take one pass.
    """

    def __init__(self, runner: Runner, c: Tensor | None, *, density: bool = False) -> None:
        self.runner, self.c, self.density = runner, c, density
        self.parameters: dict[str, Tensor] = dict(runner.named_parameters())

    def double(self) -> ZukoStep:
        """The same step in float64."""
        c = None if self.c is None else self.c.double()
        step = ZukoStep(self.runner, c, density=self.density)
        step.parameters = doubled(self.parameters)
        return step

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """z and its log-determinant."""
        return self._run(u, back=self.density)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u and the log-determinant of z there."""
        u, log_det = self._run(z, back=not self.density)
        return u, -log_det

    def _run(self, v: Tensor, *, back: bool) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(self.runner, self.parameters, (self.c, v), {"back": back})
