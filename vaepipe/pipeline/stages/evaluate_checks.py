"""What must hold between the numbers of an evaluation, whatever the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.special import ndtr, stdtrit

from vaepipe.data import schema
from vaepipe.errors import EvaluationError

ERRORS = 4.0
"""Standard errors of a paired difference by which an order that holds in the mean may be missed,
where they are known; from few rows, as many as Student's t exceeds as rarely."""
EQUAL = 1e-6
"""How far a mean may be from its rows, relative to its size, at least in nats."""
SUM = 1e-4
"""How far a rate may be from the sum over dimensions, in single precision, relative to the sum of
their sizes, at least in nats."""


class Line(NamedTuple):
    """A row of the summary, but for what all rows share."""

    split: str
    metric: str
    value: float
    se: float | None
    n: int
    estimator: str
    k: int | None = None


def check(table: pa.Table, lines: Sequence[Line], rates: Iterable[pa.Table] = ()) -> None:
    """Hold the tables against each other before they are written.

    Only what no draw can change: to 1e-6, a summary value is the mean of its column, and mi is at
    most log n. To 1e-4, the rate of each example in `rates` is the sum over its dimensions, where q
    and p factorise (both then have closed forms, or both are from the same draws).

    Raises:
        EvaluationError: naming split and metrics.
    """
    faults = [
        *_means(table, lines),
        *_information(lines),
        *(fault for part in rates for fault in _sums(part)),
    ]
    if faults:
        raise EvaluationError(
            "The numbers of this evaluation contradict each other, so no table was written:\n"
            + "\n".join(faults)
            + "\nA density of the model or of the posterior is wrong; `vaepipe plugins check` "
            "finds out which."
        )


def doubts(
    table: pa.Table, lines: Sequence[Line], simulated: Sequence[pa.Table], proposal: str
) -> Iterator[str]:
    """Orders that hold in expectation and are violated here: a sentence each.

    Of the paired differences of two rows or more, by four standard errors: log_evidence does not
    fall with k; elbo is at most log_evidence if that has proposal `posterior` (two lower bounds of
    other proposals have no order); bdmc_lower is at most bdmc_upper; and the rate is at least mi,
    both from the same samples. The differences may have heavy tails, so honest evaluations do this
    too, now and then.
    """
    faults = [
        *(fault for split in splits(table) for fault in _orders(*split, proposal)),
        *_marginals(lines),
        *_sandwich(simulated),
    ]
    for fault in faults:
        yield (
            f"{fault}. In expectation this cannot be. Heavy-tailed weights (`khat`) may do it by "
            "chance: evaluate with another seed or more samples. If it stays, a density of the "
            "model or of the posterior is wrong, and `vaepipe plugins check` finds out which."
        )


def short_paths(table: pa.Table) -> Iterator[str]:
    """What to tell of splits whose annealed bound is the looser one: no error, and of no use."""
    for split, rows in splits(table):
        if any(_below(rows, "elbo", "log_evidence_ais")):
            yield (
                f"{split}: log_evidence_ais is below the ELBO, itself a lower bound: the annealing "
                "path is too short. Take more `temperatures` of `ais`."
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


def _sums(part: pa.Table) -> Iterator[str]:
    """Rows whose rate is not the sum of `rate_per_dim`; the first of them is named."""
    each = part.column("rate_per_dim")
    if each.null_count or not len(part):
        return
    each = schema.from_vectors(each, (each.type.list_size,)).astype(np.float64)
    total, rate = each.sum(1), part.column("rate").to_numpy()
    room = SUM * np.maximum(1.0, np.abs(each).sum(1))
    wrong = np.flatnonzero(~(np.abs(total - rate) <= room))
    if len(wrong):
        row, split = int(wrong[0]), part.column("split")[int(wrong[0])]
        yield (
            f"{split}/rate, id {part.column('id')[row]}: {rate[row]:.6g} is not the sum over its "
            f"dimensions, {total[row]:.6g}"
        )


def _orders(split: str, rows: pa.Table, proposal: str) -> Iterator[str]:
    curve = sorted(
        (name for name in rows.column_names if name.startswith("log_evidence_k")),
        key=lambda name: int(name.removeprefix("log_evidence_k")),
    )
    elbo = [("elbo", "log_evidence")] if proposal == "posterior" else []
    for less, more in [*pairwise(curve), *elbo]:
        for fault in _below(rows, less, more):
            yield f"{split}/{more} is below {split}/{less} by {fault}"


def _below(rows: pa.Table, less: str, more: str) -> Iterator[str]:
    """By how much one column is below another in the mean, if it is, where rows have both."""
    if not {less, more} <= set(rows.column_names):
        return
    difference = _numbers(rows, more) - _numbers(rows, less)
    difference = difference[~np.isnan(difference)]
    if len(difference) < 2:
        return
    mean, se = difference.mean(), difference.std(ddof=1) / math.sqrt(len(difference))
    if not mean >= -errors(len(difference)) * se - EQUAL:
        yield (
            f"{-mean:.6g} nats, {-mean / max(se, 1e-300):.1f} standard errors of the paired "
            "difference"
        )


def errors(n: int) -> float:
    """Standard errors, estimated from n values, that a mean misses as rarely as four known ones.

    Example:
        >>> [round(errors(n)) for n in (2, 5, 20, 1000)]
        [10050, 17, 5, 4]
    """
    return -float(stdtrit(n - 1, ndtr(-ERRORS)))


def _numbers(rows: pa.Table, column: str) -> np.ndarray:
    """float64, NaN where there is none."""
    return np.asarray(rows.column(column).to_numpy(), dtype=np.float64)


def _information(lines: Sequence[Line]) -> Iterator[str]:
    """A mixture of n posteriors has at least 1/n of the density of each."""
    found: Mapping[tuple[str, str], Line] = {(line.split, line.metric): line for line in lines}
    for (split, metric), line in found.items():
        if metric == "mi" and line.value > found[split, "log_n"].value + EQUAL:
            yield f"{split}/mi, {line.value:.6g}, is above log n"


def _marginals(lines: Sequence[Line]) -> Iterator[str]:
    """The rate minus mi is the marginal KL, a divergence."""
    for line in lines:
        if line.metric == "marginal_kl" and line.value < -_room(line) - EQUAL:
            yield f"{line.split}/mi is above the rate by {-line.value:.6g} nats"


def _room(line: Line) -> float:
    """How far a value may be off; one without an error, any distance."""
    return errors(line.n) * line.se if line.se else math.inf


def _sandwich(simulated: Sequence[pa.Table]) -> Iterator[str]:
    if simulated:
        for fault in _below(pa.concat_tables(simulated), "lower", "upper"):
            yield f"simulated/bdmc_upper is below simulated/bdmc_lower by {fault}"
