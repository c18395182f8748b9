"""A few rows of a source: the first ones, a sample, or those of given ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from vaepipe.data import shards
from vaepipe.data.sources import Source
from vaepipe.errors import DataError

GROUPS_READ = 32
"""Row groups that a sample is taken from at most: a page about terabytes does not read them."""


def first(source: Source, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids `[n]` and stored values `[n, *shape]` of the first rows, n <= count."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for unit in source.units():
        ids, x, _ = source.read(unit)
        found.append((ids, x))
        if sum(len(part) for part, _ in found) >= count:
            break
    if not found:
        raise DataError(f"{source.files[0]}: there are no rows.")
    ids, x = (np.concatenate(parts)[:count] for parts in zip(*found, strict=True))
    return ids, x


def sample(
    source: Source, count: int, keep: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """Return ids `[n]`, stored values `[n, *shape]` and columns of rows that stand for a source.

    A hash of the ids chooses and orders them, n <= count, so that the first few of them are a
    sample too. They come from groups spread evenly over the files, one in memory at a time.

    Raises:
        DataError: a row cannot be read, or there is none.
    """
    units = [unit for unit in source.units() if unit["rows"]]
    if not units:
        raise DataError(f"{source.files[0]}: there are no rows.")
    spread = np.linspace(0, len(units) - 1, min(len(units), GROUPS_READ)).round().astype(int)
    parts: list[tuple[np.ndarray, np.ndarray, pa.Table]] = []
    for group in spread:
        parts = [_least([*parts, source.read(units[group], keep)], count)]
    return parts[0]


def _least(
    parts: Sequence[tuple[np.ndarray, np.ndarray, pa.Table]], count: int
) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """The rows with the smallest hashes of some parts, ascending."""
    ids, x = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    order = np.argsort(shards.hashed(ids), kind="stable")[:count]
    kept = pa.concat_tables([part[2] for part in parts])
    return ids[order], x[order], kept.take(pa.array(order)) if kept.num_columns else kept


def pick(source: Source, wanted: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Ids `[n]` and stored values `[n, *shape]` of the rows with these ids, in this order.

    Raises:
        DataError: there is no such row.
    """
    left, found, seen = set(wanted), dict[int, np.ndarray](), list[int]()
    for unit in source.units():
        if not left:
            break
        ids, x, _ = source.read(unit)
        for place in (at for at, number in enumerate(ids.tolist()) if number in left):
            found[int(ids[place])] = x[place]
        left -= set(found)
        seen += [int(ids.min()), int(ids.max())] if len(ids) else []
    if left:
        missing = ", ".join(map(str, sorted(left)[:8]))
        span = f"ids run from {min(seen)} to {max(seen)}" if seen else "there are no rows"
        raise DataError(f"{source.files[0]}: no row with id {missing}; {span}.")
    return np.array(wanted, source.id_type), np.stack([found[i] for i in wanted])
