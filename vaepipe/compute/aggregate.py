"""What an evaluation worker says of a whole split: where the rate goes, what codes are good for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaepipe.compute.latents import codes_of
from vaepipe.core import Cap, LatentModel, OwnDraws, Purpose, provided, stream
from vaepipe.evaluation import aggregate
from vaepipe.evaluation.proposals import row_moments

FEATURES_AT_ONCE = 64
"""Examples that are encoded together, whatever the batches of the user."""
POSTERIORS, FLOWS, NEIGHBOURS = 1000, 100, 5000
"""Most examples whose posteriors are compared pairwise, fewer where a density costs more; most
examples whose nearest neighbours are looked at."""


class Line(NamedTuple):
    """A row of the summary, but for what all rows share."""

    metric: str
    value: float
    se: float | None
    n: int
    estimator: str


@torch.no_grad()
def lines(
    model: LatentModel, x: Tensor, ids: Sequence[int], labels: Sequence[Any] | None, seed: int
) -> list[Line]:
    """Surgery, code perplexity and nearest neighbours of evenly spaced examples of a split."""
    h = torch.cat([model.inference.features(rows) for rows in x.split(FEATURES_AT_ONCE)])
    found = list(_surgery(model, h, ids, seed))
    found += _codes(model, h)
    if labels is not None and len(x) > 1:
        found.append(_neighbours(model, h, ids, labels, seed))
    return found


def _surgery(model: LatentModel, h: Tensor, ids: Sequence[int], seed: int) -> Iterator[Line]:
    head = model.inference.head
    provides = provided(head)
    if Cap.DENSITY not in provides or Cap.CODES in provides:
        return
    chosen = spaced(len(h), FLOWS if isinstance(head(h[:1]), OwnDraws) else POSTERIORS)
    n, numbers = len(chosen), [ids[i] for i in chosen]
    parts = aggregate.surgery(model, h[torch.from_numpy(chosen)], numbers, seed=seed)
    how = f"ELBO surgery of {n} posteriors, a draw of each"
    yield _mean("mi", parts.mutual_information, f"{how}: log q(z|x) - log q(z)")
    yield _mean("marginal_kl", parts.marginal_kl, f"{how}: log q(z) - log p(z)")
    if parts.total_correlation is not None:
        text = f"{how}: log q(z) - sum_d log q(z_d)"
        yield _mean("total_correlation", parts.total_correlation, text)
    yield Line("log_n", math.log(n), None, n, "log of the number of posteriors; mi is at most this")


def _codes(model: LatentModel, h: Tensor) -> Iterator[Line]:
    """Use of a code book, or of the categories of one-hot codes; bits are none."""
    q = model.inference.head(h)
    codes = codes_of(q)
    if codes is None or (codes.shape[1] == h[0].numel() and getattr(q, "codes", None) is None):
        return
    used = aggregate.code_perplexity(codes)
    yield Line("code_perplexity", used, None, len(h), "exp of the entropy of the codes in use")


def _neighbours(
    model: LatentModel, h: Tensor, ids: Sequence[int], labels: Sequence[Any], seed: int
) -> Line:
    means = row_moments(model, h, ids, stream(seed, Purpose.MOMENTS)).mean
    agree = aggregate.neighbours_agree(means.flatten(1), labels)
    k = min(aggregate.NEIGHBOURS, len(h) - 1)
    text = f"{k} nearest neighbours of posterior means, leave-one-out among {len(h)}"
    return _mean("knn_accuracy", agree, text)


def spaced(n: int, most: int) -> np.ndarray:
    """Positions of at most `most` of n rows, evenly spaced.

    Example:
        >>> spaced(10, 4).tolist(), spaced(3, 5).tolist()
        ([0, 3, 6, 9], [0, 1, 2])
    """
    return np.arange(0, n, max(1, math.ceil(n / most)))


def _mean(metric: str, values: Tensor, estimator: str) -> Line:
    n = len(values)
    se = values.std().item() / math.sqrt(n) if n > 1 else None
    return Line(metric, values.mean().item(), se, n, estimator)
