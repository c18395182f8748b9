"""Two stochastic layers: p(z1, z2) = p(z2) p(z1 | z2)."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Ge
from torch import Tensor, nn

from vaepipe.core import (
    Activation,
    Cap,
    Chain,
    Conditional,
    ConditionalNormal,
    DataSpec,
    Prior,
    PriorDraw,
    Shape,
    layer_sizes,
    normal,
)
from vaepipe.errors import CompatibilityError


@final
class HierarchicalPrior(Prior):
    """p(z1, z2) = N(z2; 0, I) N(z1; mu(z2), sigma(z2)^2), for the latent vector z = (z1, z2).

    Burda, Grosse and Salakhutdinov (2016), eq. 1, with two layers. In their model x depends on z1
    alone: give the decoder `reads: [0, <width of z1>]`. A decoder that reads all of z makes the
    model of Tomczak and Welling (2018), section 4.

    Args:
        latent_shape: `[z1 + z2]`.
        data: ignored.
        top: width of z2; null: half of the latent.
        hidden: widths between z2 and the parameters of p(z1 | z2).
        activation: of those.

    Raises:
        CompatibilityError: the latent is no vector, or too short for two layers.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> prior = HierarchicalPrior((5,), DataSpec((4,), SUPPORTS["real"], 100), top=2)
        >>> prior(None).z.sample((7,)).shape
        torch.Size([7, 5])
    """

    zero: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        data: DataSpec,
        *,
        top: Annotated[int, Ge(1)] | None = None,
        hidden: list[Annotated[int, Ge(1)]] = [64],  # noqa: B006 (read, never written)
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        lower, upper = layer_sizes("prior 'hierarchical'", latent_shape, top)
        self.top_down = ConditionalNormal(upper, lower, hidden, activation)
        self.register_buffer("zero", torch.zeros(upper), persistent=False)

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """The joint density; `inference` is not looked at."""
        return _joint(self.zero, self.top_down)


@final
class LadderPrior(Prior):
    """p(z1, z2) = N(z2; 0, I) p(z1 | z2), the second density being a part of family `ladder`.

    Sonderby et al. (2016), section 2: posterior and prior share the way down, so the posterior
    only corrects it by what the data say. Its weights are counted, stored and updated as the
    family's; what trains the prior alone has nothing to train here, and takes `hierarchical`.

    Args:
        latent_shape: unused; the family knows it.
        data: ignored.

    Raises:
        CompatibilityError: the family has no way down.
    """

    needs = Cap.TOP_DOWN

    def __init__(self, latent_shape: Shape, data: DataSpec) -> None:
        super().__init__()

    def forward(self, inference: Conditional) -> PriorDraw:
        """The joint density, from the current weights of the family."""
        top_down = getattr(inference.head, "top_down", None)
        if not isinstance(top_down, ConditionalNormal):
            raise CompatibilityError(
                f"prior 'ladder' shares p(z1 | z2) with the family, and "
                f"'{type(inference.head).__name__}' has none: choose family 'ladder', or prior "
                "'hierarchical', which has its own."
            )
        like = next(top_down.parameters())
        return _joint(like.new_zeros(top_down.given_size), top_down)


def _joint(zero: Tensor, top_down: nn.Module) -> PriorDraw:
    assert isinstance(top_down, ConditionalNormal)
    root = normal(zero, torch.ones_like(zero))
    return PriorDraw(Chain(root, top_down.pinned(), top_down.size, root_first=False))
