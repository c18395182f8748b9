"""Rows to evaluate or to encode: our own shards, or anybody's files, by groups of rows."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vaepipe.core.spec import Shape
from vaepipe.data import formats, shards, values
from vaepipe.data.formats import About, Format, find
from vaepipe.data.formats import open_parquet as open_file
from vaepipe.data.places import shown, stem
from vaepipe.errors import DataError, did_you_mean

LOOKERS = 32
"""Files that are looked at together: what a footer costs is waiting."""

NOTHING = pa.schema([])

__all__ = [
    "Batch",
    "Piece",
    "Source",
    "digest",
    "find",
    "of_files",
    "of_split",
    "open_file",
    "shown",
    "stem",
]


class Piece(NamedTuple):
    """A file of a source, looked at."""

    path: str
    about: About
    start: int
    """Position of its first row among those of all files."""
    stamp: dict[str, Any]
    """Size and time of the last change."""


class Batch(NamedTuple):
    """Rows that stand together in a file."""

    start: int
    """Position of the first row in the file."""
    ids: np.ndarray
    """int64 `[good]`."""
    x: np.ndarray
    """As stored, `[good, *shape]`."""
    kept: pa.Table
    """Columns that pass through, `good` rows."""
    bad: list[tuple[int, str]]
    """Positions in the file of rows that cannot be read, each with the reason."""


@dataclass(frozen=True, slots=True)
class Source:
    """The files of one split and where in them the examples are.

    Args:
        files: paths or URIs, in order.
        shape: of one example.
        column: the examples: one column, or one for each value.
        id_column: unique integers; None numbers the rows through all files.
        kind: a name in `formats.FORMATS`.
        types: of the other columns of the first file; a file with another type is refused when the
            column is kept, because outputs of several types are no table.
    """

    files: tuple[str, ...]
    shape: Shape
    column: tuple[str, ...] = ("x",)
    id_column: str | None = "id"
    kind: str = "parquet"
    types: Mapping[str, str] = field(default_factory=dict)

    @property
    def format(self) -> Format:
        """How the files are read."""
        return formats.FORMATS[self.kind]

    def pieces(self) -> list[Piece]:
        """Every file, looked at; many at a time, because each is a wait.

        Raises:
            DataError: a file cannot be read, or has not the columns of the first.
        """
        first = self.format.look(self.files[0]).schema
        with ThreadPoolExecutor(LOOKERS) as pool:
            looked = list(pool.map(lambda path: self._look(path, first), self.files))
        starts = np.cumsum([0, *(sum(about.groups) for about, _ in looked)]).tolist()
        return [
            Piece(path, about, start, stamp)
            for path, (about, stamp), start in zip(self.files, looked, starts, strict=False)
        ]

    def units(self) -> list[dict[str, Any]]:
        """Groups of rows: path, group, position of the first row, number of rows, file's stamp."""
        units = []
        for piece in self.pieces():
            start = piece.start
            for group, rows in enumerate(piece.about.groups):
                unit = {"path": piece.path, "group": group, "start": start, "rows": rows}
                units.append({**unit, "stamp": piece.stamp})
                start += rows
        return units

    def read(
        self, unit: Mapping[str, Any], keep: Sequence[str] = ()
    ) -> tuple[np.ndarray, np.ndarray, pa.Table]:
        """Ids `[n]`, stored values `[n, *shape]` and the kept columns of a group.

        Raises:
            DataError: a row cannot be read.
        """
        groups, size = range(unit["group"], unit["group"] + 1), max(1, unit["rows"])
        batches = list(self.stream(unit["path"], groups, unit["start"], keep, size))
        for batch in batches:
            refuse(unit["path"], batch.bad)
        if not batches:
            kept = self.schema(keep).empty_table()
            return np.zeros(0, np.int64), np.zeros((0, *self.shape), np.float32), kept
        ids, x = (np.concatenate([b[i] for b in batches]) for i in (1, 2))
        return ids, x, pa.concat_tables([batch.kept for batch in batches])

    def stream(
        self,
        path: str,
        groups: range,
        start: int,
        keep: Sequence[str],
        size: int,
        row: int | None = None,
    ) -> Iterator[Batch]:
        """Rows of some groups of a file, `size` at a time whatever the groups are.

        Args:
            path: one of `files`.
            groups: which groups of it.
            start: position of the first of these rows among those of all files.
            keep: columns that pass through.
            size: rows of a batch, good and bad; the last one may have fewer.
            row: position of the first row in the file; None looks it up.

        Raises:
            DataError: the file cannot be read, or has not the columns of the first.
        """
        wanted = list(dict.fromkeys([*self.column, *filter(None, [self.id_column]), *keep]))
        first = sum(self.format.look(path).groups[: groups.start]) if row is None else row
        try:
            for table in rebatched(self.format.batches(path, groups, wanted, size), size):
                yield self._batch(path, table, first, start, keep)
                first, start = first + table.num_rows, start + table.num_rows
        except DataError:
            raise
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            where = f"{shown(path)}: rows from {first}"
            raise DataError(f"{where} cannot be read: {error}") from error

    def columns(self) -> list[str]:
        """Names of the columns of the first file."""
        return self.format.look(self.files[0]).schema.names

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """Types of some columns of the first file."""
        return pa.schema([self.format.look(self.files[0]).schema.field(name) for name in names])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        """The inverse of `to_dict`."""
        lists = {name: tuple(data[name]) for name in ("files", "shape", "column")}
        return cls(**{**data, **lists})

    def _look(self, path: str, first: pa.Schema) -> tuple[About, dict[str, Any]]:
        """Without the schema: a plan of very many files has no room for it.

        The stamp is older than the look, so that a change in between is noticed.
        """
        stamp, about = formats.stamp(path), self.format.look(path)
        names = dict.fromkeys([*self.column, *filter(None, [self.id_column])])
        found = dict(zip(about.schema.names, about.schema.types, strict=True))
        for name in names:
            if name not in found or values.sort(found[name]) != values.sort(first.field(name).type):
                raise self._differs(path, name, first.field(name).type, found.get(name))
        return about._replace(schema=NOTHING), stamp

    def _differs(self, path: str, name: str, expected: object, found: object) -> DataError:
        return DataError(
            f"{shown(path)}: column '{name}': expected {expected} as in {shown(self.files[0])}, "
            f"got {found or 'no such column'}. Give files of one kind, or leave this column out."
        )

    def _kept(self, path: str, table: pa.Table, keep: Sequence[str]) -> pa.Table:
        """Columns that pass through, of the types of the first file."""
        names = set(table.column_names)
        for name in keep:
            found = table.schema.field(name).type if name in names else None
            expected = self.types.get(name, "a column")
            if found is None or (name in self.types and str(found) != expected):
                raise self._differs(path, name, expected, found)
        return table.select(list(keep))

    def _batch(
        self, path: str, table: pa.Table, first: int, start: int, keep: Sequence[str]
    ) -> Batch:
        where = f"{shown(path)}: rows from {first}"
        columns = [_whole(table.column(name)) for name in self.column]
        ids, named = self._ids(where, table, start)
        found = values.rows(where, columns, tuple(self.shape))
        x, good, faults = values.without(found, ~named, f"no {self.id_column}")
        bad = [(first + row, reason) for row, reason in faults.items()]
        kept = self._kept(path, table, keep)
        if bad:
            ids, kept = ids[good], kept.filter(pa.array(good))
        return Batch(first, ids, x, kept, bad)

    def _ids(self, where: str, table: pa.Table, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids `[n]`, and which rows have one."""
        if self.id_column is None:
            return np.arange(start, start + table.num_rows), np.ones(table.num_rows, bool)
        column = _whole(table.column(self.id_column))
        if not pa.types.is_integer(column.type):
            raise DataError(f"{where}: ids must be integers, got {column.type}.")
        named = column.is_valid().to_numpy(zero_copy_only=False)
        ids = column.fill_null(0).to_numpy(zero_copy_only=False)
        if ids.dtype == np.uint64 and len(ids) and ids.max() >= 2**63:
            raise DataError(f"{where}: ids must be below 2^63, got {ids.max()}.")
        return ids.astype(np.int64), named


def check_unchanged(unit: Mapping[str, Any]) -> None:
    """The file of a unit is the one that was planned for.

    Raises:
        DataError: somebody wrote to it.
    """
    now, then = formats.stamp(unit["path"]), dict(unit["stamp"])
    if now != then:
        raise DataError(
            f"{unit['path']} changed after the plan was made (size {then['size']} then, "
            f"{now['size']} now). Begin again; latents: with --overwrite."
        )


def of_split(path: str, split: str) -> Source:
    """The source of a split of a data artifact."""
    opened = shards.open_split(path, split)
    return Source(tuple(str(opened.folder / name) for name in opened.names), opened.shape)


def of_files(path: str, shape: Shape, column: str, id_column: str | None) -> Source:
    """A file, a folder, a glob or a URI of Parquet files, arrays or images.

    Args:
        path: where they are.
        shape: of one example.
        column: a column, or several or a glob of them, separated by commas: one for each value.
        id_column: unique integers; None is `id` where that is a column of integers, and else
            numbers the rows.

    Raises:
        DataError: no such file or column.
    """
    kind, found = find(path)
    schema = formats.FORMATS[kind].look(found[0]).schema
    known = schema.names
    if id_column is None and "id" in known and pa.types.is_integer(schema.field("id").type):
        id_column = "id"
    chosen = _columns(found[0], [column] if column in known else column.split(","), known)
    if id_column is not None and id_column not in known:
        raise _no_column(found[0], id_column, known)
    types = {f.name: str(f.type) for f in schema if f.name not in (*chosen, id_column)}
    return Source(tuple(found), shape, tuple(chosen), id_column, kind, types)


def digest(pieces: Iterable[Piece]) -> str:
    """SHA-256 over sizes, times, tags and `About.content` of files in order; names do not matter.

    The rows are not read: a file that is rewritten with the same size, time and footer (an array:
    the same last 64 KB) goes unnoticed.
    """
    total = hashlib.sha256()
    for piece in pieces:
        total.update(json.dumps([piece.stamp, piece.about.content], sort_keys=True).encode())
    return total.hexdigest()


def refuse(path: str, bad: Sequence[tuple[int, str]], advice: str = "") -> None:
    """Say which row cannot be read, and what to do.

    Raises:
        DataError: there is one.
    """
    if bad:
        row, reason = min(bad)
        more = f" ({len(bad)} such rows in this batch)" if len(bad) > 1 else ""
        raise DataError(
            f"{shown(path)}: row {row}: {reason}{more}. {advice or 'Mend or remove it'}."
        )


def rebatched(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The same rows, `size` at a time."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        while sum(each.num_rows for each in held) >= size:
            table = pa.Table.from_batches(held)
            yield table.slice(0, size)
            held = table.slice(size).to_batches()
    if any(each.num_rows for each in held):
        yield pa.Table.from_batches(held)


def _columns(path: str, wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    """Names and globs of names, in the order of the file."""
    found: list[str] = []
    for name in wanted:
        matching = (
            [n for n in known if fnmatch.fnmatchcase(n, name)] if name not in known else [name]
        )
        if not matching:
            raise _no_column(path, name, known)
        found += matching
    return found


def _no_column(path: str, name: str, known: Sequence[str]) -> DataError:
    return DataError(
        f"{shown(path)}: no column '{name}'.{did_you_mean(name, known)} "
        f"Columns: {', '.join(known)}."
    )


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
