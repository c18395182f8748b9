"""Rows of a data artifact as evaluation sees them."""

from __future__ import annotations

import pyarrow as pa
import torch
from torch import Tensor

from vaepipe.core import Shape
from vaepipe.data import shards
from vaepipe.datasets.base import Dataset


def sample(data: str, dataset: Dataset, split: str, rows: int) -> tuple[Tensor, Tensor]:
    """Return ids `[n]` of some rows of a split, and the rows as evaluation sees them.

    They are the same for every fit to these data.

    Args:
        data: folder of the data artifact.
        dataset: through which the model sees them.
        split: its name.
        rows: how many at most.
    """
    source = shards.open_split(data, split)
    return seen(dataset, source.sample(rows), source.shape)


def seen(dataset: Dataset, rows: pa.Table, shape: Shape) -> tuple[Tensor, Tensor]:
    """Return ids `[n]` of stored rows, and the rows as evaluation sees them, `[n, *shape]`."""
    ids, x = map(torch.tensor, shards.arrays(rows, shape))
    return ids, dataset.frozen(x, ids)
