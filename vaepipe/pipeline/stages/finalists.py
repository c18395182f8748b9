"""A second look at the trials of a sweep that may be the best, with more samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaepipe import files
from vaepipe.compute.base import Compute
from vaepipe.data import shards
from vaepipe.journal import Journal
from vaepipe.pipeline.stages.leaderboard import Board
from vaepipe.pipeline.watch import JOURNAL

TARGET = "vaepipe.compute.finalists:Finalist"
FILE = "final.parquet"
ROWS_AT_ONCE = 250
"""Rows of one piece of work."""


def rescore(board: Board, folder: Path, k: int, seed: int, compute: Compute) -> None:
    """Estimate the log evidence of the finalists from k samples per validation row.

    What an interrupted run has estimated is kept, trial by trial, in `final.parquet`.

    Args:
        board: of the sweep, whose finalists are promoted.
        folder: of the sweep.
        k: samples per row.
        seed: of the samples.
        compute: where to do it.
    """
    entries = [entry for entry in board.finalists() if len(entry.ids)]
    trials = {row["trial"]: (folder / row["model"]).parent for e in entries for row in e.rows}
    keys = {number: _key(trial, k, seed) for number, trial in trials.items()}
    left = [number for number, trial in trials.items() if not _is_done(trial / FILE, keys[number])]
    ids = {row["trial"]: entry.ids for entry in entries for row in entry.rows}
    common = {"k": k, "seed": seed, "device": "auto"}
    journal = Journal(folder / JOURNAL)
    work = {number: ids[number] for number in left}
    for number, values in _estimated(trials, work, common, compute, journal):
        table = pa.table({"id": ids[number], "log_evidence": values})
        shards.write_table(trials[number] / FILE, table.replace_schema_metadata(keys[number]))
    for entry in entries:
        board.promote(entry, np.stack([_read(trials[row["trial"]]) for row in entry.rows]))


def _estimated(
    trials: Mapping[int, Path],
    work: Mapping[int, np.ndarray],
    common: Mapping[str, Any],
    compute: Compute,
    journal: Journal,
) -> Iterator[tuple[int, np.ndarray]]:
    """Each trial with the values of its rows, as they are complete."""
    units = [
        {"trial": number, "folder": str(trials[number]), "first": first, "rows": rows}
        for number, ids in work.items()
        for first, rows in _pieces(len(ids))
    ]
    total, done = sum(map(len, work.values())), 0
    if units:
        journal.write("start", total=total, unit="rows of finalists")
    values = {number: np.full(len(ids), np.nan) for number, ids in work.items()}
    left = {number: len(ids) for number, ids in work.items()}
    for result in compute.map(TARGET, units, common):
        number, first, rows = (result[name] for name in ("trial", "first", "rows"))
        values[number][first : first + rows] = result["log_evidence"]
        left[number] -= rows
        done += rows
        journal.write("progress", done=done, total=total)
        if not left[number]:
            yield number, values[number]


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    """First row and number of rows of each piece.

    Example:
        >>> list(_pieces(600))
        [(0, 250), (250, 250), (500, 100)]
    """
    for first in range(0, count, ROWS_AT_ONCE):
        yield first, min(ROWS_AT_ONCE, count - first)


def _key(trial: Path, k: int, seed: int) -> dict[str, str]:
    """What the values of a trial depend on."""
    fingerprint = files.read_json(trial / "task.json")["fingerprint"]
    return {"vaepipe.k": str(k), "vaepipe.seed": str(seed), "vaepipe.fingerprint": fingerprint}


def _is_done(path: Path, key: Mapping[str, str]) -> bool:
    if not path.is_file():
        return False
    found = pq.read_schema(path).metadata or {}
    return all(found.get(name.encode()) == value.encode() for name, value in key.items())


def _read(trial: Path) -> np.ndarray:
    return pq.read_table(trial / FILE, columns=["log_evidence"]).column(0).to_numpy()
