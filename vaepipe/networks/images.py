"""What networks over images share: which way they go, sizes on the way, the flat end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from vaepipe.core import Shape
from vaepipe.core.perceptron import affine
from vaepipe.errors import CompatibilityError
from vaepipe.networks.mlp import Elementwise
from vaepipe.networks.window import window

Size = tuple[int, int]


class Route(NamedTuple):
    """From an image down to a vector, or from a vector up to an image."""

    down: bool
    channels: int
    """Of the image: the product of every dimension but the last two."""
    size: Size
    """Height and width of the image."""
    width: int
    """Of the vector."""
    reads: slice
    """Which places of the flat input are read."""

    def follow(self, layers: nn.Module, v: Tensor) -> Tensor:
        """What `layers` make of `v` `[n, *in_shape]`, flat: `[n, prod(out_shape)]`."""
        if self.down:
            return layers(v.reshape(len(v), self.channels, *self.size))
        return layers(v.flatten(1)[:, self.reads]).flatten(1)


def route(
    network: str, in_shape: Shape, out_shape: Shape, reads: Sequence[int] | None = None
) -> Route:
    """Where a network leads: `[*c, h, w]` is an image; with two of them, the larger is the example.

    Raises:
        CompatibilityError: there is no image on either side, or `reads` does not fit.

    Example:
        >>> route("conv", (1, 28, 28), (2, 40)).down, route("conv", (40,), (2, 1, 28, 28)).channels
        (True, 2)
    """
    before, after = _area(in_shape), _area(out_shape)
    if not before and not after:
        raise CompatibilityError(
            f"network '{network}' reads or makes images [channels, height, width], but maps "
            f"{list(in_shape)} to {list(out_shape)}. Choose 'mlp', or give the dataset such a "
            "`shape`."
        )
    down = before >= after
    if down and reads is not None:
        raise CompatibilityError(
            f"`reads` of network '{network}' is for places of a latent vector, and this network "
            f"reads an image of shape {list(in_shape)}: leave it out."
        )
    shape, places = in_shape if down else out_shape, window(in_shape, reads)
    width = math.prod(out_shape) if down else places.stop - places.start
    return Route(down, math.prod(shape[:-2]), (shape[-2], shape[-1]), width, places)


def sizes(size: Size, steps: int) -> list[Size]:
    """The size, and what is left of it after each of some halvings, rounded up.

    Example:
        >>> sizes((105, 28), 2)
        [(105, 28), (53, 14), (27, 7)]
    """
    found = [size]
    for _ in range(steps):
        height, width = found[-1]
        found.append(((height + 1) // 2, (width + 1) // 2))
    return found


def shrink(channels_in: int, channels_out: int, kernel: int) -> nn.Conv2d:
    """A convolution that halves height and width, rounding up."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2)


def grow(channels_in: int, channels_out: int, kernel: int, to: Size) -> nn.ConvTranspose2d:
    """The mirror image of `shrink`: from the half of `to` to `to`, odd or even."""
    extra = (1 - to[0] % 2, 1 - to[1] % 2)
    return nn.ConvTranspose2d(
        channels_in, channels_out, kernel, stride=2, padding=kernel // 2, output_padding=extra
    )


def to_vector(shape: Shape, hidden: Sequence[int], width: int, activation: str) -> list[nn.Module]:
    """From feature maps of this shape through hidden layers to a vector."""
    return [nn.Flatten(), *dense([math.prod(shape), *hidden, width], activation)]


def from_vector(
    width: int, hidden: Sequence[int], shape: Shape, activation: str
) -> list[nn.Module]:
    """From a vector through hidden layers to feature maps of this shape."""
    layers = dense([width, *reversed(hidden), math.prod(shape)], activation)
    return [*layers, nn.Unflatten(1, shape)]


def dense(widths: Sequence[int], activation: str) -> list[nn.Module]:
    """Affine maps with an activation between them."""
    layers: list[nn.Module] = []
    for pair in pairwise(widths):
        layers += [affine(*pair), Elementwise(activation)]
    return layers[:-1]


def _area(shape: Shape) -> int:
    return math.prod(shape[-2:]) if len(shape) > 2 else 0
