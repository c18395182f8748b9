"""The categorical likelihood: any distribution over a few integers."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, constraints

from vaepipe.core import DataSpec, Likelihood, Shape
from vaepipe.likelihoods.elementwise import (
    Elementwise,
    joint,
    levels_of,
    matching,
    mean_of,
    require_integers,
    stored,
)

_START = (0.01, 0.99)
_STEEPEST = 300.0


@final
class CategoricalLikelihood(Likelihood):
    """p(x | z) = prod_i softmax(l_i)[x_i], over `data.levels` values without an order.

        log p(x | z) = sum_i l_{i, x_i} - log sum_j exp(l_{i j}),   l = features + offset

    As in van den Oord, Kalchbrenner and Kavukcuoglu (2016) model colours. The features are
    `[levels, *x]`. Zero features mean, where the mean of the data is known, the distribution of
    greatest entropy with nearly this mean (a hundredth of it is uniform), else the uniform one,
    of log2(levels) bits for each number.

    Args:
        data: shape, levels and mean of x.

    Raises:
        CompatibilityError: the data have no `levels`.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> data = DataSpec((3,), SUPPORTS["integer"], 1, levels=256)
        >>> p = CategoricalLikelihood(data)(torch.zeros(256, 3))
        >>> round(p.log_prob(torch.tensor([0.0, 7.0, 255.0])).item() / -0.6931471805599453, 3)
        24.0
    """

    support = constraints.nonnegative_integer
    offset: Tensor

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        levels = levels_of(data)
        self.feature_shape = (levels, *data.shape)
        self.ndim = len(data.shape)
        self.register_buffer("offset", stored(_start(data, levels)))

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for features `h` `[*batch, levels, *x]`."""
        return joint(Levels((h + self.offset).movedim(-1 - self.ndim, -1)), self.ndim)


@final
class Levels(Elementwise):
    """A categorical variable with the values 0 … n - 1 as floating point, and their moments.

    Args:
        logits: `[*batch, n]`, not normalised.
    """

    trailing = 1
    values = constraints.nonnegative_integer

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits)

    @property
    def mean(self) -> Tensor:
        """sum_j j p_j, `[*batch]`: of use where the values have an order, as grey levels do."""
        return (self.logits.softmax(-1) * self._range).sum(-1)

    @property
    def mode(self) -> Tensor:
        """The likeliest value, `[*batch]`."""
        return self.logits.argmax(-1).to(self.logits.dtype)

    @property
    def variance(self) -> Tensor:
        """sum_j (j - mean)^2 p_j, `[*batch]`."""
        far = (self._range - self.mean.unsqueeze(-1)).square()
        return (self.logits.softmax(-1) * far).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws 0 … n - 1, `[*sample, *batch]`."""
        draws = Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
        return draws.to(self.logits.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each number, in nats.

        Raises:
            ValueError: x holds something else than the integers 0 … n - 1.
        """
        require_integers(value, self.logits.shape[-1])
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        logits = self.logits.expand(*shape, -1)
        chosen = logits.gather(-1, value.expand(shape).long().unsqueeze(-1)).squeeze(-1)
        return chosen - self.logits.logsumexp(-1)

    @property
    def _range(self) -> Tensor:
        return torch.arange(
            self.logits.shape[-1], device=self.logits.device, dtype=self.logits.dtype
        )


def _start(data: DataSpec, levels: int) -> Tensor:
    """log(0.99 exp(theta j) / Z + 0.01 / n) `[n, *x]`, theta such that the mean is the data's."""
    place = torch.linspace(-1, 1, levels, dtype=torch.float64, device="cpu")
    place = place.reshape(-1, *(1 for _ in data.shape))

    def mean(slope: Tensor) -> Tensor:
        return ((slope * place).softmax(0) * (place + 1) / 2).sum(0)

    target = (mean_of(data, (levels - 1) / 2).cpu() / (levels - 1)).clamp(*_START)
    slope = matching(mean, target, -_STEEPEST, _STEEPEST)
    return torch.log(0.99 * (slope * place).softmax(0) + 0.01 / levels)
