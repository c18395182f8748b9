"""A Student-t prior for vaepipe."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Gt
from torch.distributions import Independent, StudentT

from vaepipe.core import Conditional, DataSpec, Prior, PriorDraw


@final
class StudentTPrior(Prior):
    """p(z) = prod_d StudentT(z_d; df, 0, 1), with learned degrees of freedom.

    Args:
        latent_shape: shape of z.
        data: ignored.
        df: degrees of freedom at the start, for every dimension.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = StudentTPrior((2,), DataSpec((4,), SUPPORTS["real"], 100), df=4.0)
        >>> prior(None).z.sample((5,)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self, latent_shape: tuple[int, ...], data: DataSpec, *, df: Annotated[float, Gt(0)] = 5.0
    ) -> None:
        super().__init__()
        self.log_df = torch.nn.Parameter(torch.full(latent_shape, df).log())

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The prior; `inference` is not looked at."""
        return PriorDraw(Independent(StudentT(self.log_df.exp()), self.log_df.ndim))
