"""The quick score that a fit reports after an epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vaepipe.core import LatentModel, Purpose, Stream, rate, seeded, stream
from vaepipe.errors import DataError
from vaepipe.evaluation.evidence import log_likelihood, over_draws, summarise_weights
from vaepipe.evaluation.moments import Moments

ACTIVE = 1e-2
"""A latent dimension is active if Var_x E_q[z_j] exceeds this (Burda et al., 2016, §5.2)."""
ROWS_AT_ONCE = 500
DRAWS_AT_ONCE = 16

Features = Callable[[LatentModel, Tensor], Tensor]
"""Of q(z | x), for examples `[batch, *shape]`: `[batch, *feature_shape]`."""


class Validation(NamedTuple):
    """What a validation finds."""

    means: dict[str, float]
    """Over the examples, by name."""
    rows: dict[str, Tensor]
    """`[n]` float64, on the host: the same per example, in nats, where it is a mean over them."""


def validate(
    model: LatentModel, x: Tensor, *, k: int, seed: int = 0, features: Features | None = None
) -> dict[str, float]:
    """Return the means of `examine`."""
    return examine(model, x, k=k, seed=seed, features=features).means


@torch.no_grad()
def examine(
    model: LatentModel, x: Tensor, *, k: int, seed: int = 0, features: Features | None = None
) -> Validation:
    """Score examples `[n, *shape]`, in nats, in the same way for every objective.

    With few samples the evidence still depends on the encoder: its distance to log p(x) is a
    divergence of q(z | x) from p(z | x), which shrinks as k grows (Burda et al., 2016, theorem 1).
    The samples are the same for every model, epoch and worker with this `seed`.

    Args:
        model: p(x, z) with q(z | x).
        x: examples `[n, *shape]`.
        k: posterior samples of each example.
        seed: of the samples.
        features: where q(z | x) does not come from the encoder (`Objective.features`).

    Returns:
        Means and rows of `log_evidence` (k samples), `elbo`, `log_lik` and `rate`; to the means
        belong the standard error over the examples `log_evidence_se` and the number of
        `active_units`, as an evaluation counts them (where the posterior has no closed-form
        moments, of 500 evenly spaced examples). What one example says nothing of is left out.

    Raises:
        DataError: there is no example.
    """
    if not len(x):
        raise DataError("there are no examples to validate on; choose a split with rows.")
    training = model.training
    model.eval()
    with seeded(stream(seed, Purpose.VALIDATION)):
        parts = [_part(model, rows, k, features) for rows in x.split(ROWS_AT_ONCE)]
    with seeded(stream(seed, Purpose.VALIDATION_MOMENTS)):
        means = _means(model, x, [part.moments for part in parts], features)
    model.train(training)
    log_lik = torch.cat([part.log_lik for part in parts])
    r = torch.cat([part.rate for part in parts])
    rows = {
        "log_evidence": torch.cat([part.log_evidence for part in parts]),
        "elbo": log_lik - r,
        "log_lik": log_lik,
        "rate": r,
    }
    found = {name: values.mean().item() for name, values in rows.items()}
    if len(x) > 1:
        found["log_evidence_se"] = rows["log_evidence"].std().item() / math.sqrt(len(x))
        found |= _activity(*means)
    return Validation(found, {name: values.double().cpu() for name, values in rows.items()})


@torch.no_grad()
def estimate_evidence(
    model: LatentModel, x: Tensor, *, k: int, draws: Stream, features: Features | None = None
) -> Tensor:
    """Estimate log p(x) of examples `[n, *shape]` as a validation does, from more samples.

    As many draws are held at a time as in a validation, whatever k is.

    Args:
        model: p(x, z) with q(z | x).
        x: examples `[n, *shape]`.
        k: posterior samples per example.
        draws: of the samples.
        features: where q(z | x) does not come from the encoder (`Objective.features`).

    Returns:
        `[n]` float64, on the host, in nats.
    """
    model.eval()
    size = max(1, ROWS_AT_ONCE * DRAWS_AT_ONCE // k)
    with seeded(draws):
        parts = [_part(model, rows, k, features).log_evidence for rows in x.split(size)]
    return torch.cat(parts).double().cpu()


def _activity(mean: Tensor, noise: Tensor) -> dict[str, float]:
    """Active units from means `[n, d]`, whose errors have the variances `noise` `[n, d]`."""
    variance = mean.var(0) - noise.mean(0)
    return {"active_units": float((variance > ACTIVE).sum())}


class _Part(NamedTuple):
    """Of some examples, `[n]`, nats; and the moments of their posteriors."""

    log_evidence: Tensor
    log_lik: Tensor
    rate: Tensor
    moments: Moments


def _part(model: LatentModel, x: Tensor, k: int, features: Features | None) -> _Part:
    h = _features(model, x, features)
    q, p = model.inference.head(h), model.p_z().z
    z, moments = q.sample((k,)), Moments(q)
    moments.add(z)
    log_lik = log_likelihood(model, x, z)
    r = over_draws(rate(q, p, z), 1)
    evidence, _, _ = summarise_weights(log_lik + p.log_prob(z) - q.log_prob(z))
    return _Part(evidence, log_lik.double().mean(0), r.double(), moments)


def _means(
    model: LatentModel, x: Tensor, parts: Sequence[Moments], features: Features | None
) -> tuple[Tensor, Tensor]:
    """E_q z `[n, d]` and the variance of its error: zero where it has a closed form.

    Elsewhere it is a mean of as many draws as in an evaluation. These decode nothing but have a
    price: there are means of at most 500 examples then, evenly spaced.
    """
    if len(parts) > 1 and not parts[0].known:
        spaced = torch.linspace(0, len(x) - 1, ROWS_AT_ONCE, device=x.device).round().long()
        parts = [Moments(model.inference.head(_features(model, x[spaced], features)))]
    for moments in parts:
        while moments.wanted:
            moments.add(moments.q.sample((min(moments.wanted, DRAWS_AT_ONCE),)))
    mean = torch.cat([moments.mean.flatten(1) for moments in parts])
    return mean, torch.cat([moments.mean_se.flatten(1) ** 2 for moments in parts])


def _features(model: LatentModel, x: Tensor, features: Features | None) -> Tensor:
    return features(model, x) if features else model.inference.features(x)
