"""What must hold between the numbers of an evaluation, whatever the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from vaepipe.errors import EvaluationError

ERRORS = 4.0
"""Standard errors of a paired difference by which an order that holds in the mean may be missed."""
EQUAL = 1e-6
"""How far a mean may be from its rows, relative to its size, at least in nats."""


class Line(NamedTuple):
    """A row of the summary, but for what all rows share."""

    split: str
    metric: str
    value: float
    se: float | None
    n: int
    estimator: str
    k: int | None = None


def check(table: pa.Table, lines: Sequence[Line], simulated: Sequence[pa.Table]) -> None:
    """Hold the tables against each other before they are written.

    Exact (to 1e-6): a summary value is the mean of its column; mi is at most log n. In the mean,
    within four standard errors of the paired differences, of two rows or more: log_evidence does
    not fall with k; elbo is at most log_evidence, and at most log_evidence_ais; bdmc_lower is at
    most bdmc_upper; and the rate is at least mi, both from the same samples.

    Raises:
        EvaluationError: naming split and metrics.
    """
    faults = [
        *_means(table, lines),
        *(fault for split in splits(table) for fault in _orders(split)),
        *_rates(lines),
        *_sandwich(simulated),
    ]
    if faults:
        raise EvaluationError(
            "The numbers of this evaluation contradict each other, so no table was written:\n"
            + "\n".join(faults)
            + "\nA density of the model or of the posterior is wrong; `vaepipe plugins check` "
            "finds out which."
        )


def splits(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """The rows of each split, in the order of the table."""
    named = np.asarray(table.column("split").to_pylist())
    for split in dict.fromkeys(named.tolist()):
        yield split, table.filter(pa.array(named == split))


def _means(table: pa.Table, lines: Sequence[Line]) -> Iterator[str]:
    tables = dict(splits(table))
    for line in lines:
        if line.split in tables and line.metric in table.column_names:
            mean = tables[line.split].column(line.metric).drop_null().to_numpy().mean()
            if not abs(mean - line.value) <= EQUAL * max(1.0, abs(mean)):
                yield (
                    f"{line.split}/{line.metric}: {line.value} is not the mean of its rows, {mean}"
                )


def _orders(named: tuple[str, pa.Table]) -> Iterator[str]:
    split, rows = named
    curve = sorted(
        (name for name in rows.column_names if name.startswith("log_evidence_k")),
        key=lambda name: int(name.removeprefix("log_evidence_k")),
    )
    pairs = [*pairwise(curve), ("elbo", "log_evidence"), ("elbo", "log_evidence_ais")]
    for less, more in pairs:
        if {less, more} <= set(rows.column_names):
            yield from _order(split, less, more, rows.column(less), rows.column(more))


def _order(
    split: str, less: str, more: str, low: pa.ChunkedArray, high: pa.ChunkedArray
) -> Iterator[str]:
    difference = _numbers(high) - _numbers(low)
    difference = difference[~np.isnan(difference)]
    if len(difference) < 2:
        return
    mean, se = difference.mean(), difference.std(ddof=1) / math.sqrt(len(difference))
    if not mean >= -ERRORS * se - EQUAL:
        yield (
            f"{split}/{more} is below {split}/{less} by {-mean:.6g} nats, "
            f"{-mean / max(se, 1e-300):.1f} standard errors of the paired difference"
        )


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """float64, NaN where there is none."""
    return np.asarray(column.to_numpy(), dtype=np.float64)


def _rates(lines: Sequence[Line]) -> Iterator[str]:
    """The rate minus mi is the marginal KL, a divergence."""
    found: Mapping[tuple[str, str], Line] = {(line.split, line.metric): line for line in lines}
    for (split, metric), line in found.items():
        if metric == "marginal_kl" and line.value < -ERRORS * (line.se or np.inf) - EQUAL:
            yield f"{split}/mi is above the rate by {-line.value:.6g} nats"
        if metric == "mi" and line.value > found[split, "log_n"].value + EQUAL:
            yield f"{split}/mi, {line.value:.6g}, is above log n"


def _sandwich(simulated: Sequence[pa.Table]) -> Iterator[str]:
    if simulated:
        table = pa.concat_tables(simulated)
        columns = (table.column("lower"), table.column("upper"))
        yield from _order("simulated", "bdmc_lower", "bdmc_upper", *columns)
