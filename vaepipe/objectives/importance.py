"""Importance-weighted bounds on the evidence."""

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
    log_mean_exp,
    log_terms,
    scale_gradient,
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
        log_lik, rate = log_terms(model, x, q.rsample((self.k,)), p, q)  # [k, batch]
        bound = log_mean_exp(log_lik - rate) - p.global_kl / ctx.num_examples
        return Estimate(bound.detach(), -bound.mean(), _terms(log_lik, rate))


@final
class DReG(JointObjective):
    """The importance-weighted bound with the doubly reparameterized gradient.

        encoder: sum_i v_i^2 dz_i/dphi d(log w_i)/dz_i,   the rest: sum_i v_i d(log w_i)
        v_i = w_i / sum_j w_j, a constant

    Tucker et al. (2019), eq. 8. The same bound as `IWAE`; the encoder's gradient gets better, not
    worse, as k grows.

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


def _terms(log_lik: Tensor, rate: Tensor) -> dict[str, Tensor]:
    return {"log_lik": log_lik.detach().mean(0), "rate": rate.detach().mean(0)}
