"""Rows to write, to evaluate or to encode: our own shards, or anybody's files, by groups of rows.

One reader for all commands: files become batches of ids, examples in their layout, and columns that
pass through, of types that are the same in every file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vaepipe.core.spec import Shape
from vaepipe.data import columns, formats, shards, values
from vaepipe.data.columns import Variant
from vaepipe.data.decoding import PLAIN, Decoding
from vaepipe.data.formats import Format, find
from vaepipe.data.formats import open_parquet as open_file
from vaepipe.data.looking import Looked, Piece, first_shape, look_at
from vaepipe.data.places import shown, stem
from vaepipe.errors import DataError

COLUMNS, MOST_TOGETHER = 2048, 8
"""Batches that are decoded together: one for every 2048 columns, at most 8."""

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
        types: of all other columns, over all files: what is read is cast to them.
        decoding: how pictures and sentences are read.
        looked: the files, if they were looked at.
    """

    files: tuple[str, ...]
    shape: Shape
    column: tuple[str, ...] = ("x",)
    id_column: str | None = "id"
    kind: str = "parquet"
    types: pa.Schema = NOTHING
    decoding: Decoding = PLAIN
    looked: Looked | None = field(default=None, compare=False, repr=False)

    @property
    def format(self) -> Format:
        """How the files are read."""
        return formats.FORMATS[self.kind]

    @property
    def id_type(self) -> type[np.generic]:
        """Type of the ids: uint64 where the files have it, else int64."""
        names = self.types.names
        whole = self.id_column in names and pa.types.is_uint64(
            self.types.field(self.id_column).type
        )
        return np.uint64 if whole else np.int64

    def look(self) -> Looked:
        """Look at every file; many at a time, because each is a wait.

        Raises:
            DataError: a file cannot be read, or its examples are not of the kind of the others'.
        """
        if self.looked is not None:
            return self.looked
        found, variants = look_at(self.kind, self.files)
        columns.check(variants, self.column, self.id_column)
        columns.check_layout(variants, self.column, self.shape)
        types = columns.others(variants, self.column)
        elements = columns.elements(variants, self.column)
        return found._replace(elements=elements, conflicts=types.conflicts)

    def pieces(self) -> list[Piece]:
        """Every file, looked at.

        Raises:
            DataError: a file cannot be read, or its examples are not of the kind of the others'.
        """
        return self.look().pieces

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
            return np.zeros(0, self.id_type), np.zeros((0, *self.shape), np.float32), kept
        ids, x = (np.concatenate([b[i] for b in batches]) for i in (1, 2))
        return ids, x, pa.concat_tables([batch.kept for batch in batches])

    def everything(self, keep: Sequence[str], size: int) -> Iterator[tuple[str, Batch]]:
        """Yield all rows of all files with their path, `size` at a time, numbers as they are.

        Raises:
            DataError: a file cannot be read, or has not the columns of the others.
        """
        self.check_kept(keep)
        for piece in self.pieces():
            groups = range(len(piece.about.groups))
            for batch in self.stream(
                piece.path, groups, piece.start, keep, size, row=0, exact=True
            ):
                yield piece.path, batch

    def stream(
        self,
        path: str,
        groups: range,
        start: int,
        keep: Sequence[str],
        size: int,
        row: int | None = None,
        *,
        exact: bool = False,
    ) -> Iterator[Batch]:
        """Rows of some groups of a file, `size` at a time whatever the groups are.

        Args:
            path: one of `files`.
            groups: which groups of it.
            start: position of the first of these rows among those of all files.
            keep: columns that pass through.
            size: rows of a batch, good and bad; the last one may have fewer.
            row: position of the first row in the file; None looks it up.
            exact: keep the type of the examples' numbers.

        Raises:
            DataError: the file cannot be read, or has not the columns of the first.
        """
        if self.looked is not None:
            self.check_kept(keep)
        named = ["path"] if self.kind == "images" else []
        wanted = [*self.column, *filter(None, [self.id_column]), *keep, *named]
        wanted = list(dict.fromkeys(wanted))
        first = sum(self.format.look(path).groups[: groups.start]) if row is None else row
        try:
            whole = size * self._together
            for table in rebatched(self.format.batches(path, groups, wanted, whole), whole):
                yield from cut(self._batch(path, table, (first, start), keep, exact=exact), size)
                first, start = first + table.num_rows, start + table.num_rows
        except DataError:
            raise
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            where = f"{shown(path)}: rows from {first}"
            raise DataError(f"{where} cannot be read: {error}") from error

    def columns(self) -> list[str]:
        """Names of the columns that can pass through."""
        names = [*self.types.names, *(self.looked.conflicts if self.looked else ())]
        return [name for name in names if name != self.id_column]

    def check_kept(self, names: Sequence[str]) -> None:
        """Raise `DataError` unless each of some columns has one type over all files."""
        conflicts = self.look().conflicts
        found = [conflicts[name] for name in names if name in conflicts]
        if found:
            lines = "\n  ".join(found)
            raise DataError(
                f"{shown(self.files[0])} and files beside it cannot be one table:\n  {lines}\n"
                "Write the files with one type for each column, or leave these columns out."
            )

    def schema(self, names: Sequence[str]) -> pa.Schema:
        """Types of some columns that pass through."""
        return pa.schema([self.types.field(name) for name in names])

    def row_bytes(self, keep: Sequence[str]) -> float:
        """Bytes of a row of what is read, before compression; 0 where the files do not tell."""
        widths = self.look().widths
        names = dict.fromkeys([*self.column, *filter(None, [self.id_column]), *keep])
        return sum(widths.get(name, 0.0) for name in names)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        kept = [f.name for f in fields(self) if f.name not in ("looked", "decoding")]
        plain = {name: getattr(self, name) for name in kept} | self.decoding.to_dict()
        types = {f.name: str(f.type) for f in self.types}
        arrow = base64.b64encode(self.types.serialize().to_pybytes()).decode()
        return {**plain, "types": types, "arrow": arrow}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Source:
        """The inverse of `to_dict`."""
        lists = {name: tuple(data[name]) for name in ("files", "shape", "column")}
        types = _types(data)
        plain = {f.name: data[f.name] for f in fields(cls) if f.name in data}
        decoding = Decoding.from_dict(data)
        return cls(**{**plain, **lists, "types": types, "decoding": decoding})

    @property
    def _together(self) -> int:
        """How many batches are decoded together: thousands of columns cost more than rows."""
        return max(1, min(MOST_TOGETHER, len(self.column) // COLUMNS))

    def _kept(self, table: pa.Table, keep: Sequence[str]) -> pa.Table:
        """Columns that pass through, of the types that they have over all files."""
        kept = table.select(list(keep))
        for at, name in enumerate(keep):
            wanted, column = self.types.field(name), table.column(name)
            same = str(column.type) == str(wanted.type)
            kept = kept.set_column(at, wanted, column if same else column.cast(wanted.type))
        return kept

    def _batch(
        self,
        path: str,
        table: pa.Table,
        place: tuple[int, int],
        keep: Sequence[str],
        *,
        exact: bool,
    ) -> Batch:
        first, start = place
        where = f"{shown(path)}: rows from {first}"
        (examples,) = table.select(list(self.column)).combine_chunks().to_batches() or (None,)
        assert examples is not None
        ids, named = self._ids(table, start)
        shape = tuple(self.shape)
        found = values.rows(where, examples.columns, shape, self.decoding, exact=exact)
        x, good, faults = values.without(found, ~named, f"no {self.id_column}")
        bad = [(first + row, self._fault(table, row, reason)) for row, reason in faults.items()]
        kept = self._kept(table, keep)
        if bad:
            ids, kept = ids[good], kept.filter(pa.array(good))
        return Batch(first, ids, x, kept, bad)

    def _fault(self, table: pa.Table, row: int, reason: str) -> str:
        """What is wrong with a row; of a folder of images with the name of the file."""
        return f"{table['path'][row]}: {reason}" if self.kind == "images" else reason

    def _ids(self, table: pa.Table, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids `[n]`, and which rows have one."""
        if self.id_column is None:
            return np.arange(start, start + table.num_rows), np.ones(table.num_rows, bool)
        column = table.column(self.id_column).combine_chunks()
        named = column.is_valid().to_numpy(zero_copy_only=False)
        return column.fill_null(0).to_numpy(zero_copy_only=False).astype(self.id_type), named


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
    files = tuple(str(opened.folder / name) for name in opened.names)
    types = columns.others([Variant(opened.schema.remove_metadata(), files)], ("x",))
    return Source(files, opened.shape, types=types.schema)


def of_files(
    path: str,
    shape: Shape | None,
    column: str,
    id_column: str | None,
    *,
    only: str | None = None,
    numbered: bool = False,
    named: Sequence[str] | None = None,
    decoding: Decoding = PLAIN,
) -> Source:
    """A file, a folder, a glob or a URI of Parquet files, arrays, text or images, looked at.

    Args:
        path: where they are.
        shape: of one example; None is the shape that the files have.
        column: a column, or several or a glob of them, separated by commas: one for each value.
        id_column: unique integers; None is `id` where that is a column of integers, and else
            numbers the rows.
        only: the one format that is looked for.
        numbered: whether rows without `id_column` are numbered even where there is an `id`.
        named: the columns that a model was fitted to; they are read in this order.
        decoding: how pictures and sentences are read.

    Raises:
        DataError: no such file or column, or files that do not agree.
    """
    words = decoding.words
    found = find(path, only, words and words.reading.unit)
    kind, paths = found.kind, tuple(found.files)
    looked, variants = look_at(kind, paths)
    first = variants[0]
    chosen = columns.choose(first, column, named)
    if id_column is None and not numbered:
        id_column = _own_ids(first)
    if id_column is not None and first.field(id_column) is None:
        raise columns.no_column(first.files[0], id_column, first.schema.names)
    columns.check(variants, chosen, id_column)
    if words is None and values.is_text(first.fields[chosen[0]].type):
        raise columns.no_words(first.files[0], chosen[0])
    shape = tuple(shape) if shape else first_shape(kind, looked.pieces, variants, chosen)
    columns.check_layout(variants, chosen, shape)
    types = columns.others(variants, chosen)
    elements = columns.elements(variants, chosen)
    looked = looked._replace(elements=elements, conflicts=types.conflicts, left=found.left)
    return Source(paths, shape, chosen, id_column, kind, types.schema, decoding, looked)


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


def cut(batch: Batch, size: int) -> Iterator[Batch]:
    """Yield the same rows, `size` at a time, good and bad."""
    rows = len(batch.ids) + len(batch.bad)
    if rows <= size:
        yield batch
        return
    good = np.ones(rows, bool)
    good[[row - batch.start for row, _ in batch.bad]] = False
    before = np.concatenate([[0], np.cumsum(good)])
    for first in range(0, rows, size):
        last = min(first + size, rows)
        these = slice(before[first], before[last])
        start = batch.start + first
        bad = [(row, why) for row, why in batch.bad if start <= row < batch.start + last]
        kept = batch.kept.slice(these.start, these.stop - these.start)
        yield Batch(start, batch.ids[these], batch.x[these], kept, bad)


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


def _types(data: Mapping[str, Any]) -> pa.Schema:
    """Types of columns as plain data; those of the first file where an older plan has none."""
    if "arrow" in data:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(data["arrow"])))
    path, column = data["files"][0], data["column"]
    found = formats.FORMATS[data["kind"]].look(path).schema
    return columns.others([Variant(found, [path])], column).schema


def _own_ids(first: Variant) -> str | None:
    own = first.field("id")
    return "id" if own is not None and pa.types.is_integer(own.type) else None
