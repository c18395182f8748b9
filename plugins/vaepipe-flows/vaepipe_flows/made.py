"""A masked network: coordinate i of what it makes reads the coordinates before i."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, linear

from vaepipe_flows.solve import Function

_START = 0.1


@final
class MADE(nn.Module):
    """Features of an autoregressive conditional: out_i = f_i(v_1 ... v_{i-1}; c).

    Germain et al. (2015), eqs. 8-9. Hidden units of degree m read v_1 ... v_m; those of degree
    zero read the context alone, so the first coordinate depends on it like the others.

    Args:
        d: coordinates of v.
        context: size of c; 0 for none.
        hidden: widths of the hidden layers.
        outputs: features for each coordinate.

    Example:
        >>> net = MADE(3, context=2, hidden=[8], outputs=2)
        >>> net(torch.zeros(5, 2))(torch.zeros(7, 5, 3)).shape
        torch.Size([7, 5, 2, 3])
    """

    def __init__(self, d: int, *, context: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        degrees = [torch.arange(1, d + 1), *(_degrees(width, d) for width in hidden)]
        ends = torch.arange(d).repeat(outputs)
        masks = [high[:, None] >= low for low, high in pairwise([*degrees, ends])]
        for i, mask in enumerate(masks):
            self.register_buffer(f"mask_{i}", mask.to(torch.get_default_dtype()), persistent=False)
        layers = [nn.Linear(len(low), len(high)) for low, high in pairwise([*degrees, ends])]
        with torch.no_grad():
            layers[-1].weight.mul_(_START)
            layers[-1].bias.zero_()
        self.layers = nn.ModuleList(layers)
        self.reader = nn.Linear(context, len(masks[0]), bias=False) if context else None

    def forward(self, c: Tensor | None) -> Function:
        """The network for the context `c` `[*batch, context]`: `[*, d] -> [*, outputs, d]`."""
        weights = [layer.weight * getattr(self, f"mask_{i}") for i, layer in enumerate(self.layers)]
        biases: list[Tensor] = [cast(Tensor, layer.bias) for layer in self.layers]
        if self.reader is not None:
            biases[0] = biases[0] + self.reader(c)
        return partial(_apply, weights, biases, self.outputs)


def _apply(weights: Sequence[Tensor], biases: Sequence[Tensor], outputs: int, v: Tensor) -> Tensor:
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        v = elu(linear(v, weight) + bias)
    v = linear(v, weights[-1]) + biases[-1]
    return v.reshape(*v.shape[:-1], outputs, v.shape[-1] // outputs)


def _degrees(width: int, d: int) -> Tensor:
    """`width` degrees, evenly from 0 to d - 1."""
    return torch.arange(width) * d // width
