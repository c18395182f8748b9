"""Wake-sleep: the encoder learns from the model's own dreams, or from weighted draws."""

from __future__ import annotations

from typing import Annotated, final

import torch
from annotated_types import Ge
from torch import Tensor

from vaepipe.core import (
    Cap,
    Estimate,
    LatentModel,
    Objective,
    Part,
    Phase,
    PriorDraw,
    StepContext,
    log_mean_exp,
)
from vaepipe.errors import CompatibilityError
from vaepipe.objectives.bounds import require_own_prior


@final
class WakeSleep(Objective):
    """Two phases: the model learns from inferred codes, the encoder from dreamed examples.

        wake:  E_q(z | x) d log p(x, z),        z inferred from data
        sleep: E_p(x, z) d log q(z | x),        (z, x) dreamed by the model

    Hinton, Dayan, Frey and Neal (1995). Wake is the ELBO's gradient in the model; sleep is
    *not* the ELBO's in the encoder, but lowers KL(p(z | x) || q(z | x)) under the model's own x. It
    asks nothing of z but draws and their density. Both phases report the ELBO of the data.

    Args:
        samples: draws of z per example.

    Raises:
        CompatibilityError: the prior's weights are the family's, as those of `ladder`.
    """

    needs = Cap.SAMPLE | Cap.DENSITY

    def __init__(self, *, samples: Annotated[int, Ge(1)] = 1) -> None:
        super().__init__()
        self.samples = samples

    def phases(self) -> tuple[Phase, ...]:
        """`wake`, then `sleep`."""
        return (
            Phase("wake", Part.GENERATOR | Part.PRIOR, self.wake),
            Phase("sleep", Part.INFERENCE, self.sleep),
        )

    def wake(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Codes of `x` `[batch, *x]` are inferred, and the model explains both."""
        require_own_prior(model, "wake_sleep")
        p = model.p_z()
        z, log_q = _inferred(model, x, self.samples)
        log_lik, log_p = model.generator(z).log_prob(x), p.z.log_prob(z)
        return self._estimate(log_lik, log_p, log_q, -(log_lik + log_p).mean(), _global(p, ctx))

    def sleep(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """As many examples as `x` `[batch, *x]` holds are dreamed, and their codes recognised."""
        p = model.p_z()
        with torch.no_grad():
            z, log_q = _inferred(model, x, self.samples)
            log_lik, log_p = model.generator(z).log_prob(x), p.z.log_prob(z)
        return self._estimate(log_lik, log_p, log_q, _unrecognised(model, x), _global(p, ctx))

    def _estimate(
        self, log_lik: Tensor, log_p: Tensor, log_q: Tensor, cost: Tensor, g: Tensor | float
    ) -> Estimate:
        terms = _terms(log_lik, log_p, log_q)
        bound = terms["log_lik"] - terms["rate"] - g
        return Estimate(bound.detach(), cost + g, terms)


@final
class ReweightedWakeSleep(Objective):
    """Wake-sleep with k importance-weighted draws: both sides follow an estimate of p(z | x).

        wake:       sum_i v_i d log p(x, z_i),    z_i ~ q(z | x)
        wake phi:   sum_i v_i d log q(z_i | x),   v_i = w_i / sum_j w_j
        sleep phi:  E_p(x, z) d log q(z | x),     w_i = p(x, z_i) / q(z_i | x)

    Bornschein and Bengio (2015), section 2. The gradient of the model is that of the bound of
    `iwae`; the encoder's nears that of KL(p(z | x) || q(z | x)) as k grows. With both kinds of
    encoder update their gradients are averaged. It asks nothing of z but draws and their density.
    Both phases report the importance-weighted bound of the data; `terms` are those of the ELBO.

    Args:
        k: draws of z per example.
        wake_phi: whether the encoder learns from weighted draws for the data.
        sleep_phi: whether the encoder learns from dreams.

    Raises:
        CompatibilityError: neither is asked for, so that nothing would train the encoder; or the
            prior's weights are the family's, as those of `ladder`.
    """

    needs = Cap.SAMPLE | Cap.DENSITY

    def __init__(
        self,
        *,
        k: Annotated[int, Ge(1)] = 5,
        wake_phi: bool = True,
        sleep_phi: bool = False,
    ) -> None:
        super().__init__()
        if not (wake_phi or sleep_phi):
            raise CompatibilityError(
                "objective 'rws' with wake_phi: false and sleep_phi: false never trains the "
                "encoder. Set one of them to true."
            )
        self.k = k
        self.wake_phi = wake_phi
        self.sleep_phi = sleep_phi

    def phases(self) -> tuple[Phase, ...]:
        """`wake` for the model, then `phi` for the encoder."""
        return (
            Phase("wake", Part.GENERATOR | Part.PRIOR, self.wake),
            Phase("phi", Part.INFERENCE, self.phi),
        )

    def wake(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """The model explains `x` `[batch, *x]` with weighted codes."""
        require_own_prior(model, "rws")
        p = model.p_z()
        z, log_q = _inferred(model, x, self.k)
        log_lik, log_p = model.generator(z).log_prob(x), p.z.log_prob(z)
        v = (log_lik + log_p - log_q).detach().softmax(0)  # [k, batch]
        cost = -(v * (log_lik + log_p)).sum(0).mean()
        return self._estimate(log_lik, log_p, log_q, cost, _global(p, ctx))

    def phi(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """The encoder nears the weighted codes of `x` `[batch, *x]`, recognises dreams, or both."""
        q, p = model.inference(x), model.p_z()
        z = q.sample((self.k,))
        with torch.no_grad():
            log_lik, log_p = model.generator(z).log_prob(x), p.z.log_prob(z)
        log_q, costs = q.log_prob(z), []
        if self.wake_phi:
            v = (log_lik + log_p - log_q).detach().softmax(0)
            costs.append(-(v * log_q).sum(0).mean())
        if self.sleep_phi:
            costs.append(_unrecognised(model, x))
        cost = torch.stack(costs).mean()
        return self._estimate(log_lik, log_p, log_q, cost, _global(p, ctx))

    def _estimate(
        self, log_lik: Tensor, log_p: Tensor, log_q: Tensor, cost: Tensor, g: Tensor | float
    ) -> Estimate:
        bound = log_mean_exp(log_lik + log_p - log_q) - g
        return Estimate(bound.detach(), cost + g, _terms(log_lik, log_p, log_q))


@torch.no_grad()
def dream(model: LatentModel, x: Tensor) -> tuple[Tensor, Tensor]:
    """Draws z ~ p(z), x' ~ p(x | z): as many as the examples `x` `[batch, *x]`, of their type."""
    z = model.p_z().z.sample(x.shape[:1])
    return z, model.generator(z).sample().to(x)


def _unrecognised(model: LatentModel, x: Tensor) -> Tensor:
    """-E log q(z | x') over dreams (z, x'), `[]`."""
    z, dreamed = dream(model, x)
    return -model.inference(dreamed).log_prob(z).mean()


@torch.no_grad()
def _inferred(model: LatentModel, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Draws z `[k, batch, *latent]` from q(z | x), and log q(z | x) `[k, batch]`; constants."""
    q = model.inference(x)
    z = q.sample((k,))
    return z, q.log_prob(z)


def _global(p: PriorDraw, ctx: StepContext) -> Tensor | float:
    """One example's share of the KL of global variables; a constant to phases of the encoder."""
    return p.global_kl / ctx.num_examples


def _terms(log_lik: Tensor, log_p: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    return {"log_lik": log_lik.detach().mean(0), "rate": (log_q - log_p).detach().mean(0)}
