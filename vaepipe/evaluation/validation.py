"""The quick score that a fit reports after an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import LatentModel, rate, seeded
from vaepipe.errors import DataError
from vaepipe.evaluation.evidence import log_likelihood, over_draws, summarise_weights
from vaepipe.evaluation.moments import has_moments, moments

ACTIVE = 1e-2
"""A latent dimension is active if Var_x E_q[z_j] exceeds this (Burda et al., 2016, §5.2)."""
ROWS_AT_ONCE = 500

Features = Callable[[LatentModel, Tensor], Tensor]
"""Of q(z | x), for examples `[batch, *shape]`: `[batch, *feature_shape]`."""


@torch.no_grad()
def validate(
    model: LatentModel, x: Tensor, *, k: int, seed: int = 0, features: Features | None = None
) -> dict[str, float]:
    """Means over examples `[n, *shape]`, in nats, comparable whatever the training objective.

    The samples are the same for every model, epoch and worker with this `seed`.

    Args:
        model: p(x, z) with q(z | x).
        x: examples `[n, *shape]`.
        k: posterior samples of each example.
        seed: of the samples.
        features: where q(z | x) does not come from the encoder (`Objective.features`).

    Returns:
        `log_evidence` (k samples), its standard error over the examples `log_evidence_se`, `elbo`,
        `log_lik`, `rate`, and the number of `active_units`; what one example, or one draw of a
        posterior without moments, says nothing of is left out.

    Raises:
        DataError: there is no example.
    """
    if not len(x):
        raise DataError("there are no examples to validate on; choose a split with rows.")
    training = model.training
    model.eval()
    with seeded(seed):
        parts = [_part(model, rows, k, features) for rows in x.split(ROWS_AT_ONCE)]
    model.train(training)
    evidence, log_lik, r, *means = (torch.cat(column) for column in zip(*parts, strict=True))
    found = {
        "log_evidence": evidence.mean().item(),
        "elbo": (log_lik - r).mean().item(),
        "log_lik": log_lik.mean().item(),
        "rate": r.mean().item(),
    }
    if len(x) > 1:
        found["log_evidence_se"] = evidence.std().item() / math.sqrt(len(evidence))
        found |= _activity(*means)
    return found


def _activity(mean: Tensor, noise: Tensor) -> dict[str, float]:
    """Active units from means `[n, d]` and their error variances, where these are known."""
    variance = mean.var(0) - noise.mean(0)
    return {} if variance.isnan().any() else {"active_units": float((variance > ACTIVE).sum())}


def _part(
    model: LatentModel, x: Tensor, k: int, features: Features | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Evidence, log likelihood, rate, posterior means and the error variances of these."""
    h = features(model, x) if features else model.inference.features(x)
    q, p = model.inference.head(h), model.p_z().z
    z = q.sample((k,))
    log_lik = log_likelihood(model, x, z)
    r = over_draws(rate(q, p, z), 1)
    mean, noise = _means(q, z)
    evidence, _, _ = summarise_weights(log_lik + p.log_prob(z) - q.log_prob(z))
    return evidence, log_lik.double().mean(0), r.double(), mean, noise


def _means(q: Distribution, z: Tensor) -> tuple[Tensor, Tensor]:
    """E_q z `[batch, d]` and, where it is a mean of draws, the variance of its error."""
    if has_moments(q):
        mean = q.mean.flatten(1)
        return mean, torch.zeros_like(mean)
    if len(z) == 1:
        return z[0].flatten(1), torch.full_like(z[0].flatten(1), torch.nan)
    mean, scale = moments(q, z)
    return mean.flatten(1), scale.flatten(1) ** 2 / len(z)
