"""Grey images and the five ways to show them to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vaepipe.core.noise import row_uniform
from vaepipe.core.spec import SUPPORTS, DataSpec, Shape
from vaepipe.core.streams import Purpose, stream
from vaepipe.datasets.base import Uniform, bernoulli

Binarize = Literal["dynamic", "static", "threshold", "none", "levels"]

_SUPPORT = {"none": "unit_interval", "levels": "integer"}


class GreyView:
    """Grey levels 0 … `levels` as binary, unit-interval or integer tensors.

    Integers are grey levels; floating point numbers are taken to be in [0, 1] already. A value
    outside becomes NaN, which lies in no support.

    Args:
        binarize: `dynamic` draws every pixel anew at every visit, x_j ~ Bernoulli(grey_j);
            `static` drew once, when the data were written; `threshold` cuts at one half;
            `none` keeps grey levels in [0, 1]; `levels` keeps them as the integers they are.
        levels: the largest stored value.
        seed: of the static draw and of the frozen draw of evaluation.
    """

    def __init__(self, binarize: Binarize, levels: int, seed: int) -> None:
        """Keep the settings."""
        self.binarize, self.levels, self.seed = binarize, levels, seed

    def spec(self, shape: Shape, num_examples: int) -> DataSpec:
        """What the view makes of images of a shape."""
        support = SUPPORTS[_SUPPORT.get(self.binarize, "boolean")]
        values = self.levels + 1 if self.binarize == "levels" else None
        return DataSpec(shape, support, num_examples, levels=values)

    def stored(self, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """What is written: a static draw is made here, once and for all."""
        if self.binarize != "static":
            return x
        grey = torch.tensor(x) / self.levels
        own = stream(self.seed, Purpose.BINARIZATION)
        noise = row_uniform(own, torch.from_numpy(ids), grey.shape[1:])
        return (noise < grey).to(torch.uint8).numpy()

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """The view of stored values."""
        value = x.to(torch.get_default_dtype())
        if self.binarize == "static" or (self._is_levels and not x.is_floating_point()):
            return value
        grey = value if x.is_floating_point() else value.div_(self.levels)  # a copy already
        seen = self._seen(grey, uniform)
        if x.dtype == torch.uint8 and self.levels == 255:
            return seen
        return torch.where((grey >= 0) & (grey <= 1), seen, torch.nan)

    def _seen(self, grey: Tensor, uniform: Uniform) -> Tensor:
        """Numbers in [0, 1] as the model sees them."""
        if self.binarize == "dynamic":
            return bernoulli(grey, uniform)
        if self._is_levels:
            return (grey * self.levels).round()
        return (grey >= 0.5).to(grey.dtype) if self.binarize == "threshold" else grey

    @property
    def _is_levels(self) -> bool:
        return self.binarize == "levels"

    def describe(self) -> Mapping[str, str]:
        """Binarization and its seed; they belong to the key of every result."""
        return {"binarization": self.binarize, "binarization_seed": str(self.seed)}
