"""Any folder, glob or URI of Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from annotated_types import Ge
from torch import Tensor

from vaepipe.core.spec import SUPPORTS, DataSpec, Shape
from vaepipe.data import sources, values
from vaepipe.data.schema import record
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.splits import Fractions, by_id
from vaepipe.errors import DataError, did_you_mean

Support = Literal["boolean", "unit_interval", "real", "integer"]
BATCH = 8192


@final
class ParquetDataset(Dataset):
    """Rows of a vector column of Parquet files, in the order of the files' names.

    Args:
        path: a file, a folder, a glob, or a URI of a filesystem that Arrow knows (`s3://…`).
        support: where the values live; every value is checked when the data are written.
        column: fixed- or variable-size lists, tensors, or one number a row.
        id_column: unique integers; without it rows are numbered in order.
        label_column: kept as `label`.
        shape: of one example; by default the length of the lists.
        levels: how many values integers have, 0 … levels - 1; null where there is no end.
        splits: shares of the rows; a row's split is decided by a hash of its id.

    Raises:
        DataError: when the files are read: no such file or column, nulls, unequal lengths, values
            outside the support, ids that repeat.
    """

    def __init__(
        self,
        *,
        path: Path,
        support: Support,
        column: str = "x",
        id_column: str | None = None,
        label_column: str | None = None,
        shape: tuple[int, ...] | None = None,
        levels: Annotated[int, Ge(2)] | None = None,
        splits: Fractions = {"train": 0.8, "val": 0.1, "test": 0.1},  # noqa: B006
    ) -> None:
        """Nothing is read yet."""
        self._path, self._support, self._column = str(path), support, column
        self._id, self._label, self._fractions = id_column, label_column, dict(splits)
        self._shape = tuple(shape) if shape else None
        self._levels = levels

    @property
    def spec(self) -> DataSpec:
        """The shape from the first row; `num_examples` from the files' footers."""
        share = self._fractions.get("train", 0.0) / sum(self._fractions.values())
        rows = sum(sources.open_file(name).metadata.num_rows for name in self._files)
        size = max(1, round(rows * share))
        return DataSpec(self._event_shape(), SUPPORTS[self._support], size, levels=self._levels)

    @property
    def splits(self) -> tuple[str, ...]:
        """As given."""
        return tuple(self._fractions)

    def prepare(self) -> None:
        """Look for the files, the columns and the shape of the first row."""
        self._check_columns()
        self._event_shape()

    def _check_columns(self) -> None:
        _check_columns(self._files[0], sources.open_file(self._files[0]), self._columns)

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id`, `x` and, if asked for, `label`."""
        seen: list[np.ndarray] = []
        for where, ids, batch in self._numbered():
            seen.append(ids)
            mask = by_id(ids, self._fractions)[split]
            if mask.any():
                yield self._record(where, ids[mask], batch.filter(pa.array(mask)))
        _check_unique(self._path, np.concatenate(seen) if seen else np.zeros(0, np.int64))

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """Numbers as they are; bytes in the unit interval are divided by 255."""
        value = x.to(torch.get_default_dtype())
        return value / 255 if x.dtype == torch.uint8 and self._scaled else value

    def describe(self) -> Mapping[str, str]:
        """Where the rows come from."""
        return {"source": sources.shown(self._path), "column": self._column}

    @property
    def _scaled(self) -> bool:
        return self._support == "unit_interval"

    def _numbered(self) -> Iterator[tuple[str, np.ndarray, pa.RecordBatch]]:
        """Every batch with its ids and a name for messages."""
        count = 0
        for name in self._files:
            file = sources.open_file(name)
            _check_columns(name, file, self._columns)
            for batch in _batches(name, file, self._columns):
                yield name, self._ids(name, batch, count), batch
                count += batch.num_rows

    def _ids(self, where: str, batch: pa.RecordBatch, first: int) -> np.ndarray:
        if self._id is None:
            return np.arange(first, first + batch.num_rows)
        return values.integers(f"{where}: column '{self._id}'", batch.column(self._id))

    def _record(self, where: str, ids: np.ndarray, batch: pa.RecordBatch) -> pa.RecordBatch:
        x = values.values(where, batch.column(self._column), self._event_shape())
        values.check_support(where, ids, x, self._support, self._levels)
        extra = {"label": batch.column(self._label)} if self._label else {}
        return record(ids, x, extra)

    def _event_shape(self) -> Shape:
        if self._shape is None:
            self._shape = self._first_shape()
        return self._shape

    def _first_shape(self) -> Shape:
        self._check_columns()
        name = self._files[0]
        first = next(sources.open_file(name).iter_batches(1, columns=[self._column]), None)
        if first is None or first.num_rows == 0:
            raise DataError(
                f"{name}: no rows, so the shape of an example is unknown; give `shape`."
            )
        column = first.column(0)
        if isinstance(column, pa.FixedShapeTensorArray):
            return tuple(column.type.shape)
        return (len(column[0]),) if values.is_list(column.type) else (1,)

    @property
    def _columns(self) -> list[str]:
        return [c for c in (self._column, self._id, self._label) if c]

    @cached_property
    def _files(self) -> list[str]:
        return sources.find(self._path)[1]


def _check_columns(path: str, file: pq.ParquetFile, columns: Sequence[str]) -> None:
    names = file.schema_arrow.names
    for column in columns:
        if column not in names:
            raise DataError(
                f"{sources.shown(path)}: no column '{column}'.{did_you_mean(column, names)} "
                f"Columns: {', '.join(names)}."
            )


def _batches(path: str, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from file.iter_batches(BATCH, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{sources.shown(path)}: rows cannot be read: {error}") from error


def _check_unique(path: str, ids: np.ndarray) -> None:
    unique, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{path}: id {unique[counts > 1][0]} appears more than once.")
