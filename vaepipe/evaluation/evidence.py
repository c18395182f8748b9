"""Importance-sampled evidence and its parts, for each example, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from vaepipe.core import LatentModel, rate, rate_per_dimension, row_seed
from vaepipe.evaluation.moments import moments

VALUES_AT_ONCE = 2**20
"""Values of x | z that are held at the same time: a few megabytes, near the caches."""


class Scores(NamedTuple):
    """What is known of each example of a batch; nats unless said otherwise.

    Shapes are `[batch]`, and `[batch, d]` for the last three, d = number of latent dimensions.
    """

    log_evidence: Tensor
    """log (1/k) sum_i p(x, z_i) / q(z_i | x), z_i ~ q(z | x): a lower bound in expectation."""
    log_evidence_se: Tensor
    """Standard error of `log_evidence` by the delta method."""
    ess: Tensor
    """Effective number of the k samples, (sum w)^2 / sum w^2."""
    elbo: Tensor
    """`log_lik - rate`."""
    log_lik: Tensor
    """E_q log p(x | z)."""
    rate: Tensor
    """KL(q(z | x) || p(z)): in closed form where there is one, else the mean over the samples."""
    mean: Tensor
    """E_q z."""
    scale: Tensor
    """Standard deviation of q(z | x) in each dimension."""
    rate_per_dimension: Tensor | None
    """The rate of each dimension, where q and p factorise."""


@torch.no_grad()
def score(model: LatentModel, x: Tensor, ids: Iterable[int], *, k: int, seed: int = 0) -> Scores:
    """Evidence, ELBO and rate of each example, with posterior samples that its id seeds.

        log p(x) >= E log (1/k) sum_i p(x | z_i) p(z_i) / q(z_i | x),   z_i ~ q(z | x)

    The values of an example do not depend on its neighbours in the batch, on the order of the
    rows, nor (but for rounding) on how many samples are decoded at a time.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), eq. 8.
        https://arxiv.org/abs/1509.00519

    Args:
        model: p(x, z) with q(z | x).
        x: examples `[batch, *shape]`.
        ids: the examples' ids, `batch` of them.
        k: posterior samples of each example.
        seed: of the samples, together with the id.
    """
    h = model.inference.features(x)
    return _scores(model, x, h, row_draws(model, h, ids, k, seed))


@torch.no_grad()
def row_draws(model: LatentModel, h: Tensor, ids: Iterable[int], k: int, seed: int) -> Tensor:
    """`[k, batch, *latent]` samples of q(z | x), those of each row seeded by its id alone."""
    devices = [h.device] if h.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        rows = []
        for row, number in zip(h.split(1), ids, strict=True):
            torch.manual_seed(row_seed(seed, int(number)))
            rows.append(model.inference.head(row).sample((k,)))
    return torch.cat(rows, dim=1)


def _scores(model: LatentModel, x: Tensor, h: Tensor, z: Tensor) -> Scores:
    q, p = model.inference.head(h), model.p_z().z
    log_lik = log_likelihood(model, x, z)
    log_w = log_lik + p.log_prob(z) - q.log_prob(z)
    each = rate_per_dimension(q, p, z)
    mean, scale = moments(q, z)
    expected, r = log_lik.double().mean(0), over_draws(rate(q, p, z), 1).double()
    return Scores(
        *summarise_weights(log_w),
        elbo=expected - r,
        log_lik=expected,
        rate=r,
        mean=_flat(mean),
        scale=_flat(scale),
        rate_per_dimension=None if each is None else _flat(over_draws(each, z.dim() - 1)),
    )


def log_likelihood(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x | z) `[k, batch]` of samples `[k, batch, *latent]`, a few samples at a time."""
    chunk = max(1, VALUES_AT_ONCE // max(1, x.numel()))
    return torch.cat([model.generator(part).log_prob(x) for part in z.split(chunk)])


def summarise_weights(log_w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log mean, its standard error and the effective sample size of weights `[k, *batch]`.

    With w normalised to mean one, ess = k / mean(w^2) and, to first order,
    se(log mean w) = sqrt(1 / ess - 1 / k).
    """
    k = len(log_w)
    log_w = log_w.double()
    log_mean = torch.logsumexp(log_w, 0) - math.log(k)
    ess = torch.exp(2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0))
    return log_mean, (1 / ess - 1 / k).clamp(min=0).sqrt(), ess


def _flat(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)


def over_draws(value: Tensor, dims: int) -> Tensor:
    """A value of `dims` dimensions as it is; one with draws before them, its mean over draws."""
    return value if value.dim() == dims else value.mean(0)
