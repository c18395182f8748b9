"""The 8 × 8 digits that come with scikit-learn: no download, no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, final

import numpy as np
import pyarrow as pa
from annotated_types import Ge
from torch import Tensor

from vaepipe.core.spec import DataSpec
from vaepipe.data.schema import record
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.images import Binarize, GreyView
from vaepipe.datasets.splits import by_id

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}
NUM_IMAGES = 1797


@final
class Digits(Dataset):
    """1,797 handwritten digits, 8 × 8 grey levels 0 … 16 (Alpaydin and Kaynak, 1998).

    Splits: 80 % train, 10 % val, 10 % test, by a hash of the id.

    Args:
        binarize: `dynamic`, `static`, `threshold`, `none` or `levels`; see `GreyView`.
        seed: of the static draw and of the frozen draw of evaluation.
    """

    def __init__(self, *, binarize: Binarize = "dynamic", seed: Annotated[int, Ge(0)] = 0) -> None:
        """Nothing is read yet."""
        self._view = GreyView(binarize, 16, seed)
        self.noise_seed = seed

    @property
    def spec(self) -> DataSpec:
        """`(1, 8, 8)`, boolean, in the unit interval, or integer."""
        rows = by_id(np.arange(NUM_IMAGES), FRACTIONS)["train"].sum()
        return self._view.spec((1, 8, 8), int(rows))

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, test."""
        return tuple(FRACTIONS)

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id`, `x` and `label`."""
        from sklearn.datasets import load_digits

        pixels, classes = load_digits(return_X_y=True)
        images = np.asarray(pixels, np.uint8).reshape(-1, 1, 8, 8)
        ids = np.flatnonzero(by_id(np.arange(len(images)), FRACTIONS)[split])
        labels = np.asarray(classes, np.int64)[ids]
        yield record(ids, self._view.stored(images[ids], ids), {"label": labels})

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """Grey levels as binary, unit-interval or integer values."""
        return self._view.tensor(x, uniform)

    def describe(self) -> Mapping[str, str]:
        """Binarization and its seed."""
        return self._view.describe()
