"""Averages of the weights over the steps: what is validated and kept instead of the last ones."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar, final

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


@final
class Average(Generic[M]):
    """An exponential moving average of what a module learns: trained parameters and buffers.

        a_{t+1} = d a_t + (1 - d) w_{t+1},   d = min(decay, (1 + t) / (10 + t))

    The first steps count more than `decay` says, so that the start is soon forgotten. Buffers of
    real numbers (running means, a code book) are averaged with the weights that they belong to;
    integers are as in the module itself. It depends on the step alone, so a fit that is
    resumed goes on with the same numbers.

    Args:
        module: what is trained.
        decay: in (0, 1).

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> average = Average(layer, 0.999)
        >>> _ = layer.weight.data.fill_(1.0), average.module.weight.data.fill_(0.0)
        >>> average.update(0)
        >>> round(average.module.weight.item(), 6)
        0.9
    """

    def __init__(self, module: M, decay: float) -> None:
        """The average starts at what the module holds now."""
        self.module: M = copy.deepcopy(module)
        self.decay = decay
        pairs = list(zip(self.module.parameters(), module.parameters(), strict=True))
        pairs = [(mine, theirs) for mine, theirs in pairs if theirs.requires_grad]
        buffers = list(zip(self.module.buffers(), module.buffers(), strict=True))
        self._averages: list[Tensor] = [mine for mine, _ in pairs]
        self._values: list[Tensor] = [theirs for _, theirs in pairs]
        self._reals = [pair for pair in buffers if pair[1].is_floating_point()]
        self._copies = [pair for pair in buffers if not pair[1].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in what the module holds after a step, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._values, 1 - decay)  # pyright: ignore
        for mine, theirs in self._reals:  # one that stays infinite has no difference from itself
            mine.copy_(torch.where(mine == theirs, mine, mine.lerp(theirs, 1 - decay)))
        for mine, theirs in self._copies:
            mine.copy_(theirs)
