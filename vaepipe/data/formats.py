"""Where rows come from: Parquet files, NumPy arrays, images; by groups of rows, as they stream.

A format looks at a file without reading its rows, and reads a range of its groups without holding
all of it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from vaepipe.data import schema
from vaepipe.errors import DataError

IMAGES = (".png", ".jpg", ".jpeg")
GROUP = 1024
"""Rows of a group where the file has no groups of its own."""
BUFFER = 2**20
"""Bytes of a column chunk that are held while it is decoded."""


class About(NamedTuple):
    """What a file says of itself."""

    groups: tuple[int, ...]
    """Rows of each group."""
    schema: pa.Schema
    """Names and types of the columns."""
    content: str
    """A digest of sizes, schema and the like; it does not see every change of a value."""


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
        with open_parquet(path) as file:
            meta = file.metadata
            groups = [meta.row_group(i) for i in range(meta.num_row_groups)]
            sizes = [group.total_byte_size for group in groups]
            content = _digest(meta.num_rows, meta.serialized_size, sizes)
            rows = tuple(group.num_rows for group in groups)
            return About(rows, file.schema_arrow, content)

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
        """The header."""
        shape, kind, _ = _header(path)
        kinds = pa.schema([("x", schema.vector(pa.from_numpy_dtype(kind), shape[1:]))])
        return About(even(shape[0]), kinds, _digest(shape, kind.str))

    def batches(
        self, path: str, groups: range, columns: Sequence[str], size: int
    ) -> Iterator[pa.RecordBatch]:
        """Rows as vectors of the array's type."""
        shape, kind, offset = _header(path)
        first, last = groups.start * GROUP, min(groups.stop * GROUP, shape[0])
        width = math.prod(shape[1:])
        with _open(path) as file:
            file.seek(offset + first * width * kind.itemsize)
            for start in range(first, last, size):
                rows = min(size, last - start)
                flat = np.frombuffer(file.read(rows * width * kind.itemsize), kind)
                if "x" in columns:
                    x = schema.to_vectors(flat.reshape(rows, width))
                    yield pa.RecordBatch.from_arrays([x], ["x"])


@final
class ImageFormat:
    """PNG and JPEG files of a folder, sorted by path: `x` (their bytes) and `path`."""

    def look(self, path: str) -> About:
        """Names, sizes and times."""
        found = _images(path)
        content = _digest([(each.base_name, each.size, each.mtime_ns) for each in found])
        kinds = pa.schema([("x", pa.binary()), ("path", pa.string())])
        return About(even(len(found)), kinds, content)

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
                "path": lambda part=part: [_below(i.path, root) for i in part],
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
    """
    system, root = filesystem(path)
    if system.get_file_info(root).type == fs.FileType.File:
        return ("npy" if root.endswith(".npy") else "parquet"), [path]
    names = _names(system, root)
    place, mark, query = path.partition("?") if "://" in path else ("", "", "")
    prefix = place[: len(place) - len(root.lstrip("/"))]
    for kind in ("parquet", "npy"):
        found = [name for name in names if name.endswith(f".{kind}")]
        if found:
            inside = [f"{prefix}{name.lstrip('/')}{mark}{query}" for name in found]
            return kind, inside if prefix else found
    if any(name.lower().endswith(IMAGES) for name in names) and "*" not in root:
        return "images", [path]
    raise DataError(
        f"{path}: no Parquet files there, nor `.npy` arrays, nor a folder of PNG or JPEG images."
    )


def stamp(path: str) -> dict[str, Any]:
    """Size and time of the last change of a file: what tells that somebody wrote to it."""
    system, name = filesystem(path)
    info = system.get_file_info(name)
    if info.type == fs.FileType.Directory:
        found = _images(path)
        sizes = sum(each.size for each in found)
        return {"size": sizes, "mtime_ns": max((i.mtime_ns for i in found), default=0)}
    return {"size": info.size, "mtime_ns": info.mtime_ns}


def open_parquet(path: str) -> pq.ParquetFile:
    """Open a Parquet file by path or URI.

    Raises:
        DataError: it is missing or no Parquet file.
    """
    system, name = filesystem(path)
    try:
        return pq.ParquetFile(name, filesystem=system, buffer_size=BUFFER, pre_buffer=False)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}") from error


def filesystem(path: str) -> tuple[fs.FileSystem, str]:
    """Arrow's filesystem of a path or URI, and the name in it.

    Raises:
        DataError: Arrow does not know this kind of place.
    """
    try:
        if "://" in path:
            return fs.FileSystem.from_uri(path)
        return fs.LocalFileSystem(), str(Path(path).absolute())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: Arrow cannot open this place: {error}") from error


def even(rows: int) -> tuple[int, ...]:
    """Groups of `GROUP` rows, the last one shorter.

    Example:
        >>> even(2500)
        (1024, 1024, 452)
    """
    return tuple(min(GROUP, rows - start) for start in range(0, rows, GROUP))


def _names(system: fs.FileSystem, root: str) -> list[str]:
    """Files below a folder, or those that a glob in the last part of the path matches."""
    folder, pattern = root.rpartition("/")[::2] if "*" in root else (root, "*")
    return [i.path for i in _listed(system, folder, "*" not in root) if _fits(i.path, pattern)]


def _fits(path: str, pattern: str) -> bool:
    return PurePosixPath(path).match(pattern)


def _listed(system: fs.FileSystem, folder: str, recursive: bool) -> list[fs.FileInfo]:
    """Files of a folder by name; hidden and `_` ones, and what is in such folders, left out."""
    chosen = fs.FileSelector(folder or "/", recursive=recursive, allow_not_found=True)
    shown = [
        each
        for each in system.get_file_info(chosen)
        if each.type == fs.FileType.File
        and not any(part.startswith((".", "_")) for part in _below(each.path, folder).split("/"))
    ]
    return sorted(shown, key=lambda each: each.path)


def _images(path: str) -> list[fs.FileInfo]:
    system, root = filesystem(path)
    return [i for i in _listed(system, root, True) if i.path.lower().endswith(IMAGES)]


def _below(path: str, root: str) -> str:
    return path.removeprefix(root).lstrip("/")


def _open(path: str) -> pa.NativeFile:
    system, name = filesystem(path)
    try:
        return system.open_input_file(name)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened: {error}") from error


def _header(path: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and place of the first value of an array.

    Raises:
        DataError: no array, or one that is not stored row by row.
    """
    with _open(path) as file:
        try:
            major, _ = np.lib.format.read_magic(file)
            read = {1: np.lib.format.read_array_header_1_0}.get(
                major, np.lib.format.read_array_header_2_0
            )
            shape, column_major, kind = read(file)
        except (ValueError, OSError) as error:
            raise DataError(f"{path}: not a readable `.npy` array: {error}") from error
        if column_major or not shape or kind.kind not in "uifb":
            raise DataError(
                f"{path}: expected an array of numbers, row after row, got {kind} of shape {shape}"
                f"{' in Fortran order' if column_major else ''}."
            )
        return tuple(shape), kind, file.tell()


def _digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
