"""The report stage: one page about what other stages found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vaepipe.data import shards, sources
from vaepipe.data.sources import Source
from vaepipe.errors import DataError
from vaepipe.pipeline import inputs, report
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.inputs import Input
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.report import scores
from vaepipe.pipeline.rows import pick, sample
from vaepipe.pipeline.settings import EvaluateStage, ReportStage
from vaepipe.pipeline.stages.train import data_ref
from vaepipe.tracking.base import Record
from vaepipe.training import bundle
from vaepipe.training.bundle import Bundle

EXAMPLES = 2000
"""Examples behind a scatter or a sheet of reconstructions."""


def run(step: Step[ReportStage], env: Environment, folder: Path, record: Record) -> dict[str, Any]:
    """Draw the page; the manifest's content."""
    sections = [section(env, name) for name in step.settings.of]
    page = report.build(folder, sections, title=env.pipeline.name)
    record.file(page, "report")
    figures = sorted(path for path in folder.iterdir() if path.suffix in (".png", ".svg"))
    for picture in figures:
        record.file(picture, "report")
    return {"page": page.name, "figures": [path.name for path in figures]}


def section(env: Environment, name: str) -> report.Section:
    """A stage as the report sees it: its artifact, and its model with some examples."""
    stage, manifest = env.pipeline.stages[name], env.manifests[name]
    model = bundle.load(env.model(name)) if stage.kind in ("train", "sweep") else None
    source = name if stage.kind == "data" else _data_stage(env, name) if model else None
    data = sample_of(env.folder(source)) if source else None
    return report.Section(
        kind=stage.kind,
        name=name,
        path=env.folder(name),
        manifest=manifest,
        model=model,
        data=data,
        worst=_worst(env, name),
    )


def _worst(env: Environment, name: str) -> report.Worst | None:
    settings = env.pipeline.stages[name]
    if not isinstance(settings, EvaluateStage):
        return None
    model = bundle.load(env.model(settings.model))
    data = inputs.of_artifact(data_ref(env, settings.data), settings.splits, model)
    return worst_of(env.folder(name), model, data)


def worst_of(folder: Path, model: Bundle, data: Input) -> report.Worst | None:
    """The examples of an evaluation that its model explains least; None if it has none.

    Raises:
        DataError: the data are not those that were evaluated.
    """
    path = folder / "per_example.parquet"
    if not path.is_file():
        return None
    columns = pq.read_table(path, columns=["id", "split", "log_evidence"]).to_pydict()
    split, rows = scores.lowest(columns)
    if not rows:
        return None
    source = data.sources.get(split)
    if source is None:
        raise DataError(f"{data.name} has no split '{split}', which was evaluated.")
    ids, x = pick(source, [columns["id"][i] for i in rows])
    evidence = [columns["log_evidence"][i] for i in rows]
    return report.Worst(split, report.Sample(x, ids, dataset=data.dataset), evidence, model)


def _data_stage(env: Environment, name: str) -> str:
    return env.pipeline.train_settings(name).data


def sample_of(folder: Path) -> report.Sample:
    """Examples of a data artifact, of a split the model was not fitted to, where there is one."""
    splits = shards.read_manifest(folder)["splits"]
    return sample_from({split: sources.of_split(str(folder), split) for split in splits})


def sample_from(found: Mapping[str, Source]) -> report.Sample:
    """Examples of a split the model was not fitted to, where there is one, in a random order."""
    source = found[next(name for name in ("test", "val", *found) if name in found)]
    names = [name for name in ("label",) if name in source.columns()]
    ids, x, kept = sample(source, EXAMPLES, names)
    return report.Sample(x, ids, kept.column("label").to_pylist() if names else None)
