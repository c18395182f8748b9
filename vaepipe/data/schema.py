"""Arrow types of examples and codes: portable fixed-size lists, event shape in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import pyarrow as pa

from vaepipe.core.spec import Shape

STORED = {"uint8": pa.uint8(), "float32": pa.float32()}


def vector(dtype: pa.DataType, shape: Shape) -> pa.DataType:
    """`fixed_size_list<dtype not null>[prod(shape)]`, which every reader understands."""
    return pa.list_(pa.field("element", dtype, nullable=False), prod(shape))


def vector_field(name: str, dtype: pa.DataType, shape: Shape) -> pa.Field:
    """A vector column that remembers the shape of its events."""
    return pa.field(
        name, vector(dtype, shape), nullable=False, metadata={"shape": json.dumps(list(shape))}
    )


def shape_of(field: pa.Field) -> Shape:
    """The event shape of a vector column; `(D,)` where none was remembered."""
    remembered = (field.metadata or {}).get(b"shape")
    return tuple(json.loads(remembered)) if remembered else (field.type.list_size,)


def to_vectors(values: np.ndarray, dtype: pa.DataType | None = None) -> pa.FixedSizeListArray:
    """`[n, *shape]` to a vector array, without a copy where memory allows."""
    flat = np.ascontiguousarray(values).reshape(-1)
    array = pa.array(flat, dtype or pa.from_numpy_dtype(flat.dtype))
    shape = values.shape[1:]
    return pa.FixedSizeListArray.from_arrays(array, type=vector(array.type, shape))


def from_vectors(column: pa.Array | pa.ChunkedArray, shape: Shape) -> np.ndarray:
    """A vector column to `[n, *shape]`."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # combine_chunks of no chunk at all
        return np.zeros((0, *shape), array.type.value_type.to_pandas_dtype())
    return array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), *shape)


def id_type(ids: np.ndarray) -> pa.DataType:
    """Return the type of a column of ids: uint64 where they are that, else int64."""
    return pa.uint64() if ids.dtype == np.uint64 else pa.int64()


def examples_schema(
    dtype: str, shape: Shape, extra: Mapping[str, pa.DataType], ids: pa.DataType | None = None
) -> pa.Schema:
    """`id: int64` (or another type), `x: vector`, then the columns that pass through."""
    kind = {**STORED, "float64": pa.float64()}[dtype]
    first = pa.field("id", ids or pa.int64(), nullable=False)
    fields = [first, vector_field("x", kind, shape)]
    return pa.schema([*fields, *(pa.field(name, kind) for name, kind in extra.items())])


def record(
    ids: np.ndarray, x: np.ndarray, extra: Mapping[str, Any] | None = None
) -> pa.RecordBatch:
    """A batch of examples: ids `[n]`, values `[n, *shape]` of uint8, float32 or float64.

    The data stage stores float64 as float32, and checks what that loses.
    """
    columns = {name: pa.array(values) for name, values in (extra or {}).items()}
    kinds = {name: column.type for name, column in columns.items()}
    schema = examples_schema(x.dtype.name, x.shape[1:], kinds, id_type(ids))
    arrays = [pa.array(ids, schema.field("id").type), to_vectors(x), *columns.values()]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def write_options(schema: pa.Schema) -> dict[str, Any]:
    """Parquet settings: zstd; byte-stream split on floats, dictionaries only where they help."""
    floats = [_leaf(f) for f in schema if _is_float(f.type)]
    coded = [
        f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
    ]
    return {
        "compression": "zstd",
        "compression_level": 3,
        "use_dictionary": coded or False,
        "use_byte_stream_split": floats or False,
        "write_page_index": True,
        "version": "2.6",
    }


def _leaf(field: pa.Field) -> str:
    return f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else field.name


def _is_float(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind.value_type if pa.types.is_fixed_size_list(kind) else kind)
