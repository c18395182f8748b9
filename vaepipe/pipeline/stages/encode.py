"""The encode stage: posteriors of every row as Parquet, each row exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaepipe import __version__, files
from vaepipe.compute.base import Compute
from vaepipe.data import shards
from vaepipe.errors import UserError, did_you_mean
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.inputs import Input, check_input, of_artifact
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.settings import EncodeStage
from vaepipe.pipeline.stages.evaluate import follow
from vaepipe.pipeline.stages.train import data_ref
from vaepipe.tracking.base import Record
from vaepipe.training import bundle

TARGET = "vaepipe.compute.encode:Encoder"
BATCH_SIZE = 1024
PLAN = "_plan.json"
MANIFEST = "_manifest.json"


@dataclass(frozen=True, slots=True)
class Encoding:
    """What is to be encoded, with which model, into which columns."""

    model: Path
    model_uri: str
    data: Input
    keep: Sequence[str] | None
    extras: Sequence[str]
    samples: int
    seed: int
    batch_size: int
    rows_per_file: int
    output: Path
    workers: int | None = None


def run(step: Step[EncodeStage], env: Environment, folder: Path, record: Record) -> dict[str, Any]:
    """Encode the splits; the manifest's content."""
    settings = step.settings
    source = of_artifact(data_ref(env, settings.data), settings.splits)
    extras, samples = columns(settings.with_)
    job = Encoding(
        model=env.model(settings.model),
        model_uri=env.manifests[settings.model]["model_uri"],
        data=source,
        keep=settings.keep,
        extras=extras,
        samples=samples,
        seed=step.seed,
        batch_size=settings.batch_size or BATCH_SIZE,
        rows_per_file=settings.rows_per_file or shards.ROWS_PER_FILE,
        output=folder,
        workers=settings.workers,
    )
    record.params(settings.model_dump(mode="json"))
    with env.watch(step, folder, record):
        manifest = encode(job, env.compute)
    record.tags({"vaepipe.model_digest": manifest["model_digest"]})
    source.log(record, "inference")
    record.file(folder / MANIFEST)
    return {key: manifest[key] for key in ("model_uri", "model_digest", "input_digest", "rows")}


def columns(wanted: Sequence[str]) -> tuple[list[str], int]:
    """`elbo`, `log_lik`, `sample:N` to extra columns and a number of samples.

    Raises:
        UserError: another word.
    """
    extras, samples = [], 0
    for word in wanted:
        name, _, number = word.partition(":")
        if name == "sample" and (number or "1").isdigit():
            samples = int(number or 1)
        elif word in ("elbo", "log_lik"):
            extras.append(word)
        elif word != "rate":
            hint = did_you_mean(name, ("elbo", "log_lik", "rate", "sample"))
            raise UserError(f"with '{word}': expected elbo, log_lik, rate or sample:N.{hint}")
    return extras, samples


def encode(job: Encoding, compute: Compute) -> dict[str, Any]:
    """Write the parts that are missing, then `_manifest.json`."""
    loaded = bundle.load(job.model)
    check_input(loaded, job.data)
    common = _common(job, loaded)
    units = _plan(job, common)
    (job.output / "_records").mkdir(parents=True, exist_ok=True)
    files.sweep_temporaries(job.output)
    todo = [unit for unit in units if not _written(job.output, unit)]
    follow(job.output, compute.map(TARGET, todo, common, job.workers), todo, units)
    return _finish(job, common, units)


def _common(job: Encoding, loaded: bundle.Bundle) -> dict[str, Any]:
    """What every worker needs; its metadata go into every file."""
    keep = list(_kept(job))
    config = {
        "keep": keep,
        "extras": list(job.extras),
        "samples": job.samples,
        "seed": job.seed,
        "batch_size": job.batch_size,
        "splits": list(job.data.sources),
        "rows_per_file": job.rows_per_file,
    }
    metadata = {
        "vaepipe.version": __version__,
        "vaepipe.model_uri": job.model_uri,
        "vaepipe.model_digest": loaded.digest,
        "vaepipe.config_hash": files.digest(config),
        "vaepipe.input_digest": job.data.digest,
        "vaepipe.latent_shape": list(loaded.card["model"]["latent_shape"]),
    }
    return {
        **config,
        "model": str(job.model),
        "dataset": job.data.dataset.to_dict(),
        "sources": {name: source.to_dict() for name, source in job.data.sources.items()},
        "device": "auto",
        "output": str(job.output),
        "metadata": metadata,
    }


def _kept(job: Encoding) -> Sequence[str]:
    """Columns that pass through: those asked for, by default all but id and x."""
    source = next(iter(job.data.sources.values()))
    names = [n for n in source.columns() if n not in (source.column, source.id_column)]
    if job.keep is None:
        return names
    for name in job.keep:
        if name not in names:
            raise UserError(
                f"keep '{name}': the data have no such column.{did_you_mean(name, names)} "
                f"Columns: {', '.join(names)}."
            )
    return job.keep


def _plan(job: Encoding, common: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The units of work, computed once; parts of another plan are never mixed with these."""
    path = job.output / PLAN
    key = files.digest(common["metadata"])
    if path.exists():
        stored = files.read_json(path)
        if stored["key"] == key:
            return stored["units"]
        raise UserError(
            f"{job.output} holds latents of another model, input or settings; choose another "
            "folder or remove it."
        )
    units = _units(job)
    job.output.mkdir(parents=True, exist_ok=True)
    files.write_json(path, {"key": key, "metadata": common["metadata"], "units": units})
    return units


def _units(job: Encoding) -> list[dict[str, Any]]:
    """Ranges of row groups of one file, each of about `rows_per_file` rows."""
    units: list[dict[str, Any]] = []
    for split, source in job.data.sources.items():
        for group in source.units():
            last = units[-1] if units else None
            if last and _continues(last, group, split, job.rows_per_file):
                last["groups"].append(group)
                last["rows"] += group["rows"]
            else:
                units.append({"split": split, "groups": [group], "rows": group["rows"]})
    for number, unit in enumerate(units):
        unit["part"] = f"part-{number:05d}-of-{len(units):05d}.parquet"
    return units


def _continues(
    last: Mapping[str, Any], group: Mapping[str, Any], split: str, rows_per_file: int
) -> bool:
    same = last["split"] == split and last["groups"][0]["path"] == group["path"]
    return same and last["rows"] + group["rows"] <= rows_per_file


def _written(output: Path, unit: Mapping[str, Any]) -> bool:
    """Whether a part is there as its record says; nothing else counts as done."""
    path, record = output / unit["part"], output / "_records" / f"{unit['part']}.json"
    if not path.exists() or not record.exists():
        return False
    known = files.read_json(record)
    return known["rows"] == unit["rows"] and known["sha256"] == files.sha256(path)


def _finish(
    job: Encoding, common: Mapping[str, Any], units: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    records = [files.read_json(job.output / "_records" / f"{u['part']}.json") for u in units]
    manifest = {
        **{key.removeprefix("vaepipe."): value for key, value in common["metadata"].items()},
        "requirements": bundle.load(job.model).requirements,
        "input": job.data.name,
        "rows": sum(record["rows"] for record in records),
        "parts": records,
    }
    files.write_json(job.output / MANIFEST, manifest)
    return manifest
