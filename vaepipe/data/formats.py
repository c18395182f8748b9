"""Where rows come from: Parquet files, NumPy arrays, text, images; by groups of rows, streaming.

A format looks at a file without reading its rows, and reads a range of its groups without holding
all of it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from vaepipe.data import places, schema, tables, text
from vaepipe.data.pictures import SUFFIXES
from vaepipe.data.places import Listing, address, below, filesystem, reaching, shown
from vaepipe.data.text import Unit
from vaepipe.errors import DataError

GROUP = 1024
"""Rows of a group where the file has no groups of its own."""
BUFFER = 2**20
"""Bytes of a column chunk that are held while it is decoded."""
END = 2**16
"""Bytes at the end of a file that are fetched to look at it."""
CHUNKS = 2**16
"""Column chunks of a file whose sizes are looked at, in evenly spaced row groups."""

TOLD = 8
"""Files that are named in a warning."""


class About(NamedTuple):
    """What a file says of itself."""

    groups: tuple[int, ...]
    """Rows of each group."""
    schema: pa.Schema
    """Names and types of the columns."""
    content: str
    """A digest of the footer, of the end of an array, of names, sizes and times of images."""
    widths: Mapping[str, float] = MappingProxyType({})
    """Bytes per row of each column before compression, in the widest group looked at."""


class Format(Protocol):
    """How files of one kind are read."""

    def look(self, path: str) -> About:
        """What a file says of itself; the rows are not read."""
        ...

    def batches(
        self, path: str, groups: range, columns: Sequence[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        """The columns of some groups in order, at most about `size` rows at a time."""
        ...


@final
class ParquetFormat:
    """Row groups of a Parquet file, decoded page by page."""

    def look(self, path: str) -> About:
        """The footer."""
        with _open(path) as file:
            end = _end(file)
            footer = 8 + int.from_bytes(end[-8:-4], "little")
            if len(end) < footer <= file.size():
                end = _end(file, footer)
        with _parquet(path, pa.BufferReader(end)) as file:
            meta = file.metadata
            rows = tuple(meta.row_group(i).num_rows for i in range(meta.num_row_groups))
            own = file.schema_arrow.remove_metadata()  # pandas' index and the like differ by file
        more = tables.partition_fields(_partition(path, own.names))
        kinds = pa.schema([*own, *more]) if more else own
        return About(rows, kinds, hashlib.sha256(end[-footer:]).hexdigest(), _widths(meta))

    def batches(
        self, path: str, groups: range, columns: Sequence[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        """Decoded in this thread, so that workers do not take each other's cores.

        Columns in the names of folders are text.
        """
        with open_parquet(path) as file:
            values = _partition(path, file.schema_arrow.names)
            own = [name for name in columns if name not in values]
            more = {name: value for name, value in values.items() if name in columns}
            for batch in file.iter_batches(
                size, row_groups=list(groups), columns=own, use_threads=False
            ):
                yield tables.with_partition(batch, more)


@final
class NpyFormat:
    """Rows of a `.npy` array, read by position; its only column is `x`."""

    def look(self, path: str) -> About:
        """The header, and whether all rows are there."""
        with _open(path) as file:
            shape, kind, _ = _header(path, file)
            element = pa.from_numpy_dtype(_native(kind))
            kinds = pa.schema([schema.vector_field("x", element, shape[1:] or (1,))])
            content = hashlib.sha256(_end(file)).hexdigest()
        return About(even(shape[0]), kinds, _digest(shape, kind.str, content))

    def batches(
        self, path: str, groups: range, columns: Sequence[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        """Rows as vectors of the array's type."""
        with _open(path) as file:
            shape, kind, column_major = _header(path, file)
            first, last = groups.start * GROUP, min(groups.stop * GROUP, shape[0])
            read = _read_columns if column_major else _read_rows
            values = file.tell()
            for start in range(first, last, size):
                rows = read(file, values, (shape, kind), start, min(size, last - start))
                if "x" in columns:
                    whole = rows.astype(_native(kind), copy=False).reshape(len(rows), -1)
                    yield pa.RecordBatch.from_arrays([schema.to_vectors(whole)], ["x"])


@final
class ImageFormat:
    """Pictures of a folder, sorted by path: `x` (their bytes) and `path`."""

    def look(self, path: str) -> About:
        """Names, sizes and times."""
        found = _images(path)
        kinds = pa.schema([("x", pa.binary()), ("path", pa.string())])
        return About(even(len(found)), kinds, _names(path, found))

    def batches(
        self, path: str, groups: range, columns: Sequence[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        """The bytes of the files as they are."""
        system, root = filesystem(path)
        chosen = _images(path)[groups.start * GROUP : groups.stop * GROUP]
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            made = {
                "x": lambda part=part: [system.open_input_stream(i.path).read() for i in part],
                "path": lambda part=part: [below(i.path, root) for i in part],
            }
            yield pa.RecordBatch.from_pydict({name: made[name]() for name in columns})


@final
class TextFormat:
    """Sentences of a UTF-8 file; its only column is `x`, as they stand there.

    Args:
        unit: what a sentence is.
    """

    def __init__(self, unit: Unit) -> None:
        """Nothing is read yet."""
        self._unit: Unit = unit

    def look(self, path: str) -> About:
        """Where the sentences are can only be known by reading all of them."""
        found, content = self._read(path)
        return About(even(len(found)), pa.schema([("x", pa.string())]), content)

    def batches(
        self, path: str, groups: range, columns: Sequence[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        """Sentences in order."""
        found, _ = self._read(path)
        last = min(groups.stop * GROUP, len(found))
        for start in range(groups.start * GROUP, last, size):
            part = found[start : min(start + size, last)]
            yield pa.RecordBatch.from_pydict({name: pa.array(part) for name in columns})

    def _read(self, path: str) -> tuple[Sequence[str], str]:
        return _sentences(path, self._unit, json.dumps(stamp(path)))


FORMATS: Mapping[str, Format] = {
    "parquet": ParquetFormat(),
    "npy": NpyFormat(),
    "images": ImageFormat(),
    "line": TextFormat("line"),
    "sentence": TextFormat("sentence"),
}
"""Formats by name."""


class Found(NamedTuple):
    """Files of one format, and what lies beside them."""

    kind: str
    """A name in `FORMATS`."""
    files: list[str]
    """Paths or URIs, sorted; a folder of images is one."""
    state: str
    """A digest of names, sizes and times: whether somebody wrote to the files since."""
    left: tuple[str, ...] = ()
    """Names of files that a folder or a glob means too, and that are not read."""


def find(path: str, only: str | None = None, unit: Unit | None = None) -> Found:
    """The format and the files of a file, folder, glob or URI; hidden ones are left out.

    A folder of images is one file of the format `images`.

    Args:
        path: the file, folder, glob or URI.
        only: the one format that is looked for, a name in `FORMATS`.
        unit: of text, where sentences are looked for; then files whose names say nothing are text.

    Raises:
        DataError: there are none, or they belong to a table whose log says which rows are live, or
            one is a link to nothing or to another of them.
        Unreachable: a store does not answer, or does not let us in.
    """
    system, root = filesystem(path)
    with reaching(path):
        there = system.get_file_info(root)
    if there.type == fs.FileType.File:
        kind = only or _kind(root, unit)
        if kind == "parquet":
            tables.refuse_logs(path, system, root.rpartition("/")[0], [], [root])
        return Found(kind, [path], _state([there], root))
    found = places.listing(path)
    endings = {"parquet": ".parquet", "npy": ".npy"} | ({unit: ".txt"} if unit else {})
    for kind in endings if only is None else (only,):
        infos = found.ending(endings[kind])
        chosen = [each.path for each in infos]
        if chosen and kind == "parquet":
            tables.refuse_logs(path, system, found.folder, found.names, chosen)
        if chosen:
            state, left = _state(infos, found.folder), _left(found, chosen)
            return Found(kind, [address(path, name) for name in chosen], state, left)
    folder = there.type == fs.FileType.Directory
    gallery = pictures(path) if only is None and folder else None
    if gallery is not None and gallery.names:
        return Found("images", [path], gallery.state, gallery.left)
    raise _nothing(path, only, folder=folder)


def stamp(path: str) -> dict[str, Any]:
    """What tells that somebody wrote to a file: size, time of the last change, a store's tag.

    Of a folder of images all names, sizes and times, as a digest.
    """
    system, name = filesystem(path)
    with reaching(path):
        info = system.get_file_info(name)
        if info.type == fs.FileType.Directory:
            found = _images(path)
            sizes, times = ([getattr(i, what) for i in found] for what in ("size", "mtime_ns"))
            last = max(times, default=0)
            return {"size": sum(sizes), "mtime_ns": last, "names": _names(path, found)}
        made = {"size": info.size, "mtime_ns": info.mtime_ns}
        if system.type_name != "local" and info.type == fs.FileType.File:
            with system.open_input_file(name) as file:  # a store's times are of whole seconds
                made["tag"] = (file.metadata() or {}).get("ETag", b"").decode()
        return made


def open_parquet(path: str) -> pq.ParquetFile:
    """Open a Parquet file by path or URI.

    Raises:
        DataError: it is missing or no Parquet file.
    """
    system, name = filesystem(path)
    return _parquet(path, name, filesystem=system)


def even(rows: int) -> tuple[int, ...]:
    """Groups of `GROUP` rows, the last one shorter.

    Example:
        >>> even(2500)
        (1024, 1024, 452)
    """
    return tuple(min(GROUP, rows - start) for start in range(0, rows, GROUP))


def _kind(name: str, unit: Unit | None) -> str:
    """The format of a file by its name; of one that says nothing, text if that is looked for."""
    name = name.lower()
    if name.endswith(".npy"):
        return "npy"
    if name.endswith(".txt") or (unit is not None and not name.endswith(".parquet")):
        return unit or "line"
    return "parquet"


@lru_cache(1)
def _sentences(path: str, unit: Unit, stamp: str) -> tuple[Sequence[str], str]:
    """The sentences of a file with this stamp, and a digest; kept for the next group of them."""
    with _open(path) as file:
        data = file.read()
    found = text.sentences(text.decoded(shown(path), data), unit)
    return found, hashlib.sha256(data).hexdigest()


def _nothing(path: str, only: str | None, *, folder: bool) -> DataError:
    glob = "" if folder else " A glob names files; `**` goes through folders."
    if only == "npy":
        return DataError(
            f"{shown(path)}: no such file. Expected a .npy file, a folder of them, or a glob such "
            "as 'x-*.npy'."
        )
    more = "" if only else ", nor `.npy` arrays, nor a folder of images"
    return DataError(f"{shown(path)}: no Parquet files there{more}.{glob}")


def _partition(path: str, own: Sequence[str]) -> dict[str, str | None]:
    """Return columns in the names of folders, except those that the file has itself."""
    found = tables.partition(filesystem(path)[1])
    return {name: value for name, value in found.items() if name not in own}


def _widths(meta: pq.FileMetaData) -> dict[str, float]:
    """Return bytes per row of each column, before compression."""
    most = max(1, CHUNKS // max(1, meta.num_columns))
    found: dict[str, float] = {}
    for group in range(0, meta.num_row_groups, math.ceil(meta.num_row_groups / most) or 1):
        about, sizes = meta.row_group(group), dict[str, int]()
        for column in map(about.column, range(meta.num_columns if about.num_rows else 0)):
            name = column.path_in_schema.partition(".")[0]
            sizes[name] = sizes.get(name, 0) + column.total_uncompressed_size
        for name, size in sizes.items():
            found[name] = max(found.get(name, 0.0), size / about.num_rows)
    return found


def _parquet(path: str, source: Any, **options: Any) -> pq.ParquetFile:
    """Open a file; checksums of pages are compared, where the file has them.

    Spark's INT96 dates are microseconds, nanoseconds cannot hold the year 9999.
    """
    options |= {"buffer_size": BUFFER, "pre_buffer": False, "coerce_int96_timestamp_unit": "us"}
    options |= {"page_checksum_verification": True}
    try:
        return pq.ParquetFile(source, **options)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{shown(path)}: not a readable Parquet file: {error}") from error


class Gallery(NamedTuple):
    """The pictures of a folder, and what lies beside them."""

    names: list[str]
    """Of the pictures below the folder, sorted."""
    state: str
    """A digest of names, sizes and times."""
    left: tuple[str, ...]
    """Names of other files, which are not read."""


def pictures(path: str) -> Gallery:
    """Look for the pictures of a folder and of the folders in it.

    Raises:
        DataError: one is a link to nothing, or two are the same file.
    """
    found = _pictures(path)
    infos = found.ending(SUFFIXES)
    chosen = [each.path for each in infos]
    names = [below(name, found.folder) for name in chosen]
    return Gallery(names, _state(infos, found.folder), _left(found, chosen))


def unread(path: str, left: Sequence[str]) -> tuple[str, ...]:
    """Return a warning about files that are not read, if there are some.

    Example:
        >>> unread("data", ["b.csv", "a.csv"])
        ('data: 2 files there are not read (2 .csv): a.csv, b.csv.',)
    """
    if not left:
        return ()
    kinds = Counter(PurePosixPath(name).suffix or "without an ending" for name in left)
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    names = ", ".join(sorted(left)[:TOLD])
    more = f" and {len(left) - TOLD} more" if len(left) > TOLD else ""
    files = "1 file there is" if len(left) == 1 else f"{len(left)} files there are"
    return (f"{shown(path)}: {files} not read ({counts}): {names}{more}.",)


def _pictures(path: str) -> Listing:
    """A folder of pictures, whose names may begin with `_`."""
    return places.listing(path, hidden=(".",))


def _images(path: str) -> list[fs.FileInfo]:
    return _pictures(path).ending(SUFFIXES)


def _left(found: Listing, chosen: Sequence[str]) -> tuple[str, ...]:
    """Names of the files that are meant and not read."""
    read = set(chosen)
    return tuple(below(i.path, found.folder) for i in found.files if i.path not in read)


def _names(path: str, found: Sequence[fs.FileInfo]) -> str:
    return _state(found, filesystem(path)[1])


def _state(found: Sequence[fs.FileInfo], folder: str) -> str:
    """A digest of names below a folder, sizes and times."""
    return _digest([(below(each.path, folder), each.size, each.mtime_ns) for each in found])


def _open(path: str) -> pa.NativeFile:
    system, name = filesystem(path)
    with reaching(path):
        return system.open_input_file(name)


def _end(file: pa.NativeFile, most: int = END) -> bytes:
    file.seek(max(0, file.size() - most))
    return file.read()


def _header(path: str, file: pa.NativeFile) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Shape and type of an array, and whether it is in Fortran order.

    The file is left at the array's first value.

    Raises:
        DataError: not an array of numbers, or one that was cut short.
    """
    try:
        major, _ = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0}.get(
            major, np.lib.format.read_array_header_2_0
        )
        shape, column_major, kind = read(file)
    except (ValueError, OSError) as error:
        raise DataError(f"{shown(path)}: not a readable `.npy` array: {error}") from error
    if not shape or 0 in shape[1:] or kind.kind not in "uifb" or kind.itemsize > 8:
        raise DataError(
            f"{shown(path)}: not a readable array of numbers [n, ...]: {kind} of shape {shape}."
        )
    whole = file.tell() + math.prod(shape) * kind.itemsize
    if file.size() < whole:
        raise DataError(
            f"{shown(path)}: cut short: {whole} bytes expected for {kind} of shape {shape}, got "
            f"{file.size()}. Copy it again."
        )
    return tuple(shape), kind, column_major


Stored = tuple[tuple[int, ...], np.dtype[Any]]
"""Shape and type of an array."""


def _read_rows(
    file: pa.NativeFile, values: int, about: Stored, start: int, rows: int
) -> np.ndarray:
    """Read rows `[rows, ...]` of an array in C order, whose first value is at `values`."""
    shape, kind = about
    width = math.prod(shape[1:])
    file.seek(values + start * width * kind.itemsize)
    return np.frombuffer(file.read(rows * width * kind.itemsize), kind).reshape(rows, *shape[1:])


def _read_columns(
    file: pa.NativeFile, values: int, about: Stored, start: int, rows: int
) -> np.ndarray:
    """Read rows `[rows, ...]` of an array in Fortran order: a piece for each value of a row."""
    shape, kind = about
    pieces = []
    for position in range(math.prod(shape[1:])):
        file.seek(values + (position * shape[0] + start) * kind.itemsize)
        pieces.append(np.frombuffer(file.read(rows * kind.itemsize), kind))
    return np.stack(pieces).reshape(*shape[:0:-1], rows).transpose()


def _native(kind: np.dtype[Any]) -> np.dtype[Any]:
    """The same numbers in the byte order of this machine."""
    return kind.newbyteorder("=")


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
