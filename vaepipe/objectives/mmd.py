"""Objectives that compare the aggregate posterior with the prior by their draws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, final

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import (
    Cap,
    Estimate,
    JointObjective,
    LatentModel,
    PriorDraw,
    StepContext,
    has_closed_form,
    rate,
)
from vaepipe.errors import UserError
from vaepipe.objectives.bounds import weighted

Kernel = Callable[[Tensor], Tensor]
"""A function of squared distances."""

_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@final
class InfoVAE(JointObjective):
    """Less of the rate, more of a divergence between aggregate posterior and prior.

        surrogate = (1 - alpha) R + (alpha + strength - 1) MMD(q(z), p(z)) - E_q log p(x | z)

    Zhao, Song and Ermon (2019), eq. 6, with the maximum mean discrepancy; their lambda is
    `strength`. alpha = 0, strength = 1 is the ELBO. `bound` is the ELBO whatever the weights.

    Args:
        alpha: share of the rate that is not paid for.
        strength: lambda; alpha + strength must be at least 1.
        kernel: of the discrepancy: Gaussian, or inverse multiquadratics of several scales.
        bandwidth: scale of the kernel, 1 for a prior of unit variance.

    Raises:
        UserError: alpha + strength is below 1.
    """

    needs = Cap.RSAMPLE

    def __init__(
        self,
        *,
        alpha: Annotated[float, Le(1)] = 0.0,
        strength: Annotated[float, Ge(0)] = 100.0,
        kernel: Literal["imq", "rbf"] = "imq",
        bandwidth: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        super().__init__()
        if alpha + strength < 1:
            raise UserError(
                f"info_vae: alpha + strength is {alpha + strength:g}, which would reward a "
                "distance from the prior: it must be at least 1."
            )
        self.alpha = alpha
        self.strength = strength
        self.kernel = kernel
        self.bandwidth = bandwidth

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        distance = (self.alpha + self.strength - 1, self.kernel, self.bandwidth)
        return _estimate(model, x, ctx, 1 - self.alpha, *distance)

    def notes(self, q: Distribution, p: Distribution) -> dict[str, str]:
        """How the rate is computed."""
        return {"rate": "closed form" if has_closed_form(q, p) else "sampled"}


@final
class WAE(JointObjective):
    """The Wasserstein autoencoder: a reconstruction, and codes that look like draws of the prior.

        surrogate = strength MMD(q(z), p(z)) - E_q log p(x | z)

    Tolstikhin et al. (2018), algorithm 2, with -log p(x | z) as the cost of a reconstruction and
    lambda as `strength`. `bound` is the ELBO, which it does not maximise.

    Args:
        strength: lambda.
        kernel: of the discrepancy: Gaussian, or inverse multiquadratics of several scales.
        bandwidth: scale of the kernel, 1 for a prior of unit variance.
    """

    needs = Cap.RSAMPLE

    def __init__(
        self,
        *,
        strength: Annotated[float, Ge(0)] = 100.0,
        kernel: Literal["imq", "rbf"] = "imq",
        bandwidth: Annotated[float, Gt(0)] = 1.0,
    ) -> None:
        super().__init__()
        self.strength = strength
        self.kernel = kernel
        self.bandwidth = bandwidth

    def estimate(self, model: LatentModel, x: Tensor, ctx: StepContext) -> Estimate:
        """Bound and surrogate for `x` `[batch, *x]`."""
        return _estimate(model, x, ctx, 0.0, self.strength, self.kernel, self.bandwidth)


def discrepancy(one: Tensor, other: Tensor, kernel: str, bandwidth: float = 1.0) -> Tensor:
    """The squared maximum mean discrepancy of two distributions, unbiased, from their draws.

        (1/(n (n-1))) sum_{i != j} [ k(a_i, a_j) + k(b_i, b_j) ] - (2/n^2) sum_ij k(a_i, b_j)

    Gretton et al. (2012), eq. 3. With r the squared distance and d the number of dimensions,
    rbf: k = exp(-r / (2 d s^2)); imq: k = the mean over c of C / (C + r), C = 2 d s^2 c, c from 0.1
    to 10. At s = 1 the expected r of two standard Normal draws, 2 d, is in the middle of both.

    Args:
        one: a, draws `[n, *event]`.
        other: b, draws `[n, *event]`.
        kernel: `rbf` or `imq`.
        bandwidth: s.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> a, b = torch.randn(500, 3), torch.randn(500, 3)
        >>> near, far = discrepancy(a, b, "rbf"), discrepancy(a, b + 2, "rbf")
        >>> near.abs().item() < 0.01 < far.item()
        True
    """
    a, b = one.flatten(1), other.flatten(1)
    k = _kernel(kernel, 2 * a.shape[1] * bandwidth**2)
    return _within(a, k) + _within(b, k) - 2 * k(_squared(a, b)).mean()


def _estimate(
    model: LatentModel,
    x: Tensor,
    ctx: StepContext,
    share: float,
    strength: float,
    kernel: str,
    bandwidth: float,
) -> Estimate:
    """`share` of the rate and the discrepancy are paid for."""
    q, p = model.inference(x), model.p_z()
    z = q.rsample((1,))
    log_lik = model.generator(z).log_prob(x)
    exact = rate(q, p.z, z).expand_as(log_lik)
    distance = discrepancy(z.squeeze(0), _prior_draws(p, len(x)), kernel, bandwidth)
    cost = strength * distance + (share * exact.mean() if share else 0.0)
    bound, surrogate, terms = weighted(log_lik, exact, cost, p.global_kl / ctx.num_examples, 1.0)
    return Estimate(bound, surrogate, {**terms, "mmd": distance.detach().expand(len(x))})


def _prior_draws(p: PriorDraw, n: int) -> Tensor:
    """Draws that carry gradients to a learned prior where they can."""
    return p.z.rsample((n,)) if p.z.has_rsample else p.z.sample((n,))


def _kernel(name: str, spread: float) -> Kernel:
    if name == "rbf":
        return lambda r: torch.exp(-r / spread)
    scales = [spread * c for c in _SCALES]
    return lambda r: torch.stack([c / (c + r) for c in scales]).mean(0)


def _within(a: Tensor, k: Kernel) -> Tensor:
    """The mean of k over pairs of different draws."""
    each = k(_squared(a, a))
    return (each.sum() - each.diagonal().sum()) / max(1, len(a) * (len(a) - 1))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances `[n, m]`, by differences: its gradient is finite at zero."""
    return (a.unsqueeze(1) - b.unsqueeze(0)).square().sum(-1)
