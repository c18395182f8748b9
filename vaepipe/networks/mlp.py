"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal, final

import torch
from annotated_types import Ge
from torch import Tensor, nn

from vaepipe.core import ACTIVATIONS, Activation, Network, Shape
from vaepipe.core.perceptron import affine
from vaepipe.networks.window import window

Kind = Literal["plain", "gated", "residual"]


@final
class MLP(Network):
    """Affine maps with something between them that is not affine.

        plain: h_{i+1} = a(W_i h_i + b_i)
        gated: h_{i+1} = (W_i h_i + b_i) * sigmoid(V_i h_i + c_i)
        residual: h_{i+1} = P_i h_i + B_i a(A_i h_i + b_i) + c_i,   P_i = 1 between equal widths

    The gate is that of Dauphin et al. (2017), eq. 1; Tomczak and Welling (2018) build their models
    of it. A last affine map makes the features. Weights start by Glorot and Bengio (2010), eq. 16,
    biases at zero.

    Args:
        in_shape: event shape of the input, flattened.
        out_shape: event shape of the features.
        hidden: widths of the hidden layers; none gives an affine map.
        activation: of the hidden layers; gated ones have none.
        kind: how a hidden layer is made.
        reads: [from, to], if only these places of the flat input are read: the decoder of a
            latent of two layers reads the lower one.

    Raises:
        CompatibilityError: `reads` is not within the input.

    Example:
        >>> import torch
        >>> MLP((28, 28), (2, 40), hidden=[300, 300])(torch.zeros(5, 28, 28)).shape
        torch.Size([5, 80])
    """

    def __init__(
        self,
        in_shape: Shape,
        out_shape: Shape,
        *,
        hidden: list[Annotated[int, Ge(1)]] = [256, 256],  # noqa: B006 (read, never written)
        activation: Activation = "relu",
        kind: Kind = "plain",
        reads: list[Annotated[int, Ge(0)]] | None = None,
    ) -> None:
        super().__init__()
        self.window = window(in_shape, reads)
        widths = [self.window.stop - self.window.start, *hidden]
        layers = [_layer(kind, activation, *pair) for pair in pairwise(widths)]
        last = affine(widths[-1], math.prod(out_shape))
        self.layers = nn.Sequential(*(part for layer in layers for part in layer), last)

    def forward(self, v: Tensor) -> Tensor:
        """`[n, *in_shape] -> [n, prod(out_shape)]`."""
        return self.layers(v.flatten(1)[:, self.window])


@final
class Elementwise(nn.Module):
    """An activation as a module."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, h: Tensor) -> Tensor:
        """Any shape."""
        return ACTIVATIONS[self.name](h)


@final
class Gated(nn.Module):
    """(W h + b) * sigmoid(V h + c)."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.value, self.gate = affine(fan_in, fan_out), affine(fan_in, fan_out)

    def forward(self, h: Tensor) -> Tensor:
        """`[n, fan_in] -> [n, fan_out]`."""
        return self.value(h) * torch.sigmoid(self.gate(h))


@final
class Residual(nn.Module):
    """P h + B a(A h + b) + c."""

    def __init__(self, fan_in: int, fan_out: int, activation: str) -> None:
        super().__init__()
        self.way: nn.Module = nn.Identity()
        if fan_in != fan_out:
            self.way = nn.Linear(fan_in, fan_out, bias=False)
            nn.init.xavier_uniform_(self.way.weight)
        self.inner, self.outer = affine(fan_in, fan_out), affine(fan_out, fan_out)
        self.activation = activation

    def forward(self, h: Tensor) -> Tensor:
        """`[n, fan_in] -> [n, fan_out]`."""
        return self.way(h) + self.outer(ACTIVATIONS[self.activation](self.inner(h)))


def _layer(kind: str, activation: str, fan_in: int, fan_out: int) -> list[nn.Module]:
    makers: dict[str, Callable[[], list[nn.Module]]] = {
        "plain": lambda: [affine(fan_in, fan_out), Elementwise(activation)],
        "gated": lambda: [Gated(fan_in, fan_out)],
        "residual": lambda: [Residual(fan_in, fan_out, activation)],
    }
    return makers[kind]()
