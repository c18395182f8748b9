"""What single latent dimensions, and single examples, look like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import constraints

from vaepipe.core import Purpose, centre, seeded, stream
from vaepipe.pipeline.report import sheets, style, words
from vaepipe.pipeline.report.section import Sample, Worst

if TYPE_CHECKING:
    from vaepipe.training.bundle import Bundle

ROWS, STEPS, REACH = 10, 11, 3.0
DRAWS = 512
"""Samples of the prior behind its mean and standard deviation."""
PER_ROW = 8


@torch.no_grad()
def traversals(bundle: Bundle, data: Sample, seed: int = 0) -> Figure | None:
    """Mean of p(x|z) as one dimension of z moves, the others as in q(z|x) of the first example.

    Dimensions whose posterior means vary most come first; each moves within 3 standard deviations
    of the prior. None where z is not real: codes have no points in between.
    """
    with seeded(stream(seed, Purpose.FIGURES, "traversals")):
        p = bundle.model.p_z().z
        if not is_real(p.support):
            return None
        z = p.sample((DRAWS,))
        means = torch.tensor(sheets.posterior_means(bundle, data))
        base = centre(bundle.model.inference(sheets.view(bundle, data)[:1]))
        order = means.var(0).argsort(descending=True, stable=True)[:ROWS].tolist()
        rows = [_line(base, z, d) for d in order]
        shown = sheets.mean(bundle.model.generator(torch.cat(rows)))
    sheet = sheets.images(shown, bundle.data.shape)
    return _sheet(sheet, [f"z{_small(d)}" for d in order])


@torch.no_grad()
def worst(found: Worst, seed: int = 0) -> Figure:
    """Examples above, below each the mean of p(x|z) at the centre of q(z|x), and the evidence."""
    bundle = found.model
    x = sheets.view(bundle, found.sample)
    with seeded(stream(seed, Purpose.FIGURES, "worst")):
        shown = sheets.mean(bundle.model.generator(centre(bundle.model.inference(x))))
    pairs = [sheets.images(part, bundle.data.shape) for part in (x, shown)]
    columns = min(PER_ROW, len(x))
    rows = -(-len(x) // columns)
    made = style.figure((2 * style.WIDTH / columns + 0.26) * rows + 0.05)
    for place in range(len(x)):
        ax = made.add_subplot(rows, columns, place + 1)
        sheet = sheets.mosaic(np.stack([part[place] for part in pairs]), 1, gap=2)
        sheets.show(ax, sheet, pairs[0])
        value = words.number(float(found.log_evidence[place]), 1)
        ax.set_title(value, fontsize=8, loc="center", pad=2)
    return made


def is_real(support: object) -> bool:
    """Whether a support is all of R^d, so that points between two latents are latents."""
    while hasattr(support, "base_constraint"):  # of products and of mixtures
        support = support.base_constraint  # type: ignore[attr-defined]
    return isinstance(support, type(constraints.real))


def _line(base: Tensor, z: Tensor, d: int) -> Tensor:
    """`[steps, *latent]`: a latent whose dimension d takes even steps across the prior."""
    column = z.reshape(len(z), -1)[:, d]
    steps = torch.linspace(-REACH, REACH, STEPS, dtype=base.dtype)
    line = base.reshape(1, -1).repeat(STEPS, 1)
    line[:, d] = column.mean() + steps * column.std()
    return line.reshape(STEPS, *base.shape[1:])


def _sheet(pictures: np.ndarray, names: list[str]) -> Figure:
    sheet = sheets.mosaic(pictures, STEPS, gap=2)
    height, width = sheet.shape[:2]
    made = style.figure(style.WIDTH * height / width + 0.35)
    ax = made.add_subplot()
    sheets.show(ax, sheet, pictures)
    tall, wide = (height + 2) / len(names), (width + 2) / STEPS
    ax.set_yticks([(i + 0.5) * tall - 1.5 for i in range(len(names))], names)
    marks = (0, STEPS // 2, STEPS - 1)
    ax.set_xticks([(i + 0.5) * wide - 1.5 for i in marks], ("−3", "0", "3"))
    ax.set_xlabel("standard deviations of the prior")
    return made


def _small(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
