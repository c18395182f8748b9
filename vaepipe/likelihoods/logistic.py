"""Logistic distributions cut into the bins of integers, alone or as a mixture."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, final

import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import Independent, constraints
from torch.nn.functional import logsigmoid, softplus

from vaepipe.core import DataSpec, Likelihood, Shape
from vaepipe.likelihoods import scales
from vaepipe.likelihoods.elementwise import (
    Elementwise,
    joint,
    levels_of,
    matching,
    mean_of,
    piecewise,
    require_integers,
    stored,
)
from vaepipe.likelihoods.scales import Learned

_START_SCALE = 0.1
_START = (0.005, 0.995)
_TINY = -12.0
_TOGETHER = 16


@final
class DiscretizedLogisticLikelihood(Likelihood):
    """p(x | z) = prod_i P(X_i rounds to x_i), X_i logistic; the outer bins have no end.

        log p(x | z) = sum_i log[sigma((x_i + 1/2 - mu_i) / s_i) - sigma((x_i - 1/2 - mu_i) / s_i)]

    As Kingma et al. (2016) do for colours, with the outer bins of Salimans et al. (2017), eq. 2.
    The features are mu, or (mu, raw s) with `per_example`, in units where 0 … levels - 1 is
    [-1, 1]. Zero features mean the mean of the data where it is known, else the middle. s starts
    at a twentieth of the range and is at least an eighth of a bin.

    Args:
        data: shape, levels and mean of x.
        scale: s: one learned number (`learned`), one for every dimension of x (`per_dimension`),
            or predicted from z (`per_example`).

    Raises:
        CompatibilityError: the data have no `levels`.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> head = DiscretizedLogisticLikelihood(DataSpec((1,), SUPPORTS["integer"], 1, levels=256))
        >>> p = head(torch.zeros(1))
        >>> round(p.log_prob(torch.arange(256.0)[:, None]).exp().sum().item(), 5)
        1.0
    """

    support = constraints.nonnegative_integer
    log_scale: Tensor | None
    offset: Tensor

    def __init__(self, data: DataSpec, *, scale: Learned = "learned") -> None:
        super().__init__()
        self.levels = levels_of(data)
        self.ndim = len(data.shape)
        self.feature_shape = scales.feature_shape(data, scale)
        scales.keep(self, scales.own_log_scale(data, scale, _START_SCALE))
        self.register_buffer("offset", stored(_start(data, self.levels, 1)[0]))

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for features `h` `[*batch, *feature_shape]`."""
        floor = 0.25 / (self.levels - 1)
        own = self.log_scale
        loc, log_scale = scales.location_and_log_scale(h, own, self.ndim, floor, _START_SCALE)
        loc, log_scale = (loc + self.offset).unsqueeze(-1), log_scale.unsqueeze(-1)
        return joint(LogisticLevels(torch.zeros_like(loc), loc, log_scale, self.levels), self.ndim)


@final
class LogisticMixtureLikelihood(Likelihood):
    """p(x | z) = prod_i sum_k w_ik P(X_ik rounds to x_i), X_ik logistic.

    Salimans, Karpathy, Chen and Kingma (2017), eq. 2, for every number by itself (without
    their dependence between colours). The features are `[3, components, *x]`: logits of w, mu, and
    raw s, in units where 0 … levels - 1 is [-1, 1]. Zero features mean the mean of the data where
    it is known, else the middle, with the components side by side.

    Args:
        data: shape, levels and mean of x.
        components: of each mixture.

    Raises:
        CompatibilityError: the data have no `levels`.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> data = DataSpec((1,), SUPPORTS["integer"], 1, levels=256)
        >>> p = LogisticMixtureLikelihood(data, components=3)(torch.zeros(3, 3, 1))
        >>> round(p.log_prob(torch.arange(256.0)[:, None]).exp().sum().item(), 5)
        1.0
    """

    support = constraints.nonnegative_integer
    offset: Tensor

    def __init__(self, data: DataSpec, *, components: Annotated[int, Ge(1)] = 5) -> None:
        super().__init__()
        self.levels = levels_of(data)
        self.ndim = len(data.shape)
        self.feature_shape = (3, components, *data.shape)
        self.register_buffer("offset", stored(_start(data, self.levels, components)))

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for features `h` `[*batch, 3, components, *x]`."""
        axis = -2 - self.ndim
        features = h.narrow(axis, 1, 2)
        floor = 0.25 / (self.levels - 1)
        loc, log_scale = scales.location_and_log_scale(
            features, None, self.ndim + 1, floor, _START_SCALE
        )
        logits, loc, log_scale = (
            part.movedim(-1 - self.ndim, -1)
            for part in (h.select(axis, 0), loc + self.offset, log_scale)
        )
        return joint(LogisticLevels(logits, loc, log_scale, self.levels), self.ndim)


@final
class LogisticLevels(Elementwise):
    """A mixture of logistic variables rounded to 0 … levels - 1.

    Args:
        logits: of the components, `[*batch, K]`, not normalised.
        loc: mu in units where 0 … levels - 1 is [-1, 1], `[*batch, K]`.
        log_scale: log s in the same units, `[*batch, K]`.
        levels: number of values.
    """

    trailing = 1
    values = constraints.nonnegative_integer

    def __init__(self, logits: Tensor, loc: Tensor, log_scale: Tensor, levels: int) -> None:
        self.levels = levels
        self.log_weights = logits.log_softmax(-1)
        half = (levels - 1) / 2
        self.centre, self.log_width = (loc + 1) * half, log_scale + math.log(half)
        super().__init__(logits, loc, log_scale)

    @property
    def mean(self) -> Tensor:
        """sum_j P(x >= j), `[*batch]`."""
        return self._sum_of_tails(torch.ones_like)

    @property
    def variance(self) -> Tensor:
        """sum_j (2 j - 1) P(x >= j) - mean^2, `[*batch]`."""
        return self._sum_of_tails(lambda j: 2 * j - 1) - self.mean.square()

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Draws 0 … levels - 1, `[*sample, *batch]`."""
        shape = (*sample_shape, *self.log_weights.shape)
        gumbel = -torch.empty_like(self.log_weights).expand(shape).clone().exponential_().log()
        which = (self.log_weights + gumbel).argmax(-1, keepdim=True)
        centre = self.centre.expand(shape).gather(-1, which).squeeze(-1)
        log_width = self.log_width.expand(shape).gather(-1, which).squeeze(-1)
        draw = centre + log_width.exp() * torch.rand_like(centre).logit()
        return draw.round().clamp(0, self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each number, in nats.

        Raises:
            ValueError: x holds something else than the integers 0 … levels - 1.
        """
        require_integers(value, self.levels)
        return torch.logsumexp(self.log_weights + self._each(value.unsqueeze(-1)), -1)

    def _each(self, x: Tensor) -> Tensor:
        """log mass of every component: sigma(a) - sigma(b) = sigma(a) sigma(-b) (1 - e^(b - a))."""
        inverse = (-self.log_width).exp()
        below = logsigmoid((x + 0.5 - self.centre) * inverse)
        above = logsigmoid((self.centre - (x - 0.5)) * inverse)
        inner = below + above + _log_of_difference(-self.log_width)
        return torch.where(x == 0, below, torch.where(x == self.levels - 1, above, inner))

    def _sum_of_tails(self, weight: Callable[[Tensor], Tensor]) -> Tensor:
        """sum_j weight(j) P(x >= j), a few levels at a time."""
        total = torch.zeros_like(self.centre[..., 0])
        levels = torch.arange(1, self.levels, device=total.device, dtype=total.dtype)
        for j in levels.split(_TOGETHER):
            z = (self.centre.unsqueeze(-1) - (j - 0.5)) * (-self.log_width).exp().unsqueeze(-1)
            tails = (self.log_weights.exp().unsqueeze(-1) * z.sigmoid()).sum(-2)
            total = total + (tails * weight(j)).sum(-1)
        return total

    def _of(self, parameters: list[Tensor]) -> LogisticLevels:
        logits, loc, log_scale = parameters
        return LogisticLevels(logits, loc, log_scale, self.levels)


def _log_of_difference(log_d: Tensor) -> Tensor:
    """log(1 - e^(-d)) from log d; for d << 1 it is log d."""
    return piecewise(_TINY, log_d, lambda v: v, lambda v: torch.log(-torch.expm1(-v.exp())))


def _start(data: DataSpec, levels: int, components: int) -> Tensor:
    """Centres `[K, *x]`, a scale apart, whose rounded mean is nearly the mean of the data."""
    top = levels - 1
    width = _START_SCALE * top / 2
    apart = torch.arange(components, dtype=torch.float64, device="cpu") - (components - 1) / 2
    apart = (apart * width).reshape(-1, *(1 for _ in data.shape))

    def mean(centre: Tensor) -> Tensor:
        z = (centre + apart) / width
        return (width * (softplus(z) - softplus(z - top / width))).mean(0)

    low, high = (top * edge for edge in _START)
    target = mean_of(data, top / 2).cpu().clamp(low, high)
    centre = matching(mean, target, -float(top), 2.0 * top) + apart
    return 2 * centre / top - 1
