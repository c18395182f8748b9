"""log p(x | z) of many samples, a few at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, OneHotCategorical

from vaepipe.core import LatentModel
from vaepipe.evaluation.moments import has_moments
from vaepipe.likelihoods.categorical import Levels

VALUES_AT_ONCE = 2**19
"""Values of x | z that are held at the same time: near the caches."""
MOST_ROWS = 64
"""Rows whose samples are decoded together where there are few samples of each."""


def log_likelihood(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x | z) `[k, batch]` of samples `[k, batch, *latent]`, a few samples at a time."""
    chunk = max(1, VALUES_AT_ONCE // max(1, len(x) * values_per_example(model, x)))
    return torch.cat([model.generator(part).log_prob(x) for part in z.split(chunk)])


def squared_error(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """(1/D) sum_i (x_i - E[x_i | z])^2 `[batch]`, in squares of the units of x, float64.

    NaN where p(x | z) has no mean in closed form, as of text, or one that says nothing, as of
    categories without an order.

    Args:
        model: supplies p(x | z).
        x: examples `[batch, *shape]` of D values each.
        z: a latent of each, `[batch, *latent]`.
    """
    p = model.generator(z)
    if not has_moments(p) or isinstance(_each(p), (Categorical, OneHotCategorical, Levels)):
        return torch.full((len(x),), torch.nan, dtype=torch.double, device=x.device)
    return (x - p.mean).double().square().flatten(1).mean(1)


def _each(p: Distribution) -> Distribution:
    """The distribution of one value."""
    return _each(p.base_dist) if isinstance(p, Independent) else p


def rows_at_once(model: LatentModel, x: Tensor, k: int) -> int:
    """How many rows are evaluated together: from the model and k, never from who asks.

    The rounding of a matrix product depends on its shape. With shapes that depend on the model
    and on k alone, neither workers nor batches nor restarts change a single bit.
    """
    return max(1, min(MOST_ROWS, VALUES_AT_ONCE // (k * values_per_example(model, x))))


def values_per_example(model: LatentModel, x: Tensor) -> int:
    """How many numbers log p(x | z) of one example holds at a time."""
    return max(1, getattr(model.generator.head, "values_per_example", x[0].numel()))
