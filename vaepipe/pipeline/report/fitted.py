"""What a fitted model shows of itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaepipe.core import Purpose, seeded, stream
from vaepipe.pipeline.report import faces, line, movement, scatter, sentences, sheets, words
from vaepipe.pipeline.report.section import Block, Motion, Note, Plot, Section

if TYPE_CHECKING:
    from vaepipe.training.bundle import Bundle

SAMPLES = "Left the mean of p(x|z), right a draw from it; z ~ p(z), place by place the same z."
TRAVERSALS = (
    "Mean of p(x|z) while one dimension of z moves across the prior, the others as in the code of "
    "the first example; dimensions whose posterior means vary most on top."
)

LINE = "E q(z|x), the one latent dimension"
LINE_CLASSES = ", each class scaled to its own highest bar"


def chapter(section: Section) -> Iterator[Block]:
    """What a fitted model shows of itself."""
    bundle, data = section.model, section.data
    if bundle is None:
        return
    yield from (Note(warning) for warning in bundle.warnings)
    yield from sentences.of_model(bundle, data)
    pictures = bundle.lexicon is None and sheets.image_shape(bundle.data.shape) is not None
    if pictures:
        yield Plot("samples", "Samples of the prior", SAMPLES, sheets.prior_samples(bundle))
    if pictures and data is not None and len(data.ids):
        text = "Rows: examples; mean of p(x|z) at the posterior mean; a draw with z ~ q(z|x)."
        yield Plot("reconstructions", "Reconstructions", text, sheets.reconstructions(bundle, data))
    if pictures and _is_real(bundle, 2):
        text = "Mean of p(x|z) over the square [−3, 3]²."
        yield Plot("plane", "The latent plane", text, sheets.latent_plane(bundle))
    if pictures and _is_real(bundle, 1):
        text = "Mean of p(x|z) for z from −3 to 3."
        yield Plot("line", "The latent line", text, sheets.latent_line(bundle))
    elif pictures and data is not None and len(data.ids) > 1:
        drawn = faces.traversals(bundle, data)
        if drawn is not None:
            yield Plot("traversals", "Latent traversals", TRAVERSALS, drawn)
    if data is not None and len(data.ids):
        yield from posterior(sheets.posterior_means(bundle, data), data.labels)


def _is_real(bundle: Bundle, dimensions: int) -> bool:
    """Whether z is so many real numbers."""
    with seeded(stream(0, Purpose.PROBE)):
        support = bundle.model.p_z().z.support
    known = math.prod(bundle.card["model"]["latent_shape"])
    return known == dimensions and faces.is_real(support)


def moves(folder: Path) -> Iterator[Block]:
    """Where the posteriors of validation examples were, epoch by epoch."""
    found = movement.read(folder)
    if found is None:
        return
    count = words.number(found.points.shape[1])
    text = f"{found.caption}, axes of the last epoch; {count} validation examples."
    yield Motion("motion", "The posterior during training", text, found)
    yield Plot("epochs", "The posterior, epoch by epoch", text, movement.panels(found))


def posterior(means: np.ndarray, labels: Sequence[Any] | None) -> Iterator[Block]:
    """Posterior means `[n, d]` in the plane or on a line, by class where labels are known."""
    named = "Posterior by class" if labels is not None else "Posterior"
    count = f"{words.number(len(means))} examples"
    if means.shape[1] == 1:
        drawn = line.histograms(means[:, 0], labels)
        text = f"{LINE}{LINE_CLASSES if labels is not None else ''}; {count}."
    else:
        flat = scatter.plane(means)
        drawn = None if flat is None else scatter.scatter(flat, labels)
        text = f"{flat.caption}; {count}." if flat else ""
    if drawn is not None:
        yield Plot("posterior", named, text, drawn)
