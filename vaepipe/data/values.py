"""Columns of other people's Parquet files as arrays of examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vaepipe.core.spec import Shape
from vaepipe.data import layout
from vaepipe.data.decoding import PLAIN, Decoding
from vaepipe.data.pictures import Pictures
from vaepipe.data.text import Words
from vaepipe.data.unify import plain_type
from vaepipe.errors import DataError

_LARGEST = float(np.finfo(np.float32).max)
INSIDE = {
    "boolean": (lambda x: (x == 0) | (x == 1), "0 or 1"),
    "unit_interval": (lambda x: (x >= 0) & (x <= 1), "in [0, 1]"),
    "real": (lambda x: np.abs(x) <= _LARGEST, "finite numbers up to 3.4e38, the most of float32"),
    "integer": (lambda x: (x >= 0) & (x == np.floor(x)) & (x < 2**31), "0, 1, 2 … below 2^31"),
}
"""What lies in a support, and how to say so.

Counts from 2^24 on are stored in float32 to 24 bits, a relative error of 6e-8: far less than any
count varies.
"""


def _below(levels: int) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Integers with an end."""
    return lambda x: (x >= 0) & (x == np.floor(x)) & (x < levels), f"0 … {levels - 1}"


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds one list for each row."""
    return (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, however it is stored."""
    return plain_type(kind) in (pa.string(), pa.large_string())


def sort(kind: pa.DataType) -> str:
    """What a column of examples or ids is read as: files of one input must agree in it.

    Example:
        >>> sort(pa.list_(pa.uint8())), sort(pa.float32()), sort(pa.null())
        ('numbers', 'numbers', 'null')
    """
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    kind = kind.value_type if is_list(kind) else kind
    if _numeric(kind):
        return "numbers"
    if is_text(kind):
        return "text"
    encoded = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    images = encoded or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return "images" if images else str(kind)


def element(kind: pa.DataType) -> pa.DataType:
    """Return the type of one value of an example; pictures are decoded to bytes.

    Example:
        >>> element(pa.list_(pa.uint8())), element(pa.binary())
        (DataType(uint8), DataType(uint8))
    """
    if sort(kind) == "images":
        return pa.uint8()
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return kind.value_type if is_list(kind) else kind


def length(where: str, column: pa.Array) -> int | None:
    """Return the number of values of the first list that has any; None if none has.

    Raises:
        DataError: a column of something else.
    """
    array = column.storage if isinstance(column, pa.ExtensionArray) else column
    if not is_list(array.type):
        images = sort(array.type) == "images"
        raise DataError(
            f"{where}: the shape of an image is not in its column; give `shape`, [3, 32, 32] say."
            if images
            else f"{where}: expected numbers, got {array.type}."
        )
    return next((n for n in array.value_lengths().to_pylist() if n), None)


def wide(raw: np.ndarray) -> np.ndarray:
    """Return bytes and truth values as uint8, other numbers as float32 if it holds them exactly.

    What is left is float64; the data stage narrows it, and checks what that loses.

    Example:
        >>> [wide(np.zeros(1, kind)).dtype.name for kind in ("bool", "int16", "int64", "float64")]
        ['uint8', 'float32', 'float64', 'float64']
    """
    if raw.dtype in (np.uint8, np.bool_):
        return raw.astype(np.uint8, copy=False)
    kind = np.float32 if np.can_cast(raw.dtype, np.float32) else np.float64
    return raw.astype(kind, copy=False)


def check_support(
    where: str,
    ids: np.ndarray,
    x: np.ndarray,
    support: str,
    levels: int | None = None,
    max_value: int | None = None,
) -> None:
    """Every value lies where it was declared to; integers below `levels`, where that is given.

    Args:
        where: the file, for messages.
        ids: `[n]`.
        x: `[n, *shape]`.
        support: a key of `INSIDE`.
        levels: how many values integers have.
        max_value: the byte that is 1 in the unit interval; None is 255.

    Raises:
        DataError: naming the first row that does not.
    """
    inside, words = INSIDE[support] if levels is None else _below(levels)
    if x.dtype == np.uint8 and support != "boolean" and levels is None:
        if support != "unit_interval" or max_value in (None, 255):
            return
        inside, words = (lambda x: x <= max_value), f"bytes 0 … {max_value}"
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


class Rows(NamedTuple):
    """Values of the rows that can be read, which rows those are, and what is wrong with others."""

    x: np.ndarray
    """`[good, *shape]`: uint8 as it is, other integers as int64, the rest as float32."""
    good: np.ndarray
    """bool `[n]`."""
    faults: dict[int, str]
    """Row to reason, for rows that are not good."""


def rows(
    where: str,
    columns: Sequence[pa.Array],
    shape: Shape,
    decoding: Decoding = PLAIN,
    *,
    exact: bool = False,
) -> Rows:
    """Examples of a batch, row by row: numbers, lists, tensors, pictures, text, flat columns.

    Args:
        where: of the batch, for messages.
        columns: one column of examples, or one column for each value of an example.
        shape: of one example.
        decoding: how pictures and sentences are read.
        exact: keep the type of the numbers.

    Raises:
        DataError: no row can be read, because the columns are of another type or length.

    Example:
        >>> found = rows("t", [pa.array([[1.0, 2.0], None, [3.0]])], (2,))
        >>> found.x.tolist(), found.faults
        ([[1.0, 2.0]], {1: 'null', 2: 'expected 2 values, got 1'})
    """
    found = _rows(where, columns, shape, decoding)
    x = found.x if exact else _stored(found.x)
    return _finite(found._replace(x=x.reshape(-1, *shape)))


def _rows(where: str, columns: Sequence[pa.Array], shape: Shape, decoding: Decoding) -> Rows:
    if len(columns) > 1:
        return _flat(where, columns, shape)
    array = columns[0].storage if isinstance(columns[0], pa.ExtensionArray) else columns[0]
    if pa.types.is_struct(array.type) and array.type.get_field_index("bytes") >= 0:
        array = array.flatten()[array.type.get_field_index("bytes")]
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return _images(array, shape, decoding.pictures)
    words = decoding.words
    if words is not None and is_text(array.type):
        return _sentences(array, shape, words)
    found = _numbers(where, columns[0], shape)
    return found if words is None else found._replace(x=words.renumbered(found.x))


def _numbers(where: str, column: pa.Array, shape: Shape) -> Rows:
    array = column.storage if isinstance(column, pa.ExtensionArray) else column
    if not is_list(array.type):
        return _flat(where, [array], shape)
    found = _lists(where, array, shape)
    if isinstance(column.type, pa.FixedShapeTensorType):
        x = found.x.reshape(len(found.x), -1)
        found = found._replace(x=layout.unpermuted(x, column.type))
    return found


def _flat(where: str, columns: Sequence[pa.Array], shape: Shape) -> Rows:
    """One number a row in each column."""
    size, kinds = math.prod(shape), {column.type for column in columns}
    for kind in kinds:
        _check_numeric(where, kind)
    if len(columns) != size:
        raise DataError(f"{where}: examples of {size} values expected, got {len(columns)} columns.")
    missing = [c.is_null().to_numpy(zero_copy_only=False) for c in columns if c.null_count]
    wrong = np.logical_or.reduce(missing) if missing else np.zeros(len(columns[0]), bool)
    batch = pa.RecordBatch.from_arrays(list(columns), [str(i) for i in range(size)])
    whole = batch.filter(pa.array(~wrong)) if missing else batch
    return Rows(_stacked(whole, kinds), ~wrong, _named(wrong, "null"))


def _stacked(batch: pa.RecordBatch, kinds: set[pa.DataType]) -> np.ndarray:
    """Return columns without nulls as `[n, columns]`, of the type that holds all of them."""
    odd = any(pa.types.is_boolean(kind) or pa.types.is_float16(kind) for kind in kinds)
    if odd or not batch.num_rows:
        return np.stack([c.to_numpy(zero_copy_only=False) for c in batch.columns], 1)
    return batch.to_tensor(row_major=True).to_numpy()


def _lists(where: str, array: pa.Array, shape: Shape) -> Rows:
    size = math.prod(shape)
    _check_numeric(where, array.type.value_type)
    if pa.types.is_fixed_size_list(array.type) and array.type.list_size != size:
        raise DataError(
            f"{where}: examples of {size} values (shape {shape}) expected, got lists of "
            f"{array.type.list_size}."
        )
    faults = {} if _plain(array) else _list_faults(array, size)
    good = np.ones(len(array), bool)
    good[list(faults)] = False
    kept = array if not faults else array.filter(pa.array(good))
    return Rows(kept.flatten().to_numpy(zero_copy_only=False), good, faults)


def _plain(array: pa.Array) -> bool:
    """No nulls and only one possible length: nothing to look for row by row."""
    whole = pa.types.is_fixed_size_list(array.type) and not array.null_count
    return whole and not array.flatten().null_count


def _list_faults(array: pa.Array, size: int) -> dict[int, str]:
    missing = array.is_null().to_numpy(zero_copy_only=False)
    lengths = array.value_lengths().fill_null(size).to_numpy(zero_copy_only=False)
    faults = _named(missing, "null")
    for row in np.flatnonzero((lengths != size) & ~missing):
        faults[int(row)] = f"expected {size} values, got {lengths[row]}"
    if array.flatten().null_count:
        for row in set(range(len(array))) - set(faults):
            if array[row].values.null_count:
                faults[row] = "null among its values"
    return dict(sorted(faults.items()))


def _finite(found: Rows) -> Rows:
    """Numbers that are not finite are a fault of their row."""
    if found.x.dtype.kind != "f":
        return found
    flat = found.x.reshape(len(found.x), math.prod(found.x.shape[1:]))
    inside = np.isfinite(flat)
    wrong = np.flatnonzero(~inside.all(1))
    if not len(wrong):
        return found
    places = np.flatnonzero(found.good)[wrong]
    first = flat[wrong, inside[wrong].argmin(1)]
    reasons = {
        int(row): f"a value that is not finite ({value})"
        for row, value in zip(places, first, strict=True)
    }
    return _less(found, reasons)


def without(found: Rows, wrong: np.ndarray, reason: str) -> Rows:
    """The same rows, less those marked in `wrong` `[n]`, which get a reason if they have none."""
    return _less(found, _named(wrong, reason)) if wrong.any() else found


def _less(found: Rows, reasons: Mapping[int, str]) -> Rows:
    wrong = np.zeros(len(found.good), bool)
    wrong[list(reasons)] = True
    faults = {**reasons, **found.faults}
    good = found.good & ~wrong
    return Rows(found.x[~wrong[found.good]], good, dict(sorted(faults.items())))


def _images(array: pa.Array, shape: Shape, pictures: Pictures) -> Rows:
    kept, faults = [], {}
    mode = "RGB" if _colour(shape) else "L"
    for row, data in enumerate(array):
        try:
            if not data.is_valid:
                raise ValueError("null")
            kept.append(pictures.decode(data.as_py(), mode, shape))
        except ValueError as error:
            faults[row] = str(error)
    good = np.ones(len(array), bool)
    good[list(faults)] = False
    return Rows(np.stack(kept) if kept else np.zeros((0, *shape), np.uint8), good, faults)


def _sentences(array: pa.Array, shape: Shape, words: Words) -> Rows:
    """Text by the words of a model."""
    texts = array.to_pylist()
    faults = {
        row: "null" if text is None else "no words"
        for row, text in enumerate(texts)
        if text is None or not text.strip()
    }
    good = np.ones(len(texts), bool)
    good[list(faults)] = False
    kept = [text for row, text in enumerate(texts) if row not in faults]
    return Rows(words.encode(kept, math.prod(shape)), good, faults)


def _colour(shape: Shape) -> bool:
    return len(shape) == 3 and shape[0] == 3


def _numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _check_numeric(where: str, kind: pa.DataType) -> None:
    if not _numeric(kind):
        raise DataError(f"{where}: expected numbers, got {kind}.")


def _stored(raw: np.ndarray) -> np.ndarray:
    """Integers stay integers: views tell grey levels from numbers in [0, 1] by the type."""
    if raw.dtype == np.uint8:
        return raw
    whole = raw.dtype.kind in "ui" and not (raw.dtype == np.uint64 and (raw >= 2**63).any())
    with np.errstate(over="ignore"):  # what overflows is not finite, and found as such
        return raw.astype(np.int64 if whole else np.float32, copy=False)


def _named(mask: np.ndarray, reason: str) -> dict[int, str]:
    return {int(row): reason for row in np.flatnonzero(mask)}
