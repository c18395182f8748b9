"""A scale that is given, learned, or predicted from z."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from vaepipe.core import DataSpec, Shape
from vaepipe.likelihoods.elementwise import log_positive

Learned = Literal["learned", "per_dimension", "per_example"]
Scale = Annotated[float, Gt(0)] | Learned


def feature_shape(data: DataSpec, scale: Scale) -> Shape:
    """Features of a location, and of a scale beside it if it is predicted: `[2, *x]`."""
    return (2, *data.shape) if scale == "per_example" else tuple(data.shape)


def own_log_scale(data: DataSpec, scale: Scale, start: float = 1.0) -> Tensor | None:
    """log s as the likelihood keeps it: a parameter, a constant, or None if it is predicted."""
    if scale == "per_example":
        return None
    if isinstance(scale, str):
        shape = data.shape if scale == "per_dimension" else ()
        return nn.Parameter(torch.full(shape, math.log(start)))
    return torch.tensor(math.log(scale))


def keep(head: nn.Module, value: Tensor | None) -> None:
    """Store log s with the weights, under the name `log_scale`."""
    if isinstance(value, nn.Parameter):
        head.register_parameter("log_scale", value)
    else:
        head.register_buffer("log_scale", value)


def location_and_log_scale(
    h: Tensor, own: Tensor | None, ndim: int, floor: float, start: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Location and log s `[*batch, *x]` of features `h`; s is at least about `floor`.

    A predicted scale is start · positive(feature) + floor. A learned one is cut at the floor, with
    the gradient that it has there, so that it can leave again.

    Args:
        h: `[*batch, *x]`, or `[*batch, 2, *x]` where the scale is predicted.
        own: what `own_log_scale` gave.
        ndim: number of dimensions of x.
        floor: least scale; a density without one can grow without bound where data are constant.
        start: a predicted scale where the feature is zero.
    """
    if own is None:
        loc, raw = h.unbind(-1 - ndim)
        log_scale = log_positive(raw) + math.log(start)
        return loc, torch.logaddexp(log_scale, torch.full_like(raw, math.log(floor)))
    cut = own.detach().clamp_min(math.log(floor)) - own.detach()
    return h, (own + cut).expand_as(h)
