"""Datasets of numbers in files: what the `parquet` and the `npy` dataset share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vaepipe.core.spec import SUPPORTS, DataSpec, Shape
from vaepipe.data import values
from vaepipe.data.formats import find, unread
from vaepipe.data.schema import record
from vaepipe.data.sources import Batch, Source, refuse
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.splits import Cut, Fractions, cut
from vaepipe.errors import DataError

Support = Literal["boolean", "unit_interval", "real", "integer"]
WHITE = 255
"""The byte that is 1 in the unit interval, where not all bytes are 0 or 1."""
_IDS = 2**16
"""Numbers of rows that are hashed together."""


class Rows(Dataset):
    """Rows of files as examples of one support, split by a hash of the id.

    Args:
        path: where the files are.
        support: where the values live.
        shape: of one example; None is the shape that the files have.
        levels: how many values integers have.
        max_value: the byte that is 1 in the unit interval; None decides by the data.
        splits: shares of the rows.
    """

    def __init__(
        self,
        path: str,
        support: Support,
        shape: Shape | None,
        levels: int | None,
        max_value: int | None,
        splits: Fractions,
    ) -> None:
        self._path, self._support, self._levels = path, support, levels
        self._shape = tuple(shape) if shape else None
        self._max_value, self._fractions = max_value, dict(splits)

    _kind: ClassVar[str]
    """The format of the files, a name in `formats.FORMATS`."""

    @abstractmethod
    def _open(self) -> Source:
        """Return the files, looked at."""

    @abstractmethod
    def _size(self) -> int:
        """Return how many rows are read together."""

    @property
    def spec(self) -> DataSpec:
        """The shape of the files; `num_examples` from their footers or headers."""
        share = self._fractions.get("train", 0.0) / sum(self._fractions.values())
        rows = max(1, round(self._rows * share))
        shape, support = self._source.shape, SUPPORTS[self._support]
        return DataSpec(shape, support, rows, levels=self._levels, names=self._names)

    @property
    def splits(self) -> tuple[str, ...]:
        """As given."""
        return tuple(self._fractions)

    def prepare(self) -> None:
        """Look at the files; decide on the splits, and which byte is 1 in the unit interval."""
        if not self._rows:
            raise DataError(f"{self._path}: no rows, so there is nothing to learn from.")
        if self._support == "unit_interval" and self._max_value is None:
            self._max_value = self._largest()
        _ = self._cut

    def settled(self) -> Mapping[str, Any]:
        """Return `max_value`, where the data decided for another than the usual."""
        unusual = self._support == "unit_interval" and self._max_value not in (None, WHITE)
        return {"max_value": self._max_value} if unusual else {}

    def state(self) -> str | None:
        """Return a digest of the names, sizes and times of the files."""
        return find(self._path, self._kind).state

    def warnings(self) -> tuple[str, ...]:
        """Name files beside those that are read."""
        return unread(self._path, self._source.look().left)

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Yield rows with `id`, `x` and the columns that pass through."""
        self.prepare()
        seen: list[np.ndarray] = []
        for path, batch in self._source.everything(self._kept, self._size()):
            self._refuse(path, batch)
            seen.append(batch.ids)
            mask = self._cut.masks(batch.ids)[split]
            if mask.any():
                yield self._record(path, batch, mask)
        if self._source.id_column is not None:
            _check_unique(self._path, np.concatenate(seen) if seen else np.zeros(0, np.int64))

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """Numbers as they are; bytes in the unit interval are divided by `max_value`."""
        value = x.to(torch.get_default_dtype())
        scaled = x.dtype == torch.uint8 and self._support == "unit_interval"
        return value / (self._max_value or WHITE) if scaled else value

    @property
    def _kept(self) -> tuple[str, ...]:
        """Columns of the files that pass through."""
        return ()

    def _extra(self, batch: Batch, mask: np.ndarray) -> Mapping[str, Any]:
        """Return the columns that pass through, of the rows in `mask`."""
        return {}

    @property
    def _names(self) -> tuple[str, ...] | None:
        """The names of flat columns, which belong to the model."""
        column = self._source.column
        return column if len(column) > 1 else None

    @cached_property
    def _source(self) -> Source:
        return self._open()

    @cached_property
    def _cut(self) -> Cut:
        """Where the splits begin and end; ids are read only until every split has a row."""
        return cut(self._path, self._ids(), self._fractions)

    def _ids(self) -> Iterator[np.ndarray]:
        if self._source.id_column is None:
            yield from (np.arange(i, min(self._rows, i + _IDS)) for i in range(0, self._rows, _IDS))
        else:
            yield from (batch.ids for _, batch in self._source.everything((), self._size()))

    @property
    def _rows(self) -> int:
        return sum(sum(piece.about.groups) for piece in self._source.pieces())

    def _record(self, path: str, batch: Batch, mask: np.ndarray) -> pa.RecordBatch:
        ids, x = batch.ids[mask], values.wide(batch.x[mask])
        x = x if self._bytes or x.dtype != np.uint8 else x.astype(np.float32)
        values.check_support(path, ids, x, self._support, self._levels, self._max_value)
        return record(ids, x, self._extra(batch, mask))

    def _refuse(self, path: str, batch: Batch) -> None:
        _, words = values.INSIDE[self._support]
        advice = (
            f"Every row needs an id and {words} (support '{self._support}'); repair or remove it"
        )
        refuse(path, batch.bad, advice)

    @property
    def _bytes(self) -> bool:
        """Whether the values of all files are stored as bytes."""
        return set(self._source.look().elements) <= {pa.uint8(), pa.bool_()}

    def _largest(self) -> int:
        """Return which byte is 1: 1 if the data are bits, else `WHITE`.

        Raises:
            DataError: files of bytes and files of other numbers, which would be read on two scales.
        """
        elements = dict(self._source.look().elements)
        grey = elements.pop(pa.uint8(), None)
        if grey is None:
            return 1 if set(elements) == {pa.bool_()} else WHITE
        bits = self._all_bits()
        if elements and not (bits and set(elements) == {pa.bool_()}):
            kind, path = next(iter(elements.items()))
            raise DataError(
                f"{self._path}: uint8 in {grey}, but {kind} in {path}: bytes in the unit interval "
                "are divided by their largest value, other numbers are not. Write one type."
            )
        return 1 if bits else WHITE

    def _all_bits(self) -> bool:
        """Check that no value is larger than 1; reading ends at the first that is."""
        everything = self._source.everything((), self._size())
        return all(not batch.x.size or batch.x.max() <= 1 for _, batch in everything)


def _check_unique(path: str, ids: np.ndarray) -> None:
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{path}: id {unique[counts > 1][0]} appears more than once.")
