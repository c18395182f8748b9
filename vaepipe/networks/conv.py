"""Convolutional networks over images, down and up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, final

from annotated_types import Ge, MinLen
from torch import Tensor, nn

from vaepipe.core import Activation, Network, Shape
from vaepipe.networks.images import Route, from_vector, grow, route, shrink, sizes, to_vector
from vaepipe.networks.mlp import Elementwise


@final
class Conv(Network):
    """Strided convolutions from an image to features, or transposed ones from a latent to an image.

    Which of the two is seen from the shapes: `[c, h, w]` on one side is the image, and dimensions
    before it, such as the two of a Normal's parameters, count as channels. Each level halves
    height and width, rounded up, so images of any size have their mirror. Convolutions start as
    torch does it, affine maps by Glorot and Bengio (2010), eq. 16.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the features.
        channels: of each level, from the image inwards.
        kernel: height and width of a convolution.
        hidden: widths of fully connected layers between feature maps and vector, from the image
            inwards.
        activation: after every layer but the last.
        reads: [from, to], if only these places of a flat latent are read.

    Raises:
        CompatibilityError: neither side is an image, or `reads` does not fit.

    Example:
        >>> import torch
        >>> Conv((1, 28, 28), (2, 40), channels=[8, 16])(torch.zeros(5, 1, 28, 28)).shape
        torch.Size([5, 80])
        >>> Conv((40,), (1, 28, 28), channels=[8, 16])(torch.zeros(5, 40)).shape
        torch.Size([5, 784])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = [32, 64],  # noqa: B006
        kernel: Literal[3, 5, 7] = 3,
        hidden: list[Annotated[int, Ge(1)]] = [256],  # noqa: B006 (read, never written)
        activation: Activation = "relu",
        reads: list[Annotated[int, Ge(0)]] | None = None,
    ) -> None:
        super().__init__()
        self.route = route("conv", in_shape, out_shape, reads)
        shape = (channels[-1], *sizes(self.route.size, len(channels))[-1])
        if self.route.down:
            levels = _down(self.route, channels, kernel, activation)
            layers = levels + to_vector(shape, hidden, self.route.width, activation)
        else:
            levels = _up(self.route, channels, kernel, activation)
            layers = from_vector(self.route.width, hidden, shape, activation) + levels
        self.layers = nn.Sequential(*layers)

    def forward(self, v: Tensor) -> Tensor:
        """`[n, *in_shape] -> [n, prod(out_shape)]`."""
        return self.route.follow(self.layers, v)


def _down(way: Route, channels: Sequence[int], kernel: int, activation: str) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for pair in pairwise([way.channels, *channels]):
        layers += [shrink(*pair, kernel), Elementwise(activation)]
    return layers


def _up(way: Route, channels: Sequence[int], kernel: int, activation: str) -> list[nn.Module]:
    """The levels of `_down` in reverse; the activation comes before a convolution, not after."""
    layers: list[nn.Module] = []
    onto = sizes(way.size, len(channels) - 1)
    for (outer, inner), size in zip(pairwise([way.channels, *channels]), onto, strict=True):
        layers = [Elementwise(activation), grow(inner, outer, kernel, size), *layers]
    return layers
