"""Scales from unbounded features, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

_FLOOR = 1e-6
_UNIT = math.log(math.expm1(1 - _FLOOR))


def positive(raw: Tensor) -> Tensor:
    """A scale from an unbounded feature: softplus(raw + c) + 1e-6, with c so that zero gives one.

    Growth is linear, so a wild feature does not overflow; the floor keeps the square of the scale,
    and its logarithm, finite in float32.

    Example:
        >>> round(positive(torch.zeros(())).item(), 5)
        1.0
    """
    return softplus(raw + _UNIT) + _FLOOR


def raw_of(scale: Tensor) -> Tensor:
    """The inverse of `positive`, for scales above 1e-6.

    Example:
        >>> scale = torch.tensor([0.01, 1.0, 30.0], dtype=torch.float64)
        >>> torch.allclose(positive(raw_of(scale)), scale, rtol=1e-9)
        True
    """
    above = scale - _FLOOR
    return above + torch.log(-torch.expm1(-above)) - _UNIT
