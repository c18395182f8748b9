"""p(z), which may depend on q(z | x) and may carry variables shared by all examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch.distributions import Distribution

from vaepipe.core.conditional import Conditional
from vaepipe.core.spec import Cap


class PriorDraw(NamedTuple):
    """p(z), or p(z | g) for one draw g ~ q(g) of the prior's global variables."""

    z: Distribution
    """Event shape: the latent shape; batch shape: none."""
    global_kl: Tensor | float = 0.0
    """KL(q(g) || p(g)) in nats for the whole data set; objectives divide it by its size."""


class Prior(nn.Module, ABC):
    """p(z). It receives q(z | x), because some priors are built from it; most ignore it.

    Authors write `__init__(latent_shape, data, *, options)` and `forward`.
    """

    needs: ClassVar[Cap] = Cap.NONE
    """What it needs of q(z | x)."""

    @abstractmethod
    def forward(self, inference: Conditional) -> PriorDraw:
        """The prior, for one draw of its global variables if it has any."""
