"""Flows as priors."""

from __future__ import annotations

import math
from typing import Annotated, Literal, final

import torch
import zuko
from annotated_types import Ge
from torch import Tensor

from vaepipe.core import Conditional, DataSpec, Prior, PriorDraw, Shape, positive
from vaepipe.errors import CompatibilityError
from vaepipe_flows.flow import Affine, Flow, Step
from vaepipe_flows.made import MADE
from vaepipe_flows.solve import Function, fixed_point
from vaepipe_flows.spline import SLOPE, Runner, ZukoStep

_KINDS = {"nsf": zuko.flows.NSF, "maf": zuko.flows.MAF, "realnvp": zuko.flows.RealNVP}


@final
class FlowPrior(Prior):
    """p(z) by a normalizing flow of zuko: N(0, I) seen through learned invertible maps.

        u = (z - loc) / scale,   log p(z) = log N(f(u); 0, I) + log |det df/du| - sum_d log scale_d

    loc and scale are learned too: splines bend u inside [-5, 5] only, wherever that is.

    `nsf`: autoregressive rational-quadratic splines, Durkan et al. (2019); `maf`: autoregressive
    affine maps, Papamakarios et al. (2017), eq. 4; `realnvp`: affine coupling, Dinh et al. (2017),
    eqs. 7-8. Densities take one pass. Draws take as many passes as there are dimensions, but for
    `realnvp`, where they take one.

    Args:
        latent_shape: shape of z.
        data: ignored.
        kind: which maps.
        transforms: how many.
        hidden: widths of the hidden layers of each map's network.

    Raises:
        CompatibilityError: `realnvp` with a single dimension, which has no halves.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = FlowPrior((2,), DataSpec((4,), SUPPORTS["real"], 100), kind="maf")
        >>> prior(None).z.sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        latent_shape: Shape,
        data: DataSpec,
        *,
        kind: Literal["nsf", "maf", "realnvp"] = "nsf",
        transforms: Annotated[int, Ge(1)] = 3,
        hidden: list[Annotated[int, Ge(1)]] = [64, 64],  # noqa: B006 (read, never written)
    ) -> None:
        super().__init__()
        self.latent_shape, d = tuple(latent_shape), math.prod(latent_shape)
        if kind == "realnvp" and d < 2:
            raise CompatibilityError(
                f"prior 'flow' of kind 'realnvp' needs two latent dimensions or more, got "
                f"{list(latent_shape)}: choose kind 'nsf' or 'maf'."
            )
        chosen = {"slope": SLOPE} if kind == "nsf" else {}
        flow = _KINDS[kind](d, transforms=transforms, hidden_features=hidden, **chosen)
        self.runner = Runner(flow.transform)
        self.loc = torch.nn.Parameter(torch.zeros(d))
        self.raw_scale = torch.nn.Parameter(torch.zeros(d))

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The flow; `inference` is not looked at."""
        bent = ZukoStep(self.runner, None, density=True)
        placed = Affine(self.loc, positive(self.raw_scale))
        return PriorDraw(Flow([bent, placed], self.loc, self.latent_shape))


@final
class AutoregressivePrior(Prior):
    """p(z) = prod_i N(z_i; m_i, s_i^2), with m_i and s_i functions of z_1 ... z_{i-1}.

    The functions are a MADE (Germain et al., 2015, eqs. 8-9; as a density, Papamakarios et al.,
    2017, eq. 3). Densities take one pass, draws as many as there are dimensions.

    Args:
        latent_shape: shape of z.
        data: ignored.
        hidden: widths of the hidden layers of the network.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = AutoregressivePrior((2,), DataSpec((4,), SUPPORTS["real"], 100), hidden=[8])
        >>> prior(None).z.sample((5,)).shape
        torch.Size([5, 2])
    """

    zero: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        data: DataSpec,
        *,
        hidden: list[Annotated[int, Ge(1)]] = [128, 128],  # noqa: B006 (read, never written)
    ) -> None:
        super().__init__()
        self.latent_shape, d = tuple(latent_shape), math.prod(latent_shape)
        self.net = MADE(d, context=0, hidden=hidden, outputs=2)
        self.register_buffer("zero", torch.zeros(d), persistent=False)

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The product of conditionals; `inference` is not looked at."""
        return PriorDraw(Flow([Conditionals(self.net(None))], self.zero, self.latent_shape))


@final
class Conditionals(Step):
    """z_i = m_i + s_i u_i, where m_i and s_i read z_1 ... z_{i-1}.

    Args:
        net: `[*, d] -> [*, 2, d]`, m and the raw s.
    """

    def __init__(self, net: Function) -> None:
        self.net = net

    def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """One coordinate after the other."""

        def onward(z: Tensor) -> Tensor:
            m, s = self._read(z)
            return m + s * u

        z = fixed_point(onward, u)
        return z, self._read(z)[1].log().sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """All coordinates at once."""
        m, s = self._read(z)
        return (z - m) / s, s.log().sum(-1)

    def _read(self, z: Tensor) -> tuple[Tensor, Tensor]:
        m, raw = self.net(z).unbind(-2)
        return m, positive(raw)
