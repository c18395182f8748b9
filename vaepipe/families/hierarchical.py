"""Posteriors of two stochastic layers: from the bottom up, and as a ladder."""

from __future__ import annotations

from typing import Annotated, final

from annotated_types import Ge
from torch import Tensor
from torch.distributions import Independent

from vaepipe.core import (
    Activation,
    Cap,
    Chain,
    ConditionalNormal,
    Family,
    Shape,
    layer_sizes,
    normal,
    positive,
)


@final
class Hierarchical(Family):
    """q(z1, z2 | x) = N(z1; mu(x), sigma(x)^2) N(z2; mu(z1), sigma(z1)^2): bottom-up inference.

    Burda, Grosse and Salakhutdinov (2016), eq. 3, with two layers; the latent vector is (z1, z2).
    z2 sees x only through a draw of z1.

    Args:
        latent_shape: `[z1 + z2]`.
        top: width of z2; null: half of the latent.
        hidden: widths between z1 and the parameters of q(z2 | z1).
        activation: of those.

    Raises:
        CompatibilityError: the latent is no vector, or too short for two layers.

    Example:
        >>> import torch
        >>> q = Hierarchical((5,), top=2)(torch.zeros(7, 2, 3))
        >>> q.rsample((4,)).shape
        torch.Size([4, 7, 5])
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(
        self,
        latent_shape: Shape,
        *,
        top: Annotated[int, Ge(1)] | None = None,
        hidden: list[Annotated[int, Ge(1)]] = [64],  # noqa: B006 (read, never written)
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        lower, upper = layer_sizes("family 'hierarchical'", latent_shape, top)
        self.feature_shape = (2, lower)
        self.bottom_up = ConditionalNormal(lower, upper, hidden, activation)

    def forward(self, h: Tensor) -> Chain:
        """q(z1, z2 | h) for features `h` `[*batch, 2, z1]`."""
        loc, raw = h.unbind(-2)
        return Chain(normal(loc, positive(raw)), self.bottom_up.pinned(), self.bottom_up.size)


@final
class Ladder(Family):
    """q(z1, z2 | x) = q(z2 | x) q(z1 | z2, x), which corrects a way down by messages from x.

        q(z1 | z2, x) = N(mu, sigma^2),   1 / sigma^2 = 1 / s^2 + 1 / t^2
        mu = sigma^2 (m / s^2 + n / t^2)

    Sonderby et al. (2016), eqs. 18 and 19. The message N(m, s^2) about z1 and the density of z2
    are the encoder's features; N(n, t^2) is the way down from z2. Prior `ladder` takes the latter
    as its p(z1 | z2), as the paper does; with any other prior it belongs to q alone. The latent
    vector is (z1, z2).

    Args:
        latent_shape: `[z1 + z2]`.
        top: width of z2; null: half of the latent.
        hidden: widths between z2 and the parameters of the way down.
        activation: of those.

    Raises:
        CompatibilityError: the latent is no vector, or too short for two layers.

    Example:
        >>> import torch
        >>> q = Ladder((5,), top=2)(torch.zeros(7, 2, 5))
        >>> q.rsample((4,)).shape
        torch.Size([4, 7, 5])
    """

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY | Cap.TOP_DOWN

    def __init__(
        self,
        latent_shape: Shape,
        *,
        top: Annotated[int, Ge(1)] | None = None,
        hidden: list[Annotated[int, Ge(1)]] = [64],  # noqa: B006 (read, never written)
        activation: Activation = "relu",
    ) -> None:
        super().__init__()
        lower, upper = layer_sizes("family 'ladder'", latent_shape, top)
        self.feature_shape = (2, lower + upper)
        self.top_down = ConditionalNormal(upper, lower, hidden, activation)

    def forward(self, h: Tensor) -> Chain:
        """q(z1, z2 | h) for features `h` `[*batch, 2, z1 + z2]`."""
        loc, raw = h.unbind(-2)
        sizes = [self.top_down.size, self.top_down.given_size]
        (below, above), (s, spread) = loc.split(sizes, -1), positive(raw).split(sizes, -1)
        down = self.top_down.pinned()

        def corrected(z2: Tensor) -> Independent:
            p = down(z2).base_dist
            return _product(below, s, p.mean, p.stddev)

        return Chain(normal(above, spread), corrected, self.top_down.size, root_first=False)


def _product(m: Tensor, s: Tensor, n: Tensor, t: Tensor) -> Independent:
    """The normalised product of N(m, s^2) and N(n, t^2), in every dimension."""
    precision = s.square().reciprocal() + t.square().reciprocal()
    mean = (m / s.square() + n / t.square()) / precision
    return normal(mean, precision.rsqrt())
