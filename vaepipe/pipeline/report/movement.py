"""How the posteriors of fixed examples move while a model is fitted."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vaepipe.pipeline.report import line, scatter, style, tables

COLUMNS = 4
PANELS = 8
"""Epochs side by side, at most."""
EDGE = 0.005
"""Share of the coordinates, on either side, that may lie outside the axes."""


@dataclass(frozen=True, slots=True)
class Movement:
    """Points `[frames, n, 2]` at some epochs, what the axes are, and the examples' labels.

    Where the latent is a line, `rows` are the classes that the second coordinate tells apart.
    """

    epochs: Sequence[int]
    points: np.ndarray
    names: tuple[str, str]
    caption: str
    labels: Sequence[Any] | None
    rows: Sequence[str] = ()

    @property
    def limits(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Where the axes begin and end, the same at all epochs; of equal length in a plane."""
        flat = self.points.reshape(-1, 2)
        low, high = np.nanquantile(flat, (EDGE, 1 - EDGE), axis=0)
        lengths = high - low
        half = max((lengths[0] if self.rows else lengths.max()) / 2 * 1.12, 1e-6)
        (x, y) = (low + high) / 2
        up = (len(self.rows) - 0.5, -0.5) if self.rows else (y - half, y + half)
        return (x - half, x + half), up


def read(folder: Path) -> Movement | None:
    """The snapshots of a fit; None if there are not two of them, or nothing to draw."""
    found: dict[int, tuple[np.ndarray, list[int], Sequence[Any] | None]] = {}
    for path in sorted((folder / "snapshots").glob("epoch-*.parquet")):
        found[int(path.stem.removeprefix("epoch-"))] = _snapshot(path)
    if len(found) < 2:
        return None
    means, ids, labels = found[max(found)]
    kept = {epoch: each[0] for epoch, each in sorted(found.items()) if each[1] == ids}
    if len(kept) < 2:
        return None
    if means.shape[1] == 1:
        return _along(list(kept), np.stack(list(kept.values()))[:, :, 0], labels)
    flat = scatter.planes(list(kept.values()), means)
    return flat and Movement(list(kept), flat.points, flat.names, flat.caption, labels)


def panels(movement: Movement) -> Figure:
    """Some of the epochs side by side."""
    chosen = tables.spread(len(movement.epochs), PANELS)
    columns = min(COLUMNS, len(chosen))
    rows = -(-len(chosen) // columns)
    side = style.WIDTH / columns
    tall = min(side, 0.4 + 0.12 * len(movement.rows)) if movement.rows else side
    made = style.figure((tall + 0.22) * rows + 0.1)
    for place, frame in enumerate(chosen):
        ax = made.add_subplot(rows, columns, place + 1)
        _dots(ax, movement, frame, size=3.0)
        _dress(ax, movement)
        ax.set_title(f"epoch {movement.epochs[frame]}", fontsize=8.5)
        ax.set_xticklabels([])
        ax.set_yticklabels([])
    return made


def stage(movement: Movement) -> tuple[Figure, Axes]:
    """Axes on which the points of every epoch have room, and no points yet."""
    made = style.figure(max(2.2, 1.0 + 0.32 * len(movement.rows)) if movement.rows else 4.6)
    ax = style.axes(made)
    _dress(ax, movement)
    ax.set_xlabel(movement.names[0])
    ax.set_ylabel(movement.names[1])
    ax.set_title(" ", fontsize=9)
    return made, ax


def pictures(movement: Movement) -> Iterator[Figure]:
    """Every epoch as a figure of the same size."""
    for frame, epoch in enumerate(movement.epochs):
        made, ax = stage(movement)
        _dots(ax, movement, frame, size=9.0)
        groups = scatter.groups(movement.labels, movement.points.shape[1])
        if len(groups) > 1 and not movement.rows:
            for name, (rows, colour) in groups.items():
                scatter.name_class(ax, name, movement.points[frame, rows], colour)
        ax.set_title(f"epoch {epoch}", fontsize=9)
        yield made


def marks(movement: Movement, made: Figure, ax: Axes) -> list[str]:
    """Every epoch as SVG elements, in the coordinates of the drawing of `stage`."""
    made.canvas.draw()
    to_points = 72 / made.dpi
    height = made.get_figheight() * 72

    box = ax.get_window_extent()

    def place(points: np.ndarray) -> np.ndarray:
        at = ax.transData.transform(points)
        at[(at < box.min).any(1) | (at > box.max).any(1)] = np.nan
        return np.stack([at[:, 0] * to_points, height - at[:, 1] * to_points], 1)

    at = (box.x0 * to_points, height - box.y1 * to_points - 6)
    groups = scatter.groups(movement.labels, movement.points.shape[1])
    named = len(groups) > 1 and not movement.rows
    return [
        _frame(number, epoch, [(n, c, place(points[rows])) for n, (rows, c) in groups.items()],
               at, named=named)
        for number, (epoch, points) in enumerate(zip(movement.epochs, movement.points, strict=True))
    ]  # fmt: skip


def _along(
    epochs: Sequence[int], frames: np.ndarray, labels: Sequence[Any] | None
) -> Movement | None:
    """Means `[frames, n]` of one dimension; None if fewer than two of the last are finite."""
    if np.isfinite(frames[-1]).sum() < 2:
        return None
    points, rows = line.strips(frames, labels)
    caption = "E q(z|x), the one latent dimension" + (", a row for each class" if labels else "")
    return Movement(epochs, points, (line.NAME, ""), caption, labels, rows)


def _snapshot(path: Path) -> tuple[np.ndarray, list[int], Sequence[Any] | None]:
    table = pq.read_table(path)
    mean = table.column("mean").combine_chunks()
    values = mean.flatten().to_numpy(zero_copy_only=False).reshape(len(mean), -1)
    labels = table.column("label").to_pylist() if "label" in table.column_names else None
    return values, table.column("id").to_pylist(), labels


def _dots(ax: Axes, movement: Movement, frame: int, size: float) -> None:
    for rows, colour in scatter.groups(movement.labels, movement.points.shape[1]).values():
        ax.scatter(*movement.points[frame, rows].T, s=size, c=colour, alpha=0.6, lw=0,
                   rasterized=True)  # fmt: skip


def _dress(ax: Axes, movement: Movement) -> None:
    across, up = movement.limits
    ax.set_xlim(*across)
    ax.set_ylim(*up)
    if movement.rows:
        ax.set_yticks(range(len(movement.rows)), list(movement.rows))
        ax.spines["left"].set_visible(False)
    else:
        ax.set_aspect("equal", adjustable="box")
    ax.grid(visible=True, axis="x" if movement.rows else "both")
    ax.tick_params(length=0)


def _frame(
    number: int,
    epoch: int,
    classes: Sequence[tuple[str, str, np.ndarray]],
    at: tuple[float, float],
    *,
    named: bool,
) -> str:
    """An epoch: one path of round dots for each class, the names of the classes, the title."""
    dots = "".join(f'<path d="{_path(p)}" style="stroke:{colour}"/>' for _, colour, p in classes)
    middles = [(n, c, np.nanmedian(p, 0)) for n, c, p in classes if np.isfinite(p).all(1).any()]
    text = "".join(
        f'<text x="{x:.1f}" y="{y:.1f}" style="fill:{colour}">{escape(name)}</text>'
        for name, colour, (x, y) in middles
        if named
    )
    head = f'<text class="epoch" x="{at[0]:.1f}" y="{at[1]:.1f}">epoch {epoch}</text>'
    return f'<g class="frame f{number}">{dots}{text}{head}</g>'


def _path(points: np.ndarray) -> str:
    known = points[np.isfinite(points).all(axis=1)]
    return re.sub(r"\.0\b", "", "".join(f"M{x:.1f} {y:.1f}h0" for x, y in known))
