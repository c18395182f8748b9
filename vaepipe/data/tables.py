"""What folders say about the files in them: table formats with a log, and hive partitions.

The files of a Delta, Iceberg or Hudi table include rows that were deleted or replaced; the table's
log says which rows are live. vaepipe does not read these logs, so it refuses such folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import unquote

import pyarrow as pa
from pyarrow import fs

from vaepipe.data.places import shown
from vaepipe.data.unify import FROM_PATH
from vaepipe.errors import DataError

NOTHING = "__HIVE_DEFAULT_PARTITION__"
"""The folder of rows whose partition column is null."""

_MARKS = (
    (re.compile(r"(^|.*/)_delta_log(/.*)?$"), "Delta", "`_delta_log`"),
    (re.compile(r"(^|.*/)\.hoodie(/.*)?$"), "Hudi", "`.hoodie`"),
    (re.compile(r"(^|.*/)\.hoodie_partition_metadata$"), "Hudi", "`.hoodie_partition_metadata`"),
    (re.compile(r"(^|.*/)metadata/[^/]+\.metadata\.json$"), "Iceberg", "`*.metadata.json`"),
)
_READERS: Mapping[str, str] = {
    "Delta": "`deltalake.DeltaTable(path).to_pyarrow_table()`",
    "Hudi": "`spark.read.format('hudi').load(path)`",
    "Iceberg": "`pyiceberg`'s `table.scan().to_arrow()`",
}


def refuse_logs(
    path: str, system: fs.FileSystem, folder: str, listed: Iterable[str], names: Iterable[str]
) -> None:
    """Raise `DataError` if one of the files belongs to a Delta, Iceberg or Hudi table.

    Args:
        path: as the user gave it, for the message.
        system: where the files are.
        folder: the folder that was listed.
        listed: names of everything that was found in it, marks of such tables among them.
        names: names of the files that would be read.
    """
    found = dict(_marked(listed)) | dict(_marked(_above(system, folder)))
    if not found:
        return
    for name in names:
        table = next((place for place in found if f"{name}/".startswith(f"{place}/")), None)
        if table is not None:
            raise _refusal(path, table, *found[table])


def partition(name: str) -> dict[str, str | None]:
    """Return columns and values in the names of the folders directly above a file.

    Example:
        >>> partition("/data/site=Ulm/day=a%2Fb/part-0.parquet")
        {'site': 'Ulm', 'day': 'a/b'}
    """
    found: dict[str, str | None] = {}
    for part in reversed(name.split("/")[:-1]):
        key, equals, value = part.partition("=")
        if not (key and equals):
            break
        found[unquote(key)] = None if value == NOTHING else unquote(value)
    return dict(reversed(found.items()))


def partition_fields(values: Mapping[str, str | None]) -> list[pa.Field]:
    """Return a field for each column in the names of folders: an integer, text, or null."""
    return [pa.field(key, _type(value), metadata=FROM_PATH) for key, value in values.items()]


def with_partition(batch: pa.RecordBatch, values: Mapping[str, str | None]) -> pa.RecordBatch:
    """Return the rows with a column of text for each value."""
    for key, value in values.items():
        column = pa.repeat(pa.scalar(value, pa.string()), batch.num_rows)
        batch = batch.append_column(key, column)
    return batch


def _type(value: str | None) -> pa.DataType:
    """Return int32 where Arrow would infer it, else string."""
    if value is None:
        return pa.null()
    whole = re.fullmatch(r"-?\d+", value, re.ASCII)
    return pa.int32() if whole and -(2**31) <= int(value) < 2**31 else pa.string()


def _above(system: fs.FileSystem, folder: str) -> Iterator[str]:
    """Yield marks in a folder, and above it as far as the folders are those of a table's files."""
    inside = folder
    while True:
        yield from _marks_in(system, inside)
        above, _, last = inside.rpartition("/")
        if not above or not (last == "data" or "=" in last):
            return
        inside = above


def _marks_in(system: fs.FileSystem, folder: str) -> Iterator[str]:
    names = [f"{folder}/{mark}" for mark in ("_delta_log", ".hoodie", ".hoodie_partition_metadata")]
    try:
        there = [i.path for i in system.get_file_info(names) if i.type != fs.FileType.NotFound]
        inside = fs.FileSelector(f"{folder}/metadata", allow_not_found=True)
        yield from [*there, *(each.path for each in system.get_file_info(inside))]
    except OSError:  # a folder that may not be listed: what was asked for is read or refused later
        return


def _marked(names: Iterable[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the folder of each table, its kind and what it was recognised by."""
    for name in names:
        for pattern, kind, mark in _MARKS:
            match = pattern.match(name)
            if match:
                yield match[1].rstrip("/"), (kind, mark)


def _refusal(path: str, table: str, kind: str, mark: str) -> DataError:
    return DataError(
        f"{shown(path)}: {table} is part of a {kind} table (it has {mark}). Its files also hold "
        "rows that were deleted or replaced, so they cannot be read as plain Parquet. Export the "
        f"live rows first, for example with {_READERS[kind]}, and give the folder of that export."
    )
