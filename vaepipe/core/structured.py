"""Densities of two stochastic layers: one variable, then another given the first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints

from vaepipe.core.perceptron import Perceptron
from vaepipe.core.scales import positive
from vaepipe.core.spec import Shape
from vaepipe.errors import CompatibilityError

Given = Callable[[Tensor], Distribution]
"""A conditional density: from `[*batch, d]` to a distribution of batch shape `[*batch]`."""


@final
class Chain(Distribution):
    """p(a, b) = p(a) p(b | a), an event being the two vectors side by side.

        log p(a, b) = log p(a) + log p(b | a)

    Mean and variance have no closed form and are not defined; draws estimate them.

    Args:
        root: p(a), batch shape `[*batch]`, event shape `[d_a]`.
        leaf: p(b | a), from `[*lead, *batch, d_a]`.
        leaf_size: d_b.
        root_first: whether an event is (a, b); else it is (b, a).

    Example:
        >>> a = normal(torch.zeros(5, 2), torch.ones(5, 2))
        >>> pair = Chain(a, lambda v: normal(v, torch.ones_like(v)), 2)
        >>> pair.rsample((3,)).shape, pair.log_prob(torch.zeros(5, 4)).shape
        (torch.Size([3, 5, 4]), torch.Size([5]))
    """

    arg_constraints = {}  # pyright: ignore[reportAssignmentType]
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(
        self, root: Distribution, leaf: Given, leaf_size: int, *, root_first: bool = True
    ) -> None:
        self.root, self.leaf, self.root_first = root, leaf, root_first
        self.sizes = (root.event_shape[0], leaf_size)
        event = torch.Size([sum(self.sizes)])
        super().__init__(root.batch_shape, event, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(a, b) `[*lead, *batch]` for events `[*lead, *batch, d_a + d_b]`."""
        a, b = self._split(value)
        return self.root.log_prob(a) + self.leaf(a).log_prob(b)

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # pyright: ignore
        """Draws `[*sample_shape, *batch, d_a + d_b]`, with gradients through both layers."""
        a = self.root.rsample(torch.Size(sample_shape))
        b = self.leaf(a).rsample()
        return torch.cat([a, b] if self.root_first else [b, a], -1)

    @torch.no_grad()
    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:  # pyright: ignore
        """Draws without gradients."""
        return self.rsample(sample_shape)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> Chain:  # pyright: ignore
        """The same density for more batch dimensions."""
        root = self.root.expand(torch.Size(batch_shape))
        return Chain(root, self.leaf, self.sizes[1], root_first=self.root_first)

    def _split(self, value: Tensor) -> tuple[Tensor, Tensor]:
        if self.root_first:
            a, b = value.split(list(self.sizes), -1)
        else:
            b, a = value.split([self.sizes[1], self.sizes[0]], -1)
        return a, b


@final
class ConditionalNormal(nn.Module):
    """p(b | a) = prod_d N(b_d; mu_d(a), sigma_d(a)^2), with mu and sigma from one perceptron.

    Args:
        given_size: width of a.
        size: width of b.
        hidden: widths of the perceptron's hidden layers.
        activation: of the hidden layers.

    Example:
        >>> ConditionalNormal(3, 2)(torch.zeros(5, 3)).event_shape
        torch.Size([2])
    """

    def __init__(
        self, given_size: int, size: int, hidden: Sequence[int] = (), activation: str = "relu"
    ) -> None:
        super().__init__()
        self.given_size, self.size = given_size, size
        self.network = Perceptron(given_size, 2 * size, hidden, activation)

    def forward(self, a: Tensor) -> Independent:
        """p(b | a) for a `[*batch, given_size]`."""
        return self.pinned()(a)

    def pinned(self) -> Callable[[Tensor], Independent]:
        """The conditional density with the parameters that hold now (see `Perceptron.pinned`)."""
        network = self.network.pinned()

        def given(a: Tensor) -> Independent:
            loc, raw = network(a).unflatten(-1, (2, self.size)).unbind(-2)
            return normal(loc, positive(raw))

        return given


def normal(loc: Tensor, scale: Tensor) -> Independent:
    """prod_d N(loc_d, scale_d^2) over the last dimension, without torch's argument checks."""
    return Independent(Normal(loc, scale, validate_args=False), 1, validate_args=False)


def layer_sizes(what: str, latent_shape: Shape, top: int | None) -> tuple[int, int]:
    """Widths of (z1, z2) in a latent vector z = (z1, z2); without `top` z2 is its smaller half.

    Raises:
        CompatibilityError: the latent is no vector, or leaves nothing for one of the layers.

    Example:
        >>> layer_sizes("prior 'hierarchical'", (150,), 50)
        (100, 50)
    """
    total = math.prod(latent_shape)
    upper = total // 2 if top is None else top
    if len(latent_shape) != 1 or not 0 < upper < total:
        raise CompatibilityError(
            f"{what} has two layers side by side in one vector: latent_shape must be "
            f"[z1 + z2] with `top` (z2) smaller than it, got latent_shape {list(latent_shape)} "
            f"and top {upper}."
        )
    return total - upper, upper
