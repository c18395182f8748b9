"""The trials of a sweep, compared on the same validation rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from vaepipe.compute import outputs

Row = dict[str, Any]
"""A row of `trials.parquet`."""

SETTING = "setting."
FINAL = "final/log_evidence"
WITHIN = 2.0
"""Standard errors of a difference within which two settings are a tie."""
MOST = 8
"""Settings that are finalists at most."""


class Difference(NamedTuple):
    """A mean difference and its standard error, which is NaN where it is unknown."""

    value: float
    se: float

    @property
    def tie(self) -> bool:
        """Whether the difference lies within two of its standard errors."""
        return abs(self.value) <= WITHIN * self.se


def paired(a: np.ndarray, b: np.ndarray) -> Difference:
    """Return the mean of a - b over rows that both have, with the standard error of the pairs.

    Over repeats (seeds) the mean of each row is taken first, and the spread of the repeats adds to
    the error:

        se^2 = var_n(a_n - b_n) / n + var_s(a_s) / S_a + var_s(b_s) / S_b

    Args:
        a: `[seeds, n]`.
        b: `[other seeds, n]`, of the same n rows.

    Example:
        >>> a, b = np.array([[1.0, 5.0, 9.0]]), np.array([[0.0, 4.5, 7.5]])
        >>> difference = paired(a, b)
        >>> round(difference.value, 3), round(difference.se, 3), difference.tie
        (1.0, 0.289, False)
    """
    rows = a.mean(0) - b.mean(0)
    variance = rows.var(ddof=1) / len(rows) if len(rows) > 1 else math.nan
    for each in (a, b):
        if len(each) > 1:
            variance += each.mean(1).var(ddof=1) / len(each)
    return Difference(float(rows.mean()), math.sqrt(variance))


@dataclass
class Entry:
    """Settings with the trials that repeat them.

    Args:
        rows: of the trials that have a model and a value.
        ids: `[n]` of the validation rows; empty where nothing is known of rows.
        values: `[repeats, n]`, the metric per validation row.
        final: `[repeats, n]`, the log evidence per validation row from more samples.
    """

    rows: list[Row]
    ids: np.ndarray
    values: np.ndarray
    final: np.ndarray | None = None

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over the repeats."""
        return fmean(row[metric] for row in self.rows)


class Board:
    """The settings of a sweep that have a value, best first.

    Args:
        folder: of the sweep.
        rows: of its trials; those without a model or a value are left out.
        metric: that trials are compared by, `val/…`.
        mode: which way it is better.
    """

    def __init__(
        self, folder: Path, rows: Sequence[Row], metric: str, mode: Literal["max", "min"]
    ) -> None:
        self.metric, self.sign = metric, 1.0 if mode == "max" else -1.0
        same: dict[str, list[Row]] = {}
        for row in rows:
            if row["model"] and row.get(metric) is not None:
                key = {k: v for k, v in row.items() if k.startswith(SETTING)}
                same.setdefault(json.dumps(key, sort_keys=True), []).append(row)
        found = [_entry(folder, repeats, metric) for repeats in same.values()]
        self.entries = sorted(found, key=lambda each: -self.sign * each.mean(metric))

    @property
    def best(self) -> Entry:
        """The winner: of the finalists, if they were scored again, else of all."""
        finalists = [entry for entry in self.entries if entry.final is not None]
        return max(finalists, key=lambda each: each.mean(FINAL), default=self.entries[0])

    @property
    def winner(self) -> Row:
        """The best trial of the winner."""
        if self.best.final is not None:
            return max(self.best.rows, key=lambda row: row[FINAL])
        return max(self.best.rows, key=lambda row: self.sign * row[self.metric])

    def finalists(self) -> list[Entry]:
        """Return the settings that may be the best, by two standard errors; the first always is."""
        first, *others = self.entries
        close = [each for each in others if (found := _between(each, first)) and found.tie]
        return [first, *close][:MOST]

    def promote(self, entry: Entry, final: np.ndarray) -> None:
        """Take in a finalist's log evidence per validation row, `[repeats, n]`, if it is finite."""
        if not np.isfinite(final).all():
            return
        entry.final = final
        for row, values in zip(entry.rows, final, strict=True):
            row[FINAL] = float(values.mean())
            if len(values) > 1:
                row[f"{FINAL}_se"] = float(values.std(ddof=1) / math.sqrt(len(values)))

    def compare(self) -> None:
        """Write into every row how far its settings are from the best."""
        for entry in self.entries:
            found = None if entry is self.best else _between(entry, self.best)
            if found is None:
                continue
            for row in entry.rows:
                row["difference_to_best"] = found.value
                row["difference_se"] = None if math.isnan(found.se) else found.se

    def tie(self, entry: Entry) -> bool:
        """Return whether some settings, not the best, may be as good by two standard errors."""
        row = entry.rows[0]
        value, se = row.get("difference_to_best"), row.get("difference_se")
        return value is not None and se is not None and Difference(value, se).tie

    def ranked(self) -> list[Entry]:
        """Return the best, then the others by their difference to it."""
        others = [entry for entry in self.entries if entry is not self.best]

        def behind(entry: Entry) -> float:
            known = entry.rows[0].get("difference_to_best")
            off = entry.mean(self.metric) - self.best.mean(self.metric) if known is None else known
            return -self.sign * off

        return [self.best, *sorted(others, key=behind)]


def repeated(values: Sequence[float]) -> dict[str, Any]:
    """Return the mean over repeats and its standard error, where there are several."""
    if len(values) < 2:
        return {}
    error = stdev(values) / math.sqrt(len(values))
    return {"mean": fmean(values), "mean_se": error, "repeats": len(values)}


def _between(entry: Entry, other: Entry) -> Difference | None:
    """The paired difference, from more samples where both have them; None without common rows."""
    a, b = entry.final, other.final
    if a is None or b is None:
        a, b = entry.values, other.values
    common, mine, theirs = np.intersect1d(entry.ids, other.ids, return_indices=True)
    return paired(a[:, mine], b[:, theirs]) if len(common) else None


def _entry(folder: Path, rows: list[Row], metric: str) -> Entry:
    """Settings with what their trials left about validation rows."""
    column = metric.removeprefix("val/")
    found = [_rows(folder / row["model"], column) for row in rows]
    ids = found[0][0]
    if any(not np.array_equal(each[0], ids) for each in found):
        return Entry(rows, np.zeros(0, np.int64), np.zeros((len(rows), 0)))
    return Entry(rows, ids, np.stack([each[1] for each in found]))


def _rows(model: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids and values `[n]` of a trial's validation rows; empty where there are no such values."""
    path = model.parent / outputs.VALIDATION
    if not path.is_file() or column not in pq.read_schema(path).names:
        return np.zeros(0, np.int64), np.zeros(0)
    table = pq.read_table(path, columns=["id", column])
    return table.column("id").to_numpy(), table.column(column).to_numpy()
