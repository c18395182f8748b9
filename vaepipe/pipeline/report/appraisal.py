"""What the page says of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from vaepipe.evaluation.tail import reliable_below
from vaepipe.journal import Journal
from vaepipe.pipeline.report import bounds, faces, scores, sheets, words
from vaepipe.pipeline.report.section import Block, Facts, Note, Plot, Section, Table, Worst
from vaepipe.pipeline.report.tables import Columns, read
from vaepipe.pipeline.watch import JOURNAL

DIMENSIONS = (
    "KL(q(z|x) ‖ p(z)) of each dimension, mean over the examples; where q or p does not factorise, "
    "the variance of the posterior means. Active: that variance exceeds 0.01."
)
WORST = (
    "Lowest log evidence first (nats, above); below each, the mean of p(x|z) at its posterior mean."
)
SANDWICH = (
    "Differences of bounds on the same examples, bars: their standard error. In expectation the "
    "truth of simulated examples lies between their two sides, the shaded interval."
)
GAPS = (
    "log evidence − ELBO. Amortization: what q(z|x) of an example's own would win; approximation: "
    "what the family of q cannot reach."
)


def chapter(section: Section) -> Iterator[Block]:
    """Its numbers, how far they can be trusted, and the examples it explains least."""
    columns = read(section.path / "summary.parquet")
    yield from _diagnosis(section)
    head = ("metric", "split", "value ± s.e.", "unit", "examples", "estimator")
    rows = scores.summary(columns)
    view = {str(k).replace("_", " "): str(v) for k, v in section.manifest.get("view", {}).items()}
    names = dict.fromkeys(columns.get("model", []))
    known = {"model": ", ".join(words.plain(n, 160) for n in names)} if names else {}
    yield Facts(known | words.named(section.manifest, ("model_digest", "data_digest")) | view)
    yield Table("Summary", head, rows) if rows else Note("This evaluation has no summary.")
    examples = read(section.path / "per_example.parquet")
    yield from _trust(section, columns, examples)
    drawn = scores.histogram(examples)
    if drawn is not None:
        left_out = scores.below(examples)
        text = f"Not shown, left of the axis: {left_out}." if left_out else "All examples."
        yield Plot("evidence", "Log evidence of each example", text, drawn)
    drawn = scores.rates(read(section.path / "per_dimension.parquet"))
    if drawn is not None:
        yield Plot("rates", "Latent dimensions", DIMENSIONS, drawn)
    yield from _worst(section.worst)
    numbers = scores.worst(examples)
    if numbers is not None:
        yield numbers


def _diagnosis(section: Section) -> Iterator[Block]:
    """What was found; what the journal did not warn of may be as it should."""
    events = Journal(section.path / JOURNAL).read()
    alarms = {event.get("text") for event in events if event["event"] == "warning"}
    for text in section.manifest.get("diagnosis", ()):
        yield Note(f"Warning: {text}" if text in alarms or not events else f"Note: {text}")


def _worst(found: Worst | None) -> Iterator[Block]:
    if found is None:
        return
    title = f"The worst examples of {found.split}"
    lexicon = found.model.lexicon
    if lexicon is not None:
        text = lexicon.read(sheets.view(found.model, found.sample).cpu().numpy())
        rows = [(words.number(v), t) for v, t in zip(found.log_evidence, text, strict=True)]
        yield Table(title, ("log evidence (nats)", "sentence"), rows)
    elif sheets.image_shape(found.model.data.shape):
        yield Plot("worst", title, WORST, faces.worst(found))


def _trust(section: Section, summary: Columns, examples: Columns) -> Iterator[Block]:
    """How far the numbers of an evaluation can be off."""
    limit = reliable_below(bounds.samples(summary))
    heavy = bounds.tails(examples, limit)
    if heavy is not None:
        yield Facts({f"examples with Pareto k̂ > {limit:.2g}": heavy})
    drawn = bounds.k_curve(read(section.path / "k_curve.parquet"))
    if drawn is not None:
        text = "In expectation the bound rises with k towards log p(x); bars: one standard error."
        yield Plot("k-curve", "Evidence and the number of samples", text, drawn)
    drawn = bounds.sandwich(summary, examples)
    if drawn is not None:
        yield Plot("sandwich", "Bounds from both sides", SANDWICH, drawn)
    drawn = bounds.gaps(examples)
    if drawn is not None:
        yield Plot("gaps", "Where the bound loses", GAPS, drawn)


def headline(section: Section) -> list[tuple[str, str]]:
    """Evidence of each split: (value, what it is)."""
    rows = scores.summary(read(section.path / "summary.parquet"))
    return [
        (f"{value} {unit}", f"log evidence, {split}, {estimator}, {section.name}")
        for metric, split, value, unit, _, estimator in rows
        if metric.split(" ")[0] == "log_evidence"
    ]
