"""Fully connected networks."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal, final

from annotated_types import Ge
from torch import Tensor, nn

from vaepipe.core import Network, Shape

Activation = Literal["relu", "tanh", "elu", "gelu", "silu", "softplus", "leaky_relu"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "leaky_relu": nn.LeakyReLU,
}


@final
class MLP(Network):
    """Affine maps with an activation between them: h_{i+1} = a(W_i h_i + b_i).

    Weights start by Glorot and Bengio (2010), eq. 16, biases at zero.

    Args:
        in_shape: event shape of the input, flattened.
        out_shape: event shape of the features.
        hidden: widths of the hidden layers; none gives an affine map.
        activation: of the hidden layers.

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
    ) -> None:
        super().__init__()
        widths = [math.prod(in_shape), *hidden, math.prod(out_shape)]
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [_affine(fan_in, fan_out), _ACTIVATIONS[activation]()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, v: Tensor) -> Tensor:
        """`[n, *in_shape] -> [n, prod(out_shape)]`."""
        return self.layers(v.flatten(1))


def _affine(fan_in: int, fan_out: int) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
