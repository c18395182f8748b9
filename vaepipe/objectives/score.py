"""Bounds with score-function gradients, for latents that carry no gradient of their own."""

from __future__ import annotations

import math
from typing import Annotated, Literal, final

import torch
from annotated_types import Ge
from torch import Tensor

from vaepipe.core import (
    Cap,
    Estimate,
    JointObjective,
    LatentModel,
    StepContext,
    log_mean_exp,
)
from vaepipe.errors import CompatibilityError
from vaepipe.objectives import baselines

_BASELINES = {
    "none": baselines.NoBaseline,
    "average": baselines.AverageBaseline,
    "learned": baselines.LearnedBaseline,
    "leave_one_out": baselines.OthersBaseline,
}


@final
class Reinforce(JointObjective):
    """The ELBO with the score-function gradient and a baseline b.

        encoder: E_q (f(z) - b) d log q(z | x),   f = log p(x | z) + log p(z) - log q(z | x)
        the rest: E_q d [log p(x | z) + log p(z)]

    Williams (1992); Mnih and Gregor (2014), section 2.3. It asks nothing of z but draws and
    their density, so it fits `bernoulli` and `categorical`. Baselines leave the gradient's mean as
    it is and lower its variance.

    Args:
        samples: draws of z per example.
        baseline: what is taken off f. `leave_one_out`: the mean of f over the example's other
            draws, two in all or more (Kool, van Hoof and Welling, 2019); `average`: a moving
            average over past batches; `learned`: that, plus a small network's guess from x;
            `none`: nothing.

    Raises:
        CompatibilityError: `leave_one_out` with a single draw.
    """

    needs = Cap.SAMPLE | Cap.DENSITY

    def __init__(
        self,
        *,
        samples: Annotated[int, Ge(1)] = 4,
        baseline: Literal["none", "average", "learned", "leave_one_out"] = "leave_one_out",
    ) -> None:
        super().__init__()
        if baseline == "leave_one_out" and samples < 2:
            raise CompatibilityError(
                "objective 'reinforce' with baseline 'leave_one_out' needs samples: 2 or more, "
                f"got {samples}. Set samples: 4, or baseline: average."
            )
        self.samples = samples
        self.baseline = _BASELINES[baseline]()

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        log_lik, log_p, log_q, global_rate = _logs(model, x, self.samples, ctx)
        signal = (log_lik + log_p - log_q).detach()  # [k, batch]
        advantage, error = self.baseline(x, signal, ctx.batch)
        gain = advantage * log_q + log_lik + log_p
        bound = signal.mean(0) - global_rate
        return Estimate(
            bound.detach(), global_rate - gain.mean() + error, _terms(log_lik, log_p, log_q)
        )


@final
class VIMCO(JointObjective):
    """The importance-weighted bound of k draws, with score-function gradients and k own baselines.

        L = log (1/k) sum_i w_i,   w_i = p(x, z_i) / q(z_i | x),   z_i ~ q(z | x)
        gradient: sum_i (L - L_-i) d log q(z_i | x) + sum_i v_i d log w_i,   v_i = w_i / sum_j w_j

    L_-i is L with w_i replaced by a mean of the other weights, so that it does not depend on z_i:
    the gradient's mean stays exact. Mnih and Rezende (2016), section 2.4. It asks nothing of z but
    draws and their density, so it fits `bernoulli` and `categorical`, and there is no baseline to
    learn. `terms` are those of the ELBO, so they do not add up to the bound.

    Args:
        k: draws of z per example.
        mean: of the other weights; `geometric` is the paper's choice, `arithmetic` its alternative.
    """

    needs = Cap.SAMPLE | Cap.DENSITY

    def __init__(
        self,
        *,
        k: Annotated[int, Ge(2)] = 5,
        mean: Literal["geometric", "arithmetic"] = "geometric",
    ) -> None:
        super().__init__()
        self.k = k
        self.mean = mean

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        log_lik, log_p, log_q, global_rate = _logs(model, x, self.k, ctx)
        log_w = log_lik + log_p - log_q  # [k, batch]
        bound = log_mean_exp(log_w)
        signal = (bound - without_each(log_w, geometric=self.mean == "geometric")).detach()
        gain = (signal * log_q).sum(0) + bound
        return Estimate(
            (bound - global_rate).detach(),
            global_rate - gain.mean(),
            _terms(log_lik, log_p, log_q),
        )


def without_each(log_w: Tensor, *, geometric: bool = True) -> Tensor:
    """For every i, log (1/k) sum_j w_j with w_i replaced by a mean of the other weights.

    Args:
        log_w: `[k, batch]`.
        geometric: the other weights' geometric mean, else their arithmetic mean.

    Returns:
        `[k, batch]`; row i does not depend on `log_w[i]`.

    Example:
        >>> log_w = torch.tensor([[5.0], [1.0], [1.0]])
        >>> [round(value, 4) for value in without_each(log_w).flatten().tolist()]
        [1.0, 4.0443, 4.0443]
    """
    k = len(log_w)
    own = torch.eye(k, dtype=torch.bool, device=log_w.device).unsqueeze(-1)  # [k, k, 1]
    others = log_w.unsqueeze(0).masked_fill(own, 0.0).sum(1) / (k - 1)
    if not geometric:
        others = log_mean_exp(log_w.unsqueeze(0).masked_fill(own, -torch.inf), 1)
        others = others + math.log(k / (k - 1))
    replaced = torch.where(own, others.unsqueeze(1), log_w.unsqueeze(0))  # [k, k, batch]
    return log_mean_exp(replaced, 1)


def _logs(
    model: LatentModel, x: Tensor, k: int, ctx: StepContext
) -> tuple[Tensor, Tensor, Tensor, Tensor | float]:
    """log p(x | z), log p(z), log q(z | x) of k constant draws, `[k, batch]`; the global rate."""
    q, p = model.inference(x), model.p_z()
    z = q.sample((k,))
    log_lik = model.generator(z).log_prob(x)
    return log_lik, p.z.log_prob(z), q.log_prob(z), p.global_kl / ctx.num_examples


def _terms(log_lik: Tensor, log_p: Tensor, log_q: Tensor) -> dict[str, Tensor]:
    return {"log_lik": log_lik.detach().mean(0), "rate": (log_q - log_p).detach().mean(0)}
