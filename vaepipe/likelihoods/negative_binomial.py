"""Likelihoods of overdispersed counts: negative binomial, with or without extra zeros."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.distributions import Gamma, Independent, constraints
from torch.nn.functional import logsigmoid, softplus

from vaepipe.core import DataSpec, Shape
from vaepipe.core.units import LEAST_MEAN
from vaepipe.likelihoods.counts import CountLikelihood, stirling_error, surplus
from vaepipe.likelihoods.elementwise import (
    Elementwise,
    joint,
    mean_of,
    positive,
    require_integers,
    stored,
)
from vaepipe.likelihoods.scales import Learned

_FLOOR = 1e-4
_ZEROS = 0.1
_LEAST_SURPLUS = 0.01
"""Of the variance over that of Poisson variables: what is less cannot be learned in float32."""


class _Overdispersed(CountLikelihood):
    """Counts of a learned or predicted dispersion r = r_0 softplus(raw + c)."""

    added = {"spread": 1.0, "start_dispersion": 1.0}
    raw_dispersion: Tensor | None
    start_dispersion: Tensor

    def __init__(self, data: DataSpec, dispersion: Learned, zeros: Tensor | float = 0.0) -> None:
        super().__init__(data, zeros)
        self.register_parameter("raw_dispersion", _own_dispersion(data, dispersion))
        self.register_buffer("start_dispersion", _start_dispersion(data))

    def counts(self, mean: Tensor, raw: Tensor) -> GammaPoisson:
        """Counts of features `[*batch, *x]` of the mean and of the dispersion."""
        return GammaPoisson(self.log_mean(mean), self.start_dispersion * positive(raw) + _FLOOR)


@final
class NegativeBinomialLikelihood(_Overdispersed):
    """p(x | z) = prod_i NB(x_i; mu_i, r_i), of mean mu and variance mu + mu^2 / r.

        log p(x | z) = sum_i log Gamma(x + r) - log Gamma(r) - log x! + r log(r / (r + mu))
                       + x log(mu / (r + mu))

    A Poisson variable whose rate is Gamma distributed; r -> infinity is the Poisson likelihood.
    The features are mu before m softplus(v h + c), as for `poisson`, and with `per_example` the
    dispersion r beside it. r starts where the data have their variance, m^2 / (d^2 - m) for their
    mean m and standard deviation d, where these are known, but at one or more.

    Args:
        data: shape and moments of x.
        dispersion: r: one learned number (`learned`), one for every dimension of x
            (`per_dimension`), or predicted from z (`per_example`).

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> head = NegativeBinomialLikelihood(DataSpec((1,), SUPPORTS["integer"], 1))
        >>> p = head(torch.zeros(1))
        >>> [round(p.log_prob(torch.tensor([x])).exp().item(), 3) for x in (0.0, 1.0, 2.0)]
        [0.5, 0.25, 0.125]
    """

    def __init__(self, data: DataSpec, *, dispersion: Learned = "per_dimension") -> None:
        super().__init__(data, dispersion)
        predicted = dispersion == "per_example"
        self.feature_shape = (2, *data.shape) if predicted else tuple(data.shape)

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for features `h` `[*batch, *feature_shape]`."""
        own = self.raw_dispersion
        mean, raw = h.unbind(-1 - self.ndim) if own is None else (h, own.expand_as(h))
        return joint(self.counts(mean, raw), self.ndim)


@final
class ZeroInflatedNegativeBinomialLikelihood(_Overdispersed):
    """p(x | z) = prod_i pi_i [x_i = 0] + (1 - pi_i) NB(x_i; mu_i, r_i): counts with dropout.

    As the gene likelihood of Lopez et al. (2018, "Deep generative modeling for single-cell
    transcriptomics"), without a library size. The features are `[2, *x]`: mu before
    m softplus(v h + c), and the logit of pi; with `per_example` also the dispersion r, `[3, *x]`.
    pi starts at 0.1, or at the most that counts of this mean and standard deviation can have of
    zeros, d^2 / (m^2 + d^2); r as that of `negative_binomial`. Zero features have the mean of the
    data where it is known.

    Args:
        data: shape and moments of x.
        dispersion: r: one learned number (`learned`), one for every dimension of x
            (`per_dimension`), or predicted from z (`per_example`).

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> head = ZeroInflatedNegativeBinomialLikelihood(DataSpec((1,), SUPPORTS["integer"], 1))
        >>> round(head(torch.zeros(2, 1)).mean.item(), 5)
        1.0
    """

    added = {**_Overdispersed.added, "zero_logit": math.log(_ZEROS / (1 - _ZEROS))}
    zero_logit: Tensor

    def __init__(self, data: DataSpec, *, dispersion: Learned = "per_dimension") -> None:
        zeros = _start_zeros(data)
        super().__init__(data, dispersion, zeros)
        self.register_buffer("zero_logit", stored(zeros.logit()))
        predicted = dispersion == "per_example"
        self.feature_shape = (3 if predicted else 2, *data.shape)

    def forward(self, h: Tensor) -> Independent:
        """p(x | h) for features `h` `[*batch, *feature_shape]`."""
        mean, zeros, *rest = h.unbind(-1 - self.ndim)
        raw = rest[0] if self.raw_dispersion is None else self.raw_dispersion.expand_as(mean)
        return joint(ZeroInflated(self.counts(mean, raw), zeros + self.zero_logit), self.ndim)


@final
class GammaPoisson(Elementwise):
    """Negative binomial variables by mean and dispersion.

    Args:
        log_mean: log mu, `[*batch]`.
        dispersion: r > 0, `[*batch]`.
    """

    values = constraints.nonnegative_integer

    def __init__(self, log_mean: Tensor, dispersion: Tensor) -> None:
        self.log_mean, self.dispersion = log_mean, dispersion
        super().__init__(log_mean, dispersion)

    @property
    def mean(self) -> Tensor:
        """mu, `[*batch]`."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """mu + mu^2 / r, `[*batch]`."""
        return self.mean + self.mean.square() / self.dispersion

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Counts `[*sample, *batch]`: Poisson draws at Gamma distributed rates."""
        log_mean, dispersion = self._wide(sample_shape)
        rate = Gamma(dispersion, 1.0, validate_args=False).sample()
        return torch.poisson(rate * log_mean.exp() / dispersion)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each number, in nats.

        Raises:
            ValueError: x holds something else than 0, 1, 2 …
        """
        require_integers(value)
        r, x = self.dispersion, value.clamp_min(1)
        none = -r * softplus(self.log_mean - r.log())
        return torch.where(value == 0, none, self._some(x, r))

    def _some(self, x: Tensor, r: Tensor) -> Tensor:
        """log p(x) for x >= 1: r / (r + x) times a binomial mass, as Loader (2000) writes it."""
        total = r + x
        drift = (total / (r + self.mean)).log()
        away = r * surplus(drift) + x * surplus(drift + self.log_mean - x.log())
        error = stirling_error(total) - stirling_error(r) - stirling_error(x)
        return 0.5 * (r / (2 * math.pi * x * total)).log() + error - away


@final
class ZeroInflated(Elementwise):
    """Counts that are zero with probability pi, whatever the distribution they come from.

    Args:
        counts: distribution of the others.
        logits: of pi, `[*batch]`.
    """

    values = constraints.nonnegative_integer

    def __init__(self, counts: Elementwise, logits: Tensor) -> None:
        self.counts, self.logits = counts, logits
        super().__init__(*counts.parameters, logits)

    @property
    def mean(self) -> Tensor:
        """(1 - pi) mu, `[*batch]`."""
        return (-self.logits).sigmoid() * self.counts.mean

    @property
    def variance(self) -> Tensor:
        """(1 - pi) (v + pi mu^2), v the variance of the others, `[*batch]`."""
        pi, mean = self.logits.sigmoid(), self.counts.mean
        return (-self.logits).sigmoid() * (self.counts.variance + pi * mean.square())

    @torch.no_grad()
    def sample(self, sample_shape: Shape = ()) -> Tensor:
        """Counts `[*sample, *batch]`."""
        draws = self.counts.sample(sample_shape)
        return draws * (torch.rand_like(draws) >= self.logits.sigmoid())

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) of each number, in nats.

        Raises:
            ValueError: x holds something else than 0, 1, 2 …
        """
        counted = logsigmoid(-self.logits) + self.counts.log_prob(value)
        either = torch.logaddexp(logsigmoid(self.logits), counted)
        return torch.where(value == 0, either, counted)

    def _of(self, parameters: list[Tensor]) -> ZeroInflated:
        *others, logits = parameters
        return ZeroInflated(self.counts._of(others), logits)


def _own_dispersion(data: DataSpec, dispersion: Learned) -> nn.Parameter | None:
    """r before `positive`, where it does not depend on z."""
    if dispersion == "per_example":
        return None
    return nn.Parameter(torch.zeros(data.shape if dispersion == "per_dimension" else ()))


def _start_dispersion(data: DataSpec) -> Tensor:
    """r_0 `[*x]`: of counts with the variance of the data, from one to 100 times their mean."""
    if data.mean is None or data.scale is None or not data.counts:
        return torch.ones(data.shape)
    mean = mean_of(data, 1.0).clamp_min(LEAST_MEAN)
    surplus = data.scale.double().square() / mean - 1  # the variance by the mean, less one
    return stored((mean / surplus.clamp_min(_LEAST_SURPLUS)).clamp_min(1.0))


def _start_zeros(data: DataSpec) -> Tensor:
    """pi `[*x]` at the start, double; at most the bound of Cantelli on P(x <= 0)."""
    start = torch.full(data.shape, _ZEROS, dtype=torch.double)
    if data.mean is None or data.scale is None or not data.counts:
        return start
    spread = (data.scale.double() / mean_of(data, 1.0).clamp_min(LEAST_MEAN)).square()
    return torch.minimum(start, spread / (1 + spread))
