"""The units that a model computes in: values relative to their mean and standard deviation."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn

from vaepipe.core.spec import DataSpec, Moments, Shape

LEAST_MEAN = 1e-3
"""The least mean that counts are taken to have: of some that are all zero there may come others."""
_MOST = 0.75
"""No standard deviation in [0, 1] is as large: the largest, with its rounding, is near 0.5."""
_LEAST = 1 / 256


class Units(nn.Module):
    """x = mean + scale u: what is fitted computes with u, so that the units of x never matter.

    The moments are buffers: they are stored with the weights. The mean is float64, because one that
    is large beside the scale would lose digits that x has. Weights that were stored without moments
    are of a model that computed in the units of x, and load as mean 0 and scale 1.

    Args:
        shape: of x.
        moments: of the training split; None: mean 0 and scale 1.

    Example:
        >>> moments = Moments(torch.tensor([1e9]).double(), torch.tensor([2.0]).double())
        >>> units = Units((1,), moments)
        >>> units(torch.tensor([[1e9 + 128.0]])).tolist()
        [[64.0]]
        >>> units.back(torch.tensor([[64.0]])).item() == 1e9 + 128
        True
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, shape: Shape, moments: Moments | None = None) -> None:
        super().__init__()
        zero = torch.zeros(shape, dtype=torch.double)
        mean, scale = moments or (zero, zero + 1)
        self.register_buffer("mean", mean.reshape(shape).to(zero, copy=True))
        self.register_buffer(
            "scale", scale.expand(shape).to(zero, copy=True).to(torch.get_default_dtype())
        )

    @property
    def log_scale(self) -> Tensor:
        """log of the scale `[*x]`: log p(u) - log p(x) of each value."""
        return self.scale.log()

    def forward(self, x: Tensor) -> Tensor:
        """Return u = (x - mean) / scale, in the precision of the weights."""
        return ((x - self.mean) / self.scale).to(self.scale.dtype)

    def back(self, u: Tensor) -> Tensor:
        """Return x = mean + scale u in float64, so that `forward` of it is u to all digits."""
        return self.mean + self.scale * u

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state_dict.setdefault(f"{prefix}mean", torch.zeros_like(self.mean))
        state_dict.setdefault(f"{prefix}scale", torch.ones_like(self.scale))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


@final
class LogUnits(Units):
    """log(1 + x) = mean + scale u, for counts: they are shown by orders of magnitude.

    Example:
        >>> LogUnits((1,))(torch.tensor([[0.0], [1e9]])).round().tolist()
        [[0.0], [21.0]]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return u = (log(1 + x) - mean) / scale, in the precision of the weights."""
        return super().forward(x.to(self.mean.dtype).log1p())

    def back(self, u: Tensor) -> Tensor:
        """Return x, in float64."""
        return super().back(u).expm1()


def units_of(data: DataSpec) -> Units:
    """Return the units of densities of x, those of the data where their moments are known.

    Real numbers have the mean and the standard deviation of each value. Numbers in [0, 1], such as
    grey levels, are in one unit already: their scale is that of all values together, the root of
    the mean variance, so that a pixel that hardly ever changes counts as little as it does in the
    picture.
    """
    if data.mean is None or data.scale is None:
        return Units(data.shape)
    scales = {"real": lambda scale: scale, "unit_interval": _together}
    if data.support_name not in scales:
        return Units(data.shape)
    return Units(data.shape, Moments(data.mean, scales[data.support_name](data.scale)))


def count_units(data: DataSpec) -> Units:
    """Return the units of log x, for counts x of which `data` has the mean m and the scale d.

    The mean is log m; the scale is d / m, the deviation of log x to first order, and at most 1.
    Integers that have a largest value are in one unit already, and theirs are 0 and 1.
    """
    if data.mean is None or data.scale is None or not data.counts:
        return Units(data.shape)
    mean = data.mean.double().clamp_min(LEAST_MEAN)
    return Units(data.shape, Moments(mean.log(), (data.scale / mean).clamp_max(1.0)))


def _together(scale: Tensor) -> Tensor:
    """The standard deviation of values in [0, 1], from that of each, which is 1 if it is constant.

    It is at least 1/256, a grey level of bytes: a split of equal pictures has none.
    """
    varying = torch.where(scale > _MOST, 0.0, scale)
    return varying.square().mean().sqrt().clamp_min(_LEAST)
