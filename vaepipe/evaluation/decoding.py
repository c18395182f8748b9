"""log p(x | z) of many samples, a few at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from vaepipe.core import LatentModel

VALUES_AT_ONCE = 2**19
"""Values of x | z that are held at the same time: near the caches."""
MOST_ROWS = 64
"""Rows whose samples are decoded together where there are few samples of each."""


def log_likelihood(model: LatentModel, x: Tensor, z: Tensor) -> Tensor:
    """log p(x | z) `[k, batch]` of samples `[k, batch, *latent]`, a few samples at a time."""
    chunk = max(1, VALUES_AT_ONCE // max(1, len(x) * values_per_example(model, x)))
    return torch.cat([model.generator(part).log_prob(x) for part in z.split(chunk)])


def rows_at_once(model: LatentModel, x: Tensor, k: int) -> int:
    """How many rows are evaluated together: from the model and k, never from who asks.

    The rounding of a matrix product depends on its shape. With shapes that depend on the model
    and on k alone, neither workers nor batches nor restarts change a single bit.
    """
    return max(1, min(MOST_ROWS, VALUES_AT_ONCE // (k * values_per_example(model, x))))


def values_per_example(model: LatentModel, x: Tensor) -> int:
    """How many numbers log p(x | z) of one example holds at a time."""
    return max(1, getattr(model.generator.head, "values_per_example", x[0].numel()))
