"""Rows to evaluate or to encode: our own shards, or anybody's Parquet files, by row group."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from vaepipe.core.spec import Shape
from vaepipe.data import shards, values
from vaepipe.errors import DataError, did_you_mean


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one split and where in them the examples are.

    Args:
        files: paths or URIs, in order.
        shape: of one example.
        column: the examples.
        id_column: unique integers; None numbers the rows through all files.
    """

    files: tuple[str, ...]
    shape: Shape
    column: str = "x"
    id_column: str | None = "id"

    def units(self) -> list[dict[str, Any]]:
        """Row groups: path, group, position of the first row, number of rows."""
        units, start = [], 0
        for path in self.files:
            with open_file(path) as file:
                for group in range(file.metadata.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    units.append({"path": path, "group": group, "start": start, "rows": rows})
                    start += rows
        return units

    def read(
        self, unit: Mapping[str, Any], keep: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray, pa.Table]:
        """Ids `[n]`, stored values `[n, *shape]` and the kept columns of a row group."""
        wanted = list(dict.fromkeys([self.column, *filter(None, [self.id_column]), *keep]))
        with open_file(unit["path"]) as file:
            try:
                table = file.read_row_group(unit["group"], columns=wanted)
            except (OSError, pa.ArrowInvalid) as error:
                where = f"{unit['path']}: row group {unit['group']}"
                raise DataError(f"{where} cannot be read: {error}") from error
        x = values.values(unit["path"], table.column(self.column), tuple(self.shape))
        return self._ids(unit, table), x, table.select(list(keep))

    def columns(self) -> list[str]:
        """Names of the columns of the first file."""
        with open_file(self.files[0]) as file:
            return file.schema_arrow.names

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        """The inverse of `to_dict`."""
        return cls(tuple(data["files"]), tuple(data["shape"]), data["column"], data["id_column"])

    def _ids(self, unit: Mapping[str, Any], table: pa.Table) -> np.ndarray:
        if self.id_column is None:
            return np.arange(unit["start"], unit["start"] + table.num_rows)
        return values.integers(unit["path"], table.column(self.id_column))


def of_split(path: str, split: str) -> Source:
    """The source of a split of a data artifact."""
    opened = shards.open_split(path, split)
    return Source(tuple(str(opened.folder / name) for name in opened.names), opened.shape)


def of_files(path: str, shape: Shape, column: str, id_column: str | None) -> Source:
    """A file, a folder, a glob or a URI of Parquet files.

    Raises:
        DataError: no such file or column.
    """
    source = Source(tuple(find(path)), shape, column, id_column)
    names = source.columns()
    for name in filter(None, (column, id_column)):
        if name not in names:
            raise DataError(
                f"{source.files[0]}: no column '{name}'.{did_you_mean(name, names)} "
                f"Columns: {', '.join(names)}."
            )
    return source


def digest(files: Sequence[str]) -> str:
    """SHA-256 over names, sizes and footers of Parquet files; the rows are not read."""
    total = hashlib.sha256()
    for path in files:
        with open_file(path) as file:
            meta = file.metadata
            groups = [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
            key = (Path(path).name, meta.num_rows, meta.serialized_size, groups)
            total.update(repr(key).encode())
    return total.hexdigest()


def find(path: str) -> list[str]:
    """Parquet files of a file, folder, glob or URI, sorted; hidden and `_` files are left out.

    Raises:
        DataError: there are none.
    """
    system, root = filesystem(path)
    prefix = path[: len(path) - len(root.lstrip("/"))] if "://" in path else ""
    folder, pattern = root.rpartition("/")[::2] if "*" in root else (root, "*.parquet")
    info = system.get_file_info(folder or "/")
    if info.type == fs.FileType.File:
        return [path]
    selector = fs.FileSelector(folder or "/", recursive="*" not in root, allow_not_found=True)
    found = sorted(
        item.path
        for item in system.get_file_info(selector)
        if item.type == fs.FileType.File
        and Path(item.path).match(pattern)
        and not item.base_name.startswith((".", "_"))
    )
    if not found:
        raise DataError(f"{path}: no Parquet files there; expected '{pattern}' files.")
    return [prefix + name.lstrip("/") if prefix else name for name in found]


def open_file(path: str) -> pq.ParquetFile:
    """Open a Parquet file by path or URI.

    Raises:
        DataError: it is missing or no Parquet file.
    """
    system, name = filesystem(path)
    try:
        return pq.ParquetFile(name, filesystem=system)
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
