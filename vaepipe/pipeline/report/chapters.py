"""What the page says of each kind of artifact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vaepipe.pipeline.metrics import SWEEPABLE
from vaepipe.pipeline.report import curves, scatter, scores, sheets, words
from vaepipe.pipeline.report.section import Block, Facts, Note, Plot, Sample, Section, Table
from vaepipe.pipeline.report.tables import Columns, latents, read
from vaepipe.registry import PartSpec

POINTS = 5000
EXAMPLES = 48
CURVES_SHOWN = 64
SAMPLES = "Left the mean of p(x|z), right a draw from it; z ~ p(z), place by place the same z."
EVIDENCE = (
    "Importance-sampled log p(x) on the validation split, whatever the trial was trained on; bars "
    "are one standard error over the examples."
)

DIMENSIONS = (
    "KL(q(z|x) ‖ p(z)) of each dimension, mean over the examples; where q or p does not factorise, "
    "the variance of the posterior means. Active: that variance exceeds 0.01."
)


def chapter(section: Section) -> list[Block]:
    """The blocks of a section, in reading order."""
    return list(CHAPTERS[section.kind](section))


def headline(section: Section) -> list[tuple[str, str]]:
    """The few numbers of a section that a hurried reader needs: (value, what it is)."""
    maker = HEADLINES.get(section.kind)
    return maker(section) if maker else []


def _data(section: Section) -> Iterator[Block]:
    manifest = section.manifest
    spec, splits = manifest.get("spec", {}), manifest.get("splits", {})
    dataset = manifest.get("dataset", {})
    rows = {f"rows of {name}": words.number(split.get("rows")) for name, split in splits.items()}
    yield Facts(
        {
            "dataset": words.component(
                {"type": dataset.get("type", "?"), **dataset.get("options", {})}
            )
        }
        | {"shape": " × ".join(map(str, spec.get("shape", []))) or words.MISSING}
        | {"support": str(spec.get("support", words.MISSING))}
        | {str(k).replace("_", " "): str(v) for k, v in manifest.get("view", {}).items()}
        | rows
        | {"digest": str(manifest.get("digest", words.MISSING))}
    )
    shape = tuple(spec.get("shape", ()))
    if section.data is not None and len(section.data.ids) and sheets.image_shape(shape):
        x = sheets.frozen(PartSpec.from_dict(dataset).build(), _first(section.data, EXAMPLES))
        yield Plot("examples", "Examples", "As a model sees them.", sheets.example_sheet(x, shape))


def _train(section: Section) -> Iterator[Block]:
    manifest, metrics = section.manifest, section.manifest.get("metrics", {})
    yield Facts(
        {
            "status": str(manifest.get("status", words.MISSING)),
            "epochs": f"{words.number(manifest.get('epochs'))}, kept: "
            f"{words.number(manifest.get('best_epoch'))}",
            "time": words.seconds(manifest.get("seconds")),
            "log evidence (validation)": _evidence(metrics),
            "rate, log likelihood (validation)": f"{words.number(metrics.get('val/rate'))}, "
            f"{words.number(metrics.get('val/log_lik'))} nats",
        }
    )
    drawn = curves.history(read(section.path / "history.parquet"))
    if drawn is None:
        yield Note("No epoch reported a finite number.")
    else:
        text = "Validation numbers use the same frozen data and samples at every epoch."
        yield Plot("curves", "Training", text, drawn)
    yield from _model(section)


def _sweep(section: Section) -> Iterator[Block]:
    rows = curves.trials(read(section.path / "trials.parquet"))
    if not rows:
        yield Note("This sweep has no trials.")
        return
    metric, mode = _ranking(section)
    counts = section.manifest.get("trials") or _counts(rows)
    yield Facts(
        {"trials": ", ".join(f"{n} {status}" for status, n in counts.items()), "ranked by": metric}
    )
    best = section.manifest.get("best", {}).get("trial")
    board = curves.leaderboard(rows, metric, mode)
    if board is None:
        yield Note(f"No trial has a finite {metric}.")
    else:
        yield Plot("leaderboard", "Leaderboard", EVIDENCE, board)
    lines = curves.overlay(_histories(section.path, rows, metric, mode), best)
    if lines is not None:
        yield Plot("curves", "Trials over epochs", "Lines end where a trial was stopped.", lines)
    yield from _model(section)
    yield _trials_table(curves.ranked(rows, metric, mode), metric)


def _evaluate(section: Section) -> Iterator[Block]:
    columns = read(section.path / "summary.parquet")
    head = ("metric", "split", "value ± s.e.", "unit", "examples", "estimator")
    rows = scores.summary(columns)
    view = {str(k).replace("_", " "): str(v) for k, v in section.manifest.get("view", {}).items()}
    yield Facts(_named(section.manifest, ("model_digest", "data_digest")) | view)
    yield Table("Summary", head, rows) if rows else Note("This evaluation has no summary.")
    examples = read(section.path / "per_example.parquet")
    drawn = scores.histogram(examples)
    if drawn is not None:
        left_out = scores.below(examples)
        text = f"Not shown, left of the axis: {left_out}." if left_out else "All examples."
        yield Plot("evidence", "Log evidence of each example", text, drawn)
    drawn = scores.rates(read(section.path / "per_dimension.parquet"))
    if drawn is not None:
        yield Plot("rates", "Latent dimensions", DIMENSIONS, drawn)


def _encode(section: Section) -> Iterator[Block]:
    yield Facts(_named(section.manifest, ("rows", "model_digest", "input_digest")))
    means, labels = latents(section.path, POINTS)
    yield from _posterior(means, labels)


def _register(section: Section) -> Iterator[Block]:
    yield Facts(_named(section.manifest, ("name", "version", "alias", "uri")))


def _model(section: Section) -> Iterator[Block]:
    """What a fitted model shows of itself."""
    bundle, data = section.model, section.data
    if bundle is None:
        return
    yield from (Note(warning) for warning in bundle.warnings)
    pictures = sheets.image_shape(bundle.data.shape) is not None
    if pictures:
        yield Plot("samples", "Samples of the prior", SAMPLES, sheets.prior_samples(bundle))
    if pictures and data is not None and len(data.ids):
        text = "Rows: examples; mean of p(x|z) at the posterior mean; a draw with z ~ q(z|x)."
        yield Plot("reconstructions", "Reconstructions", text, sheets.reconstructions(bundle, data))
    if pictures and math.prod(bundle.card["model"]["latent_shape"]) == 2:
        text = "Mean of p(x|z) over the square [−3, 3]²."
        yield Plot("plane", "The latent plane", text, sheets.latent_plane(bundle))
    if data is not None and len(data.ids):
        yield from _posterior(sheets.posterior_means(bundle, data), data.labels)


def _posterior(means: np.ndarray, labels: Sequence[Any] | None) -> Iterator[Block]:
    flat = scatter.plane(means)
    if flat is None:
        return
    named = "Posterior by class" if labels is not None else "Posterior"
    text = f"{flat.caption}; {words.number(len(means))} examples."
    yield Plot("posterior", named, text, scatter.scatter(flat, labels))


def _trials_table(rows: Sequence[curves.Trial], metric: str) -> Table:
    paths = list(dict.fromkeys(path for row in rows for path in row.settings))
    extra = [m for m in ("val/elbo", "val/rate", "val/active_units")
             if m != metric and any(math.isfinite(r.metric(m)) for r in rows)]  # fmt: skip
    failed = any(row.error for row in rows)
    head = ["trial", "status", metric, *extra, "epochs", "time", *map(_short, paths)]
    body = [_trial_cells(row, metric, extra, paths, failed) for row in rows]
    return Table("All trials", [*head, "error"] if failed else head, body)


def _trial_cells(
    row: curves.Trial, metric: str, extra: Sequence[str], paths: Sequence[str], failed: bool
) -> list[str]:
    cells = [
        str(row.number),
        row.status,
        words.measured(_known(row, metric), _known(row, f"{metric}_se")),
    ]
    cells += [words.number(_known(row, m), 0 if m.endswith("units") else 2) for m in extra]
    cells += [words.number(row.epochs), words.seconds(row.seconds)]
    cells += [curves.setting(row.settings.get(path)) for path in paths]
    return [*cells, words.plain(row.error, 160)] if failed else cells


def _histories(
    folder: Path, rows: Sequence[curves.Trial], metric: str, mode: str
) -> Mapping[int, Columns]:
    """Histories of the best trials that have one."""
    numbers = [row.number for row in curves.ranked(rows, metric, mode)][:CURVES_SHOWN]
    return {n: read(folder / "trials" / f"{n:05d}" / "history.parquet") for n in numbers}


def _ranking(section: Section) -> tuple[str, str]:
    """Metric of a sweep and its direction."""
    metric = section.manifest.get("best", {}).get("metric", curves.EVIDENCE)
    return metric, SWEEPABLE[metric].mode if metric in SWEEPABLE else "max"


def _counts(rows: Sequence[curves.Trial]) -> dict[str, int]:
    statuses = [row.status for row in rows]
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}


def _known(row: curves.Trial, metric: str) -> float | None:
    return row.metrics.get(metric)


def _evidence(metrics: Mapping[str, Any]) -> str:
    shown = words.measured(metrics.get(curves.EVIDENCE), metrics.get(f"{curves.EVIDENCE}_se"))
    return f"{shown} nats" if curves.EVIDENCE in metrics else words.MISSING


def _short(path: str) -> str:
    return path.removeprefix("model.")


def _named(manifest: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Some entries of a manifest, those that it has."""
    known = {name: manifest[name] for name in names if manifest.get(name) not in (None, "")}
    return {
        name.replace("_", " "): value if isinstance(value, str) else words.number(value)
        for name, value in known.items()
    }


def _first(data: Sample, count: int) -> Sample:
    labels = data.labels[:count] if data.labels is not None else None
    return Sample(data.x[:count], data.ids[:count], labels)


def _headline_sweep(section: Section) -> list[tuple[str, str]]:
    best = section.manifest.get("best", {})
    if "value" not in best:
        return []
    what = f"{best.get('metric')}, best of sweep {section.name} (trial {best.get('trial')})"
    return [(f"{words.number(best['value'])} nats", what)]


def _headline_train(section: Section) -> list[tuple[str, str]]:
    metrics = section.manifest.get("metrics", {})
    what = f"log evidence, validation, {section.name}"
    return [(_evidence(metrics), what)] if curves.EVIDENCE in metrics else []


def _headline_evaluate(section: Section) -> list[tuple[str, str]]:
    rows = scores.summary(read(section.path / "summary.parquet"))
    return [
        (f"{value} {unit}", f"log evidence, {split}, {estimator}, {section.name}")
        for metric, split, value, unit, _, estimator in rows
        if metric.split(" ")[0] == "log_evidence"
    ]


CHAPTERS: Mapping[str, Callable[[Section], Iterator[Block]]] = {
    "data": _data,
    "train": _train,
    "sweep": _sweep,
    "evaluate": _evaluate,
    "encode": _encode,
    "register": _register,
}
HEADLINES: Mapping[str, Callable[[Section], list[tuple[str, str]]]] = {
    "sweep": _headline_sweep,
    "train": _headline_train,
    "evaluate": _headline_evaluate,
}
