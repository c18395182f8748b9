"""Arrays in NumPy's own format."""

from __future__ import annotations

import glob
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, final

import numpy as np
import pyarrow as pa
import torch
from annotated_types import Ge
from torch import Tensor

from vaepipe.core.spec import SUPPORTS, DataSpec, Shape
from vaepipe.data import values
from vaepipe.data.schema import record
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.parquet import Support
from vaepipe.datasets.splits import Fractions, by_id
from vaepipe.errors import DataError

_BATCH_BYTES = 16 * 2**20


@final
class Npy(Dataset):
    """Rows of `.npy` files `[n, ...]`, numbered through the files in the order of their names.

    The files are mapped, never read as a whole.

    Args:
        path: a file, or a glob of files with rows of one shape.
        support: where the values live; every value is checked when the data are written.
        shape: of one example; by default that of a row.
        levels: how many values integers have, 0 … levels - 1; null where there is no end.
        label_path: a `.npy` file `[n]`, or a glob of as many, kept as `label`.
        splits: shares of the rows; a row's split is decided by a hash of its number.

    Raises:
        DataError: when the files are read: none there, one that is no array of numbers, shapes that
            differ, values outside the support, another number of labels.
    """

    def __init__(
        self,
        *,
        path: Path,
        support: Support,
        shape: tuple[int, ...] | None = None,
        levels: Annotated[int, Ge(2)] | None = None,
        label_path: Path | None = None,
        splits: Fractions = {"train": 0.8, "val": 0.1, "test": 0.1},  # noqa: B006
    ) -> None:
        """Nothing is read yet."""
        self._path, self._support, self._levels = str(path), support, levels
        self._shape = tuple(shape) if shape else None
        self._label_path = None if label_path is None else str(label_path)
        self._fractions = dict(splits)

    @property
    def spec(self) -> DataSpec:
        """Shape and number of rows from the files' headers."""
        share = self._fractions.get("train", 0.0) / sum(self._fractions.values())
        rows = max(1, round(self._starts[-1] * share))
        return DataSpec(self._event_shape, SUPPORTS[self._support], rows, levels=self._levels)

    @property
    def splits(self) -> tuple[str, ...]:
        """As given."""
        return tuple(self._fractions)

    def prepare(self) -> None:
        """Look for the files and read their headers."""
        for name in self._files:
            self._check_rows(name)
        self._check_labels()

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id`, `x` and, if given, `label`."""
        self.prepare()
        size = max(1, _BATCH_BYTES // (4 * math.prod(self._event_shape)))
        for name, first, count in self._pieces(size):
            ids = np.arange(first, first + count)
            ids = ids[by_id(ids, self._fractions)[split]]
            if len(ids):
                yield self._record(name, ids)

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """Numbers as they are; bytes in the unit interval are divided by 255."""
        value = x.to(torch.get_default_dtype())
        scaled = x.dtype == torch.uint8 and self._support == "unit_interval"
        return value / 255 if scaled else value

    def describe(self) -> Mapping[str, str]:
        """Where the rows come from."""
        return {"source": self._path}

    def _record(self, name: str, ids: np.ndarray) -> pa.RecordBatch:
        raw = np.asarray(_map(name)[ids - self._starts[self._files.index(name)]])
        x = values.wide(raw).reshape(len(ids), *self._event_shape)
        values.check_support(name, ids, x, self._support, self._levels)
        return record(ids, x, self._labels_of(ids))

    def _labels_of(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        if self._label_path is None:
            return {}
        parts = [_map(name) for name in _find(self._label_path)]
        starts = np.cumsum([0, *map(len, parts)])
        which = np.searchsorted(starts, ids, side="right") - 1
        pairs = zip(which, ids, strict=True)
        return {"label": np.array([parts[part][row - starts[part]] for part, row in pairs])}

    def _pieces(self, size: int) -> Iterator[tuple[str, int, int]]:
        """Name, first row and number of rows, of at most `size` rows each."""
        for name, start, stop in zip(self._files, self._starts, self._starts[1:], strict=False):
            for first in range(start, stop, size):
                yield name, first, min(size, stop - first)

    @cached_property
    def _files(self) -> list[str]:
        return _find(self._path)

    @cached_property
    def _starts(self) -> list[int]:
        """First row of every file, then the number of all rows."""
        return [0, *np.cumsum([len(_map(name)) for name in self._files]).tolist()]

    @property
    def _event_shape(self) -> Shape:
        return self._shape or _map(self._files[0]).shape[1:] or (1,)

    def _check_rows(self, name: str) -> None:
        shape = _map(name).shape[1:]
        if math.prod(shape) != math.prod(self._event_shape):
            raise DataError(
                f"{name}: examples of shape {self._event_shape} expected, got rows of {shape}."
            )

    def _check_labels(self) -> None:
        if self._label_path is None:
            return
        arrays = [_map(name) for name in _find(self._label_path)]
        count = sum(map(len, arrays))
        if any(a.ndim != 1 for a in arrays) or count != self._starts[-1]:
            raise DataError(
                f"{self._label_path}: one label for each of {self._starts[-1]} rows expected, got "
                f"{count} of shape {arrays[0].shape[1:]}."
            )


def _find(path: str) -> list[str]:
    found = [path] if Path(path).is_file() else sorted(glob.glob(path, recursive=True))  # noqa: PTH207
    if not found:
        raise DataError(f"{path}: no such file. Expected a .npy file or a glob such as 'x-*.npy'.")
    return found


def _map(name: str) -> np.ndarray:
    """The array of a file; only what is indexed is read."""
    try:
        array = np.load(name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{name}: not a readable .npy file: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0 or array.dtype.kind not in "biuf":
        raise DataError(f"{name}: an array of numbers [n, ...] expected.")
    return array
