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
    Mixture,
    StepContext,
    has_closed_form,
    over_strata,
    strata_weights,
    stratified,
)
from vaepipe.errors import CompatibilityError, UserError
from vaepipe.objectives.bounds import rate_over_strata, weighted

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
    smallest_batch = 2
    couples = True

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
    smallest_batch = 2
    couples = True

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


def discrepancy(
    one: Tensor,
    other: Tensor,
    kernel: str,
    bandwidth: float = 1.0,
    weights: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The squared maximum mean discrepancy of two distributions, unbiased, from their draws.

        (1/(n (n-1))) sum_{i != j} [ k(a_i, a_j) + k(b_i, b_j) ] - (2/n^2) sum_ij k(a_i, b_j)

    With weights, a draw is one of each of S components, and k is a weighted sum over both.

    Gretton et al. (2012), eq. 3. With r the squared distance and d the number of dimensions,
    rbf: k = exp(-r / (2 d s^2)); imq: k = the mean over c of C / (C + r), C = 2 d s^2 c, c from 0.1
    to 10. At s = 1 the expected r of two standard Normal draws, 2 d, is in the middle of both.

    Args:
        one: a, draws `[n, *event]`, two or more.
        other: b, draws `[n, *event]`.
        kernel: `rbf` or `imq`.
        bandwidth: s.
        weights: of a and of b, `[n, S]` each, where these are `[n, S, *event]`.

    Raises:
        CompatibilityError: a single draw has no distance to another of its kind.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> a, b = torch.randn(500, 3), torch.randn(500, 3)
        >>> near, far = discrepancy(a, b, "rbf"), discrepancy(a, b + 2, "rbf")
        >>> near.abs().item() < 0.01 < far.item()
        True
    """
    u, v = weights or (one.new_ones(len(one), 1), other.new_ones(len(other), 1))
    a, b = one.reshape(*u.shape, -1), other.reshape(*v.shape, -1)
    if min(len(a), len(b)) < 2:
        raise CompatibilityError(
            f"the discrepancy of 'wae_mmd' and 'info_vae' needs two draws of each distribution or "
            f"more, got {len(a)} and {len(b)}. Raise `batch_size`."
        )
    k = _kernel(kernel, 2 * a.shape[-1] * bandwidth**2)
    between = _pairs(a, u, b, v, k).sum() / (len(a) * len(b))
    return _within(a, u, k) + _within(b, v, k) - 2 * between


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
    z = stratified(q, 1)
    log_lik = over_strata(q, model.generator(z).log_prob(x))
    exact = rate_over_strata(q, p.z, z).expand_as(log_lik)
    draws = (z.movedim(0, 1), strata_weights(q).to(z).movedim(0, 1), *_of_prior(p.z, len(x)))
    codes, u, others, v = (ctx.batch.rows(rows) for rows in draws)
    distance = discrepancy(codes, others, kernel, bandwidth, (u, v))
    cost = strength * distance + (share * exact.mean() if share else 0.0)
    bound, surrogate, terms = weighted(log_lik, exact, cost, p.global_kl / ctx.num_examples, 1.0)
    return Estimate(bound, surrogate, {**terms, "mmd": distance.detach().expand(len(x))})


def _of_prior(p: Distribution, n: int) -> tuple[Tensor, Tensor]:
    """Draws `[n, S, *event]` and their weights `[n, S]`, of which learned ones carry gradients."""
    if isinstance(p, Mixture) and not _only_components_learn(p):
        z, w = stratified(p, n).unflatten(0, (n, -1)), strata_weights(p)
        return z, w.expand(n, -1)
    z = prior_draws(p, n).unsqueeze(1)
    return z, z.new_ones(n, 1)


def prior_draws(p: Distribution, n: int) -> Tensor:
    """Draws `[n, *event]` of a prior that carry gradients to its parameters, where it has any.

    Of a mixture with constant weights (`vamp`), z = f(e, u_k) with k ~ w: its derivative in the
    components is that of the chosen one, as k does not depend on them.

    Args:
        p: the prior, batch shape `[]`.
        n: how many draws.

    Raises:
        CompatibilityError: its density has parameters, and its draws carry no gradient to them.

    Example:
        >>> from torch.distributions import Normal
        >>> prior_draws(Normal(torch.zeros(()), 1.0), 5).shape
        torch.Size([5])
    """
    if isinstance(p, Mixture) and _only_components_learn(p):
        return _through_components(p, n)
    if p.has_rsample:
        return p.rsample(torch.Size((n,)))
    z = p.sample(torch.Size((n,)))
    if p.log_prob(z[:1]).requires_grad:
        raise CompatibilityError(
            f"the discrepancy of 'wae_mmd' and 'info_vae' trains p(z) through its draws, and those "
            f"of {type(p).__name__} carry no gradient: choose a prior whose draws do, or "
            "objective 'elbo'."
        )
    return z


def _only_components_learn(p: Mixture) -> bool:
    learned = p.mixture_distribution.logits.requires_grad
    return p.component_distribution.has_rsample and not learned


def _through_components(p: Mixture, n: int) -> Tensor:
    """A draw of every component `[n, K, *event]`, then the one that was chosen."""
    each = p.component_distribution.rsample(torch.Size((n,)))
    chosen = p.mixture_distribution.sample(torch.Size((n,)))
    return each[torch.arange(n, device=each.device), chosen]


def _kernel(name: str, spread: float) -> Kernel:
    if name == "rbf":
        return lambda r: torch.exp(-r / spread)
    scales = [spread * c for c in _SCALES]
    return lambda r: torch.stack([c / (c + r) for c in scales]).mean(0)


def _within(a: Tensor, u: Tensor, k: Kernel) -> Tensor:
    """The mean of k over pairs of different draws."""
    each = _pairs(a, u, a, u, k)
    same = each.diagonal(dim1=0, dim2=2)
    return (each.sum() - same.sum()) / (len(a) * (len(a) - 1))


def _pairs(a: Tensor, u: Tensor, b: Tensor, v: Tensor, k: Kernel) -> Tensor:
    """u v k(|a - b|^2) `[n, S, m, R]`; by differences, whose gradient is finite at zero."""
    squared = (a[:, :, None, None] - b).square().sum(-1)
    return u[:, :, None, None] * v * k(squared)
