"""The path-derivative gradient of the ELBO."""

from __future__ import annotations

from typing import Annotated, final

from annotated_types import Ge
from torch import Tensor

from vaepipe.core import (
    Cap,
    Estimate,
    JointObjective,
    LatentModel,
    StepContext,
    frozen,
    log_terms,
    over_strata,
    stratified,
)


@final
class STL(JointObjective):
    """The ELBO with the gradient that sticks the landing.

        d/dphi [ log p(x, z) - log q_c(z | x) ],   z = z(eps, phi),   c = phi held constant

    Roeder, Wu and Duvenaud (2017), eq. 8: the score of q, whose mean is zero, is left out, so the
    gradient vanishes for every draw when q is the posterior. Unbiased for the ELBO only: for more
    importance samples take `dreg`.

    Args:
        samples: draws of z per example.
    """

    needs = Cap.RSAMPLE | Cap.DENSITY

    def __init__(self, *, samples: Annotated[int, Ge(1)] = 1) -> None:
        super().__init__()
        self.samples = samples

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        h, p, head = model.inference.features(x), model.p_z(), model.inference.head
        q = head(h)
        terms = log_terms(model, x, stratified(q, self.samples), p, frozen(head)(h.detach()))
        log_lik, rate = (over_strata(q, term) for term in terms)  # [k, batch]
        bound = (log_lik - rate).mean(0) - p.global_kl / ctx.num_examples
        terms = {"log_lik": log_lik.detach().mean(0), "rate": rate.detach().mean(0)}
        return Estimate(bound.detach(), -bound.mean(), terms)
