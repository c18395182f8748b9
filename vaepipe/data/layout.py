"""How the values of an example are arranged, and whether a model can read them as they are."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa

from vaepipe.core.spec import Shape
from vaepipe.errors import DataError


def layout(field: pa.Field) -> Shape | None:
    """Return the shape of a column's examples; None for images and lists of any length.

    The shape of a tensor is the logical one: the order in which its dimensions are named, not the
    order in which its values are stored.

    Example:
        >>> turned = pa.fixed_shape_tensor(pa.uint8(), [8, 8, 3], permutation=[2, 0, 1])
        >>> layout(pa.field("x", turned))
        (3, 8, 8)
        >>> layout(pa.field("x", pa.list_(pa.float32(), 6)))
        (6,)
    """
    kind = field.type
    if isinstance(kind, pa.FixedShapeTensorType):
        return logical(tuple(kind.shape), kind.permutation)
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_fixed_size_list(kind):
        return _remembered(field, kind.list_size) or (kind.list_size,)
    return (1,) if _is_number(kind) else None


def logical(shape: Shape, permutation: list[int] | None) -> Shape:
    """Return the order in which the dimensions of a stored tensor are meant."""
    return tuple(shape[i] for i in permutation) if permutation else shape


def unpermuted(values: np.ndarray, kind: pa.FixedShapeTensorType) -> np.ndarray:
    """Return stored tensors `[n, size]` with their values in logical order."""
    order = kind.permutation
    if not order or list(order) == sorted(order):
        return values
    stored = values.reshape(-1, *kind.shape)
    return np.ascontiguousarray(stored.transpose(0, *(i + 1 for i in order))).reshape(values.shape)


def fits(stored: Shape, shape: Shape) -> bool:
    """Check that stored examples can be read as examples of a shape in one way only.

    Axes of length 1 may come and go, and a flat vector fills any shape of its size row by row.
    Everything else would scramble the values: `[8, 8, 3]` is not `[3, 8, 8]`.

    Example:
        >>> fits((8, 8), (1, 8, 8)), fits((192,), (3, 8, 8)), fits((8, 8, 3), (3, 8, 8))
        (True, True, False)
    """
    one, other = (tuple(n for n in each if n != 1) for each in (stored, shape))
    return one == other or (len(one) <= 1 and math.prod(one) == math.prod(other))


def described(stored: Shape) -> str:
    """Return what such examples are called in messages."""
    return f"lists of {stored[0]} (shape {stored})" if len(stored) == 1 else f"shape {stored}"


def check(where: str, stored: Shape | None, shape: Shape) -> None:
    """Raise `DataError` unless stored examples can be read as examples of a shape."""
    if stored is None or fits(stored, shape):
        return
    size = math.prod(shape)
    turn = (
        ""
        if math.prod(stored) != size
        else (" Only the number of values agrees: transpose or reshape the data first.")
    )
    raise DataError(
        f"{where}: examples of {size} values (shape {tuple(shape)}) expected, got "
        f"{described(stored)}.{turn}"
    )


def _remembered(field: pa.Field, size: int) -> Shape | None:
    """Return the shape in a field's metadata, as our own files have it."""
    try:
        found = tuple(map(int, json.loads((field.metadata or {}).get(b"shape", b"null"))))
    except (TypeError, ValueError):
        return None
    return found if found and math.prod(found) == size else None


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
