"""Affine maps with activations between them, for networks and for the inside of densities."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Activation = Literal["relu", "tanh", "elu", "gelu", "silu", "softplus", "leaky_relu"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "tanh": torch.tanh,
    "elu": F.elu,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "leaky_relu": F.leaky_relu,
}


def affine(fan_in: int, fan_out: int) -> nn.Linear:
    """W h + b; W starts by Glorot and Bengio (2010), eq. 16, b at zero."""
    layer = nn.Linear(fan_in, fan_out)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


@final
class Perceptron(nn.Module):
    """`[*batch, fan_in] -> [*batch, fan_out]`, for use inside heads and priors.

    Args:
        fan_in: width of the input.
        fan_out: width of the output.
        hidden: widths between them; none gives an affine map.
        activation: of the hidden layers.

    Example:
        >>> Perceptron(3, 2, [8])(torch.zeros(5, 4, 3)).shape
        torch.Size([5, 4, 2])
    """

    def __init__(
        self, fan_in: int, fan_out: int, hidden: Sequence[int] = (), activation: str = "relu"
    ) -> None:
        super().__init__()
        self.activation = activation
        self.layers = nn.ModuleList(affine(a, b) for a, b in pairwise([fan_in, *hidden, fan_out]))

    def forward(self, v: Tensor) -> Tensor:
        """`[*batch, fan_in] -> [*batch, fan_out]`."""
        return self.pinned()(v)

    def pinned(self) -> Callable[[Tensor], Tensor]:
        """The function with the parameters that hold now.

        A density that evaluates a network later, in its `log_prob`, must keep what the network's
        parameters were when the head was called: inside `frozen` they are constants.
        """
        weights = [(layer.weight, layer.bias) for layer in self._affine()]
        activate = ACTIVATIONS[self.activation]

        def function(v: Tensor) -> Tensor:
            for weight, bias in weights[:-1]:
                v = activate(F.linear(v, weight, bias))
            return F.linear(v, *weights[-1])

        return function

    def _affine(self) -> list[nn.Linear]:
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]
