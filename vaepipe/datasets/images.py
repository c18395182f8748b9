"""Grey images and the four ways to show them to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from vaepipe.core.noise import row_uniform
from vaepipe.core.spec import SUPPORTS
from vaepipe.datasets.base import Uniform, bernoulli

Binarize = Literal["dynamic", "static", "threshold", "none"]


class GreyView:
    """Grey levels 0 … `levels` as binary or unit-interval tensors.

    Args:
        binarize: `dynamic` draws every pixel anew at every visit, x_j ~ Bernoulli(grey_j);
            `static` drew once, when the data were written; `threshold` cuts at one half;
            `none` keeps grey levels in [0, 1].
        levels: the largest stored value.
        seed: of the static draw and of the frozen draw of evaluation.
    """

    def __init__(self, binarize: Binarize, levels: int, seed: int) -> None:
        """Keep the settings."""
        self.binarize, self.levels, self.seed = binarize, levels, seed

    @property
    def support(self) -> Constraint:
        """Where the values live."""
        return SUPPORTS["unit_interval" if self.binarize == "none" else "boolean"]

    def stored(self, x: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """What is written: a static draw is made here, once and for all."""
        if self.binarize != "static":
            return x
        grey = torch.from_numpy(x) / self.levels
        noise = row_uniform(self.seed, torch.from_numpy(ids), grey.shape[1:])
        return (noise < grey).to(torch.uint8).numpy()

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """The view of stored values."""
        if self.binarize == "static":
            return x.to(torch.get_default_dtype())
        grey = x.to(torch.get_default_dtype()) / self.levels
        if self.binarize == "dynamic":
            return bernoulli(grey, uniform)
        return (grey >= 0.5).to(grey.dtype) if self.binarize == "threshold" else grey

    def describe(self) -> Mapping[str, str]:
        """Binarization and its seed; they belong to the key of every result."""
        return {"binarization": self.binarize, "binarization_seed": str(self.seed)}
