"""Sentences that a model writes, beside those it was shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from vaepipe.core import Purpose, centre, seeded, stream
from vaepipe.data.lexicon import Lexicon
from vaepipe.pipeline.report import sheets, words
from vaepipe.pipeline.report.section import Block, Sample, Section, Table

if TYPE_CHECKING:
    from vaepipe.training.bundle import Bundle

COUNT = 12
"""Sentences in a table."""
STEPS = 5
"""Sentences on the way from one code to another, both included."""


def of_data(section: Section) -> Iterator[Block]:
    """Some sentences of a dataset."""
    lexicon = Lexicon.from_dict(section.manifest["lexicon"])
    if section.data is not None and len(section.data.ids):
        rows = [[_shown(text)] for text in lexicon.read(section.data.x[:COUNT])]
        size = f"{len(lexicon.words):,} words are in the vocabulary."
        yield Table("Examples", ("sentence",), rows, size)


@torch.no_grad()
def of_model(bundle: Bundle, data: Sample | None, seed: int = 0) -> Iterator[Block]:
    """Samples of the prior, reconstructions, and the way from one sentence to another."""
    lexicon = bundle.lexicon
    if lexicon is None:
        return
    with seeded(stream(seed, Purpose.FIGURES, "sentences")):
        p = bundle.model.sample(COUNT)
        columns = [_read(lexicon, x) for x in (sheets.mean(p), p.sample())]
    head = ("likeliest word by word", "x ~ p(x|z)")
    yield Table("Sentences of the prior", head, list(zip(*columns, strict=True)))
    if data is not None and len(data.ids) > 1:
        yield _reconstructions(bundle, lexicon, data, seed)
        yield _way(bundle, lexicon, data, seed)


def _reconstructions(bundle: Bundle, lexicon: Lexicon, data: Sample, seed: int) -> Table:
    x = sheets.view(bundle, data)[:COUNT]
    with seeded(stream(seed, Purpose.FIGURES, "sentences again")):
        q = bundle.model.inference(x)
        typical = bundle.model.generator(centre(q))
        made = (x, sheets.mean(typical), bundle.model.generator(q.sample()).sample())
    head = ("sentence", "likeliest at the mean of q(z|x)", "x' ~ p(x|z), z ~ q(z|x)")
    rows = list(zip(*(_read(lexicon, part) for part in made), strict=True))
    return Table("Reconstructions", head, rows)


def _way(bundle: Bundle, lexicon: Lexicon, data: Sample, seed: int) -> Table:
    """Bowman et al. (2016), section 5.3: decoded points on the line between two posterior means."""
    with seeded(stream(seed, Purpose.FIGURES, "way")):
        ends = sheets.posterior_mean(bundle.model.inference(sheets.view(bundle, data)[:2]))
        share = torch.linspace(0, 1, STEPS, dtype=ends.dtype).reshape(-1, *[1] * (ends.ndim - 1))
        z = torch.lerp(ends[:1], ends[1:], share)
        text = _read(lexicon, sheets.mean(bundle.model.generator(z)))
    rows = [[f"{s:.2f}", line] for s, line in zip(share.flatten().tolist(), text, strict=True)]
    return Table("From one sentence to another", ("share", "likeliest sentence"), rows)


def _read(lexicon: Lexicon, x: torch.Tensor) -> list[str]:
    return [_shown(text) for text in lexicon.read(x.cpu().numpy())]


def _shown(text: str) -> str:
    return words.plain(text, 200)
