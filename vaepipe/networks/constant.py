"""Features that ignore what they are given."""

from __future__ import annotations

import math
from typing import final

from torch import Tensor

from vaepipe.core import Network, Shape


@final
class Constant(Network):
    """h = 0 for every v, without parameters: a start for features that are optimised.

    As the encoder of objective `svi` it stands for "no encoder".

    Args:
        in_shape: ignored.
        out_shape: event shape of the features.

    Example:
        >>> import torch
        >>> Constant((28, 28), (2, 3))(torch.randn(5, 28, 28)).abs().sum().item()
        0.0
    """

    def __init__(self, in_shape: Shape, out_shape: Shape) -> None:
        super().__init__()
        self.size = math.prod(out_shape)

    def forward(self, v: Tensor) -> Tensor:
        """`[n, *in_shape] -> [n, prod(out_shape)]`, zeros."""
        return v.new_zeros(len(v), self.size)
