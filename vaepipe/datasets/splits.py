"""Splits that a row's id decides, whatever the order or number of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from annotated_types import Gt, MinLen

from vaepipe.core.noise import row_uniform
from vaepipe.core.streams import Purpose, stream

_HASH = stream(0, Purpose.SPLITS)  # a part of the format: changing it moves rows between splits

Fractions = Annotated[dict[str, Annotated[float, Gt(0)]], MinLen(1)]
"""Shares of the rows, by the names of splits; they are divided by their sum."""


def by_id(ids: np.ndarray, fractions: Mapping[str, float]) -> dict[str, np.ndarray]:
    """A boolean mask `[n]` for each split; every row is in exactly one.

    Example:
        >>> masks = by_id(np.arange(1000), {"train": 0.9, "test": 0.1})
        >>> bool((masks["train"] ^ masks["test"]).all())
        True
    """
    noise = row_uniform(_HASH, torch.from_numpy(np.asarray(ids, np.int64)), (1,))[:, 0]
    edges = np.cumsum(list(fractions.values()))
    which = np.searchsorted(edges[:-1] / edges[-1], noise.double().numpy(), side="right")
    return {name: which == number for number, name in enumerate(fractions)}
