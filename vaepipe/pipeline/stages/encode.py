"""The encode stage: posteriors of every row as Parquet, each row exactly once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from vaepipe import __version__, files
from vaepipe.compute.base import Compute
from vaepipe.compute.encode import BAD, HELD, RECORDS
from vaepipe.core import Cap, provided
from vaepipe.data import shards
from vaepipe.data.ids import repetitions
from vaepipe.data.sources import Piece, Source
from vaepipe.errors import (
    CompatibilityError,
    DataError,
    StorageError,
    UserError,
    VaepipeError,
    did_you_mean,
)
from vaepipe.journal import Journal
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.inputs import Input, check_input, of_artifact
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.settings import EncodeStage
from vaepipe.pipeline.stages import parts, units
from vaepipe.pipeline.stages.follow import follow
from vaepipe.pipeline.stages.parts import MANIFEST, PLAN, Again
from vaepipe.pipeline.stages.train import data_ref
from vaepipe.pipeline.watch import JOURNAL
from vaepipe.tracking.base import Record
from vaepipe.training import bundle

TARGET = "vaepipe.compute.encode:Encoder"
VALUES = 2**20
"""Values of x in a batch whose size is left to us."""
BATCH_BYTES = 2**24
"""Bytes of a batch as read, columns that pass through included: several batches are held."""
COMPARED = 10**7
"""The most rows whose ids are compared when an encoding ends: they are held in memory."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What is kept of q(z | x).

    Args:
        extras: `elbo`, `log_lik`.
        samples: draws of z a row.
        sir: candidates of a draw by sampling-importance-resampling; 0: no such draw.
        refine: steps that move a row's posterior to its own optimum; 0: amortized.
    """

    extras: Sequence[str] = ()
    samples: int = 0
    sir: int = 0
    refine: int = 0


@dataclass(frozen=True, slots=True)
class Encoding:
    """What is to be encoded, with which model, into which columns."""

    model: Path
    model_uri: str
    data: Input
    keep: Sequence[str] | None
    columns: Columns
    seed: int
    batch_size: int | None
    rows_per_file: int
    output: Path
    workers: int | None = None
    precision: str = "float32"
    on_bad_row: Literal["fail", "quarantine"] = "fail"
    max_bad_rows: int | None = None
    again: Again = "resume"
    journal: Path | None = None
    """Folder of the journal; None: the output."""


def run(step: Step[EncodeStage], env: Environment, folder: Path, record: Record) -> dict[str, Any]:
    """Encode the splits; the manifest's content."""
    settings = step.settings
    model = bundle.load(env.model(settings.model))
    source = of_artifact(data_ref(env, settings.data), settings.splits, model)
    job = Encoding(
        model=model.path,
        model_uri=env.manifests[settings.model]["model_uri"],
        data=source,
        keep=settings.keep,
        columns=columns(settings.with_, settings.refine or 0),
        seed=step.seed,
        batch_size=settings.batch_size,
        rows_per_file=settings.rows_per_file or shards.ROWS_PER_FILE,
        output=folder,
        workers=settings.workers,
        precision=settings.precision,
        on_bad_row=settings.on_bad_row,
        max_bad_rows=settings.max_bad_rows,
    )
    record.params(settings.model_dump(mode="json"))
    with env.watch(step, folder, record):
        manifest = encode(job, env.compute)
    record.tags({"vaepipe.model_digest": manifest["model_digest"]})
    source.log(record, "inference")
    record.file(folder / MANIFEST)
    kept = ("model_uri", "model_digest", "input_digest", "rows", "bad_rows")
    return {key: manifest[key] for key in kept}


def columns(wanted: Sequence[str], refine: int = 0) -> Columns:
    """`elbo`, `log_lik`, `rate`, `sample:N`, `sir:K` as columns.

    Raises:
        UserError: another word.
    """
    extras, numbers = [], {"sample": 0, "sir": 0}
    for word in (each.strip() for each in wanted):
        name, _, number = word.partition(":")
        if name in numbers and (number or "1").isdigit() and int(number or 1):
            numbers[name] = int(number or 1)
        elif word in ("elbo", "log_lik"):
            extras.append(word)
        elif word != "rate":
            hint = did_you_mean(name, ("elbo", "log_lik", "rate", "sample", "sir"))
            known = "elbo, log_lik, rate, sample:N or sir:K"
            raise UserError(f"with '{word}': expected {known}.{hint}")
    return Columns(extras, numbers["sample"], numbers["sir"], refine)


def encode(job: Encoding, compute: Compute) -> dict[str, Any]:
    """Write the parts that are missing, then `_manifest.json`.

    Raises:
        UserError: another encoder is at work on the folder, or it holds other latents.
        DataError: the input cannot be read, changed, or has more bad rows than allowed.
        PartialFailure: input files that cannot be read were left out (`on_bad_row: quarantine`).
        StorageError: the output cannot be written.
    """
    try:
        return _encode(job, compute)
    except VaepipeError:
        raise
    except OSError as error:
        raise StorageError(f"{job.output} cannot be written: {error}") from error


def _encode(job: Encoding, compute: Compute) -> dict[str, Any]:
    job.output.mkdir(parents=True, exist_ok=True)
    with parts.alone(job.output):
        if job.again == "fail":
            parts.check_new(job.output)
        loaded = bundle.load(job.model)
        check_input(loaded, job.data)
        check_refine(loaded, job.columns.refine)
        _check_apart(job)
        common, pieces = _common(job, loaded), job.data.pieces()
        _check_rows(job, pieces)
        if job.again == "overwrite":  # after everything that may be refused
            parts.clear(job.output)
        planned, plan = units.plan(job.output / PLAN, pieces, job.rows_per_file, common)
        common["plan"] = plan
        (job.output / RECORDS).mkdir(exist_ok=True)
        _warn(job, job.data.warnings)
        parts.sweep(job.output)
        _write(job, compute, common, planned)
        return _finish(job, common, planned)


def _warn(job: Encoding, said: Sequence[str]) -> None:
    """Tell whoever follows the stage what the numbers of its rows do not say."""
    journal = Journal((job.journal or job.output) / JOURNAL)
    for text in said:
        journal.write("warning", text=text)


def _repetitions(output: Path, records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Warn of repeated ids; of more rows than `COMPARED` only `latents verify` does."""
    if 0 < sum(record["rows"] for record in records) <= COMPARED:
        ids = (pq.read_table(output / r["name"], columns=["id", "split"]) for r in records)
        yield from repetitions(pa.concat_tables(ids))


def _write(
    job: Encoding,
    compute: Compute,
    common: Mapping[str, Any],
    planned: Sequence[Mapping[str, Any]],
) -> None:
    """The parts that are missing; nothing temporary stays, however it ends."""
    todo = parts.missing(job.output, planned, common["plan"])
    try:
        with closing(compute.map(TARGET, todo, common, job.workers)) as results:
            follow(job.journal or job.output, _counted(job, planned, todo, results), todo, planned)
    finally:
        parts.sweep(job.output)


def check_refine(loaded: bundle.Bundle, steps: int) -> None:
    """Gradients can move the posteriors, if they are to be refined.

    Raises:
        CompatibilityError: draws of q(z | x) carry none.
    """
    head = loaded.model.inference.head
    if steps and Cap.RSAMPLE not in provided(head):
        raise CompatibilityError(
            f"refine: family {type(head).__name__} of {loaded.path} does not provide draws that "
            "carry gradients (RSAMPLE), which refined posteriors need. Leave `refine` out."
        )


def _check_apart(job: Encoding) -> None:
    """The latents will not lie among the files of the input.

    Raises:
        UserError: they would, and be read as input the next time.
    """
    place = Path(re.split(r"[*?\[]", job.data.name)[0])
    if place.is_dir() and job.output.resolve().is_relative_to(place.resolve()):
        raise UserError(f"output {job.output} is inside the input {place}; choose another output.")


def _common(job: Encoding, loaded: bundle.Bundle) -> dict[str, Any]:
    """What every worker needs; its metadata go into every file."""
    config = {
        "view": job.data.dataset.to_dict(),
        "columns": {n: _seen(source) for n, source in job.data.sources.items()},
        "packages": _packages(loaded),
        "keep": list(_kept(job)),
        "extras": list(job.columns.extras),
        "samples": job.columns.samples,
        "sir": job.columns.sir,
        "refine": job.columns.refine,
        "precision": job.precision,
        "seed": job.seed,
        "batch_size": job.batch_size or _batch_size(job, loaded.data.shape),
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
        "config": config,
        "model": str(job.model),
        "dataset": config["view"],
        "sources": {n: _first_file(source).to_dict() for n, source in job.data.sources.items()},
        "on_bad_row": job.on_bad_row,
        "device": "auto",
        "output": str(job.output),
        "metadata": metadata,
    }


def _seen(source: Source) -> dict[str, Any]:
    """What is read of the files of a source."""
    told = {n: v for n, v in source.to_dict().items() if n not in ("files", "arrow", "words")}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in told.items()}


def _packages(loaded: bundle.Bundle) -> list[str]:
    """What decides the values, in the versions that are installed here."""
    names = {each.partition("==")[0] for each in loaded.requirements} | {"pyarrow", "torch"}
    return [f"{name}=={version(name)}" for name in sorted(names)]


def _first_file(source: Source) -> Source:
    """A source for workers: units name their file."""
    return replace(source, files=source.files[:1], looked=None)


def _check_rows(job: Encoding, pieces: Mapping[str, Sequence[Piece]]) -> None:
    """Raise `DataError` unless there is a row."""
    if not any(rows for found in pieces.values() for piece in found for rows in piece.about.groups):
        raise DataError(f"{job.data.name}: no rows, so there is nothing to encode.")


def _batch_size(job: Encoding, shape: Sequence[int]) -> int:
    kept = _kept(job)
    return batch_size(shape, max(source.row_bytes(kept) for source in job.data.sources.values()))


def batch_size(shape: Sequence[int], row_bytes: float = 0) -> int:
    """Rows of a batch, from the shape of an example and the bytes of what is read with it.

    Results depend on nothing else, so that any machine gives the same.

    Example:
        >>> batch_size((1, 28, 28)), batch_size((2,)), batch_size((3, 512, 512))
        (1024, 8192, 16)
        >>> batch_size((2,), 2**18)
        64
    """
    rows = VALUES // max(1, math.prod(shape))
    rows = min(8192, max(16, 2 ** max(0, rows.bit_length() - 1)))
    fitting = max(1, int(BATCH_BYTES / max(1.0, row_bytes)))
    return min(rows, 2 ** (fitting.bit_length() - 1))


def _kept(job: Encoding) -> Sequence[str]:
    """Columns that pass through: those asked for, by default all but id and x.

    Raises:
        UserError: there is no such column, or ours has its name.
    """
    names = next(iter(job.data.sources.values())).columns()
    wanted = names if job.keep is None else job.keep
    for name in wanted:
        if name not in names:
            raise UserError(
                f"keep '{name}': the data have no such column.{did_you_mean(name, names)} "
                f"Columns: {', '.join(names)}."
            )
        if name in HELD or re.fullmatch(r"sample_\d+", name):
            raise UserError(
                f"the data's column '{name}' has the name of a column of the latents. Choose those "
                "that pass through with `keep`, or rename it."
            )
    for source in job.data.sources.values():
        source.check_kept(wanted)
    return wanted


def _counted(
    job: Encoding,
    planned: Sequence[Mapping[str, Any]],
    todo: Sequence[Mapping[str, Any]],
    results: Iterator[dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """The results, until there are more bad rows than allowed."""
    waiting = {unit["part"] for unit in todo}
    there = [unit for unit in planned if unit["part"] not in waiting]
    bad = sum(parts.known(job.output, unit)["bad"] for unit in there)
    _check_bad(job, bad)
    for result in results:
        bad += result["bad"]
        _check_bad(job, bad)
        yield result
    _check_bad(job, bad)


def _check_bad(job: Encoding, bad: int) -> None:
    if bad and job.on_bad_row == "fail":
        raise DataError(
            f"{bad} bad rows were set aside by an earlier run; they are listed in "
            f"{job.output / BAD}. Go on with --on-bad-row quarantine, or mend them and --overwrite."
        )
    if job.max_bad_rows is not None and bad > job.max_bad_rows:
        raise DataError(
            f"{bad} bad rows, and --max-bad-rows is {job.max_bad_rows}. They are listed in "
            f"{job.output / BAD}; mend the input, or allow more."
        )


def _finish(
    job: Encoding, common: Mapping[str, Any], planned: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    records = [parts.known(job.output, unit) for unit in planned]
    repeated = list(_repetitions(job.output, records))
    _warn(job, repeated)
    said = [*job.data.warnings, *repeated]
    manifest = {
        **{key.removeprefix("vaepipe."): value for key, value in common["metadata"].items()},
        "config": common["config"],
        "model": str(job.model),
        "requirements": common["config"]["packages"],
        "plan": common["plan"],
        "input": job.data.name,
        **({"warnings": said} if said else {}),
        "rows": sum(record["rows"] for record in records),
        "bad_rows": sum(record["bad"] for record in records),
        "parts": [{n: v for n, v in record.items() if n != "plan"} for record in records],
    }
    files.write_json(job.output / MANIFEST, manifest)
    return manifest
