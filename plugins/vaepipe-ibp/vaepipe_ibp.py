"""The Indian buffet process as a prior, its sticks inferred once for the whole data set."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple, final

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent
from torch.special import digamma, gammaln

from vaepipe.core import BinaryConcrete, Conditional, DataSpec, Prior, PriorDraw, Shape

_CERTAIN, _NEVER = -1e-6, -80.0
"""Bounds of log pi: inside them neither pi nor 1 - pi rounds to zero in float32."""
_EULER = 0.5772156649015329


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
        """log v of one draw: log(1 - u^(1/b)) / a, u ~ U(0, 1)."""
        tiny = torch.finfo(self.a.dtype).tiny
        log_u = torch.rand_like(self.a).clamp(min=tiny).log().clamp(max=-tiny)
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
    nu are shared by all examples: one draw holds for a batch, and their divergence

        KL(q(nu) || p(nu)) = sum_j KL(Kumaraswamy(a_j, b_j) || Beta(alpha, 1))

    is exact and counts once for the data set; objectives divide it by the number of examples. q
    starts at the prior, which expects alpha (1 - (alpha / (1 + alpha))^K) features. In evaluation
    mode nothing is drawn: pi_k is its mean under q, the probability of the feature in a new
    example, so that a model's numbers do not depend on a seed.

    Args:
        latent_shape: shape of z; K is the number of its elements, in row-major order.
        data: ignored.
        alpha: how many features an example is expected to have, before the truncation.
        temperature: null for bits (family `bernoulli`); a number for bits relaxed at this
            temperature (family `binary_concrete`).

    Example:
        >>> from vaepipe.core import SUPPORTS
        >>> data = DataSpec((4,), SUPPORTS["boolean"], 100)
        >>> prior = IBPPrior((100,), data, alpha=10.0).eval()
        >>> round(prior(None).z.mean.sum().item(), 3)
        9.999
    """

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

    @property
    def sticks(self) -> Kumaraswamy:
        """q(nu), of shape `[K]`."""
        return Kumaraswamy(self.log_a.exp(), self.log_b.exp())

    def forward(self, inference: Conditional | None) -> PriorDraw:
        """p(z | pi) for one draw of the sticks (their mean in evaluation mode); see the class."""
        sticks = self.sticks
        log_nu = sticks.log_rsample() if self.training else sticks.mean().log()
        logits = _log_odds(log_nu.cumsum(0)).reshape(self.latent_shape)
        if self.temperature is None:
            bits = Bernoulli(logits=logits, validate_args=False)
        else:
            bits = BinaryConcrete(logits, self.temperature)
        p = Independent(bits, logits.ndim, validate_args=False)
        return PriorDraw(p, sticks.kl_to_beta(self.alpha).sum())


def _log_odds(log_pi: Tensor) -> Tensor:
    """log pi - log(1 - pi)."""
    log_pi = log_pi.clamp(_NEVER, _CERTAIN)
    return log_pi - torch.log(-torch.expm1(log_pi))
