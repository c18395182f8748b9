"""Figures of fits: what was reported epoch by epoch, and how trials compare."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaepipe.pipeline.metrics import unit_of
from vaepipe.pipeline.report import style, words
from vaepipe.pipeline.report.tables import Columns, has_values, numbers

EVIDENCE = "val/log_evidence"
LINES = (
    (EVIDENCE, "log evidence (validation)", style.ACCENT, "-"),
    ("val/elbo", "ELBO (validation)", style.SECOND, "-"),
    ("train/bound", "bound (training)", style.MUTED, "--"),
)
METRICS = ("val/", "final/")
ROWS_SHOWN = 30
WITHIN = 2.0
"""Standard errors of a difference to the best that its bar shows, and within which it is a tie."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A row of `trials.parquet`."""

    number: int
    status: str
    error: str
    settings: Mapping[str, str]
    metrics: Mapping[str, float]
    epochs: int | None
    seconds: float | None
    difference: float | None = None
    difference_se: float | None = None
    seeds: int = 1

    @property
    def label(self) -> str:
        """What was tried, in short."""
        parts = [_in_words(path, value) for path, value in self.settings.items()]
        return " · ".join([*parts, *([f"{self.seeds} seeds"] if self.seeds > 1 else [])])

    @property
    def tie(self) -> bool:
        """Whether the trial may be as good as the best, by two standard errors."""
        value, se = self.difference, self.difference_se
        return value is not None and se is not None and abs(value) <= WITHIN * se

    def metric(self, name: str) -> float:
        """A metric; NaN where it is missing or not finite."""
        value = self.metrics.get(name, math.nan)
        return value if math.isfinite(value) else math.nan


def trials(columns: Columns) -> list[Trial]:
    """The rows of `trials.parquet`."""
    count = len(columns.get("trial", []))
    rows = [{name: values[i] for name, values in columns.items()} for i in range(count)]
    return [
        Trial(
            number=int(row["trial"]),
            status=row.get("status") or "",
            error=row.get("error") or "",
            settings={k[8:]: v for k, v in row.items() if k.startswith("setting.") and v},
            metrics={
                k: float(v) for k, v in row.items() if k.startswith(METRICS) and v is not None
            },
            epochs=row.get("epochs"),
            seconds=row.get("seconds"),
            difference=row.get("difference_to_best"),
            difference_se=row.get("difference_se"),
        )
        for row in rows
    ]


def over_seeds(rows: Sequence[Trial], metric: str) -> list[Trial]:
    """One row for trials of the same settings: the mean of their metric and its standard error."""
    same: dict[str, list[Trial]] = {}
    for row in rows:
        if not math.isnan(row.metric(metric)):
            same.setdefault(json.dumps(dict(row.settings), sort_keys=True), []).append(row)
    return [_mean(repeats, metric) for repeats in same.values()]


def _mean(repeats: Sequence[Trial], metric: str) -> Trial:
    if len(repeats) == 1:
        return repeats[0]
    values = np.array([row.metric(metric) for row in repeats])
    error = values.std(ddof=1) / math.sqrt(len(values))
    metrics = {**repeats[0].metrics, metric: values.mean().item(), f"{metric}_se": error.item()}
    final = f"final/{metric.partition('/')[2]}"
    finals = np.array([row.metric(final) for row in repeats])
    metrics[final] = finals.mean().item()
    metrics[f"{final}_se"] = (finals.std(ddof=1) / math.sqrt(len(finals))).item()
    return replace(repeats[0], metrics=metrics, seeds=len(repeats))


def ranked(rows: Sequence[Trial], metric: str, mode: str) -> list[Trial]:
    """Return the best first, by differences to it where they are known; without a value last."""
    sign = -1.0 if mode == "max" else 1.0
    compared = any(row.difference is not None for row in rows)

    def key(row: Trial) -> tuple[int, float, float, int]:
        value, off = row.metric(metric), row.difference
        if math.isnan(value):
            return (2, 0.0, 0.0, row.number)
        worth = sign * value
        if not compared:
            return (0, 0.0, worth, row.number)
        return (0 if off is None else 1, 0.0 if off is None else sign * off, worth, row.number)

    return sorted(rows, key=key)


def leaderboard(rows: Sequence[Trial], metric: str, mode: str) -> Figure | None:
    """Settings with a value, best on top; None if there are none.

    Where trials were compared on the same rows, the axis is the difference to the best and a bar is
    two standard errors of that. Else the axis is the metric, and a bar is its standard error, over
    the examples, or over seeds where settings were repeated.
    """
    shown = ranked(over_seeds(rows, metric), metric, mode)[:ROWS_SHOWN]
    if not shown:
        return None
    compared = any(row.difference is not None for row in shown)
    values, errors = _differences(shown) if compared else _values(shown, metric)
    made = style.figure(0.75 + 0.36 * len(shown))
    ax = style.axes(made, grid="x")
    _frame_board(ax, values, errors, mode)
    if compared:
        ax.axvline(0, color=style.ACCENT, lw=1.0, alpha=0.6)
    for place, row in enumerate(shown):
        shown_as = _compared(row, metric) if compared else _measured(row, metric)
        _board_row(ax, place, row, values[place], errors[place], shown_as)
    what = "difference to the best, " if compared else ""
    ax.set_xlabel(f"{what}{metric} ({unit_of(metric)})", parse_math=False)
    return made


def _differences(rows: Sequence[Trial]) -> tuple[np.ndarray, np.ndarray]:
    """Where trials lie relative to the best, and the lengths of their bars."""
    values = [row.difference or 0.0 for row in rows]
    return np.array(values), np.array([WITHIN * (row.difference_se or 0.0) for row in rows])


def _values(rows: Sequence[Trial], metric: str) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([row.metric(metric) for row in rows])
    return values, np.nan_to_num(np.array([row.metric(f"{metric}_se") for row in rows]))


def _measured(row: Trial, metric: str) -> str:
    error = row.metric(f"{metric}_se")
    return words.measured(row.metric(metric), None if math.isnan(error) else error)


def _compared(row: Trial, metric: str) -> str:
    """The metric of a trial, from more samples if it has that, and its difference to the best."""
    final = f"final/{metric.partition('/')[2]}"
    shown = _measured(row, metric if math.isnan(row.metric(final)) else final)
    return shown if row.difference is None else f"{shown}   {apart(row)}"


def apart(row: Trial) -> str:
    """Return how far a trial is from the best, and whether that is a tie."""
    if row.difference is None:
        return words.MISSING
    sign = "+" if row.difference > 0 else ""
    shown = sign + words.measured(row.difference, row.difference_se)
    return f"{shown} (tie)" if row.tie else shown


def _frame_board(ax: Axes, values: np.ndarray, errors: np.ndarray, mode: str) -> None:
    sign = 1.0 if mode == "max" else -1.0
    worst = sign * style.low_limit(sign * values)
    inside = sign * values >= sign * worst
    left, right = (values - errors)[inside].min(), (values + errors)[inside].max()
    room = max(right - left, 1e-3 * max(1.0, abs(right))) * 0.05
    ax.set_xlim(left - room, right + room)
    ax.set_ylim(len(values) - 0.35, -0.75)
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5))


def _board_row(ax: Axes, place: int, row: Trial, value: float, error: float, shown: str) -> None:
    colour = style.ACCENT if place == 0 else style.MUTED
    low, high = ax.get_xlim()
    if low <= value <= high:
        ax.errorbar(value, place, xerr=error, fmt="o", ms=5, color=colour, capsize=3, lw=1.3)
    else:
        side, mark = (0.0, "<") if value < low else (1.0, ">")
        across = ax.get_yaxis_transform()
        ax.plot(side, place, mark, ms=5, color=colour, transform=across, clip_on=False)
    across, weight = ax.get_yaxis_transform(), "bold" if place == 0 else "normal"
    name = words.plain(f"{row.number}  {row.label}", limit=58)
    line = place - 0.42
    ax.text(0.0, line, name, transform=across, va="center", fontsize=7.6, fontweight=weight)
    ax.text(1.0, line, shown, transform=across, va="center", ha="right", fontsize=7.6, color=colour)


def history(columns: Columns) -> Figure | None:
    """Evidence and bounds over epochs, and the rate below; None if nothing is finite."""
    epoch = numbers(columns, "epoch")
    lines = [(numbers(columns, name), *rest) for name, *rest in LINES if name in columns]
    lines = [line for line in lines if has_values(line[0])]
    if not lines:
        return None
    made = style.figure(3.9)
    grid = made.add_gridspec(2, 1, height_ratios=(2.4, 1))
    upper = made.add_subplot(grid[0])
    _dress(upper, "nats per example")
    for values, label, colour, dash in lines:
        _line(upper, epoch, values, dash, color=colour, label=label)
    _band(upper, epoch, columns)
    upper.set_ylim(bottom=_floor([line[0] for line in lines]))
    upper.legend(loc="lower right")
    lower = made.add_subplot(grid[1], sharex=upper)
    _dress(lower, "rate (nats)")
    rate = numbers(columns, "val/rate")
    _line(lower, epoch, rate, "-", color=style.THIRD)
    lower.set_xlabel("epoch")
    return made


def overlay(histories: Mapping[int, Columns], best: int | None) -> Figure | None:
    """Validation evidence of every trial over its epochs, the winner in colour."""
    lines = {n: (numbers(c, "epoch"), numbers(c, EVIDENCE)) for n, c in histories.items()}
    lines = {n: line for n, line in lines.items() if has_values(line[1])}
    if not lines:
        return None
    made = style.figure(2.9)
    ax = style.axes(made)
    _dress(ax, "log evidence (nats)")
    for number in sorted(lines, key=lambda n: n == best):
        epoch, values = _known(*lines[number])
        won, last = number == best, len(values) - 1
        ax.plot(epoch, values, color=style.ACCENT if won else style.MUTED,
                alpha=1.0 if won else 0.45, lw=2 if won else 1, marker="o", markevery=[last], ms=4,
                label=f"trial {number} (best)" if won else None)  # fmt: skip
    ax.set_ylim(bottom=_floor([line[1] for line in lines.values()]))
    ax.set_xlabel("epoch")
    if best in lines:
        ax.legend(loc="upper left")
    return made


def setting(value: str | None) -> str:
    """A cell of a `setting.…` column, JSON text, in short."""
    return words.MISSING if value is None else words.component(json.loads(value))


def _line(ax: Axes, epoch: np.ndarray, values: np.ndarray, dash: str, **how: Any) -> None:
    """Epochs without a number, where nothing was validated, do not interrupt a line."""
    epoch, values = _known(epoch, values)
    ax.plot(epoch, values, dash, marker=_marker(values), ms=4, **how)


def _known(*columns: np.ndarray) -> list[np.ndarray]:
    """The rows whose last column is finite."""
    rows = np.isfinite(columns[-1])
    return [column[rows] for column in columns]


def _band(ax: Axes, epoch: np.ndarray, columns: Columns) -> None:
    middle, se = numbers(columns, EVIDENCE), numbers(columns, f"{EVIDENCE}_se")
    if has_values(middle) and has_values(se):
        epoch, low, high = _known(epoch, middle - se, middle + se)
        ax.fill_between(epoch, low, high, color=style.ACCENT, alpha=0.2, lw=0)


def _dress(ax: Axes, label: str) -> None:
    ax.grid(visible=True)
    ax.tick_params(length=0)
    ax.set_ylabel(label)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _floor(lines: Sequence[np.ndarray]) -> float | None:
    """Where the axis begins: early epochs may lie far below all that matters."""
    values = np.concatenate(lines)
    low = style.low_limit(values)
    return low if low > np.nanmin(values) else None


def _marker(values: np.ndarray) -> str:
    return "o" if np.isfinite(values).sum() <= 20 else ""


def _in_words(path: str, value: str) -> str:
    """`model.prior` says itself by its type; a number says whose it is."""
    shown = setting(value)
    return shown if value.startswith("{") else f"{path.rsplit('.', 1)[-1]}={shown}"
