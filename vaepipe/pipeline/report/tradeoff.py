"""Rate against distortion of the trials of a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaepipe.pipeline.report import curves, style, words
from vaepipe.pipeline.report.curves import Trial

NAMED = 16
"""Trials that are named, best first; the others are dots."""


def plane(rows: Sequence[Trial], best: int | None) -> Figure | None:
    """D = -E log p(x|z) and R of every trial that has both; None for fewer than two trials.

    Straight lines of slope -1 join models of equal ELBO, -D - R (Alemi et al., 2018, section 3).
    """
    shown = [r for r in rows if all(map(math.isfinite, _point(r)))]
    if len(shown) < 2:
        return None
    points = np.array([_point(r) for r in shown])
    made = style.figure(4.2)
    ax = style.axes(made)
    _frame(ax, points)
    _equal(ax)
    order = _ordered(shown)
    if order is not None:
        ax.plot(*points[order].T, color=style.MUTED, lw=1, zorder=2)
    colours = [style.ACCENT if r.number == best else style.MUTED for r in shown]
    ax.scatter(*points.T, s=26, c=colours, zorder=3, lw=0)
    for row, (x, y) in list(zip(shown, points, strict=True))[:NAMED]:
        ax.annotate(_name(row), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=7.6,
                    color=style.ACCENT if row.number == best else style.INK)  # fmt: skip
    ax.set_xlabel("distortion D = −E log p(x|z) (nats)")
    ax.set_ylabel("rate R (nats)")
    return made


def _point(row: Trial) -> tuple[float, float]:
    return -row.metric("val/log_lik"), row.metric("val/rate")


def _frame(ax: Axes, points: np.ndarray) -> None:
    low, high = points.min(0), points.max(0)
    room = np.maximum((high - low) * 0.12, 1e-3 * np.maximum(1.0, np.abs(high)))
    ax.set_xlim(low[0] - room[0], high[0] + 2 * room[0])
    ax.set_ylim(low[1] - room[1], high[1] + room[1])


def _equal(ax: Axes) -> None:
    """Lines of equal ELBO; their values stand where they leave the axes on the left or above."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for bound in MaxNLocator(7).tick_values(left + bottom, right + top):
        ax.plot([left, right], [bound - left, bound - right], ls=":", lw=0.9, color=style.MUTED,
                zorder=1, scalex=False, scaley=False)  # fmt: skip
        x = max(left, bound - top)
        if x < right - 0.05 * (right - left) and bound - x > bottom + 0.05 * (top - bottom):
            text = f"ELBO {words.number(float(-bound), 0)}"
            ax.annotate(text, (x, bound - x), xytext=(3, -9), textcoords="offset points",
                        fontsize=6.8, color=style.MUTED)  # fmt: skip
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)


def _ordered(rows: Sequence[Trial]) -> list[int] | None:
    """The order along the only setting that differs, where it is a number; None otherwise."""
    paths = {path for row in rows for path in row.settings}
    if len(paths) != 1:
        return None
    values = [json.loads(next(iter(row.settings.values()), "null")) for row in rows]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return None
    return np.argsort(values, kind="stable").tolist()


def _name(row: Trial) -> str:
    """The value of the only setting, else the number of the trial."""
    if len(row.settings) != 1:
        return str(row.number)
    ((path, value),) = row.settings.items()
    shown = curves.setting(value)
    short = shown if value.startswith("{") else f"{path.rsplit('.', 1)[-1]} {shown}"
    return words.plain(short, 24)
