"""Examples as Parquet shards: written once, read by row group, complete when the manifest is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vaepipe import files
from vaepipe.core.noise import row_uniform
from vaepipe.core.spec import DataSpec, Moments, Shape
from vaepipe.core.streams import Purpose, stream
from vaepipe.data import schema
from vaepipe.data.moments import Narrowing
from vaepipe.errors import DataError

ROWS_PER_GROUP = 1024
ROWS_PER_FILE = 64 * ROWS_PER_GROUP
FILE_BYTES = 512 * 2**20
WIDE = 4096
"""Bytes of a row beside its example, from which they count for the size of a file."""
MEAN, SCALE, LOGS = "mean.npy", "scale.npy", "log1p.npy"
"""Moments of the training split, beside its shards; `LOGS` holds mean and scale, `[2, *shape]`."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A row group of a shard: the piece of work of evaluate and encode.

    Its borders do not depend on who works on it, so neither do the results.
    """

    path: str
    group: int
    start: int
    rows: int


@dataclass(frozen=True)
class Split:
    """The examples of one split, in a fixed order of files and row groups."""

    folder: Path
    names: tuple[str, ...]

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Row groups with their first row's position in the split."""
        units: list[Unit] = []
        start = 0
        for name in self.names:
            path = self.folder / name
            metadata = pq.read_metadata(path)
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group).num_rows
                units.append(Unit(str(path), group, start, rows))
                start += rows
        return tuple(units)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the shards."""
        return pq.read_schema(self.folder / self.names[0])

    @property
    def num_rows(self) -> int:
        """Number of examples."""
        return sum(unit.rows for unit in self.units)

    @property
    def shape(self) -> Shape:
        """Shape of one example."""
        return schema.shape_of(self.schema.field("x"))

    @property
    def stored(self) -> str:
        """Type of the stored values: `uint8` or `float32`."""
        kind = self.schema.field("x").type.value_type
        return next(name for name, each in schema.STORED.items() if each == kind)

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored example."""
        kind = self.schema.field("x").type
        return kind.list_size * kind.value_type.bit_width // 8

    def sample(self, rows: int) -> pa.Table:
        """Return rows that a hash of their ids chooses, in the split's order; all, if so few.

        Everyone who asks gets the same rows, whatever the order in which they were written. The
        ids of the whole split are read, and then the row groups of chosen rows one at a time.
        """
        places = self._chosen(rows)
        tables = [self.schema.empty_table()]
        for unit in self.units:
            first, last = np.searchsorted(places, (unit.start, unit.start + unit.rows))
            if last > first:
                inside = pa.array(places[first:last] - unit.start)
                tables.append(read_unit(unit.path, unit.group).take(inside))
        return pa.concat_tables(tables)

    def _chosen(self, rows: int) -> np.ndarray:
        """Positions in the split of the rows with the smallest hashes, ascending."""
        if rows >= self.num_rows:
            return np.arange(self.num_rows)
        keys, places, start = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
        for name in self.names:
            found = hashed(_ids(self.folder / name))
            keys = np.concatenate([keys, found])
            places = np.concatenate([places, np.arange(start, start + len(found))])
            least = np.argsort(keys, kind="stable")[:rows]
            keys, places, start = keys[least], places[least], start + len(found)
        return np.sort(places)

    def take(self, units: Iterable[Unit]) -> tuple[np.ndarray, np.ndarray]:
        """Ids `[n]` and stored values `[n, *shape]` of some units, in their order."""
        tables = [read_unit(u.path, u.group, columns=["id", "x"]) for u in units]
        return arrays(pa.concat_tables(tables), self.shape)


def arrays(table: pa.Table, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Ids `[n]` and stored values `[n, *shape]` of a table of examples."""
    ids = table.column("id").to_numpy()
    return ids, schema.from_vectors(table.column("x"), shape)


def hashed(ids: np.ndarray) -> np.ndarray:
    """Return numbers in [0, 1) `[n]` that depend on the ids alone, one per id.

    The rows with the smallest of them are a random sample of a split.

    Example:
        >>> hashed(np.arange(3)).argsort().tolist() == hashed(np.arange(3)).argsort().tolist()
        True
    """
    numbers = torch.from_numpy(ids.astype(np.int64))
    return row_uniform(stream(0, Purpose.VALIDATION_ROWS), numbers, (1,))[:, 0].numpy()


def read_unit(path: str, group: int, columns: list[str] | None = None) -> pa.Table:
    """One row group of a shard.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        with pq.ParquetFile(path) as file:
            return file.read_row_group(group, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: row group {group} cannot be read: {error}") from error


def _ids(path: Path) -> np.ndarray:
    """Ids `[n]` of all rows of a shard."""
    try:
        with pq.ParquetFile(path) as file:
            return file.read(columns=["id"]).column("id").to_numpy()
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: its ids cannot be read: {error}") from error


def write_split(
    folder: Path,
    batches: Iterable[pa.RecordBatch],
    narrow: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[dict[str, Any]]:
    """Write the batches as `part-00000.parquet` …; what the manifest says of each file.

    Args:
        folder: of the shards.
        batches: examples as a dataset yields them.
        narrow: their values to the types that are stored; a `Narrowing` by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    stored = map(partial(_narrowed, narrow=narrow or Narrowing()), batches)
    for number, table in enumerate(_files(stored)):
        path = folder / f"part-{number:05d}.parquet"
        write_table(path, table)
        written.append({"name": path.name, "rows": table.num_rows, "sha256": files.sha256(path)})
    return written


def write_table(path: Path, table: pa.Table, rows_per_group: int = ROWS_PER_GROUP) -> None:
    """Write a whole Parquet file or nothing."""
    with files.whole(path) as draft:
        options = schema.write_options(table.schema)
        pq.write_table(table, draft, row_group_size=rows_per_group, **options)


def open_split(path: str | Path, split: str) -> Split:
    """A split of a complete data artifact.

    Raises:
        DataError: the artifact is not complete, or has no such split.
    """
    manifest = read_manifest(path)
    if split not in manifest["splits"]:
        raise DataError(f"{path} has no split '{split}'; it has {', '.join(manifest['splits'])}.")
    names = tuple(entry["name"] for entry in manifest["splits"][split]["files"])
    return Split(Path(path) / split, names)


def read_manifest(path: str | Path) -> Mapping[str, Any]:
    """The manifest of a complete artifact."""
    file = Path(path) / "manifest.json"
    if not file.exists():
        raise DataError(f"{path} is not a complete artifact: it has no manifest.json.")
    return files.read_json(file)


def load_spec(path: str | Path) -> DataSpec:
    """Return the specification of a data artifact, with the moments of its training split."""
    mean, scale, logs = (_array(Path(path) / name) for name in (MEAN, SCALE, LOGS))
    pair = None if logs is None else Moments(*logs)
    return DataSpec.from_dict(read_manifest(path)["spec"], mean, scale, pair)


def write_array(path: Path, value: np.ndarray) -> None:
    """Write a `.npy` file whole, or nothing."""
    with files.whole(path) as draft, draft.open("wb") as file:
        np.save(file, value, allow_pickle=False)


def _array(path: Path) -> torch.Tensor | None:
    return torch.from_numpy(np.load(path, allow_pickle=False)) if path.exists() else None


def _narrowed(batch: pa.RecordBatch, narrow: Callable[[np.ndarray], np.ndarray]) -> pa.RecordBatch:
    """The batch with `x` as it is stored."""
    at = batch.schema.get_field_index("x")
    field = batch.schema.field(at)
    if field.type.value_type in schema.STORED.values():
        return batch
    shape = schema.shape_of(field)
    x = narrow(schema.from_vectors(batch.column(at), shape))
    return batch.set_column(
        at, schema.vector_field("x", schema.STORED[x.dtype.name], shape), schema.to_vectors(x)
    )


def _files(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    first: pa.Schema | None = None
    count, full = 0, ROWS_PER_FILE
    for batch in batches:
        if first is None:
            first, full = batch.schema, _rows_per_file(batch)
        _check_alike(first, batch.schema)
        held.append(batch)
        count += batch.num_rows
        while count >= full:
            table = pa.Table.from_batches(held)
            yield table.slice(0, full)
            held = table.slice(full).to_batches()
            count -= full
    if count:
        yield pa.Table.from_batches(held)


def _check_alike(first: pa.Schema, other: pa.Schema) -> None:
    """Raise `DataError` unless two batches of a dataset can be one table."""
    if first.equals(other):
        return
    kinds = [{f.name: str(f.type) for f in schema} for schema in (first, other)]
    names = [n for n in {**kinds[0], **kinds[1]} if kinds[0].get(n) != kinds[1].get(n)]
    said = "; ".join(
        f"column '{name}': {kinds[0].get(name, 'absent')} in the first rows, "
        f"{kinds[1].get(name, 'absent')} later"
        for name in names
    )
    raise DataError(f"the dataset's rows cannot be one table: {said or 'other columns'}.")


def _rows_per_file(batch: pa.RecordBatch) -> int:
    """Whole row groups that fit the memory set aside for a file, one of them at least."""
    kind = batch.schema.field("x").type
    row_bytes = kind.list_size * kind.value_type.bit_width // 8
    others = batch.nbytes // max(1, batch.num_rows) - row_bytes
    row_bytes += others if others > WIDE else 0
    groups = FILE_BYTES // (ROWS_PER_GROUP * max(row_bytes, 1))
    return max(ROWS_PER_GROUP, min(ROWS_PER_FILE, groups * ROWS_PER_GROUP))
