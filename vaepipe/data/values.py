"""Columns of other people's Parquet files as arrays of examples."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa

from vaepipe.core.spec import Shape
from vaepipe.errors import DataError

INSIDE = {
    "boolean": (lambda x: (x == 0) | (x == 1), "0 or 1"),
    "unit_interval": (lambda x: (x >= 0) & (x <= 1), "in [0, 1]"),
    "real": (np.isfinite, "finite numbers"),
    "integer": (lambda x: (x >= 0) & (x == np.floor(x)) & np.isfinite(x), "0, 1, 2 …"),
}
"""What lies in a support, and how to say so."""


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds one list for each row."""
    return (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )


def values(where: str, column: pa.Array | pa.ChunkedArray, shape: Shape) -> np.ndarray:
    """A numeric column (numbers, lists, tensors) to `[n, *shape]` of uint8 or float32.

    Raises:
        DataError: nulls, text, or examples of another length.
    """
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(whole, pa.ChunkedArray):
        return np.zeros((0, *shape), np.float32)
    array = whole.storage if isinstance(whole, pa.ExtensionArray) else whole
    flat = array.flatten() if is_list(array.type) else array
    if array.null_count or flat.null_count:
        raise DataError(f"{where}: nulls among the examples; remove or fill those rows first.")
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
        raise DataError(f"{where}: expected numbers, got {flat.type}.")
    _check_lengths(where, array, shape)
    raw = flat.to_numpy(zero_copy_only=False)
    kind = np.uint8 if raw.dtype == np.uint8 else np.float32
    return raw.astype(kind, copy=False).reshape(len(array), *shape)


def integers(where: str, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column of ids as int64.

    Raises:
        DataError: not integers, or nulls among them.
    """
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(f"{where}: ids must be integers without nulls, got {column.type}.")
    array = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(False)
    return array.astype(np.int64)


def check_support(where: str, ids: np.ndarray, x: np.ndarray, support: str) -> None:
    """Every value lies where it was declared to.

    Raises:
        DataError: naming the first row that does not.
    """
    if x.dtype == np.uint8 and support != "boolean":
        return
    inside, words = INSIDE[support]
    rows = ~inside(x).reshape(len(x), -1).all(axis=1)
    if not rows.any():
        return
    row = int(np.flatnonzero(rows)[0])
    flat = x[row].reshape(-1)
    raise DataError(
        f"{where}: {rows.sum()} rows are outside the support '{support}' ({words}); the first has "
        f"id {ids[row]} and the value {flat[~inside(flat)][0]}. Declare another `support` or mend "
        "the data."
    )


def _check_lengths(where: str, array: pa.Array, shape: Shape) -> None:
    size = math.prod(shape)
    if not is_list(array.type):
        lengths = {1}
    elif pa.types.is_fixed_size_list(array.type):
        lengths = {array.type.list_size}
    else:
        lengths = set(array.value_lengths().unique().to_pylist())
    if lengths - {size}:
        got = ", ".join(map(str, sorted(lengths)))
        raise DataError(f"{where}: examples of {size} values (shape {shape}) expected, got {got}.")
