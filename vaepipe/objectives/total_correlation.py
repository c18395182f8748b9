"""A price on the dependence between latent dimensions."""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Annotated, Literal, final

import torch
from annotated_types import Ge
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
)

from vaepipe.core import (
    Cap,
    Concrete,
    Estimate,
    JointObjective,
    LatentModel,
    Mixture,
    StepContext,
    has_closed_form,
    over_strata,
    stratified,
)
from vaepipe.errors import CompatibilityError
from vaepipe.objectives.bounds import rate_over_strata, weighted
from vaepipe.objectives.schedules import Ramp

Estimator = Literal["weighted", "stratified"]


@final
class BetaTC(JointObjective):
    """The ELBO with a higher price for one part of the rate, the total correlation.

        R = I(x; z) + TC + sum_d KL(q(z_d) || p(z_d)),   TC = KL(q(z) || prod_d q(z_d))
        surrogate = R + (beta_t - 1) TC - E_q log p(x | z)

    Chen et al. (2018), eqs. 2 and 4, with alpha = gamma = 1: the other two parts need no estimate
    of q(z). The aggregate posterior is estimated from the batch (`log_aggregate`). `bound` is the
    ELBO. Marginals are known of factorised and full Normals, of mixtures of them, and of relaxed
    bits and codes; those of flows and of stochastic layers are integrals without a closed form.

    Args:
        beta: final price of the total correlation.
        estimator: of q(z).
        warmup_epochs: passes over the data in which beta rises from 1.

    Raises:
        CompatibilityError: the marginals of q(z | x) are not known.
    """

    needs = Cap.RSAMPLE | Cap.DENSITY
    smallest_batch = 2
    couples = True

    def __init__(
        self,
        *,
        beta: Annotated[float, Ge(0)] = 6.0,
        estimator: Estimator = "stratified",
        warmup_epochs: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__()
        self.estimator: Estimator = estimator
        self.extra = Ramp(beta - 1, warmup_epochs)

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        h, p = model.inference.features(x), model.p_z()
        q = model.inference.head(h)
        z = stratified(q, 1)
        log_lik = over_strata(q, model.generator(z).log_prob(x))
        exact = rate_over_strata(q, p.z, z).expand_as(log_lik)
        everyone = model.inference.head(ctx.batch.rows(h))
        draws = ctx.batch.rows(z.movedim(0, 1)).unbind(1)
        how = (ctx.num_examples, self.estimator)
        each = torch.stack([total_correlation(everyone, draw, *how) for draw in draws])
        tc = over_strata(everyone, each).mean()
        cost = exact.mean() + self.extra.at(ctx) * tc
        global_rate = p.global_kl / ctx.num_examples
        bound, surrogate, terms = weighted(log_lik, exact, cost, global_rate, 1.0)
        terms["total_correlation"] = tc.detach().expand(len(x))
        return Estimate(bound, surrogate, terms)

    def warm(self, ctx: StepContext) -> bool:
        """Return whether the price is final."""
        return self.extra.ended(ctx)

    def scheduled(self, ctx: StepContext) -> dict[str, float]:
        """Return the price of the total correlation, `beta`."""
        return {"beta": 1 + self.extra.at(ctx)}

    def notes(self, q: Distribution, p: Distribution) -> dict[str, str]:
        """How the rate and q(z) are computed."""
        known = "closed form" if has_closed_form(q, p) else "sampled"
        return {"rate": known, "aggregate posterior": self.estimator}


def total_correlation(
    q: Distribution, z: Tensor, num_examples: int, estimator: Estimator
) -> Tensor:
    """log q(z_i) - sum_d log q(z_id), estimated from a batch: `[batch]`, nats.

    Args:
        q: q(z | x), batch shape `[batch]`.
        z: a draw for each example, `[batch, *latent]`.
        num_examples: N.
        estimator: see `log_aggregate`.
    """
    pairs = z.unsqueeze(1)  # [batch, 1, *latent] against q of batch shape [batch]
    joint = log_aggregate(q.log_prob(pairs), num_examples, estimator)
    each = log_aggregate(marginals(q).log_prob(pairs), num_examples, estimator)
    return joint - each.reshape(len(joint), -1).sum(-1)


def log_aggregate(log_q: Tensor, num_examples: int, estimator: Estimator) -> Tensor:
    """log q(z_i) from a batch, q(z) = (1/N) sum_n q(z | x_n): `[batch, *rest]`.

        weighted:   log (1/M) sum_j q(z_i | x_j)
        stratified: log [ (1/N) q(z_i | x_i) + ((N-1)/N) mean_{j != i} q(z_i | x_j) ]

    The first is the mixture of the batch's own posteriors: Chen et al. (2018), eq. 5, without its
    constant -log N, which a difference of one joint and d marginal densities would keep (d - 1)
    times. It counts a draw's own posterior too often, N / M times, so where posteriors do not
    overlap it is too high, by log (N / M) at most. The second is their appendix C.2, averaged over
    the order of the batch, which keeps its expectation: the estimate of q(z_i), before the
    logarithm, is unbiased for a batch drawn without replacement.

    Args:
        log_q: log q(z_i | x_j), `[batch, batch, *rest]`.
        num_examples: N.
        estimator: which.
    """
    batch = len(log_q)
    if estimator == "weighted":
        return log_q.logsumexp(1) - math.log(batch)
    others = (num_examples - 1) / (num_examples * max(1, batch - 1))
    weights = torch.full((batch, batch), others, dtype=log_q.dtype, device=log_q.device)
    weights = weights.fill_diagonal_(1 / num_examples if batch > 1 else 1.0).log()
    return (log_q + weights.reshape(batch, batch, *[1] * (log_q.ndim - 2))).logsumexp(1)


@singledispatch
def marginals(q: Distribution) -> Distribution:
    """q(z_d | x) of every variable: event shape `[]`, batch shape `[batch, *latent]`.

    A relaxed one-hot code is one variable, since its K numbers determine each other: of codes
    `[n, K]` the marginals have event shape `[K]` and batch shape `[batch, n]`.

    Register other types with `marginals.register`.

    Raises:
        CompatibilityError: they are not known.
    """
    raise _unknown(q)


@marginals.register
def _independent(q: Independent) -> Distribution:
    if q.base_dist.event_shape and not isinstance(q.base_dist, Concrete):
        raise _unknown(q.base_dist)
    return q.base_dist


@marginals.register
def _full(q: MultivariateNormal) -> Normal:
    return Normal(q.loc, q.variance.sqrt(), validate_args=False)


@marginals.register
def _mixture(q: Mixture) -> Mixture:
    """sum_k w_k N(z_d; m_kd, s_kd^2), of Normals as components."""
    each, logits = marginals(q.component_distribution), q.mixture_distribution.logits
    if not isinstance(each, Normal):
        raise _unknown(q)
    k = logits.ndim - 1
    normals = Normal(each.loc.movedim(k, -1), each.scale.movedim(k, -1), validate_args=False)
    weights = logits.reshape(*logits.shape[:-1], *[1] * len(q.event_shape), logits.shape[-1])
    choice = Categorical(logits=weights.expand_as(normals.loc), validate_args=False)
    return Mixture(choice, normals, validate_args=False)


def _unknown(q: Distribution) -> CompatibilityError:
    return CompatibilityError(
        f"objective 'beta_tc' needs the marginals of q(z|x), and those of {type(q).__name__} are "
        "integrals without a closed form (of Normals and of mixtures of them they are known). "
        "Choose objective 'elbo' with `beta`, which prices the whole rate."
    )
