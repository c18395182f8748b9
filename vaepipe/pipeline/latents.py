"""Are latents what their manifest says? Are two of them the same?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaepipe import files
from vaepipe.compute.encode import Encoder
from vaepipe.core import Purpose, stream
from vaepipe.data.ids import repeated
from vaepipe.errors import DataError, VaepipeError
from vaepipe.pipeline.stages.parts import MANIFEST, PLAN
from vaepipe.pipeline.stages.units import differences
from vaepipe.training import bundle

TOLERANCES = {"float32": 1e-5, "bfloat16": 2**-6}
"""What another batch or another machine may change of a value, relative to its size: by the
precision of the networks; of bfloat16 a few times its unit roundoff, 2^-8."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    detail: str


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of complete latents.

    Raises:
        DataError: there is none.
    """
    path = folder / MANIFEST
    if not path.exists():
        begun = (folder / PLAN).exists()
        what = "not finished: run the same encode again" if begun else "no latents"
        raise DataError(f"{folder}: {what} (it has no {MANIFEST}).")
    return files.read_json(path)


def verify(folder: Path, rows: int, model: Path | None = None) -> Iterator[Finding]:
    """Recount, rehash and recompute.

    Args:
        folder: complete latents.
        rows: how many are encoded again, chosen by a hash; 0 for none.
        model: the bundle, if it is no longer where it was.
    """
    known = manifest(folder)
    parts = known["parts"]
    yield from _strangers(folder, parts)
    looked = [_part(folder, part) for part in parts]
    yield from looked
    yield _total(folder, known)
    sound = {part["name"] for part, found in zip(parts, looked, strict=True) if found.ok}
    yield _unique(folder, [part for part in parts if part["name"] in sound])
    if rows:
        known |= {"model": str(model or known["model"])}
        yield _recomputed(folder, known, rows, sound)


def diff(one: Path, other: Path) -> dict[str, Any]:
    """Compare two encodings: their settings, their rows, and the values of the rows in both.

    Returns:
        `settings` (differences of the manifests), `only_in_first` and `only_in_second` (numbers of
        rows), `in_both`, `moved` (rows of both at another place), `columns` (the largest difference
        per column of floating point numbers, relative where values are large), `unequal` (for every
        other column, the number of rows whose values differ), `apart` (what is wrong with columns
        that cannot be compared), `same` (whether rows, columns and values are; never where no row
        is in both).

    Raises:
        DataError: one of them is not complete, has no files, or repeats an id.
    """
    first, second = manifest(one), manifest(other)
    rows = [_rows(folder, known) for folder, known in ((one, first), (other, second))]
    at_a, at_b, common = _places(*rows)
    sides = (one, first, at_a), (other, second, at_b)
    schemas = [pq.read_schema(folder / known["parts"][0]["name"]) for folder, known, _ in sides]
    apart = dict(_apart(*schemas))
    shared = [name for name in schemas[0].names if name in schemas[1].names and name not in apart]
    values = [name for name in shared if name not in ("id", "split")] if common else []
    floating = set(_numeric(schemas[0]))
    found = {
        "settings": list(differences(first["config"], second["config"])),
        "only_in_first": len(rows[0]) - common,
        "only_in_second": len(rows[1]) - common,
        "in_both": common,
        "moved": int((at_a != at_b).sum()),
        "columns": {n: _gap(*_pair(sides, n)) for n in sorted(values) if n in floating},
        "unequal": {n: _unequal(*_pair(sides, n)) for n in values if n not in floating},
        "apart": apart,
    }
    counts = [found[name] for name in ("only_in_first", "only_in_second", "moved")]
    gaps = [*found["columns"].values(), *found["unequal"].values()]
    return {**found, "same": common > 0 and not apart and not any([*counts, *gaps])}


Side = tuple[Path, Mapping[str, Any], np.ndarray]
"""A folder of latents, its manifest, and the places of the rows that both have."""


def _rows(folder: Path, known: Mapping[str, Any]) -> pa.Table:
    """Return split and id of every row; each has to be there once, so that rows can be paired."""
    if not known["parts"]:
        raise DataError(f"{folder} has no Parquet files: its input had no rows to encode.")
    table = _read(folder, known, ["split", "id"])
    count = repeated(table)
    if count:
        raise DataError(
            f"{folder}: {count:,} rows repeat an id of their split, so rows cannot be paired. "
            f"`vaepipe latents verify {folder}` looks for more."
        )
    return table


def _apart(one: pa.Schema, other: pa.Schema) -> Iterator[tuple[str, str]]:
    """Columns of one side only, and those whose values are of different shapes or kinds."""
    for name in dict.fromkeys([*one.names, *other.names]):
        if name not in one.names or name not in other.names:
            yield name, f"only in the {'first' if name in one.names else 'second'}"
            continue
        a, b = one.field(name).type, other.field(name).type
        floating = [name in _numeric(schema) for schema in (one, other)]
        if _size(a) != _size(b) or floating[0] != floating[1]:
            yield name, f"{a} in the first, {b} in the second"


def _size(kind: pa.DataType) -> int | None:
    return kind.list_size if pa.types.is_fixed_size_list(kind) else None


def _pair(sides: tuple[Side, Side], name: str) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """A column of the rows in both; read one by one, so that memory holds one of each."""
    a, b = (_read(f, m, [name]).column(name).take(pa.array(at)) for f, m, at in sides)
    return a, b


def _unequal(one: pa.ChunkedArray, other: pa.ChunkedArray, rows: int = 10_000) -> int:
    """The number of rows whose values differ; null equals null, and NaN equals NaN."""
    count = 0
    for start in range(0, len(one), rows):
        a, b = one.slice(start, rows), other.slice(start, rows)
        if not a.equals(b):
            pairs = zip(a.to_pylist(), b.to_pylist(), strict=True)
            count += sum(repr(x) != repr(y) for x, y in pairs)
    return count


def _strangers(folder: Path, parts: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Parquet files that the manifest does not know, which a reader of the folder would read."""
    known = {part["name"] for part in parts}
    for path in sorted(folder.glob("*.parquet")):
        if path.name not in known:
            yield Finding(path.name, False, "is not in the manifest")


def _part(folder: Path, part: Mapping[str, Any]) -> Finding:
    path = folder / part["name"]
    if not path.exists():
        return Finding(part["name"], False, "is missing")
    if files.sha256(path) != part["sha256"]:
        return Finding(part["name"], False, "has other bytes than the manifest says (SHA-256)")
    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, pa.ArrowInvalid) as error:
        return Finding(part["name"], False, f"cannot be read: {error}")
    return Finding(part["name"], rows == part["rows"], f"{rows:,} rows, bytes as written")


def _total(folder: Path, known: Mapping[str, Any]) -> Finding:
    planned = sum(unit["rows"] for unit in files.read_json(folder / PLAN)["units"])
    told = known["rows"] + known["bad_rows"]
    words = f"{known['rows']:,} rows and {known['bad_rows']:,} set aside, of {planned:,} planned"
    return Finding("rows", told == planned, words)


def _unique(folder: Path, parts: Sequence[Mapping[str, Any]]) -> Finding:
    """No id of a split twice."""
    tables = [pq.read_table(folder / part["name"], columns=["id", "split"]) for part in parts]
    whole = pa.concat_tables(tables) if tables else pa.table({"id": [], "split": []})
    count = repeated(whole)
    return Finding("ids", not count, f"{count:,} rows repeat an id of their split")


def _recomputed(folder: Path, known: Mapping[str, Any], rows: int, sound: set[str]) -> Finding:
    """Encode some rows of parts that can be read again, and compare."""
    try:
        again = _Again(folder, known, sound)
        worst, count = again.worst(rows)
    except (VaepipeError, OSError) as error:
        return Finding("recomputed", False, f"cannot be: {error}")
    if not count:
        return Finding("recomputed", not known["rows"], "no rows to encode, nothing was compared")
    text = f"{count:,} rows, largest relative difference {worst:.1e}"
    if worst > again.tolerance and again.others:
        text += f"; written with {', '.join(again.others)}, which may draw other random numbers"
    return Finding("recomputed", worst <= again.tolerance, text)


class _Again:
    """The encoder of stored latents, for a few rows."""

    def __init__(self, folder: Path, known: Mapping[str, Any], sound: set[str]) -> None:
        plan = files.read_json(folder / PLAN)
        self.folder, self.stamps = folder, plan["files"]
        self.bad = {part["name"]: part["bad"] for part in known["parts"]}
        self.units = [unit for unit in plan["units"] if unit["part"] in sound]
        if bundle.load(Path(known["model"])).digest != known["model_digest"]:
            raise DataError(f"{known['model']} is another model.")
        now = {"model": known["model"], "on_bad_row": "quarantine"}
        self.encoder = Encoder(plan["worker"] | now)
        self.tolerance = TOLERANCES[plan["worker"]["precision"]]
        packages = plan["worker"]["config"]["packages"]
        self.others = [each for each in packages if each != _installed(each)]

    def worst(self, rows: int) -> tuple[float, int]:
        """The largest relative difference over batches of some parts, and their rows.

        A batch of each part, chosen by a hash, and then another of each, until there are enough.
        """
        worst, count, turn = 0.0, 0, 0
        left = list(range(len(self.units)))
        while left and count < rows:
            for i in sorted(left, key=partial(_order, turn)):
                if count >= rows:
                    break
                gap, compared = self._compared(i, turn)
                if not compared:
                    left.remove(i)
                worst, count = max(worst, gap), count + compared
            turn += 1
        return worst, count

    def _compared(self, i: int, turn: int) -> tuple[float, int]:
        """The difference in one batch of a part, another one each turn; no rows after the last."""
        unit = {**self.units[i], "stamp": self.stamps[self.units[i]["path"]]}
        batches = -(-unit["rows"] // self.encoder.common["batch_size"])
        if turn >= batches:
            return 0.0, 0
        number = (stream(0, Purpose.VERIFICATION, i).word + turn) % batches
        clean = not self.bad[unit["part"]]
        start, table = self.encoder.batch(unit, number, clean=clean)
        stored = pq.read_table(self.folder / unit["part"]).slice(start, len(table))
        return _relative(table, stored), len(table)


def _installed(requirement: str) -> str | None:
    """The same package with the version that is installed here; None where it is not."""
    name = requirement.partition("==")[0]
    try:
        return f"{name}=={version(name)}"
    except PackageNotFoundError:
        return None


def _order(turn: int, i: int) -> int:
    """Where a part comes in a turn: a number that a hash makes."""
    return stream(turn, Purpose.VERIFICATION, "order", i).word


def _relative(one: pa.Table, other: pa.Table) -> float:
    """The largest difference of floating point columns; the others have to be equal."""
    numeric = _numeric(one.schema)
    for name in set(one.column_names) - set(numeric):
        a, b = one.column(name), other.column(name)
        if not a.cast(b.type).equals(b):
            return float("inf")
    return max((_gap(one.column(name), other.column(name)) for name in numeric), default=0.0)


def _gap(one: pa.ChunkedArray, other: pa.ChunkedArray) -> float:
    """The largest difference, relative where values are large."""
    a, b = _flat(one), _flat(other)
    if len(a) != len(b):
        return float("inf")
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b) / np.maximum(1.0, np.abs(b))
    gap[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    whole = column.combine_chunks()
    nested = pa.types.is_fixed_size_list(column.type)
    return (whole.flatten() if nested else whole).to_numpy(zero_copy_only=False)


def _numeric(schema: pa.Schema) -> list[str]:
    """Columns of floating point numbers, alone or in lists."""
    kinds = {
        f.name: f.type.value_type if pa.types.is_fixed_size_list(f.type) else f.type for f in schema
    }
    return [name for name, kind in kinds.items() if pa.types.is_floating(kind)]


def _read(folder: Path, known: Mapping[str, Any], columns: list[str]) -> pa.Table:
    return pa.concat_tables(
        [pq.read_table(folder / part["name"], columns=columns) for part in known["parts"]]
    ).combine_chunks()


def _places(one: pa.Table, other: pa.Table) -> tuple[np.ndarray, np.ndarray, int]:
    """Positions of the rows that both have, by split and id, and how many there are."""
    keys = [t.append_column("place", pa.array(np.arange(t.num_rows))) for t in (one, other)]
    both = keys[0].join(keys[1], ["split", "id"], right_suffix="_2", join_type="inner")
    both = both.sort_by("place")
    a, b = both.column("place").to_numpy(), both.column("place_2").to_numpy()
    return a, b, both.num_rows
