"""The report stage: one page about what other stages found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaepipe.data import shards
from vaepipe.pipeline import report
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.settings import ReportStage
from vaepipe.tracking.base import Record
from vaepipe.training import bundle

EXAMPLES = 2000
"""Examples behind a scatter or a sheet of reconstructions."""


def run(step: Step[ReportStage], env: Environment, folder: Path, record: Record) -> dict[str, Any]:
    """Draw the page; the manifest's content."""
    sections = [section(env, name) for name in step.settings.of]
    page = report.build(folder, sections, title=env.pipeline.name)
    record.file(page, "report")
    for picture in sorted(folder.glob("*.png")):
        record.file(picture, "report")
    return {"page": page.name, "figures": sorted(p.name for p in folder.glob("*.png"))}


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
    )


def _data_stage(env: Environment, name: str) -> str:
    return env.pipeline.train_settings(name).data


def sample_of(folder: Path) -> report.Sample:
    """Examples of a split the model was not fitted to, where there is one."""
    splits = shards.read_manifest(folder)["splits"]
    split = next(name for name in ("test", "val", *splits) if name in splits)
    source = shards.open_split(folder, split)
    table = source.head(EXAMPLES)
    ids, x = shards.arrays(table, source.shape)
    labels = table.column("label").to_pylist() if "label" in table.column_names else None
    return report.Sample(x, ids, labels)
