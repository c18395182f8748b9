"""Where the posteriors of examples lie on a line, class by class: one latent dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vaepipe.pipeline.report import scatter, style

NAME = "z₀"
BINS = (12, 48)
"""Fewest and most bars of a histogram."""
TALL = 0.88
"""Height of the highest bar of a class; the next class stands at 1."""
SPREAD = 0.62
"""How far the dots of a class spread over its row, which is 1 high."""
GOLDEN = (5**0.5 - 1) / 2


def histograms(z: np.ndarray, labels: Sequence[Any] | None) -> Figure | None:
    """Posterior means `[n]`, a histogram for each class; None if fewer than two are finite.

    Bars have the same edges in all classes; each class is scaled to its own highest bar.
    """
    known = z[np.isfinite(z)].astype(np.float64)
    if len(known) < 2:
        return None
    edges = np.histogram_bin_edges(known, int(np.clip(np.sqrt(len(known)), *BINS)))
    if labels is None:
        return _one(known, edges)
    classes = {
        name: (part[np.isfinite(part)], colour)
        for name, (rows, colour) in scatter.groups(labels, len(z)).items()
        for part in [z[rows]]
    }
    made = style.figure(max(2.2, 0.8 + 0.32 * len(classes)))
    ax = style.axes(made, grid="x")
    for place, (values, colour) in enumerate(classes.values()):
        base, heights = len(classes) - 1 - place, np.histogram(values, edges)[0]
        heights = TALL * heights / max(1, heights.max())
        ax.stairs(base + heights, edges, baseline=base, fill=True, color=colour, alpha=0.75)
        ax.axhline(base, color=style.GRID, lw=0.7, zorder=0)
    ax.set_yticks([len(classes) - 1 - i + TALL / 3 for i in range(len(classes))], list(classes))
    ax.set_xlim(*edges[[0, -1]])
    ax.set_ylim(-0.08, len(classes))
    ax.set_xlabel(NAME)
    ax.spines["left"].set_visible(False)
    return made


def strips(frames: np.ndarray, labels: Sequence[Any] | None) -> tuple[np.ndarray, list[str]]:
    """Means `[frames, n]` as points `[frames, n, 2]`, a row for each class, and the rows' names.

    The second coordinate is the number of the row and a shift, which says nothing but keeps dots
    apart; it is the same in all frames.
    """
    height = np.zeros(frames.shape[1])
    classes = scatter.groups(labels, frames.shape[1])
    for place, (rows, _) in enumerate(classes.values()):
        height[rows] = place + SPREAD * (np.arange(len(rows)) * GOLDEN % 1 - 0.5)
    points = np.stack([frames, np.broadcast_to(height, frames.shape)], -1).astype(np.float64)
    points[~np.isfinite(frames)] = np.nan
    return points, list(classes)


def _one(known: np.ndarray, edges: np.ndarray) -> Figure:
    made = style.figure(2.5)
    ax = style.axes(made, grid="y")
    ax.stairs(np.histogram(known, edges)[0], edges, fill=True, color=style.ACCENT, alpha=0.75)
    ax.set_xlim(*edges[[0, -1]])
    ax.set_xlabel(NAME)
    ax.set_ylabel("examples")
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return made
