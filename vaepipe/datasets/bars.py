"""Bars: made images whose features are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, final

import numpy as np
import pyarrow as pa
import torch
from annotated_types import Ge, Interval, Le
from torch import Tensor

from vaepipe.core.noise import row_uniform
from vaepipe.core.spec import SUPPORTS, DataSpec
from vaepipe.core.streams import Purpose, stream
from vaepipe.data.schema import record, to_vectors
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.splits import by_id
from vaepipe.errors import DataError

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
_BATCH = 4096


@final
class Bars(Dataset):
    """Binary images, each the union of some of K planted bars (after Foldiak, 1990).

        x_ij = max_k s_k b_kij,   s_k ~ Bernoulli(probability),   then every pixel is flipped with
        probability `noise`

    A bar b_k is a whole row or a whole column of the image. Which of the 2 · size bars are planted,
    which an image has, and which pixels are flipped depend on the seed and the row alone. A model
    that finds structure should find K features. Columns: `planted` (s, K values of 0 and 1) and
    `label` (how many bars the image has). Splits: 80 % train, 10 % val, 10 % test, by a hash of
    the id.

    Args:
        size: side of the image.
        features: K, at most 2 · size.
        probability: that an image has a given bar.
        noise: that a pixel is flipped.
        num_examples: images of all splits together.
        seed: of everything.

    Raises:
        DataError: more features than bars.

    Example:
        >>> Bars(size=4, features=3).features().shape
        (3, 4, 4)
    """

    def __init__(
        self,
        *,
        size: Annotated[int, Ge(2)] = 8,
        features: Annotated[int, Ge(1)] = 8,
        probability: Annotated[float, Interval(gt=0, lt=1)] = 0.25,
        noise: Annotated[float, Ge(0), Le(0.5)] = 0.0,
        num_examples: Annotated[int, Ge(10)] = 10_000,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        """Nothing is drawn yet."""
        if features > 2 * size:
            raise DataError(f"bars of size {size}: at most {2 * size} features, got {features}.")
        self._size, self._features, self._count = size, features, num_examples
        self._probability, self._noise, self._seed = probability, noise, seed
        self.noise_seed = seed

    @property
    def spec(self) -> DataSpec:
        """`(1, size, size)`, boolean."""
        return DataSpec(
            (1, self._size, self._size), SUPPORTS["boolean"], int(self._masks["train"].sum())
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, test."""
        return tuple(FRACTIONS)

    def features(self) -> np.ndarray:
        """The planted bars `[K, size, size]`, of 0 and 1."""
        rows = np.repeat(np.eye(self._size, dtype=np.uint8)[:, :, None], self._size, axis=2)
        bars = np.concatenate([rows, rows.transpose(0, 2, 1)])
        order = self._uniform("which", np.zeros(1, np.int64), len(bars))[0].argsort(kind="stable")
        return bars[np.sort(order[: self._features])]

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id`, `x`, `label` and `planted`."""
        bars = self.features().reshape(self._features, -1)
        ids = np.flatnonzero(self._masks[split])
        for first in range(0, len(ids), _BATCH):
            yield self._record(ids[first : first + _BATCH], bars)

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """0 and 1 as floating point."""
        return x.to(torch.get_default_dtype())

    def describe(self) -> Mapping[str, str]:
        """What was planted."""
        return {"planted_features": str(self._features), "noise": str(self._noise)}

    @cached_property
    def _masks(self) -> dict[str, np.ndarray]:
        return by_id(np.arange(self._count), FRACTIONS)

    def _record(self, ids: np.ndarray, bars: np.ndarray) -> pa.RecordBatch:
        planted = (self._uniform("present", ids, len(bars)) < self._probability).astype(np.uint8)
        clean = planted @ bars > 0
        flipped = self._uniform("flipped", ids, bars.shape[1]) < self._noise
        x = (clean ^ flipped).astype(np.uint8).reshape(-1, 1, self._size, self._size)
        return record(ids, x, {"label": planted.sum(1).astype(int), "planted": to_vectors(planted)})

    def _uniform(self, what: str, ids: np.ndarray, count: int) -> np.ndarray:
        """Numbers in [0, 1) `[n, count]`, of a stream for each thing that is drawn."""
        own = stream(self._seed, Purpose.BARS, what)
        return row_uniform(own, torch.from_numpy(ids), (count,)).numpy()
