"""The evidence lower bound, with its rate in closed form or from draws."""

from __future__ import annotations

from typing import Annotated, final

from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import (
    Cap,
    Estimate,
    JointObjective,
    LatentModel,
    StepContext,
    has_closed_form,
    log_terms,
    over_strata,
    rate_per_dimension,
    stratified,
)
from vaepipe.errors import CompatibilityError
from vaepipe.objectives.bounds import rate_over_strata, weighted
from vaepipe.objectives.schedules import Ramp


@final
class ELBO(JointObjective):
    """E_q log p(x | z) - KL(q(z | x) || p(z)), the KL exact where torch knows it.

        surrogate = beta_t (rate + global_kl / N) - E_q log p(x | z)
        beta_t = beta min(1, epoch / warmup_epochs)

    Kingma and Welling (2014), eq. 3; beta: Higgins et al. (2017), eq. 4; warm-up: Bowman et al.
    (2016), section 3.1, and in cycles: Fu et al. (2019), eqs. 6 and 7; free bits: Kingma et al.
    (2016), eq. 16. `bound` is the true bound whatever the weights. Where no closed form exists the
    rate is log q(z) - log p(z).

    Args:
        samples: draws of z per example.
        beta: final weight of the rate.
        warmup_epochs: passes over the data until the weight is final.
        cycles: how many times the weight rises from zero.
        cycle_share: of a cycle that the rise takes; the weight stays for the rest of it.
        free_bits: nats of each latent dimension's mean rate that cost nothing.

    Raises:
        CompatibilityError: free bits, and q(z | x) or p(z) does not factorise.
        UserError: several cycles without `warmup_epochs`.
    """

    needs = Cap.RSAMPLE

    def __init__(
        self,
        *,
        samples: Annotated[int, Ge(1)] = 1,
        beta: Annotated[float, Ge(0)] = 1.0,
        warmup_epochs: Annotated[float, Ge(0)] = 0.0,
        cycles: Annotated[int, Ge(1)] = 1,
        cycle_share: Annotated[float, Gt(0), Le(1)] = 0.5,
        free_bits: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__()
        self.samples = samples
        self.beta = beta
        self.warmup_epochs = warmup_epochs
        self.weight = Ramp(beta, warmup_epochs, cycles, cycle_share)
        self.free_bits = free_bits
        self.couples = free_bits > 0

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        q, p = model.inference(x), model.p_z()
        z = stratified(q, self.samples)
        log_lik = over_strata(q, model.generator(z).log_prob(x))  # [k, batch]
        exact = rate_over_strata(q, p.z, z).expand_as(log_lik)
        cost = self._clamped_rate(q, p.z, z, ctx) if self.free_bits else exact.mean()
        global_rate = p.global_kl / ctx.num_examples
        return weighted(log_lik, exact, cost, global_rate, self.weight.at(ctx))

    def warm(self, ctx: StepContext) -> bool:
        """Return whether the weight of the rate is final."""
        return self.weight.ended(ctx)

    def scheduled(self, ctx: StepContext) -> dict[str, float]:
        """Return the weight of the rate, `beta`."""
        return {"beta": self.weight.at(ctx)}

    def notes(self, q: Distribution, p: Distribution) -> dict[str, str]:
        """How the rate is computed."""
        return {"rate": "closed form" if has_closed_form(q, p) else "sampled"}

    def _clamped_rate(
        self, q: Distribution, p: Distribution, z: Tensor, ctx: StepContext
    ) -> Tensor:
        """sum_d max(free_bits, mean over the whole batch of the rate of dimension d)."""
        rates = rate_per_dimension(q, p, z)
        if rates is None:
            raise CompatibilityError(
                f"free_bits of objective 'elbo' needs q(z|x) and p(z) that factorise over latent "
                f"dimensions; here they are {type(q).__name__} and {type(p).__name__}. Set "
                "free_bits: 0, or choose 'diagonal_normal' and 'standard_normal'."
            )
        mine = rates.reshape(-1, *q.batch_shape, *q.event_shape).mean(0)
        return ctx.batch.rows(mine).mean(0).clamp(min=self.free_bits).sum()


@final
class SampledELBO(JointObjective):
    """E_q [log p(x | z) - log q(z | x) + log p(z)], all of it from draws.

    Kingma and Welling (2014), eq. 6. The same bound as `ELBO`; its gradient varies more where the
    latter knows a closed form, and less where q equals the posterior.

    Args:
        samples: draws of z per example.
        beta: final weight of the rate.
        warmup_epochs: passes over the data until the weight is final.
        cycles: how many times the weight rises from zero.
        cycle_share: of a cycle that the rise takes; the weight stays for the rest of it.

    Raises:
        UserError: several cycles without `warmup_epochs`.
    """

    needs = Cap.RSAMPLE | Cap.DENSITY

    def __init__(
        self,
        *,
        samples: Annotated[int, Ge(1)] = 1,
        beta: Annotated[float, Ge(0)] = 1.0,
        warmup_epochs: Annotated[float, Ge(0)] = 0.0,
        cycles: Annotated[int, Ge(1)] = 1,
        cycle_share: Annotated[float, Gt(0), Le(1)] = 0.5,
    ) -> None:
        super().__init__()
        self.samples = samples
        self.beta = beta
        self.warmup_epochs = warmup_epochs
        self.weight = Ramp(beta, warmup_epochs, cycles, cycle_share)

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        q, p = model.inference(x), model.p_z()
        terms = log_terms(model, x, stratified(q, self.samples), p, q)
        log_lik, sampled = (over_strata(q, term) for term in terms)
        global_rate = p.global_kl / ctx.num_examples
        return weighted(log_lik, sampled, sampled.mean(), global_rate, self.weight.at(ctx))

    def warm(self, ctx: StepContext) -> bool:
        """Return whether the weight of the rate is final."""
        return self.weight.ended(ctx)

    def scheduled(self, ctx: StepContext) -> dict[str, float]:
        """Return the weight of the rate, `beta`."""
        return {"beta": self.weight.at(ctx)}

    def notes(self, q: Distribution, p: Distribution) -> dict[str, str]:
        """How the rate is computed."""
        return {"rate": "sampled"}
