"""The evaluate stage: tables of evidence, the same for any number of workers."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaepipe.compute.base import Compute
from vaepipe.data import shards
from vaepipe.errors import PartialFailure
from vaepipe.evaluation.validation import ACTIVE
from vaepipe.journal import Journal
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.inputs import Input, check_input, of_artifact
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.settings import EvaluateStage
from vaepipe.pipeline.stages.train import data_ref
from vaepipe.pipeline.watch import JOURNAL
from vaepipe.tracking.base import Record
from vaepipe.training import bundle

TARGET = "vaepipe.compute.evaluate:Evaluator"
BATCH_SIZE = 64
METRICS = {
    "log_evidence": ("nats", "max", "importance sampling, proposal q(z|x)"),
    "elbo": ("nats", "max", "log_lik - rate"),
    "log_lik": ("nats", "max", "mean over posterior samples"),
    "rate": ("nats", "min", "closed form, else mean over posterior samples"),
    "ess": ("samples", "max", "(sum w)^2 / sum w^2"),
}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is to be evaluated, on what, how."""

    model: Path
    model_name: str
    data: Input
    k: int
    seed: int
    batch_size: int
    output: Path
    workers: int | None = None


def run(
    step: Step[EvaluateStage], env: Environment, folder: Path, record: Record
) -> dict[str, Any]:
    """Score the splits; the manifest's content."""
    settings = step.settings
    job = Evaluation(
        model=env.model(settings.model),
        model_name=settings.model,
        data=of_artifact(data_ref(env, settings.data), settings.splits),
        k=settings.evidence.k,
        seed=step.seed,
        batch_size=settings.batch_size or BATCH_SIZE,
        output=folder,
        workers=settings.workers,
    )
    record.params(settings.model_dump(mode="json"))
    with env.watch(step, folder, record):
        manifest = evaluate(job, env.compute)
    _log(env.manifests[settings.model]["model_uri"], manifest, folder, record, job)
    return manifest


def evaluate(job: Evaluation, compute: Compute) -> dict[str, Any]:
    """Score what is missing and write the three tables; the manifest's content."""
    loaded = bundle.load(job.model)
    check_input(loaded, job.data)
    units = _units(job)
    _map(job, compute, units)
    parts = [pq.read_table(job.output / "parts" / u["part"]) for u in units]
    view = dict(job.data.dataset.build().describe())
    _write_tables(job, parts, view)
    shutil.rmtree(job.output / "parts")
    return {
        "model": str(job.model),
        "model_digest": loaded.digest,
        "data_digest": job.data.digest,
        "view": view,
        "splits": list(job.data.sources),
        "k": job.k,
        "seed": job.seed,
        "metrics": _flat(pq.read_table(job.output / "summary.parquet")),
    }


def _units(job: Evaluation) -> list[dict[str, Any]]:
    return [
        {**unit, "split": split, "part": f"{split}-{number:06d}.parquet"}
        for split, source in job.data.sources.items()
        for number, unit in enumerate(source.units())
    ]


def _map(job: Evaluation, compute: Compute, units: Sequence[Mapping[str, Any]]) -> None:
    """Run the units whose part is missing; parts are whole files, so what is there is done."""
    parts = job.output / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    todo = [u for u in units if not (parts / u["part"]).exists()]
    common = {
        "model": str(job.model),
        "dataset": job.data.dataset.to_dict(),
        "sources": {name: source.to_dict() for name, source in job.data.sources.items()},
        "k": job.k,
        "seed": job.seed,
        "batch_size": job.batch_size,
        "device": "auto",
        "parts": str(parts),
    }
    follow(job.output, compute.map(TARGET, todo, common, job.workers), todo, units)


def follow(
    folder: Path,
    results: Iterable[Mapping[str, Any]],
    todo: Sequence[Mapping[str, Any]],
    units: Sequence[Mapping[str, Any]],
) -> None:
    """Journal the progress of units as their results arrive.

    Raises:
        PartialFailure: some units failed; those that are done stay done.
    """
    journal = Journal(folder / JOURNAL)
    total = sum(u["rows"] for u in units)
    done = total - sum(u["rows"] for u in todo)
    journal.write("start", total=total, done=done)
    errors = []
    for result in results:
        if "error" in result:
            errors.append(result["error"])
            continue
        done += result["rows"]
        journal.write("progress", done=done, total=total)
    if errors:
        journal.write("failed", error=errors[0])
        raise PartialFailure(f"{len(errors)} of {len(units)} shards failed; first: {errors[0]}")
    journal.write("done", total=total)


def _write_tables(job: Evaluation, parts: Sequence[pa.Table], view: Mapping[str, str]) -> None:
    plain = [part.replace_schema_metadata(None) for part in parts]
    table = pa.concat_tables(plain, promote_options="default")
    metadata = {"k": job.k, "seed": job.seed, "data_digest": job.data.digest, **view}
    kept = {f"vaepipe.{key}": str(value) for key, value in metadata.items()}
    shards.write_table(job.output / "per_example.parquet", table.replace_schema_metadata(kept))
    sums = [json.loads(part.schema.metadata[b"vaepipe.sums"]) for part in parts]
    dimensions = _per_dimension(sums)
    shards.write_table(job.output / "per_dimension.parquet", dimensions)
    shards.write_table(job.output / "summary.parquet", _summary(job, table, dimensions, view))


def _per_dimension(sums: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rate and activity of each latent dimension over all rows."""
    n = sum(s["n"] for s in sums)
    mean = np.sum([s["mean"] for s in sums], axis=0) / n
    square = np.sum([s["square"] for s in sums], axis=0) / n
    variance = (square - mean**2).clip(min=0) * (n / max(1, n - 1))
    known = all("rate" in s for s in sums)
    rates = np.sum([s["rate"] for s in sums], axis=0) / n if known else [None] * len(mean)
    return pa.table(
        {
            "dim": pa.array(range(len(mean)), pa.int32()),
            "rate": pa.array(rates, pa.float64()),
            "variance_of_means": variance,
            "active": variance > ACTIVE,
        }
    )


def _summary(
    job: Evaluation, table: pa.Table, dimensions: pa.Table, view: Mapping[str, str]
) -> pa.Table:
    """One row for each split and metric, in nats per example."""
    rows = []
    for split in job.data.sources:
        mask = np.asarray(table.column("split").to_pylist()) == split
        for metric, (unit, mode, estimator) in METRICS.items():
            values = table.column(metric).to_numpy()[mask]
            se = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else None
            rows.append((split, metric, values.mean(), se, len(values), unit, mode, estimator))
    active = float(np.sum(dimensions.column("active").to_numpy(zero_copy_only=False)))
    rows.append(
        (
            ",".join(job.data.sources),
            "active_units",
            active,
            None,
            table.num_rows,
            "dimensions",
            "max",
            f"Var_x E_q[z] > {ACTIVE}",
        )
    )
    names = ("split", "metric", "value", "se", "n", "unit", "direction", "estimator")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    key = {"k": job.k, "data_digest": job.data.digest, **view}
    constant = {name: [value] * len(rows) for name, value in key.items()}
    return pa.table({"model": [job.model_name] * len(rows), **columns, **constant})


def _flat(summary: pa.Table) -> dict[str, float]:
    return {f"{r['split']}/{r['metric']}": r["value"] for r in summary.to_pylist()}


def _log(
    uri: str, manifest: Mapping[str, Any], folder: Path, record: Record, job: Evaluation
) -> None:
    """The tables and the numbers, at the run and at the model they belong to."""
    record.tags({"vaepipe.model_digest": manifest["model_digest"], **manifest["view"]})
    job.data.log(record, "testing")
    for name in ("per_example", "per_dimension", "summary"):
        record.file(folder / f"{name}.parquet", "eval")
    record.score(uri, manifest["metrics"])
