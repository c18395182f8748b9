"""The inverse autoregressive posterior."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, final

from annotated_types import Ge
from torch import Tensor, nn
from torch.func import functional_call

from vaepipe.core import Cap, Family, Shape, positive
from vaepipe_flows.flow import Affine, Flow, Reverse, Step, doubled
from vaepipe_flows.made import MADE
from vaepipe_flows.solve import Function, fixed_point

_LEAST = 1e-3
_OPEN = 1.5


@final
class InverseAutoregressive(Family):
    """q(z | x) by inverse autoregressive flow: gated steps whose gates read what comes before.

        z_0 = mu + sigma * e,   e ~ N(0, I)
        z_t = s_t * z_{t-1} + (1 - s_t) * m_t,   (m_t, a_t) = MADE_t(z_{t-1}; c)
        log q(z_T) = log N(e) - sum_i [log sigma_i + sum_t log s_{t,i}]

    Kingma et al. (2016), eqs. 11-14 (the gated form). The gate is s = 0.001 + 0.999 sigmoid(a +
    1.5): a step starts almost as the identity and never shrinks a coordinate more than a
    thousandfold, so that its inverse stays finite. The order of the coordinates is reversed
    between steps. The features are (mu, raw sigma, c).

    Drawing, and the density of a draw, cost one pass of every network; the density of any other z
    costs up to d passes, because the inverse goes coordinate by coordinate.

    Args:
        latent_shape: shape of z.
        steps: T.
        hidden: widths of the hidden layers of each MADE.
        context: size of c, what the networks are told about x.

    Example:
        >>> import torch
        >>> head = InverseAutoregressive((3,), hidden=[16], context=4)
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
        hidden: list[Annotated[int, Ge(1)]] = [256],  # noqa: B006 (read, never written)
        context: Annotated[int, Ge(0)] = 32,
    ) -> None:
        super().__init__()
        self.latent_shape, self.d = tuple(latent_shape), math.prod(latent_shape)
        self.feature_shape = (2 * self.d + context,)
        self.nets = nn.ModuleList(
            MADE(self.d, context=context, hidden=hidden, outputs=2) for _ in range(steps)
        )

    def forward(self, h: Tensor) -> Flow:
        """q(z | h) for features `h` `[*batch, 2 d + context]`."""
        present = [dict(net.named_parameters()) for net in self.nets]
        loc, exact = h[..., : self.d], lambda: self._steps(h.double(), map(doubled, present))
        return Flow(self._steps(h, present), loc, self.latent_shape, exact)

    def _steps(self, h: Tensor, parameters: Iterable[Mapping[str, Tensor]]) -> list[Step]:
        loc, raw, c = h.split([self.d, self.d, h.shape[-1] - 2 * self.d], -1)
        steps: list[Step] = [Affine(loc, positive(raw))]
        for net, own in zip(self.nets, parameters, strict=True):
            steps += [Gated(functional_call(net, dict(own), (c,))), Reverse()]
        return steps


@final
class Gated(Step):
    """z = s(u) * u + (1 - s(u)) * m(u), where coordinate i of s and m reads u_1 ... u_{i-1}.

    Args:
        net: `[*, d] -> [*, 2, d]`, m and the gate before its sigmoid.
    """

    def __init__(self, net: Function) -> None:
        self.net = net

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """All coordinates at once."""
        m, s = self._read(u)
        return m + s * (u - m), s.log().sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """u_i = m_i + (z_i - m_i) / s_i, one coordinate after the other."""

        def back(u: Tensor) -> Tensor:
            m, s = self._read(u)
            return m + (z - m) / s

        u = fixed_point(back, z)
        return u, self._read(u)[1].log().sum(-1)

    def _read(self, u: Tensor) -> tuple[Tensor, Tensor]:
        m, a = self.net(u).unbind(-2)
        return m, _LEAST + (1 - _LEAST) * (a + _OPEN).sigmoid()
