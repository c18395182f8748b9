"""Residual convolutional networks over images, down and up."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, final

from annotated_types import Ge, MinLen
from torch import Tensor, nn

from vaepipe.core import ACTIVATIONS, Activation, Network, Shape
from vaepipe.networks.images import Route, from_vector, grow, route, shrink, sizes, to_vector
from vaepipe.networks.mlp import Elementwise

_GROUPS = 8
_PER_GROUP = 4


@final
class ResNet(Network):
    """Residual blocks on levels that halve height and width, from an image to features or back.

        h <- h + conv(a(norm(conv(a(norm(h))))))

    He et al. (2016b), figure 4e, with group normalisation (Wu and He, 2018, eqs. 1 to 4) in the
    place of batch normalisation: an example is worth the same alone and in a batch, and workers
    need not tell each other means. Which way it goes is seen from the shapes, as in `conv`.

    Args:
        in_shape: event shape of the input.
        out_shape: event shape of the features.
        channels: of each level, from the image inwards.
        blocks: residual blocks on each level.
        hidden: widths of fully connected layers between feature maps and vector, from the image
            inwards.
        activation: a.
        reads: [from, to], if only these places of a flat latent are read.

    Raises:
        CompatibilityError: neither side is an image, or `reads` does not fit.

    Example:
        >>> import torch
        >>> ResNet((3, 9, 8), (2, 5), channels=[8, 16])(torch.zeros(4, 3, 9, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        channels: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] = [32, 64],  # noqa: B006
        blocks: Annotated[int, Ge(1)] = 1,
        hidden: list[Annotated[int, Ge(1)]] = [],  # noqa: B006 (read, never written)
        activation: Activation = "silu",
        reads: list[Annotated[int, Ge(0)]] | None = None,
    ) -> None:
        super().__init__()
        self.route = route("resnet", in_shape, out_shape, reads)
        shape = (channels[-1], *sizes(self.route.size, len(channels))[-1])
        if self.route.down:
            levels = _down(self.route, channels, blocks, activation)
            layers = levels + to_vector(shape, hidden, self.route.width, activation)
        else:
            levels = _up(self.route, channels, blocks, activation)
            layers = from_vector(self.route.width, hidden, shape, activation) + levels
        self.layers = nn.Sequential(*layers)

    def forward(self, v: Tensor) -> Tensor:
        """`[n, *in_shape] -> [n, prod(out_shape)]`."""
        return self.route.follow(self.layers, v)


@final
class Block(nn.Module):
    """h + conv(a(norm(conv(a(norm(h)))))), for feature maps `[n, channels, h, w]`."""

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__()
        self.norms = nn.ModuleList(normalisation(channels) for _ in range(2))
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        """The same shape."""
        change = h
        for norm, conv in zip(self.norms, self.convs, strict=True):
            change = conv(ACTIVATIONS[self.activation](norm(change)))
        return h + change


def normalisation(channels: int) -> nn.GroupNorm:
    """Up to eight groups of four channels or more, so that one pixel is never its own mean."""
    fits = (g for g in range(_GROUPS, 0, -1) if channels % g == 0 and channels >= _PER_GROUP * g)
    return nn.GroupNorm(next(fits, 1), channels)


def _down(way: Route, channels: Sequence[int], blocks: int, activation: str) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(way.channels, channels[0], 3, padding=1)]
    for outer, inner in pairwise([channels[0], *channels]):
        layers += [shrink(outer, inner, 3), *(Block(inner, activation) for _ in range(blocks))]
    return [*layers, Elementwise(activation)]


def _up(way: Route, channels: Sequence[int], blocks: int, activation: str) -> list[nn.Module]:
    """The levels of `_down` in reverse."""
    layers: list[nn.Module] = []
    onto = sizes(way.size, len(channels) - 1)
    for (outer, inner), size in zip(pairwise([channels[0], *channels]), onto, strict=True):
        level = [*(Block(inner, activation) for _ in range(blocks)), grow(inner, outer, 3, size)]
        layers = [*level, *layers]
    last = nn.Conv2d(channels[0], way.channels, 3, padding=1)
    return [*layers, Elementwise(activation), last]
