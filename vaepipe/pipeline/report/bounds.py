"""Figures of how far evaluations can be trusted: more samples, upper bounds, gaps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaepipe.pipeline.report import style, words
from vaepipe.pipeline.report.tables import Columns, has_values, numbers

EVIDENCE, AIS, LOG = "log_evidence", "log_evidence_ais", "log_evidence_k"
K = re.compile(rf"{LOG}\d+")
LOWER, UPPER, GAP, SCORED = "bdmc_lower", "bdmc_upper", "bdmc_gap", "bdmc_log_evidence"
GAPS = (("amort_gap", "amortization"), ("approx_gap", "approximation"))


class Value(NamedTuple):
    """A mean and its standard error, nats."""

    label: str
    mean: float
    se: float


def k_curve(columns: Columns) -> Figure | None:
    """Importance-sampled evidence over the number of samples, a line for each split."""
    if not has_values(numbers(columns, "log_evidence")):
        return None
    k, value, se = (numbers(columns, name) for name in ("k", "log_evidence", "se"))
    splits = np.array([str(s) for s in columns.get("split", ["examples"] * len(k))])
    made = style.figure(2.8)
    ax = style.axes(made)
    for place, split in enumerate(dict.fromkeys(splits.tolist())):
        rows = np.flatnonzero(splits == split)
        rows = rows[np.argsort(k[rows])]
        ax.errorbar(k[rows], value[rows], yerr=np.nan_to_num(se[rows]), fmt="o-", ms=4, capsize=3,
                    color=style.CLASSES[place % len(style.CLASSES)],
                    label=words.plain(split, 24))  # fmt: skip
    ax.set_xscale("log")
    every = sorted(set(k[np.isfinite(k)].astype(int).tolist()))
    ax.set_xticks(every, [words.number(n) for n in every])
    ax.minorticks_off()
    ax.set_xlabel("posterior samples k")
    ax.set_ylabel("log evidence (nats)")
    ax.legend(loc="lower right")
    return made


def sandwich(summary: Columns, examples: Columns) -> Figure | None:
    """How far apart bounds of the same examples are, those of data and those of simulated ones.

    Every bound is shown as its mean difference from annealing, or from the lower of two sides:
    what examples have in common does not count as an error.

    Args:
        summary: the evaluation's metrics, among them both sides of simulated data.
        examples: its rows; those that were annealed are compared, each bound on the same ones.

    Returns:
        None if the evaluation has neither annealed nor two-sided estimates.
    """
    upper, lower = _annealed(examples), _simulated(summary)
    boxes = [rows for rows in (upper, lower) if rows]
    if not boxes:
        return None
    heights = [len(rows) for rows in boxes]
    made = style.figure(0.65 * len(boxes) + 0.3 * sum(heights))
    grid = made.add_gridspec(len(boxes), 1, height_ratios=heights)
    for place, rows in enumerate(boxes):
        ax = made.add_subplot(grid[place])
        _points(ax, rows)
        if rows is lower:
            _between(ax, rows)
            ax.set_xlabel(f"simulated data: nats above {LOWER}")
        else:
            ax.set_xlabel(f"{words.number(annealed(examples))} examples: nats above {AIS}")
    return made


def annealed(examples: Columns) -> int:
    """How many examples have a bound by annealing."""
    return int(np.isfinite(numbers(examples, AIS)).sum())


def gaps(columns: Columns) -> Figure | None:
    """The two parts of the distance of ELBO and evidence, side by side: either may be negative."""
    known = [(name, label) for name, label in GAPS if has_values(numbers(columns, name))]
    if len(known) < len(GAPS):
        return None
    splits = np.array([str(s) for s in columns.get("split", [""] * len(numbers(columns, "id")))])
    names = list(dict.fromkeys(splits.tolist()))
    made = style.figure(1.2 + 0.6 * len(names))
    ax = style.axes(made, grid="x")
    for place, split in enumerate(names):
        _pair(ax, place, {label: numbers(columns, n)[splits == split] for n, label in known})
    ax.axvline(0.0, color=style.INK, lw=0.8)
    ax.set_yticks(range(len(names)), [words.plain(n, 16) for n in names], parse_math=False)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlabel("nats per example")
    ax.legend(*_once(ax), loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return made


def tails(columns: Columns, limit: float) -> str | None:
    """How many examples have k-hat above `limit`, infinity too; None where that is not known."""
    known = [v for v in columns.get("khat", ()) if v is not None and not np.isnan(v)]
    if not known:
        return None
    return f"{words.number(sum(v > limit for v in known))} of {words.number(len(known))}"


def samples(summary: Columns) -> float:
    """Samples behind the evidence of an evaluation; infinity where that is not known."""
    rows = zip(summary.get("metric", ()), numbers(summary, "k"), strict=False)
    return max((k for metric, k in rows if metric == EVIDENCE and np.isfinite(k)), default=np.inf)


def _annealed(examples: Columns) -> list[Value]:
    """Each bound minus annealing over the annealed examples, the loosest kind first."""
    rows = np.isfinite(numbers(examples, AIS))
    if not rows.any():
        return []
    ks = sorted((name for name in examples if K.fullmatch(name)), key=lambda n: int(n[len(LOG) :]))
    found = {name: numbers(examples, name)[rows] for name in ("elbo", *ks, EVIDENCE, AIS)}
    if ks and np.array_equal(found[ks[-1]], found[EVIDENCE], equal_nan=True):
        del found[ks[-1]]
    known = {name: values for name, values in found.items() if np.isfinite(values).any()}
    return [_mean(name, values - found[AIS]) for name, values in known.items()]


def _mean(name: str, values: np.ndarray) -> Value:
    known = values[np.isfinite(values)]
    se = known.std(ddof=1) / np.sqrt(len(known)) if len(known) > 1 else np.nan
    return Value(name, float(known.mean()), float(se))


def _simulated(summary: Columns) -> list[Value]:
    """Both sides and the evidence between, minus the lower one, where the gap is known."""
    rows = zip(numbers(summary, "value"), numbers(summary, "se"), strict=True)
    known = dict(zip(summary.get("metric", []), rows, strict=False))
    if GAP not in known or not np.isfinite(known[GAP][0]):
        return []
    found = [Value(LOWER, 0.0, np.nan), Value(UPPER, *known[GAP])]
    if {SCORED, LOWER} <= set(known):
        found.insert(1, Value(SCORED, known[SCORED][0] - known[LOWER][0], np.nan))
    return found


def _points(ax: Axes, rows: Sequence[Value]) -> None:
    ax.grid(visible=True, axis="x")
    ax.tick_params(length=0)
    ax.xaxis.set_major_locator(MaxNLocator(5))
    for place, row in enumerate(rows):
        error = row.se if np.isfinite(row.se) else 0.0
        ax.errorbar(row.mean, place, xerr=error, fmt="o", ms=5, capsize=3, color=style.ACCENT)
    ax.set_yticks(range(len(rows)), [r.label for r in rows], parse_math=False)
    ax.set_ylim(len(rows) - 0.5, -0.5)


def _between(ax: Axes, rows: Sequence[Value]) -> None:
    low, high = sorted((rows[0].mean, rows[-1].mean))
    ax.axvspan(low, high, color=style.THIRD, alpha=0.15)


def _pair(ax: Axes, place: int, parts: Mapping[str, np.ndarray]) -> None:
    """Bars from zero, the standard error at the end of each where it is known."""
    looks = zip(parts.items(), (style.SECOND, style.ACCENT), (-0.19, 0.19), strict=False)
    for (label, values), colour, shift in looks:
        if not np.isfinite(values).any():
            continue
        _, mean, se = _mean(label, values)
        ax.barh(place + shift, mean, xerr=np.nan_to_num(se), color=colour, height=0.36,
                label=f"{label} gap",
                error_kw={"ecolor": style.INK, "capsize": 3, "lw": 1})  # fmt: skip


def _once(ax: Axes) -> tuple[list[Artist], list[str]]:
    """Every label of a legend once."""
    handles, labels = ax.get_legend_handles_labels()
    first = {label: handle for handle, label in zip(handles[::-1], labels[::-1], strict=True)}
    return list(first.values())[::-1], list(first)[::-1]
