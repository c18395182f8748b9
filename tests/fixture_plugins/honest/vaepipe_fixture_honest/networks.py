"""Networks."""

from math import prod

import torch
from torch import nn

from vaepipe.core import Network


class Honest(Network):
    """One affine map and a tanh."""

    def __init__(self, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.affine = nn.Linear(prod(in_shape), prod(out_shape))

    def forward(self, v):
        """Features."""
        return torch.tanh(self.affine(v.flatten(1)))
