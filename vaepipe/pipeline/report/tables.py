"""Parquet columns as lists and arrays that tolerate what a cut-off run leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Columns = Mapping[str, list[Any]]
GROUPS_READ = 32


def read(path: Path) -> Columns:
    """The columns of a Parquet file that hold one value a row; none where there is no file."""
    if not path.is_file():
        return {}
    file = pq.ParquetFile(path)
    plain = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
    return file.read(columns=plain).to_pydict()


def numbers(columns: Columns, name: str) -> np.ndarray:
    """A column as float64 `[n]`; what is missing or not finite is NaN.

    Example:
        >>> numbers({"a": [1, None, float("inf")]}, "a")
        array([ 1., nan, nan])
    """
    count = len(next(iter(columns.values()), []))
    values = columns.get(name, [None] * count)
    array = np.array([np.nan if v is None else float(v) for v in values], np.float64)
    array[~np.isfinite(array)] = np.nan
    return array


def has_values(array: np.ndarray) -> bool:
    """Whether there is a finite number to draw."""
    return bool(np.isfinite(array).any())


def latents(folder: Path, rows: int) -> tuple[np.ndarray, list[Any] | None]:
    """Posterior means `[n, d]` of an encode artifact, n <= rows, and labels if it kept them.

    Rows come from groups spread over all files, so that a large artifact is not read whole.
    """
    groups = [
        (path, group)
        for path in sorted(folder.glob("part-*.parquet"))
        if "mean" in pq.read_schema(path).names
        for group in range(pq.read_metadata(path).num_row_groups)
    ]
    tables = [_group(*groups[i]) for i in spread(len(groups), GROUPS_READ)]
    if not tables:
        return np.zeros((0, 0)), None
    table = pa.concat_tables(tables, promote_options="permissive")
    table = table.take(pa.array(spread(table.num_rows, rows)))
    mean = table.column("mean").combine_chunks()
    values = mean.flatten().to_numpy(zero_copy_only=False).reshape(len(mean), -1)
    labels = table.column("label").to_pylist() if "label" in table.column_names else None
    return values, labels


def spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the indices 0 … count - 1, evenly spread.

    Example:
        >>> spread(10, 3), spread(2, 3)
        ([0, 4, 9], [0, 1])
    """
    chosen = np.linspace(0, count - 1, min(count, wanted)) if count else np.zeros(0)
    return sorted(set(chosen.astype(int).tolist()))


def _group(path: Path, group: int) -> pa.Table:
    file = pq.ParquetFile(path)
    names = [n for n in ("mean", "label") if n in file.schema_arrow.names]
    return file.read_row_group(group, columns=names)


def column_names(columns: Columns, prefix: str) -> Sequence[str]:
    """Names that start with a prefix, in the order of the file."""
    return [name for name in columns if name.startswith(prefix)]
