"""A few rows of a source: the first ones, or those of given ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vaepipe.data.sources import Source
from vaepipe.errors import DataError


def first(source: Source, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids `[n]` and stored values `[n, *shape]` of the first rows, n <= count."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for unit in source.units():
        ids, x, _ = source.read(unit)
        found.append((ids, x))
        if sum(len(part) for part, _ in found) >= count:
            break
    ids, x = (np.concatenate(parts)[:count] for parts in zip(*found, strict=True))
    return ids, x


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
        for place in np.flatnonzero(np.isin(ids, list(left))):
            found[int(ids[place])] = x[place]
        left -= set(found)
        seen += [int(ids.min()), int(ids.max())] if len(ids) else []
    if left:
        missing = ", ".join(map(str, sorted(left)[:8]))
        span = f"ids run from {min(seen)} to {max(seen)}" if seen else "there are no rows"
        raise DataError(f"{source.files[0]}: no row with id {missing}; {span}.")
    return np.array(wanted, np.int64), np.stack([found[i] for i in wanted])
