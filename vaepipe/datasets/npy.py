"""Arrays in NumPy's own format."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
from annotated_types import Ge

from vaepipe.data import formats, sources
from vaepipe.data.sources import Batch, Source
from vaepipe.datasets.rows import Rows, Support
from vaepipe.datasets.splits import Fractions
from vaepipe.errors import DataError
from vaepipe.files import digest

_BATCH_BYTES = 16 * 2**20


@final
class Npy(Rows):
    """Rows of `.npy` files `[n, ...]`, numbered through the files in the order of their names.

    Rows are read some at a time, never a file as a whole.

    Args:
        path: a file, a folder, or a glob of files with rows of one shape, also as a URI.
        support: where the values live; every value is checked when the data are written.
        shape: of one example; by default that of a row. Axes of length 1 may be added or removed,
            and a flat row may be given a shape.
        levels: how many values integers have, 0 … levels - 1; null where there is no end.
        label_path: a `.npy` file `[n]`, or a glob of as many, kept as `label`.
        max_value: the byte that is 1 where `support` is `unit_interval`; null is 1 where all values
            are 0 or 1, else 255.
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
        max_value: Annotated[int, Ge(1)] | None = None,
        splits: Fractions = {"train": 0.8, "val": 0.1, "test": 0.1},  # noqa: B006
    ) -> None:
        """Nothing is read yet."""
        super().__init__(str(path), support, shape, levels, max_value, splits)
        self._label_path = None if label_path is None else str(label_path)

    _kind = "npy"

    def state(self) -> str | None:
        """Return a digest of the names, sizes and times of the files, labels among them."""
        labels = [] if self._label_path is None else _find(self._label_path)
        return digest([super().state(), *(formats.stamp(name) for name in labels)])

    def prepare(self) -> None:
        """Look at the files and read their headers."""
        super().prepare()
        self._check_labels()

    def describe(self) -> Mapping[str, str]:
        """Where the rows come from."""
        return {"source": sources.shown(self._path)}

    def _open(self) -> Source:
        return sources.of_files(self._path, self._shape, "x", None, only=self._kind)

    def _size(self) -> int:
        return max(1, _BATCH_BYTES // (4 * max(1, math.prod(self._source.shape))))

    def _extra(self, batch: Batch, mask: np.ndarray) -> Mapping[str, Any]:
        if self._label_path is None:
            return {}
        ids = batch.ids[mask]
        which = np.searchsorted(self._label_starts, ids, side="right") - 1
        pairs = zip(which, ids - self._label_starts[which], strict=True)
        return {"label": np.array([self._labels[part][row] for part, row in pairs])}

    @cached_property
    def _labels(self) -> list[np.ndarray]:
        return [_map(name) for name in _find(str(self._label_path))]

    @cached_property
    def _label_starts(self) -> np.ndarray:
        return np.cumsum([0, *map(len, self._labels)])

    def _check_labels(self) -> None:
        if self._label_path is None:
            return
        count = sum(map(len, self._labels))
        if any(a.ndim != 1 for a in self._labels) or count != self._rows:
            raise DataError(
                f"{self._label_path}: one label for each of {self._rows} rows expected, got "
                f"{count} of shape {self._labels[0].shape[1:]}."
            )


def _find(path: str) -> list[str]:
    """Return the files of labels."""
    found = [path] if Path(path).is_file() else sorted(glob.glob(path, recursive=True))  # noqa: PTH207
    if not found:
        raise DataError(f"{path}: no such file. Expected a .npy file or a glob such as 'x-*.npy'.")
    return found


def _map(name: str) -> np.ndarray:
    """Return the labels of a file; only those that are indexed are read."""
    try:
        array = np.load(name, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{name}: not a readable .npy file: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim == 0 or array.dtype.kind not in "biuf":
        raise DataError(f"{name}: an array of numbers [n, ...] expected.")
    return array
