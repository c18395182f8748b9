"""The evaluate stage: tables of evidence, the same for any number of workers."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vaepipe import files
from vaepipe.compute.base import Compute
from vaepipe.compute.evaluate import VERSION
from vaepipe.errors import DataError
from vaepipe.journal import Journal
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.inputs import Input, check_input, of_artifact
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.settings import AnnealingSettings, EvaluateStage
from vaepipe.pipeline.stages import evaluate_examples, evaluate_key, evaluate_tables
from vaepipe.pipeline.stages.evaluate_tables import SIMULATED, Found
from vaepipe.pipeline.stages.follow import follow
from vaepipe.pipeline.stages.train import data_ref
from vaepipe.pipeline.watch import JOURNAL
from vaepipe.tracking.base import Record
from vaepipe.training import bundle
from vaepipe.training.bundle import Bundle

TARGET = "vaepipe.compute.evaluate:Evaluator"
BATCH_SIZE = 64
SIMULATED_AT_ONCE = 5
"""Examples of a unit of bidirectional Monte Carlo."""
ABOUT = "about.json"


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is to be evaluated, on what, how.

    Args:
        measures: settings of an evaluate stage as plain data: `evidence`, `decompose`, `gaps`,
            `ais`, `bdmc`.
    """

    model: Path
    model_name: str
    data: Input
    seed: int
    output: Path
    measures: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = BATCH_SIZE
    workers: int | None = None

    @property
    def ks(self) -> list[int]:
        """Numbers of importance samples, ascending."""
        k = self.measures["evidence"]["k"]
        return [k] if isinstance(k, int) else list(k)

    def common(self) -> dict[str, Any]:
        """What the results depend on, as plain data."""
        evidence, measures = self.measures["evidence"], self.measures
        return {
            "model": str(self.model),
            "dataset": self.data.dataset.to_dict(),
            "sources": {name: source.to_dict() for name, source in self.data.sources.items()},
            "ks": self.ks,
            "proposal": evidence["proposal"],
            "refine_steps": evidence["refine_steps"],
            "gaps": measures["gaps"],
            "ais": measures["ais"],
            "bdmc_path": measures["ais"] or AnnealingSettings().model_dump(mode="json"),
            "seed": self.seed,
        }


def measures(settings: EvaluateStage | Mapping[str, Any]) -> dict[str, Any]:
    """What a stage measures, as plain data; what is not said has the stage's defaults.

    Example:
        >>> measures({"gaps": {"examples": 7}})["gaps"]
        {'examples': 7, 'steps': 200}
    """
    if not isinstance(settings, EvaluateStage):
        needed = {"kind": "evaluate", "model": "model", "data": "data"}
        settings = EvaluateStage.model_validate({**needed, **settings})
    names = ("evidence", "decompose", "gaps", "ais", "bdmc")
    return {name: settings.model_dump(mode="json")[name] for name in names}


def run(
    step: Step[EvaluateStage], env: Environment, folder: Path, record: Record
) -> dict[str, Any]:
    """Score the splits; the manifest's content."""
    settings = step.settings
    model = bundle.load(env.model(settings.model))
    job = Evaluation(
        model=model.path,
        model_name=settings.model,
        data=of_artifact(data_ref(env, settings.data), settings.splits, model),
        seed=step.seed,
        output=folder,
        measures=measures(settings),
        batch_size=settings.batch_size or BATCH_SIZE,
        workers=settings.workers,
    )
    record.params(settings.model_dump(mode="json"))
    with env.watch(step, folder, record):
        manifest = evaluate(job, env.compute)
    _log(env.manifests[settings.model]["model_uri"], manifest, folder, record, job)
    return manifest


def evaluate(job: Evaluation, compute: Compute) -> dict[str, Any]:
    """Score what is missing and write the tables; the manifest's content.

    Raises:
        CompatibilityError: the model cannot read the data, or lacks what a measure needs.
        DataError: a split without rows, or rows that the model cannot be asked about.
        EvaluationError: the numbers contradict each other.
    """
    loaded = bundle.load(job.model)
    check_input(loaded, job.data)
    units = _units(job)
    parts = _parts(job, loaded)
    _map(job, compute, units, parts)
    found = _found(job, loaded, units, parts)
    evaluate_tables.write(job.output, found)
    shutil.rmtree(parts)
    said = evaluate_tables.diagnosis(found)
    alarms = [*job.data.warnings, *said.alarms]
    _warn(job.output, alarms)
    return {
        "model": str(job.model),
        "model_digest": loaded.digest,
        "data_digest": job.data.digest,
        "view": dict(found.view),
        "splits": list(job.data.sources),
        "k": job.ks[-1],
        "seed": job.seed,
        "measures": dict(job.measures),
        "metrics": evaluate_tables.flat(pq.read_table(job.output / "summary.parquet")),
        "diagnosis": [*alarms, *said.notes],
    }


def _warn(folder: Path, said: Sequence[str]) -> None:
    """Tell whoever follows the stage."""
    journal = Journal(folder / JOURNAL)
    for text in said:
        journal.write("warning", text=text)


def _units(job: Evaluation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for split, source in job.data.sources.items():
        source.check_kept(["label"])
        rows = [unit for unit in source.units() if unit["rows"]]
        if not rows:
            raise DataError(
                f"{job.data.name}: split '{split}' has no rows, so there is nothing to evaluate. "
                "Choose another split, or leave it out."
            )
        found += _split_units(split, rows, decompose=job.measures["decompose"])
    if job.measures["bdmc"] is not None:
        found += _simulated_units(job.measures["bdmc"]["examples"])
    return found


def _split_units(
    split: str, rows: Sequence[Mapping[str, Any]], *, decompose: bool
) -> list[dict[str, Any]]:
    start, total, found = rows[0]["start"], sum(unit["rows"] for unit in rows), []
    for number, unit in enumerate(rows):
        found.append(
            {**unit, "kind": "rows", "split": split, "total": total}
            | {"first": unit["start"] - start, "part": f"{split}-{number:06d}.parquet"}
        )
    if decompose:
        found.append({"kind": "aggregate", "split": split, "rows": 0, "part": f"{split}.json"})
    return found


def _simulated_units(examples: int) -> list[dict[str, Any]]:
    starts = range(0, examples, SIMULATED_AT_ONCE)
    return [
        {"kind": "bdmc", "split": SIMULATED, "start": start}
        | {"rows": min(SIMULATED_AT_ONCE, examples - start)}
        | {"part": f"bdmc-{start:06d}.parquet"}
        for start in starts
    ]


def _parts(job: Evaluation, loaded: Bundle) -> Path:
    """The folder of parts, emptied if what it holds was made for other settings or inputs."""
    folder = job.output / "parts"
    about = {**job.common(), "digests": [loaded.digest, job.data.digest]}
    about = {"digest": files.digest(about), "version": VERSION}
    if folder.exists() and (
        not (folder / ABOUT).exists() or files.read_json(folder / ABOUT) != about
    ):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_json(folder / ABOUT, about)
    return folder


def _map(
    job: Evaluation, compute: Compute, units: Sequence[Mapping[str, Any]], parts: Path
) -> None:
    """Run the units whose part is missing; parts are whole files, so what is there is done."""
    todo = [u for u in units if not (parts / u["part"]).exists()]
    where = {"batch_size": job.batch_size, "device": "auto", "parts": str(parts)}
    follow(
        job.output, compute.map(TARGET, todo, {**job.common(), **where}, job.workers), todo, units
    )


def _found(
    job: Evaluation, loaded: Bundle, units: Sequence[Mapping[str, Any]], parts: Path
) -> Found:
    def of(kind: str) -> list[Mapping[str, Any]]:
        return [unit for unit in units if unit["kind"] == kind]

    examples = [parts / u["part"] for u in of("rows")]
    return Found(
        model=job.model_name,
        ks=job.ks,
        seed=job.seed,
        data_digest=job.data.digest,
        view=dict(job.data.dataset.build().describe()),
        spec=loaded.data,
        proposal=job.measures["evidence"]["proposal"],
        rows=[evaluate_examples.numbers(part) for part in examples],
        aggregates={u["split"]: files.read_json(parts / u["part"]) for u in of("aggregate")},
        simulated=[pq.read_table(parts / u["part"]) for u in of("bdmc")],
        model_digest=loaded.digest,
        about_model=evaluate_key.of_model(loaded),
        examples=examples,
    )


def _log(
    uri: str, manifest: Mapping[str, Any], folder: Path, record: Record, job: Evaluation
) -> None:
    """The tables and the numbers, at the run and at the model they belong to."""
    record.tags({"vaepipe.model_digest": manifest["model_digest"], **manifest["view"]})
    job.data.log(record, "testing")
    for path in sorted(folder.glob("*.parquet")):
        record.file(path, "eval")
    record.score(uri, manifest["metrics"])
