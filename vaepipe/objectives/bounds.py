"""Lines that objectives share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import (
    Cap,
    Estimate,
    LatentModel,
    StepContext,
    has_closed_form,
    over_strata,
    rate,
)
from vaepipe.errors import CompatibilityError


def weighted(
    log_lik: Tensor, exact: Tensor, cost: Tensor, global_rate: Tensor | float, weight: float
) -> Estimate:
    """The ELBO as the bound, with something else to pay for the rate.

        bound = E_q log p(x | z) - rate - global_rate
        surrogate = weight (cost + global_rate) - mean log p(x | z)

    Args:
        log_lik: log p(x | z), `[k, batch]`, nats.
        exact: the true rate, `[k, batch]`, nats.
        cost: what is paid for it, `[]`.
        global_rate: KL of global variables, nats per example.
        weight: of what is paid.
    """
    terms = {"log_lik": log_lik.detach().mean(0), "rate": exact.detach().mean(0)}
    bound = terms["log_lik"] - terms["rate"] - global_rate
    surrogate = weight * (cost + global_rate) - log_lik.mean()
    return Estimate(bound.detach(), surrogate, terms)


def rate_over_strata(q: Distribution, p: Distribution, z: Tensor) -> Tensor:
    """The rate of q: exact `[batch]`, or `[k, batch]` from its `stratified` draws z."""
    r = rate(q, p, z)
    return r if has_closed_form(q, p) else over_strata(q, r)


def require_own_prior(model: LatentModel, objective: str) -> None:
    """The prior has weights of its own, for an objective that trains it apart from the family.

    Raises:
        CompatibilityError: they are the family's, and would not be trained as those of p(z).
    """
    if Cap.TOP_DOWN in model.prior.needs:
        raise CompatibilityError(
            f"objective '{objective}' trains the prior apart from q(z|x), and "
            f"{type(model.prior).__name__} is a part of the family: choose prior 'hierarchical', "
            "which has weights of its own."
        )


def elbo_at(
    model: LatentModel, x: Tensor, q: Distribution, z: Tensor, ctx: StepContext
) -> Estimate:
    """The ELBO of q at its `stratified` draws z, as a function of all that made them."""
    p = model.p_z()
    log_lik = over_strata(q, model.generator(z).log_prob(x))
    exact = rate_over_strata(q, p.z, z).expand_as(log_lik)
    return weighted(log_lik, exact, exact.mean(), p.global_kl / ctx.num_examples, 1.0)


def elbo_under(
    model: LatentModel, x: Tensor, q: Distribution, k: int, ctx: StepContext
) -> Estimate:
    """The ELBO of a constant q from k draws, as a function of decoder and prior: an M-step."""
    p = model.p_z()
    known = has_closed_form(q, p.z)
    with torch.no_grad():
        z = q.sample((k,))
        log_q = torch.zeros(()) if known else q.log_prob(z)
    log_lik = model.generator(z).log_prob(x)
    exact = rate(q, p.z, z) if known else log_q - p.z.log_prob(z)
    exact = exact.expand_as(log_lik)
    return weighted(log_lik, exact, exact.mean(), p.global_kl / ctx.num_examples, 1.0)
