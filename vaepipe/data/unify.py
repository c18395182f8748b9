"""Types of columns over several files: the one that holds every value exactly, if there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa

UNITS = ("s", "ms", "us")
"""Units of timestamps, coarse to fine: a finer one holds every date of a coarser one exactly."""

FROM_PATH: Mapping[bytes, bytes] = {b"from": b"path"}
"""Metadata of a field whose values are in the names of folders, `year=2026/`."""


def unified(types: Sequence[pa.DataType]) -> pa.DataType | None:
    """Return the narrowest type that holds every value of these types, or None.

    Integers widen to integers and floating point numbers to floating point numbers; text,
    dictionaries of text and null become text. Integers are never mixed with floating point numbers,
    nor signed with unsigned numbers of 64 bits, nor dates with nanoseconds: values could be lost.

    Example:
        >>> unified([pa.string(), pa.dictionary(pa.int8(), pa.large_string()), pa.null()])
        DataType(large_string)
        >>> unified([pa.int64(), pa.string()]) is None
        True
    """
    distinct = list({str(kind): kind for kind in types if not pa.types.is_null(kind)}.values())
    if not distinct:
        return pa.null()
    if len(distinct) == 1:
        return distinct[0]
    plain = [plain_type(kind) for kind in distinct]
    try:
        schemas = [pa.schema([("", kind)]) for kind in plain]
        found = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return None
    return found if all(holds(found, kind) for kind in plain) else None


def unified_from_paths(types: Sequence[pa.DataType]) -> pa.DataType:
    """Return the type of a column from the names of folders: integers, if all of them are."""
    return unified(types) or pa.string()


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type without dictionaries, views, extensions and names of list items.

    Example:
        >>> plain_type(pa.list_(pa.field("element", pa.dictionary(pa.int8(), pa.string()))))
        ListType(list<item: string>)
    """
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return _plain_nested(kind)


def holds(wide: pa.DataType, kind: pa.DataType) -> bool:
    """Check that every value of the second type can be cast to the first and back.

    Example:
        >>> holds(pa.int64(), pa.uint8()), holds(pa.float64(), pa.int64())
        (True, False)
    """
    if wide == kind or pa.types.is_null(kind):
        return True
    for check in (_holds_number, _holds_time, _holds_nested):
        if check(wide, kind):
            return True
    text = pa.types.is_large_string(wide) and pa.types.is_string(kind)
    return text or (pa.types.is_large_binary(wide) and pa.types.is_binary(kind))


def _plain_nested(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_list(kind):
        return pa.large_list(plain_type(kind.value_type))
    if pa.types.is_list(kind):
        return pa.list_(plain_type(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, plain_type(field.type)) for field in kind])
    return kind


def _holds_number(wide: pa.DataType, kind: pa.DataType) -> bool:
    if pa.types.is_decimal(wide) and pa.types.is_decimal(kind):
        whole = wide.precision - wide.scale >= kind.precision - kind.scale
        return whole and wide.scale >= kind.scale
    if pa.types.is_floating(wide) and pa.types.is_floating(kind):
        return wide.bit_width >= kind.bit_width
    if not (pa.types.is_integer(wide) and pa.types.is_integer(kind)):
        return False
    if pa.types.is_signed_integer(wide) == pa.types.is_signed_integer(kind):
        return wide.bit_width >= kind.bit_width
    return pa.types.is_signed_integer(wide) and wide.bit_width > kind.bit_width


def _holds_time(wide: pa.DataType, kind: pa.DataType) -> bool:
    if pa.types.is_date64(wide) and pa.types.is_date32(kind):
        return True
    if not (pa.types.is_timestamp(wide) and pa.types.is_timestamp(kind)) or wide.tz != kind.tz:
        return False
    if wide.unit not in UNITS or kind.unit not in UNITS:
        return False
    return UNITS.index(kind.unit) <= UNITS.index(wide.unit)


def _holds_nested(wide: pa.DataType, kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(is_such(wide) for is_such in lists[:2]) and any(is_such(kind) for is_such in lists):
        return holds(wide.value_type, kind.value_type)
    if pa.types.is_fixed_size_list(wide) and pa.types.is_fixed_size_list(kind):
        return wide.list_size == kind.list_size and holds(wide.value_type, kind.value_type)
    if not (pa.types.is_struct(wide) and pa.types.is_struct(kind)):
        return False
    fields = list(zip(wide, kind, strict=False))
    same = wide.num_fields == kind.num_fields and all(a.name == b.name for a, b in fields)
    return same and all(holds(a.type, b.type) for a, b in fields)
