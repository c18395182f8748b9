"""The quick score that a fit reports after an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vaepipe.core import LatentModel, rate, seeded
from vaepipe.evaluation.evidence import log_likelihood, over_draws, summarise_weights
from vaepipe.evaluation.moments import moments

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
        `log_lik`, `rate`, and the number of `active_units`.
    """
    training = model.training
    model.eval()
    with seeded(seed):
        parts = [_part(model, rows, k, features) for rows in x.split(ROWS_AT_ONCE)]
    model.train(training)
    evidence, log_lik, r, mean = (torch.cat(column) for column in zip(*parts, strict=True))
    return {
        "log_evidence": evidence.mean().item(),
        "log_evidence_se": evidence.std().item() / math.sqrt(len(evidence)),
        "elbo": (log_lik - r).mean().item(),
        "log_lik": log_lik.mean().item(),
        "rate": r.mean().item(),
        "active_units": float((mean.var(0) > ACTIVE).sum()),
    }


def _part(
    model: LatentModel, x: Tensor, k: int, features: Features | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    h = features(model, x) if features else model.inference.features(x)
    q, p = model.inference.head(h), model.p_z().z
    z = q.sample((k,))
    log_lik = log_likelihood(model, x, z)
    r = over_draws(rate(q, p, z), 1)
    mean, _ = moments(q, z)
    evidence, _, _ = summarise_weights(log_lik + p.log_prob(z) - q.log_prob(z))
    return evidence, log_lik.double().mean(0), r.double(), mean.reshape(len(x), -1)
