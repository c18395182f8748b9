"""What the page says of each kind of artifact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaepipe.pipeline.metrics import METRICS, SWEEPABLE, unit_of
from vaepipe.pipeline.report import appraisal, curves, fitted, sentences, sheets, tradeoff, words
from vaepipe.pipeline.report.section import Block, Facts, Note, Plot, Sample, Section, Table
from vaepipe.pipeline.report.tables import Columns, latents, read
from vaepipe.registry import PartSpec

POINTS = 5000
EXAMPLES = 48
CURVES_SHOWN = 64
BARS = "Bars: one standard error, over the examples, or over seeds where settings were repeated."
COMPARED = (
    "Differences to the best are paired on the same rows, and over seeds where settings were "
    "repeated; bars: two standard errors. A bar that crosses 0 is a tie."
)

TRADEOFF = (
    "Validation split: what a code costs, and what is lost with it. Models on a dotted line have "
    "the same ELBO; better ones lie below and to the left."
)


def chapter(section: Section) -> list[Block]:
    """The blocks of a section, in reading order."""
    return [*map(Note, section.notes), *CHAPTERS[section.kind](section)]


def headline(section: Section) -> list[tuple[str, str]]:
    """The few numbers of a section that a hurried reader needs: (value, what it is)."""
    maker = HEADLINES.get(section.kind)
    return maker(section) if maker else []


def _data(section: Section) -> Iterator[Block]:
    manifest = section.manifest
    spec, splits = manifest.get("spec", {}), manifest.get("splits", {})
    dataset = manifest.get("dataset", {})
    yield from (Note(f"Warning: {text}") for text in manifest.get("warnings", ()))
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
        | _losses(manifest.get("losses", {}))
        | {"digest": str(manifest.get("digest", words.MISSING))}
    )
    shape = tuple(spec.get("shape", ()))
    if manifest.get("lexicon"):
        yield from sentences.of_data(section)
    elif section.data is not None and len(section.data.ids) and sheets.image_shape(shape):
        x = sheets.frozen(PartSpec.from_dict(dataset).build(), _first(section.data, EXAMPLES))
        yield Plot("examples", "Examples", "As a model sees them.", sheets.example_sheet(x, shape))


def _losses(losses: Mapping[str, Any]) -> dict[str, str]:
    """What the numbers of sentences do not say, by split."""
    return {
        f"{what.replace('_', ' ')} of {split}": f"{share[what]:.1%}"
        for split, share in losses.items()
        for what in ("unknown_words", "cut_sentences")
    }


def _train(section: Section) -> Iterator[Block]:
    manifest, metrics = section.manifest, section.manifest.get("metrics", {})
    yield from (Note(f"Warning: {text}") for text in manifest.get("warnings", ()))
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
    yield from fitted.chapter(section)
    yield from fitted.moves(section.path)


def _model(section: Section) -> Iterator[Block]:
    """A bundle, told from its card."""
    card = section.manifest
    names = ("epoch", "data_digest", "fingerprint")
    yield Facts(
        {"latent shape": " × ".join(map(str, card["model"]["latent_shape"]))}
        | {"examples it reads": " × ".join(map(str, card["data"]["shape"]))}
        | {"log evidence (validation)": _evidence(card.get("metrics") or {})}
        | words.named(card, names)
    )
    yield from fitted.chapter(section)


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
        about = METRICS[metric.partition("/")[2]].about if metric in SWEEPABLE else metric
        compared = any(row.difference is not None for row in rows)
        text = f"{metric}: {about}, on the validation split. {COMPARED if compared else BARS}"
        yield from _finals(section)
        yield Plot("leaderboard", "Leaderboard", text, board)
    lines = curves.overlay(_histories(section.path, rows, metric, mode), best)
    if lines is not None:
        yield Plot("curves", "Trials over epochs", "Lines end where a trial was stopped.", lines)
    flat = tradeoff.plane(curves.ranked(rows, metric, mode), best)
    if flat is not None:
        yield Plot("tradeoff", "Rate and distortion", TRADEOFF, flat)
    yield from fitted.chapter(section)
    yield from fitted.moves(section.path / "trials" / f"{best or 0:05d}")
    yield _trials_table(curves.ranked(rows, metric, mode), metric)


def _finals(section: Section) -> Iterator[Block]:
    """What a second look at the finalists found, and which trials are as good as the winner."""
    best = section.manifest.get("best", {})
    final, ties = best.get("final"), best.get("ties")
    if final is not None:
        yield Note(
            f"Trials that may be the best were scored again with {final['k']} samples per row, and "
            f"the winner is the best of these: {final['metric']} "
            f"{words.measured(*_number(final))} {unit_of(str(best.get('metric')))}."
        )
    if ties:
        who = ", ".join(map(str, ties))
        yield Note(f"A tie: {who} may be as good as trial {best.get('trial')}, by two standard "
                   "errors of the paired difference.")  # fmt: skip


def _number(found: Mapping[str, Any]) -> tuple[Any, Any]:
    """Value and error: of the mean over seeds, where there are several."""
    return found.get("mean", found["value"]), found.get("mean_se", found.get("se"))


def _encode(section: Section) -> Iterator[Block]:
    yield Facts(words.named(section.manifest, ("rows", "model_digest", "input_digest")))
    means, labels = latents(section.path, POINTS)
    yield from fitted.posterior(means, labels)


def _register(section: Section) -> Iterator[Block]:
    yield Facts(words.named(section.manifest, ("name", "version", "alias", "uri")))


def _trials_table(rows: Sequence[curves.Trial], metric: str) -> Table:
    paths = list(dict.fromkeys(path for row in rows for path in row.settings))
    extra = [m for m in ("val/elbo", "val/rate", "val/active_units")
             if m != metric and any(math.isfinite(r.metric(m)) for r in rows)]  # fmt: skip
    failed = any(row.error for row in rows)
    final = f"final/{metric.partition('/')[2]}"
    compared = any(row.difference is not None for row in rows)
    again = any(math.isfinite(row.metric(final)) for row in rows)
    more = [*([final] if again else []), *(["to the best"] if compared else [])]
    head = ["trial", "status", metric, *more, *extra, "epochs", "time", *map(_short, paths)]
    body = [_trial_cells(row, (metric, *more), extra, paths, failed) for row in rows]
    return Table("All trials", [*head, "error"] if failed else head, body)


def _trial_cells(
    row: curves.Trial,
    compared: Sequence[str],
    extra: Sequence[str],
    paths: Sequence[str],
    failed: bool,
) -> list[str]:
    cells = [str(row.number), row.status]
    for name in compared:
        shown = words.measured(_known(row, name), _known(row, f"{name}_se"))
        cells.append(curves.apart(row) if name == "to the best" else shown)
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


def _first(data: Sample, count: int) -> Sample:
    labels = data.labels[:count] if data.labels is not None else None
    return Sample(data.x[:count], data.ids[:count], labels)


def _headline_sweep(section: Section) -> list[tuple[str, str]]:
    best = section.manifest.get("best", {})
    if "value" not in best:
        return []
    what = f"{best.get('metric')}, best of sweep {section.name} (trial {best.get('trial')})"
    value, se = _number(best.get("final") or best)
    if "final" in best:
        what += f", {best['final']['k']} samples"
    if "mean" in best:
        what += f", mean of {best.get('repeats')} seeds"
    return [(f"{words.measured(value, se)} {unit_of(str(best.get('metric')))}", what)]


def _headline_train(section: Section) -> list[tuple[str, str]]:
    metrics = section.manifest.get("metrics") or {}
    what = f"log evidence, validation, {section.name}"
    return [(_evidence(metrics), what)] if curves.EVIDENCE in metrics else []


CHAPTERS: Mapping[str, Callable[[Section], Iterator[Block]]] = {
    "data": _data,
    "train": _train,
    "sweep": _sweep,
    "evaluate": appraisal.chapter,
    "encode": _encode,
    "register": _register,
    "model": _model,
}
HEADLINES: Mapping[str, Callable[[Section], list[tuple[str, str]]]] = {
    "sweep": _headline_sweep,
    "train": _headline_train,
    "model": _headline_train,
    "evaluate": appraisal.headline,
}
