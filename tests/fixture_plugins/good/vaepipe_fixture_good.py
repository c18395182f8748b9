"""A Laplace prior: what a plugin looks like."""

from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch.distributions import Independent, Laplace

from vaepipe.core import Conditional, DataSpec, Prior, PriorDraw


class LaplacePrior(Prior):
    """p(z) = prod_d Laplace(z_d; 0, b)."""

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        data: DataSpec,
        *,
        scale: Annotated[float, Gt(0)] = 1.0,
        learned: bool = False,
        tails: Literal["heavy", "light"] = "heavy",
    ) -> None:
        super().__init__()
        log_scale = torch.full(latent_shape, scale).log()
        self.log_scale = torch.nn.Parameter(log_scale, requires_grad=learned)

    def forward(self, inference: Conditional) -> PriorDraw:
        """The same for every draw."""
        scale = self.log_scale.exp()
        return PriorDraw(Independent(Laplace(torch.zeros_like(scale), scale), scale.ndim))
