"""Where the posteriors of examples lie, coloured by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from vaepipe.pipeline.report import style, words

CLASSES_SHOWN = len(style.CLASSES)


class Plane(NamedTuple):
    """Points `[n, 2]` and what the axes are."""

    points: np.ndarray
    names: tuple[str, str]
    caption: str


class Planes(NamedTuple):
    """Points `[frames, n, 2]` and what the axes are."""

    points: np.ndarray
    names: tuple[str, str]
    caption: str


def plane(means: np.ndarray) -> Plane | None:
    """Posterior means `[n, d]` in two dimensions: as they are, or by PCA, which is then named.

    Rows that are not finite are NaN in the result; None if fewer than two rows are finite or
    d < 2.
    """
    found = planes([means], means)
    return None if found is None else Plane(found.points[0], found.names, found.caption)


def planes(frames: Sequence[np.ndarray], means: np.ndarray) -> Planes | None:
    """Several `[n, d]` in the plane that `plane` chooses for the last of them, `means`."""
    means = means.astype(np.float64)
    known = np.isfinite(means).all(axis=1)
    if means.shape[1] < 2 or known.sum() < 2:
        return None
    every = np.stack(frames).astype(np.float64)
    every[~np.isfinite(every).all(axis=2)] = np.nan
    if means.shape[1] == 2:
        return Planes(every, ("z₀", "z₁"), "E q(z|x), the two latent dimensions as they are")
    centre, axes, shares = _principal(means[known])
    names = (f"PC 1 ({shares[0]:.0%} of the variance)", f"PC 2 ({shares[1]:.0%})")
    caption = f"principal components of E q(z|x), {means.shape[1]} latent dimensions"
    return Planes((every - centre) @ axes, names, caption)


def scatter(flat: Plane, labels: Sequence[Any] | None) -> Figure:
    """Points by class, with the name of each class at its median."""
    made = style.figure(4.5)
    ax = style.axes(made)
    classes = groups(labels, len(flat.points))
    size = float(np.clip(9000 / max(1, len(flat.points)), 2.0, 18.0))
    for name, (rows, colour) in classes.items():
        points = flat.points[rows]
        ax.scatter(*points.T, s=size, c=colour, alpha=0.6, lw=0, rasterized=True, label=name)
    if len(classes) > 1:
        for name, (rows, colour) in classes.items():
            name_class(ax, name, flat.points[rows], colour)
    ax.set_xlabel(flat.names[0])
    ax.set_ylabel(flat.names[1])
    ax.set_aspect("equal", adjustable="datalim")
    return made


def _principal(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, two principal axes `[d, 2]`, their shares of the variance; signs are fixed."""
    centre = x.mean(0)
    values, vectors = np.linalg.eigh((x - centre).T @ (x - centre))
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.sign(axes[np.abs(axes).argmax(0), [0, 1]])
    return centre, axes, values[::-1][:2] / max(values.sum(), np.finfo(float).tiny)


def groups(labels: Sequence[Any] | None, count: int) -> dict[str, tuple[np.ndarray, str]]:
    """Class name to rows and colour; rare classes together, rows without a label apart."""
    if labels is None:
        return {"": (np.arange(count), style.ACCENT)}
    names = [words.MISSING if v is None else words.plain(v, 16) for v in labels]
    counts = Counter(n for n in names if n != words.MISSING)
    kept = sorted(sorted(counts, key=lambda n: (-counts[n], n))[:CLASSES_SHOWN], key=_natural)
    colours = dict(zip(kept, style.CLASSES, strict=False))
    rest = "other" if len(counts) > CLASSES_SHOWN else words.MISSING
    group = np.array([n if n in colours else words.MISSING if n == words.MISSING else rest
                      for n in names])  # fmt: skip
    order = [n for n in (words.MISSING, "other") if (group == n).any()] + kept
    return {n: (np.flatnonzero(group == n), colours.get(n, style.MUTED)) for n in order}


def _natural(name: str) -> tuple[bool, float, str]:
    """Numbers by value, before words."""
    number = name.removeprefix("-").replace(".", "", 1)
    return (False, float(name), "") if number.isdecimal() and number.isascii() else (True, 0, name)


def name_class(ax: Axes, name: str, points: np.ndarray, colour: str) -> None:
    """Write the name of a class at the median of its points."""
    known = points[np.isfinite(points).all(axis=1)]
    if len(known):
        x, y = np.median(known, axis=0)
        edge = [withStroke(linewidth=3, foreground=style.PAPER)]
        ax.text(x, y, name, color=colour, ha="center", va="center", fontweight="bold",
                fontsize=11, path_effects=edge)  # fmt: skip
