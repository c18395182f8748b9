"""Sheets of images: samples of the prior, reconstructions, the plane of a 2-D latent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import Purpose, Shape, centre, seeded, stream
from vaepipe.datasets.base import Dataset
from vaepipe.evaluation.moments import sampled_moments, typical
from vaepipe.pipeline.report import style
from vaepipe.pipeline.report.section import Sample

if TYPE_CHECKING:
    from vaepipe.training.bundle import Bundle

DRAWS = 32
"""Samples behind a mean that has no closed form."""
TILE = 32
"""Least height and width of a picture on a sheet, in pixels of the sheet."""
GAP = (0.45, 0.48, 0.52)
"""Between pictures: neither black nor white, on paper or screen."""
GRID_LIMIT, GRID_SIDE, LINE_STEPS = 3.0, 15, 13


def image_shape(shape: Shape) -> tuple[int, int, int] | None:
    """Height, width and channels of an example that is an image; None if it is none.

    A vector whose length is a square counts as one, as in 784 = 28 x 28.

    Example:
        >>> image_shape((1, 28, 28)), image_shape((64,)), image_shape((10,))
        ((28, 28, 1), (8, 8, 1), None)
    """
    if len(shape) == 3 and shape[0] in (1, 3):
        return shape[1], shape[2], shape[0]
    if len(shape) == 3 and shape[2] in (1, 3):
        return shape[0], shape[1], shape[2]
    if len(shape) == 2 and min(shape) > 1:
        return shape[0], shape[1], 1
    side = math.isqrt(shape[0]) if len(shape) == 1 else 0
    return (side, side, 1) if side >= 4 and side * side == shape[0] else None


def images(x: Tensor, shape: Shape) -> np.ndarray:
    """Examples `[n, *shape]` as pictures `[n, height, width, channels]`."""
    height, width, channels = image_shape(shape) or (1, math.prod(shape), 1)
    values = x.detach().double().cpu().numpy()
    if len(shape) == 3 and shape[0] in (1, 3):
        return values.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    return values.reshape(-1, height, width, channels)


def mosaic(pictures: np.ndarray, columns: int, gap: int = 4) -> np.ndarray:
    """Pictures `[n, h, w, c]` side by side, `columns` in a row; gaps and empty places are NaN.

    Small pictures are enlarged by a whole factor, so that a gap is thinner than a pixel.
    """
    scale = max(1, math.ceil(TILE / max(pictures.shape[1:3])))
    pictures = pictures.repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = pictures.shape
    rows = max(1, math.ceil(count / columns))
    size = (rows * (height + gap) - gap, columns * (width + gap) - gap, channels)
    sheet = np.full(size, np.nan)
    for number, picture in enumerate(pictures):
        top = number // columns * (height + gap)
        left = number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


@torch.no_grad()
def prior_samples(bundle: Bundle, count: int = 64, seed: int = 0) -> Figure:
    """p(x | z) for z ~ p(z): its mean beside a draw from it, place by place the same z."""
    with seeded(stream(seed, Purpose.FIGURES, "prior samples")):
        z = bundle.model.p_z().z.sample((count,))
        p = bundle.model.generator(z)
        sheets = {"mean of p(x|z)": mean(p), "x ~ p(x|z)": p.sample()}
    return _pages(sheets, bundle.data.shape, columns=8)


@torch.no_grad()
def reconstructions(bundle: Bundle, data: Sample, count: int = 12, seed: int = 0) -> Figure:
    """Examples as the model sees them, E p(x|z) at the centre of q, x' ~ p(x|z) with z ~ q(z|x)."""
    x = view(bundle, data)[:count]
    with seeded(stream(seed, Purpose.FIGURES, "reconstructions")):
        q = bundle.model.inference(x)
        typical = bundle.model.generator(centre(q))
        drawn = bundle.model.generator(q.sample()).sample()
        rows = [x, mean(typical), drawn]
    pictures = np.concatenate([images(r, bundle.data.shape) for r in rows])
    sheet = mosaic(pictures, len(x))
    made = style.figure(style.WIDTH * sheet.shape[0] / sheet.shape[1] + 0.1)
    ax = made.add_subplot()
    show(ax, sheet, images(x, bundle.data.shape))
    names = ("data", "mean", "draw")
    height = sheet.shape[0] / 3
    ax.set_yticks([(i + 0.5) * height for i in range(3)], names)
    return made


@torch.no_grad()
def latent_plane(bundle: Bundle, side: int = GRID_SIDE, seed: int = 0) -> Figure:
    """Mean of p(x | z) for z on a grid of the square [-3, 3]^2, z₁ growing upwards."""
    with seeded(stream(seed, Purpose.FIGURES, "plane")):
        sheet = mean(bundle.model.generator(plane_points(bundle, side)))
    made = style.figure(style.WIDTH * 0.96)
    ax = made.add_subplot()
    pictures = mosaic(images(sheet, bundle.data.shape), side, gap=0)
    show(ax, pictures, pictures)
    height, width = pictures.shape[:2]
    marks, names = (-GRID_LIMIT, 0.0, GRID_LIMIT), ("−3", "0", "3")
    ax.set_xticks([_centre(m, width, side) for m in marks], names)
    ax.set_yticks([_centre(-m, height, side) for m in marks], names)
    ax.set_xlabel("z₀")
    ax.set_ylabel("z₁")
    return made


@torch.no_grad()
def latent_line(bundle: Bundle, steps: int = LINE_STEPS, seed: int = 0) -> Figure:
    """Mean of p(x | z) for z from -3 to 3, in even steps."""
    z = torch.linspace(-GRID_LIMIT, GRID_LIMIT, steps, dtype=_dtype(bundle))
    with seeded(stream(seed, Purpose.FIGURES, "line")):
        p = bundle.model.generator(z.reshape(-1, *bundle.card["model"]["latent_shape"]))
        pictures = images(mean(p), bundle.data.shape)
    sheet = mosaic(pictures, steps, gap=2)
    height, width = sheet.shape[:2]
    made = style.figure(style.WIDTH * height / width + 0.4)
    ax = made.add_subplot()
    show(ax, sheet, pictures)
    marks, names = (-GRID_LIMIT, 0.0, GRID_LIMIT), ("−3", "0", "3")
    ax.set_xticks([_centre(m, width + 2, steps) - 1 for m in marks], names)
    ax.set_xlabel("z₀")
    return made


def plane_points(bundle: Bundle, side: int) -> Tensor:
    """`[side * side, *latent_shape]`: rows from z₁ = 3 down to -3, in a row z₀ from -3 to 3."""
    line = torch.linspace(-GRID_LIMIT, GRID_LIMIT, side, dtype=_dtype(bundle))
    z1, z0 = torch.meshgrid(line.flip(0), line, indexing="ij")
    return torch.stack([z0, z1], -1).reshape(-1, *bundle.card["model"]["latent_shape"])


def example_sheet(x: Tensor, shape: Shape, columns: int = 12) -> Figure:
    """Examples as a model sees them."""
    pictures = images(x, shape)
    sheet = mosaic(pictures, columns)
    made = style.figure(style.WIDTH * sheet.shape[0] / sheet.shape[1])
    show(made.add_subplot(), sheet, pictures)
    return made


@torch.no_grad()
def posterior_means(bundle: Bundle, data: Sample) -> np.ndarray:
    """E q(z | x) of examples, `[n, d]`."""
    with seeded(stream(0, Purpose.FIGURES, "posterior means")):
        q = bundle.model.inference(view(bundle, data))
        return posterior_mean(q).reshape(len(data.ids), -1).double().cpu().numpy()


def posterior_mean(q: Distribution) -> Tensor:
    """E q, from 256 samples where it has no closed form."""
    return sampled_moments(q).mean.to(torch.get_default_dtype())


def mean(p: Distribution) -> Tensor:
    """E p(x | z), from samples where it has no closed form; of words the likeliest."""
    return typical(p, DRAWS)


def view(bundle: Bundle, data: Sample) -> Tensor:
    """Stored examples as evaluation shows them to the model."""
    return frozen((data.dataset or bundle.dataset).build(), data).to(_dtype(bundle))


def frozen(dataset: Dataset, data: Sample) -> Tensor:
    """Stored examples as evaluation shows them to a model."""
    return dataset.frozen(torch.tensor(data.x), torch.tensor(data.ids))


def _dtype(bundle: Bundle) -> torch.dtype:
    return next((p.dtype for p in bundle.model.parameters()), torch.get_default_dtype())


def _pages(sheets: dict[str, Tensor], shape: Shape, columns: int) -> Figure:
    made = style.figure(style.WIDTH / len(sheets) + 0.25)
    for number, (title, x) in enumerate(sheets.items()):
        ax = made.add_subplot(1, len(sheets), number + 1)
        pictures = images(x, shape)
        show(ax, mosaic(pictures, columns), pictures)
        ax.set_title(title, parse_math=False)
    return made


def show(ax: Axes, sheet: np.ndarray, values: np.ndarray) -> None:
    """An image without axes; one grey scale for all of it."""
    low, high = _range(values)
    scaled = np.clip((sheet - low) / (high - low), 0, 1)
    if scaled.shape[2] == 1:
        scaled = np.repeat(scaled, 3, axis=2)
    ax.imshow(np.where(np.isfinite(scaled), scaled, GAP))
    ax.set_anchor("W")
    ax.tick_params(length=0)
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)


def _range(values: np.ndarray) -> tuple[float, float]:
    """[0, 1] if the values fit, else all but the outer half per cent on either side."""
    known = values[np.isfinite(values)]
    if not len(known) or (known.min() >= 0 and known.max() <= 1):
        return 0.0, 1.0
    low, high = np.quantile(known, (0.005, 0.995))
    return float(low), float(high if high > low else low + 1)


def _centre(mark: float, pixels: int, side: int) -> float:
    """Pixel of the middle of the tile that a coordinate of the plane has."""
    tile = pixels / side
    return (mark + GRID_LIMIT) / (2 * GRID_LIMIT) * (pixels - tile) + tile / 2 - 0.5
