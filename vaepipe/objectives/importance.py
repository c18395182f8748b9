"""Importance-weighted bounds on the evidence."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import (
    Cap,
    Estimate,
    JointObjective,
    LatentModel,
    Mixture,
    Objective,
    Part,
    Phase,
    StepContext,
    frozen,
    log_mean_exp,
    log_over_strata,
    log_terms,
    over_strata,
    scale_gradient,
    stratified,
)


@final
class IWAE(JointObjective):
    """The importance-weighted bound of k draws, with its own gradient.

        E log (1/k) sum_i w_i,   w_i = p(x, z_i) / q(z_i | x),   z_i ~ q(z | x)

    Burda, Grosse and Salakhutdinov (2016), eq. 8. It rises with k towards log p(x); one draw gives
    the ELBO. The encoder's gradient drowns in noise as k grows (Rainforth et al., 2018): `dreg`
    does not. `terms` are those of the ELBO, so they do not add up to the bound.

    Args:
        k: draws of z per example.
    """

    needs = Cap.RSAMPLE | Cap.DENSITY

    def __init__(self, *, k: Annotated[int, Ge(1)] = 5) -> None:
        super().__init__()
        self.k = k

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        q, p = model.inference(x), model.p_z()
        log_lik, rate = log_terms(model, x, stratified(q, self.k), p, q)  # [k S, batch]
        log_w = log_over_strata(q, log_lik - rate)  # [k, batch]
        bound = log_mean_exp(log_w) - p.global_kl / ctx.num_examples
        return Estimate(
            bound.detach(), -bound.mean(), _terms(over_strata(q, log_lik), over_strata(q, rate))
        )


@final
class DReG(JointObjective):
    """The importance-weighted bound with the doubly reparameterized gradient.

        encoder: sum_i v_i^2 dz_i/dphi d(log w_i)/dz_i,   the rest: sum_i v_i d(log w_i)
        v_i = w_i / sum_j w_j, a constant

    Tucker et al. (2019), eq. 8. The same bound as `IWAE`; the encoder's gradient gets better, not
    worse, as k grows. It needs the path of z through every choice: of a mixture whose components
    are far apart take `iwae` (see `through_mixture`).

    Args:
        k: draws of z per example.
    """

    needs = Cap.RSAMPLE | Cap.DENSITY

    def __init__(self, *, k: Annotated[int, Ge(1)] = 5) -> None:
        super().__init__()
        self.k = k

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        h, p, head = model.inference.features(x), model.p_z(), model.inference.head
        z = head(h).rsample((self.k,))
        log_lik, rate = log_terms(model, x, z, p, frozen(head)(h.detach()))
        log_w = log_lik - rate  # [k, batch]
        v = log_w.detach().softmax(0)
        scale_gradient(z, v)
        global_rate = p.global_kl / ctx.num_examples
        bound = log_mean_exp(log_w.detach()) - global_rate
        surrogate = global_rate - (v * log_w).sum(0).mean()
        return Estimate(bound.detach(), surrogate, _terms(log_lik, rate))

    def notes(self, q: Distribution, p: Distribution) -> dict[str, str]:
        """Whether the gradient passes through a choice."""
        if not isinstance(q, Mixture):
            return {}
        return {"gradient": "along paths, noisy where components are far apart; 'iwae' is not"}


@final
class MIWAE(JointObjective):
    """The mean of m importance-weighted bounds of k draws each.

        E (1/m) sum_j log (1/k) sum_i w_ij

    Rainforth et al. (2018), eq. 9. In expectation it is the bound of `iwae` with k draws, which is
    what `bound` reports; its encoder's gradient has less noise, by 1 / sqrt(m).

    Args:
        m: bounds that are averaged.
        k: draws of z per example in each of them.
    """

    needs = Cap.RSAMPLE | Cap.DENSITY
    conformance = {"options": {"m": 2, "k": 3}, "same_bound_as": {"type": "iwae", "k": 3}}

    def __init__(self, *, m: Annotated[int, Ge(1)] = 8, k: Annotated[int, Ge(1)] = 8) -> None:
        super().__init__()
        self.m = m
        self.k = k

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        return _mean_of_bounds(model, x, ctx, self.m, self.k)


@final
class PIWAE(Objective):
    """An encoder that follows the mean of m bounds, a decoder that follows one bound of m k draws.

        encoder: E (1/m) sum_j log (1/k) sum_i w_ij,   the rest: E log (1/(m k)) sum_ij w_ij

    Rainforth et al. (2018), section 5.3 (partially importance weighted). The encoder moves first,
    then decoder and prior, on draws of their own; each phase's `bound` is the one that it follows,
    so what is reported last is the bound of `iwae` with m k draws.

    Args:
        m: bounds that the encoder's target averages.
        k: draws of z per example in each of them.
    """

    needs = Cap.RSAMPLE | Cap.DENSITY
    trains = Part.MODEL

    def __init__(self, *, m: Annotated[int, Ge(1)] = 8, k: Annotated[int, Ge(1)] = 8) -> None:
        super().__init__()
        self.m = m
        self.k = k

    def phases(self) -> tuple[Phase, ...]:
        """Encoder, then generator."""
        generator = Part.GENERATOR | Part.PRIOR
        return (
            Phase("inference", Part.INFERENCE, self.infer),
            Phase("generation", generator, self.generate),
        )

    def infer(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """The mean of m bounds, for the encoder."""
        return _mean_of_bounds(model, x, ctx, self.m, self.k)

    def generate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """One bound of m k draws, for decoder and prior."""
        with torch.no_grad():
            q = model.inference(x)
            z = q.sample((self.m * self.k,))
            log_q = q.log_prob(z)
        p = model.p_z()
        log_lik, rate = model.generator(z).log_prob(x), log_q - p.z.log_prob(z)
        bound = log_mean_exp(log_lik - rate) - p.global_kl / ctx.num_examples
        return Estimate(bound.detach(), -bound.mean(), _terms(log_lik, rate))


@final
class CIWAE(JointObjective):
    """A mixture of the ELBO and the importance-weighted bound of the same k draws.

        surrogate: -[ beta E (1/k) sum_i log w_i + (1 - beta) E log (1/k) sum_i w_i ]

    Rainforth et al. (2018), eq. 10. `bound` is the importance-weighted bound, the tighter of the
    two, whatever beta: comparable with `iwae`.

    Args:
        beta: weight of the ELBO; 0 is `iwae`, 1 is `elbo_sampled` with k samples.
        k: draws of z per example.
    """

    needs = Cap.RSAMPLE | Cap.DENSITY
    conformance = {"options": {"k": 3}, "same_bound_as": {"type": "iwae", "k": 3}}

    def __init__(
        self, *, beta: Annotated[float, Ge(0), Le(1)] = 0.05, k: Annotated[int, Ge(1)] = 64
    ) -> None:
        super().__init__()
        self.beta = beta
        self.k = k

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        q, p = model.inference(x), model.p_z()
        log_lik, rate = log_terms(model, x, stratified(q, self.k), p, q)  # [k S, batch]
        global_rate = p.global_kl / ctx.num_examples
        elbo = over_strata(q, log_lik - rate).mean(0)
        tight = log_mean_exp(log_over_strata(q, log_lik - rate))
        mixed = self.beta * elbo + (1 - self.beta) * tight - global_rate
        return Estimate(
            (tight - global_rate).detach(),
            -mixed.mean(),
            _terms(over_strata(q, log_lik), over_strata(q, rate)),
        )


def _mean_of_bounds(model: LatentModel, x: Tensor, ctx: StepContext, m: int, k: int) -> Estimate:
    q, p = model.inference(x), model.p_z()
    log_lik, rate = log_terms(model, x, stratified(q, m * k), p, q)
    log_w = log_over_strata(q, log_lik - rate)
    each = log_mean_exp(log_w.unflatten(0, (m, k)), dim=1)  # [m, batch]
    bound = each.mean(0) - p.global_kl / ctx.num_examples
    return Estimate(
        bound.detach(), -bound.mean(), _terms(over_strata(q, log_lik), over_strata(q, rate))
    )


def _terms(log_lik: Tensor, rate: Tensor) -> dict[str, Tensor]:
    return {"log_lik": log_lik.detach().mean(0), "rate": rate.detach().mean(0)}
