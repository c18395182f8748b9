"""The Indian buffet process as a prior, its sticks inferred once for the whole data set."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple, final

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent
from torch.nn.functional import softplus
from torch.quasirandom import SobolEngine
from torch.special import digamma, gammaln

from vaepipe.core import (
    BinaryConcrete,
    Conditional,
    DataSpec,
    Mixture,
    Prior,
    PriorDraw,
    Shape,
    log_prob_each,
)
from vaepipe.errors import CompatibilityError

_CERTAIN, _NEVER = -1e-6, -80.0
"""Bounds of log pi: inside them neither pi nor 1 - pi rounds to zero in float32."""
_EULER = 0.5772156649015329
_POINTS, _SEED = 128, 0
"""How many sticks stand for q(nu) in evaluation mode, and the seed of their scrambling."""
_EDGE = 1e-6
"""Quasi-random numbers stay this far from 0 and 1, in any precision."""
_MATCHINGS = 20
"""Steps of a fixed-point iteration whose error falls by a factor at each."""


class Kumaraswamy(NamedTuple):
    """Densities a b v^(a-1) (1 - v^a)^(b-1) on (0, 1), by their parameters.

    Kumaraswamy (1980); Nalisnick and Smyth (2017), section 3, for their use in place of the Beta,
    of which they are the case b = 1 (or a = 1).

    Example:
        >>> one = torch.ones(1)
        >>> q = Kumaraswamy(2 * one, one)  # Beta(2, 1)
        >>> round(q.mean().item(), 4), abs(q.kl_to_beta(2.0)).item() < 1e-6
        (0.6667, True)
    """

    a: Tensor
    b: Tensor

    def log_rsample(self) -> Tensor:
        """log v of one draw: `log_exceeded` with u ~ U(0, 1)."""
        tiny = torch.finfo(self.a.dtype).tiny
        return self.log_exceeded(torch.rand_like(self.a).clamp(min=tiny).log().clamp(max=-tiny))

    def log_exceeded(self, log_u: Tensor) -> Tensor:
        """log v of the v that is exceeded with probability u: log(1 - u^(1/b)) / a."""
        return torch.log(-torch.expm1(log_u / self.b)) / self.a

    def mean(self) -> Tensor:
        """E v = b B(1 + 1/a, b)."""
        first = 1 + 1 / self.a
        log_beta = gammaln(first) + gammaln(self.b) - gammaln(first + self.b)
        return self.b * log_beta.exp()

    def mean_log(self) -> Tensor:
        """E log v = -(gamma + digamma(b) + 1/b) / a, with Euler's gamma."""
        return -(_EULER + digamma(self.b) + 1 / self.b) / self.a

    def kl_to_beta(self, alpha: float) -> Tensor:
        """KL to Beta(alpha, 1), nats, without a series.

            log(a b / alpha) - (b - 1) / b + (a - alpha) E log v

        Nalisnick and Smyth (2017), eq. 12, whose infinite sum has the factor beta - 1 = 0 here.
        """
        log_ratio = (self.a * self.b / alpha).log()
        return log_ratio - (self.b - 1) / self.b + (self.a - alpha) * self.mean_log()


@final
class IBPPrior(Prior):
    """p(z | pi) = prod_k Bernoulli(z_k; pi_k): which of K features an example has.

        pi_k = prod_{j <= k} nu_j,   nu_j ~ Beta(alpha, 1),   q(nu_j) = Kumaraswamy(a_j, b_j)

    The stick-breaking construction of the Indian buffet process (Teh, Görür and Ghahramani, 2007,
    eq. 9), truncated at K, in a VAE (Chatzis, 2014; Singh, Ling and Doshi-Velez, 2017). The sticks
    nu are shared by all examples. q starts at the prior, which expects
    alpha (1 - (alpha / (1 + alpha))^K) features.

    **Training mode**: p(z | pi) for one draw of the sticks, which holds for a batch. With L_n(nu) a
    lower bound on log p(x_n | nu), objectives estimate

        (1/N) [sum_n E_q(nu) L_n(nu) - KL(q(nu) || p(nu))] <= (1/N) log p(x_1, …, x_N)

    where the divergence of the sticks, sum_j KL(Kumaraswamy(a_j, b_j) || Beta(alpha, 1)), is exact
    and counts once for the data set: it is divided by the number of examples.

    **Evaluation mode**: the predictive distribution of one new example under q(nu), as a mixture of
    M = 128 equally likely settings of the sticks,

        p(z) = (1/M) sum_m prod_k Bernoulli(z_k; pi_mk)  ~  E_q(nu) prod_k Bernoulli(z_k; pi_k)

    The settings are quantiles of q at scrambled Sobol points (Owen, 1998) with a fixed seed, so
    that p(z) is one normalised distribution, which depends on no generator, and draws of z are of
    it. The log odds of each feature are shifted to give it its exact probability E_q pi_k. What is
    reported of an example then is of p(x) = sum_z p(x | z) p(z) with this very p(z):
    `log_evidence` (in expectation) and `elbo` are lower bounds on log p(x), and `rate` is
    KL(q(z | x) || p(z)), which has no closed form and is sampled. The divergence of the sticks is
    no part of them: it belongs to the training set, on which q(nu) was fitted before the new
    example came. Each example is predicted by itself; as examples share the sticks, the sum over
    several is the logarithm of a product of predictive densities, not of their joint density, and
    is no bound on the evidence of a data set, which `bound` of training is.

    Args:
        latent_shape: shape of z; K is the number of its elements, in row-major order.
        data: ignored.
        alpha: how many features an example is expected to have, before the truncation.
        temperature: null for bits (family `bernoulli`); a number for bits relaxed at this
            temperature (family `binary_concrete`).

    Raises:
        CompatibilityError: more features than Sobol points have dimensions, 21,201.

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> data = DataSpec((4,), SUPPORTS["boolean"], 100)
        >>> prior = IBPPrior((100,), data, alpha=10.0).eval()
        >>> round(prior(None).z.mean.sum().item(), 3)
        9.999
    """

    points: Tensor

    def __init__(
        self,
        latent_shape: Shape,
        data: DataSpec,
        *,
        alpha: Annotated[float, Gt(0)] = 5.0,
        temperature: Annotated[float, Gt(0)] | None = None,
    ) -> None:
        super().__init__()
        self.latent_shape = tuple(latent_shape)
        self.alpha, self.temperature = alpha, temperature
        size = math.prod(latent_shape)
        self.log_a = nn.Parameter(torch.full((size,), math.log(alpha)))
        self.log_b = nn.Parameter(torch.zeros(size))
        self.register_buffer("points", _sobol(size), persistent=False)

    @property
    def sticks(self) -> Kumaraswamy:
        """q(nu), of shape `[K]`."""
        return Kumaraswamy(self.log_a.exp(), self.log_b.exp())

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """p(z | pi) for one draw of the sticks; in evaluation mode the predictive p(z).

        Returns:
            It, and KL(q(nu) || p(nu)), `[]`, nats, in either mode.
        """
        p = self._given_a_draw() if self.training else self._predictive()
        return PriorDraw(p, self.sticks.kl_to_beta(self.alpha).sum())

    def _given_a_draw(self) -> Distribution:
        logits = _log_odds(self.sticks.log_rsample().cumsum(0))
        return self._features(logits.reshape(self.latent_shape))

    def _predictive(self) -> Distribution:
        sticks = self.sticks
        logits = _log_odds(sticks.log_exceeded(self.points.log()).cumsum(1))  # [M, K]
        logits = _matched(logits, _log_odds(sticks.mean().log().cumsum(0)))
        equal = Categorical(logits=logits.new_zeros(len(logits)), validate_args=False)
        parts = self._features(logits.reshape(-1, *self.latent_shape))
        return Mixture(equal, parts, validate_args=False)

    def _features(self, logits: Tensor) -> Independent:
        """Features of these log odds `[*batch, *latent]`."""
        ndims = len(self.latent_shape)
        if self.temperature is None:
            return _Bits(Bernoulli(logits=logits, validate_args=False), ndims, validate_args=False)
        relaxed = BinaryConcrete(logits, self.temperature)
        return _RelaxedBits(relaxed, ndims, validate_args=False)


@final
class _Bits(Independent):
    """Independent bits, whose masses under many settings are one matrix product."""


@log_prob_each.register
def _bits(components: _Bits, z: Tensor) -> Tensor:
    """sum_k z_k l_mk - log(1 + exp l_mk) for log odds l."""
    ndims = components.reinterpreted_batch_ndims
    logits = components.base_dist.logits.flatten(-ndims)
    products = torch.einsum("...k,...mk->...m", z.flatten(-ndims), logits)
    return products - softplus(logits).sum(-1)


@final
class _RelaxedBits(Independent):
    """Independent relaxed bits, whose densities under many settings are taken one by one."""


@log_prob_each.register
def _relaxed_bits(components: _RelaxedBits, z: Tensor) -> Tensor:
    """Without a tensor `[*batch, M, *latent]`."""
    ndims, base = components.reinterpreted_batch_ndims, components.base_dist
    settings = base.logits.unbind(-1 - ndims)
    each = [BinaryConcrete(logits, base.temperature).log_prob(z) for logits in settings]
    return torch.stack([value.flatten(-ndims).sum(-1) for value in each], -1)


def _sobol(size: int) -> Tensor:
    """Points `[M, size]` that fill the unit cube evenly; they leave torch's generators alone."""
    if size > SobolEngine.MAXDIM:
        raise CompatibilityError(
            f"prior 'ibp' has at most {SobolEngine.MAXDIM} features, got {size}: choose a smaller "
            "latent_shape."
        )
    engine = SobolEngine(size, scramble=True, seed=_SEED)
    return engine.draw(_POINTS, dtype=torch.get_default_dtype()).clamp(_EDGE, 1 - _EDGE)


def _log_odds(log_pi: Tensor) -> Tensor:
    """log pi - log(1 - pi)."""
    log_pi = log_pi.clamp(_NEVER, _CERTAIN)
    return log_pi - torch.log(-torch.expm1(log_pi))


def _matched(logits: Tensor, mean: Tensor) -> Tensor:
    """Log odds `[M, K]`, each column shifted until the log odds of its mean are `mean` `[K]`."""
    for _ in range(_MATCHINGS):
        logits = logits + (mean - logits.sigmoid().mean(0).logit())
    return logits
