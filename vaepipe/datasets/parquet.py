"""Any folder, glob or URI of Parquet files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, final

import numpy as np
import pyarrow as pa
from annotated_types import Ge

from vaepipe.data import sources
from vaepipe.data.decoding import Decoding
from vaepipe.data.pictures import Pictures
from vaepipe.data.sources import Batch, Source
from vaepipe.datasets.rows import Rows, Support
from vaepipe.datasets.splits import Fractions

BATCH = 8192
BATCH_BYTES = 2**26
"""The most rows, and about the most bytes of the files, that are read together."""


@final
class ParquetDataset(Rows):
    """Rows of Parquet files, in the order of the files' names.

    Args:
        path: a file, a folder, a glob, or a URI of a filesystem that Arrow knows (`s3://…`).
        support: where the values live; every value is checked when the data are written.
        column: fixed- or variable-size lists, tensors, one number per row; pictures, which need
            `shape`; or several numeric columns, as a glob such as `f_*` or separated by
            commas, whose names the model keeps.
        id_column: unique integers; without it rows are numbered in order.
        label_column: kept as `label`; also one in the names of folders, `site=Ulm/`.
        shape: of one example; by default that of the tensors or lists.
        levels: how many values integers have, 0 … levels - 1; null where there is no end.
        max_value: the byte that is 1 where `support` is `unit_interval`; null is 1 where all values
            are 0 or 1, else 255.
        background: colour behind the transparent pixels of pictures.
        splits: shares of the rows; a row's split is decided by a hash of its id.

    Raises:
        DataError: when the files are read: no such file or column, nulls, unequal lengths or
            shapes, values outside the support, ids that repeat.
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
        max_value: Annotated[int, Ge(1)] | None = None,
        background: str = "white",
        splits: Fractions = {"train": 0.8, "val": 0.1, "test": 0.1},  # noqa: B006
    ) -> None:
        """Nothing is read yet."""
        super().__init__(str(path), support, shape, levels, max_value, splits)
        self._column, self._id, self._label = column, id_column, label_column
        self._pictures = Pictures(background)

    _kind = "parquet"

    def pictures(self) -> Pictures:
        """Upright, before `background`."""
        return self._pictures

    def describe(self) -> Mapping[str, str]:
        """Where the rows come from."""
        return {"source": sources.shown(self._path), "column": self._column}

    def _open(self) -> Source:
        found = sources.of_files(
            self._path,
            self._shape,
            self._column,
            self._id,
            only=self._kind,
            numbered=True,
            decoding=Decoding(self._pictures),
        )
        found.check_kept(self._kept)
        return found

    def _size(self) -> int:
        row = max(1.0, self._source.row_bytes(self._kept), math.prod(self._source.shape))
        return max(1, min(BATCH, int(BATCH_BYTES / row)))

    @property
    def _kept(self) -> tuple[str, ...]:
        return () if self._label is None else (self._label,)

    def _extra(self, batch: Batch, mask: np.ndarray) -> Mapping[str, Any]:
        if self._label is None:
            return {}
        kept = batch.kept.column(self._label).filter(pa.array(mask))
        return {"label": pa.concat_arrays(kept.chunks) if kept.num_chunks else kept}
