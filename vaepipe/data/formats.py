"""Where rows come from: Parquet files, NumPy arrays, images; by groups of rows, as they stream.

A format looks at a file without reading its rows, and reads a range of its groups without holding
all of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from vaepipe.data import places, schema
from vaepipe.data.places import address, below, filesystem, reaching, shown
from vaepipe.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg")
GROUP = 1024
"""Rows of a group where the file has no groups of its own."""
BUFFER = 2**20
"""Bytes of a column chunk that are held while it is decoded."""
END = 2**16
"""Bytes at the end of a file that are fetched to look at it."""


class About(NamedTuple):
    """What a file says of itself."""

    groups: tuple[int, ...]
    """Rows of each group."""
    schema: pa.Schema
    """Names and types of the columns."""
    content: str
    """A digest of the footer, of the end of an array, of names, sizes and times of images."""


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
            return About(rows, file.schema_arrow, hashlib.sha256(end[-footer:]).hexdigest())

    def batches(
        self, path: str, groups: range, columns: Sequence[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        """Decoded in this thread, so that workers do not take each other's cores."""
        with open_parquet(path) as file:
            yield from file.iter_batches(
                size, row_groups=list(groups), columns=list(columns), use_threads=False
            )


@final
class NpyFormat:
    """Rows of a `.npy` array, read by position; its only column is `x`."""

    def look(self, path: str) -> About:
        """The header, and whether all rows are there."""
        with _open(path) as file:
            shape, kind = _header(path, file)
            kinds = pa.schema([("x", schema.vector(pa.from_numpy_dtype(_native(kind)), shape[1:]))])
            content = hashlib.sha256(_end(file)).hexdigest()
        return About(even(shape[0]), kinds, _digest(shape, kind.str, content))

    def batches(
        self, path: str, groups: range, columns: Sequence[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        """Rows as vectors of the array's type."""
        with _open(path) as file:
            shape, kind = _header(path, file)
            first, last = groups.start * GROUP, min(groups.stop * GROUP, shape[0])
            width = math.prod(shape[1:])
            file.seek(file.tell() + first * width * kind.itemsize)
            for start in range(first, last, size):
                rows = min(size, last - start)
                flat = np.frombuffer(file.read(rows * width * kind.itemsize), kind)
                if "x" in columns:
                    whole = flat.astype(_native(kind), copy=False).reshape(rows, width)
                    yield pa.RecordBatch.from_arrays([schema.to_vectors(whole)], ["x"])


@final
class ImageFormat:
    """PNG and JPEG files of a folder, sorted by path: `x` (their bytes) and `path`."""

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


FORMATS: Mapping[str, Format] = {
    "parquet": ParquetFormat(),
    "npy": NpyFormat(),
    "images": ImageFormat(),
}
"""Formats by name."""


def find(path: str) -> tuple[str, list[str]]:
    """The format and the files of a file, folder, glob or URI, sorted; hidden ones are left out.

    A folder of images is one file of the format `images`.

    Raises:
        DataError: there are none.
        Unreachable: a store does not answer, or does not let us in.
    """
    system, root = filesystem(path)
    with reaching(path):
        there = system.get_file_info(root).type
        if there == fs.FileType.File:
            return ("npy" if root.endswith(".npy") else "parquet"), [path]
    names = [each.path for each in places.listed(path)]
    for kind in ("parquet", "npy"):
        found = [address(path, name) for name in names if name.endswith(f".{kind}")]
        if found:
            return kind, found
    folder = there == fs.FileType.Directory
    if folder and any(name.lower().endswith(IMAGES) for name in names):
        return "images", [path]
    raise DataError(
        f"{shown(path)}: no Parquet files there, nor `.npy` arrays, nor a folder of PNG or JPEG "
        f"images.{'' if folder else ' A glob names files; `**` goes through folders.'}"
    )


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


def _parquet(path: str, source: Any, **options: Any) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(source, buffer_size=BUFFER, pre_buffer=False, **options)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{shown(path)}: not a readable Parquet file: {error}") from error


def _images(path: str) -> list[fs.FileInfo]:
    return [i for i in places.listed(path) if i.path.lower().endswith(IMAGES)]


def _names(path: str, found: Sequence[fs.FileInfo]) -> str:
    """A digest of names, sizes and times."""
    _, root = filesystem(path)
    return _digest([(below(each.path, root), each.size, each.mtime_ns) for each in found])


def _open(path: str) -> pa.NativeFile:
    system, name = filesystem(path)
    with reaching(path):
        return system.open_input_file(name)


def _end(file: pa.NativeFile, most: int = END) -> bytes:
    file.seek(max(0, file.size() - most))
    return file.read()


def _header(path: str, file: pa.NativeFile) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of an array; the file is left at its first value.

    Raises:
        DataError: no array, one that is not stored row by row, or rows that are missing.
    """
    try:
        major, _ = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0}.get(
            major, np.lib.format.read_array_header_2_0
        )
        shape, column_major, kind = read(file)
    except (ValueError, OSError) as error:
        raise DataError(f"{shown(path)}: not a readable `.npy` array: {error}") from error
    if column_major or not shape or kind.kind not in "uifb" or kind.itemsize > 8:
        raise DataError(
            f"{shown(path)}: expected an array of numbers, row after row, got {kind} of shape "
            f"{shape}{' in Fortran order' if column_major else ''}."
        )
    whole = file.tell() + math.prod(shape) * kind.itemsize
    if file.size() < whole:
        raise DataError(
            f"{shown(path)}: cut short: {whole} bytes expected for {kind} of shape {shape}, got "
            f"{file.size()}. Copy it again."
        )
    return tuple(shape), kind


def _native(kind: np.dtype[Any]) -> np.dtype[Any]:
    """The same numbers in the byte order of this machine."""
    return kind.newbyteorder("=")


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
