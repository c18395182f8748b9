"""How figures look, and how they become bytes that are equal for equal input."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#20242c", "#6d7480", "#dfe2e8", "#fffffe"
THEMED = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
"""Colours that a page replaces by its own, so that one drawing suits light and dark."""

ACCENT, SECOND, THIRD = "#3b7dd8", "#d98221", "#3a9d5d"
CLASSES = (
    ACCENT,
    SECOND,
    THIRD,
    "#d1495b",
    "#8a63c9",
    "#a06a4a",
    "#cf6fae",
    "#858b95",
    "#9b9320",
    "#2b9fb3",
    "#5c6bc0",
    "#7cb342",
)
WIDTH = 4.8
"""Inches: text keeps a readable size where a figure is as wide as a phone."""

_LOOK: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "figure.facecolor": PAPER,
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "image.interpolation": "none",
    "svg.hashsalt": "vaepipe",
    "svg.fonttype": "path",
    "savefig.dpi": 200,
    "figure.dpi": 100,
}


@contextmanager
def look() -> Iterator[None]:
    """Settings under which figures are made and saved; restored afterwards."""
    with matplotlib.rc_context(_LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, in inches, that keeps its parts from overlapping."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def axes(made: Figure, *position: int, grid: str = "both") -> Axes:
    """Axes with a quiet grid."""
    ax = made.add_subplot(*(position or (1, 1, 1)))
    if grid:
        ax.grid(visible=True, axis=grid)  # type: ignore[arg-type]
    ax.tick_params(length=0)
    return ax


def low_limit(values: np.ndarray, *, spread: float = 3.0) -> float:
    """Where an axis of log densities may begin, so that a few very low values do not flatten it.

    The best value minus `spread` times its distance from the lower quartile, unless everything
    lies above that.

    Example:
        >>> low_limit(np.array([-100.0, -99.0, -98.0, -97.0, -9000.0]))
        -106.0
    """
    known = values[np.isfinite(values)]
    best, quartile = known.max(), np.quantile(known, 0.25)
    return float(max(known.min(), best - spread * (best - quartile)))


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure as files."""

    svg: bytes
    png: bytes


def draw(made: Figure) -> Drawing:
    """Render a figure; the bytes hold no date, no version and no random name."""
    svg, png = io.BytesIO(), io.BytesIO()
    nothing: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    made.savefig(svg, format="svg", metadata=nothing)
    made.savefig(png, format="png", metadata={"Software": None})
    return Drawing(svg.getvalue(), png.getvalue())


def inline(svg: bytes, key: str, title: str) -> str:
    """A drawing as an element of a page: scaled by it, coloured by it, its names its own.

    Args:
        svg: as `draw` made it.
        key: unique on the page; every id of the drawing starts with it.
        title: what a reader who cannot see it is told.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\n?|<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{key}-', text).replace("url(#", f"url(#{key}-")
    for colour, name in THEMED.items():
        text = text.replace(colour, f"var(--{name})")
    label = escape(title, quote=True)
    opening = f'<svg role="img" aria-label="{label}" viewBox="{_view_box(text)}">'
    return opening + text[text.index(">") + 1 :].strip()


def _view_box(svg: str) -> str:
    found = re.search(r'viewBox="([^"]*)"', svg)
    return found.group(1) if found else "0 0 1 1"
