"""Splits that a row's id decides, whatever the order or number of rows.

A hash of the id is a number in [0, 1), and each split has its part of this interval. Where that
leaves a split without rows, as a few rows can, the rows are ranked by their hash instead, and each
split has its largest remainder, at least one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, final

import numpy as np
import torch
from annotated_types import Gt, MinLen

from vaepipe.core.noise import row_uniform
from vaepipe.core.streams import Purpose, stream
from vaepipe.errors import DataError

_HASH = stream(0, Purpose.SPLITS)  # a part of the format: changing it moves rows between splits

Fractions = Annotated[dict[str, Annotated[float, Gt(0)]], MinLen(1)]
"""Shares of the rows, by the names of splits; they are divided by their sum."""


@final
@dataclass(frozen=True, slots=True)
class Cut:
    """The parts of [0, 1) that belong to each split.

    Args:
        names: of the splits.
        edges: where a split ends and the next one begins.
    """

    names: tuple[str, ...]
    edges: np.ndarray

    def masks(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        """Return a boolean mask `[n]` for each split; every row is in exactly one."""
        which = np.searchsorted(self.edges, _hash(ids), side="right")
        return {name: which == number for number, name in enumerate(self.names)}


def cut(where: str, ids: Iterable[np.ndarray], fractions: Mapping[str, float]) -> Cut:
    """Decide where the splits of some data begin and end.

    Args:
        where: the data, for the message.
        ids: of all rows, in pieces; read until every split has a row.
        fractions: shares of the rows, by the names of splits.

    Raises:
        DataError: fewer rows than splits.
    """
    shares = np.cumsum(list(fractions.values()))
    edges = shares[:-1] / shares[-1]
    hashes: list[np.ndarray] = []
    filled: set[int] = set()
    for piece in ids:
        hashes.append(_hash(piece))
        filled.update(np.unique(np.searchsorted(edges, hashes[-1], side="right")).tolist())
        if len(filled) == len(fractions):
            return Cut(tuple(fractions), edges)
    ranked = np.sort(np.concatenate([np.zeros(0), *hashes]))
    if len(ranked) < len(fractions):
        raise DataError(
            f"{where}: {len(ranked)} rows for {len(fractions)} splits ({', '.join(fractions)}), "
            f"which need at least {len(fractions)}. Add rows, or ask for fewer `splits`."
        )
    counts = largest_remainder(len(ranked), list(fractions.values()))
    return Cut(tuple(fractions), ranked[np.cumsum(counts)[:-1]])


def by_id(
    ids: np.ndarray, fractions: Mapping[str, float], where: str = "data"
) -> dict[str, np.ndarray]:
    """Return a boolean mask `[n]` for each split of data with these ids.

    Raises:
        DataError: fewer rows than splits; it names `where`.

    Example:
        >>> masks = by_id(np.arange(1000), {"train": 0.9, "test": 0.1})
        >>> bool((masks["train"] ^ masks["test"]).all())
        True
        >>> few = by_id(np.arange(6), {"train": 0.8, "val": 0.1, "test": 0.1})
        >>> {name: int(mask.sum()) for name, mask in few.items()}
        {'train': 4, 'val': 1, 'test': 1}
    """
    return cut(where, [ids], fractions).masks(ids)


def largest_remainder(count: int, shares: Sequence[float]) -> np.ndarray:
    """Divide a number of rows by shares, with at least one row for each.

    Everybody has the whole part of what the share comes to; what is left goes to the largest
    remainders (the method of Hamilton).

    Args:
        count: at least as many as there are shares.
        shares: positive; divided by their sum.

    Example:
        >>> largest_remainder(12, [0.8, 0.1, 0.1]).tolist()
        [10, 1, 1]
        >>> largest_remainder(3, [0.8, 0.1, 0.1]).tolist()
        [1, 1, 1]
    """
    quotas = count * np.asarray(shares, np.float64) / sum(shares)
    counts = np.maximum(1, np.floor(quotas).astype(int))
    while (missing := count - counts.sum()) != 0:
        if missing > 0:
            counts[np.argmax(quotas - counts)] += 1
        else:
            counts[np.argmax(counts)] -= 1
    return counts


def _hash(ids: np.ndarray) -> np.ndarray:
    """Return a number in [0, 1) for each id."""
    noise = row_uniform(_HASH, torch.from_numpy(np.asarray(ids, np.int64)), (1,))
    return noise[:, 0].double().numpy()
