"""A rate that is held at a target, which rises during training."""

from __future__ import annotations

from typing import Annotated, final

from annotated_types import Ge
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import (
    Cap,
    Estimate,
    JointObjective,
    LatentModel,
    StepContext,
    has_closed_form,
    over_strata,
    stratified,
)
from vaepipe.objectives.bounds import rate_over_strata, weighted
from vaepipe.objectives.schedules import Ramp


@final
class Capacity(JointObjective):
    """The rate R of a batch is pulled to C_t nats, which grow linearly to `capacity`.

        surrogate = gamma |R - C_t| + global_kl / N - E_q log p(x | z)
        C_t = capacity min(1, epoch / warmup_epochs)

    Burgess et al. (2018), eq. 8, with the mean rate of the batch inside the absolute value. `bound`
    is the ELBO.

    Args:
        samples: draws of z per example.
        gamma: price of a nat away from the target.
        capacity: the target in the end, nats.
        warmup_epochs: passes over the data until the target is final.
    """

    needs = Cap.RSAMPLE
    couples = True
    conformance = {
        "exempt": {"it learns": "a rate far from the capacity costs more than the bound gains"}
    }

    def __init__(
        self,
        *,
        samples: Annotated[int, Ge(1)] = 1,
        gamma: Annotated[float, Ge(0)] = 100.0,
        capacity: Annotated[float, Ge(0)] = 25.0,
        warmup_epochs: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__()
        self.samples = samples
        self.gamma = gamma
        self.target = Ramp(capacity, warmup_epochs)

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        q, p = model.inference(x), model.p_z()
        z = stratified(q, self.samples)
        log_lik = over_strata(q, model.generator(z).log_prob(x))  # [k, batch]
        exact = rate_over_strata(q, p.z, z).expand_as(log_lik)
        mean_rate = ctx.batch.rows(exact.mean(0)).mean()
        cost = self.gamma * (mean_rate - self.target.at(ctx)).abs()
        return weighted(log_lik, exact, cost, p.global_kl / ctx.num_examples, 1.0)

    def warm(self, ctx: StepContext) -> bool:
        """Return whether the target is final."""
        return self.target.ended(ctx)

    def scheduled(self, ctx: StepContext) -> dict[str, float]:
        """Return the target of the rate, `capacity`."""
        return {"capacity": self.target.at(ctx)}

    def notes(self, q: Distribution, p: Distribution) -> dict[str, str]:
        """How the rate is computed."""
        return {"rate": "closed form" if has_closed_form(q, p) else "sampled"}
