"""The train stage: one fit, on one worker or on many."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vaepipe import files
from vaepipe.compute import outputs
from vaepipe.compute.base import DataRef, TrainTask
from vaepipe.errors import CompatibilityError, TrainingError
from vaepipe.journal import Journal
from vaepipe.pipeline import inputs, judging
from vaepipe.pipeline.environment import Environment, describe
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.settings import TrainStage
from vaepipe.pipeline.watch import JOURNAL
from vaepipe.registry import PartSpec
from vaepipe.tracking.base import Record
from vaepipe.training import bundle


def run(step: Step[TrainStage], env: Environment, folder: Path, record: Record) -> dict[str, Any]:
    """Fit, log the model; the manifest's content."""
    settings = env.pipeline.train_settings(step.name, winners=winners(step, env))
    judging.require_time(settings, None, env.data_spec(str(env.folder(settings.data))))
    task = make_task(step, env, settings, folder)
    files.write_json(folder / outputs.TASK, task.to_dict())
    describe(record, task.to_dict())
    with env.watch(step, folder, record):
        env.compute.train(task)
    summary = outcome(folder)
    if summary["status"] == "failed":
        raise TrainingError(f"stage '{step.name}': {summary['error']}")
    uri = record.model(folder / "model")
    kept = {name: v for name, v in summary["metrics"].items() if name.startswith("val/")}
    record.score(uri, kept)  # the run's last word: the epoch whose weights are kept
    return {**summary, "model": "model", "model_uri": uri, "parameters": task.settings}


def winners(step: Step, env: Environment) -> dict[str, Mapping[str, Any]]:
    """What the best trials set, of the sweeps that a stage takes its settings from."""
    names = env.pipeline.sweeps(step.name)
    return {name: files.read_json(env.folder(name) / "best.json")["settings"] for name in names}


def make_task(
    step: Step,
    env: Environment,
    settings: TrainStage,
    folder: Path,
    *,
    name: str | None = None,
    seed: int | None = None,
    fingerprint: str | None = None,
) -> TrainTask:
    """A train stage's settings as work for a compute."""
    return TrainTask(
        name=name or step.name,
        output=str(folder),
        data=data_ref(env, settings.data),
        model=settings.model.spec(),
        objective=settings.objective.part("objectives"),
        optimizer=settings.optimizer.model_dump(mode="json"),
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=step.seed if seed is None else seed,
        fingerprint=fingerprint or step.fingerprint,
        validation=settings.validation.model_dump(mode="json"),
        patience=settings.patience,
        workers=settings.workers or 1,
        accumulate=settings.accumulate,
        ema=settings.ema,
        precision=settings.precision,
        compile=settings.compile,
        start=_start(env, settings),
        settings=settings.model_dump(mode="json", exclude={"kind", "settings"}),
    )


def _start(env: Environment, settings: TrainStage) -> dict[str, str] | None:
    """The model that a fit begins with, for workers.

    Raises:
        CompatibilityError: it was fitted to other words: the weights of a number belong to a word.
    """
    stage = settings.start
    if stage is None:
        return None
    path = env.model(stage)
    opened, data = bundle.load(path), env.manifests[settings.data]
    words = inputs.decoding(opened).words
    mine = words and (words.lexicon.to_dict(), words.reading.lowercase)
    reading = PartSpec.from_dict(data["dataset"]).build().reading()
    theirs = reading and (data.get("lexicon"), reading.lowercase)
    if mine != theirs:
        raise CompatibilityError(
            f"start: '{stage}' and data '{settings.data}' have not the same words, and the weights "
            f"that '{stage}' learned belong to its own. Leave `start` out, or fit both to one "
            "data stage that holds the text of both."
        )
    return {"stage": stage, "path": str(path), "digest": opened.digest}


def data_ref(env: Environment, stage: str) -> DataRef:
    """A data stage's artifact, for workers."""
    manifest = env.manifests[stage]
    dataset = PartSpec.from_dict(manifest["dataset"])
    return DataRef(str(env.folder(stage)), dataset, manifest["spec"], manifest["digest"])


def outcome(folder: Path) -> dict[str, Any]:
    """What a fit's journal says: status, error, epochs, seconds, metrics of the kept epoch."""
    events = Journal(folder / JOURNAL).read()
    epochs = outputs.epochs(events)
    last = events[-1] if events else {"event": "missing"}
    status = last["event"] if last["event"] in ("done", "stopped", "failed") else "interrupted"
    best = epochs[max(epochs)]["best_epoch"] if epochs else 0
    return {
        "status": status,
        "error": last.get("error", ""),
        "warnings": _warnings(events),
        "epochs": max(epochs, default=0),
        "best_epoch": best,
        "seconds": _seconds(events),
        "metrics": dict(epochs[best]["metrics"]) if best in epochs else {},
    }


def _warnings(events: list[dict[str, Any]]) -> list[str]:
    """What the fit warned of, since it last started from nothing."""
    fresh = [i for i, e in enumerate(events) if e["event"] == "start" and not e.get("resumed_from")]
    found = [e["text"] for e in events[max(fresh, default=0) :] if e["event"] == "warning"]
    return list(dict.fromkeys(found))


def _seconds(events: list[dict[str, Any]]) -> float:
    """Working time over all attempts: the gap between two attempts does not count."""
    total, begin = 0.0, None
    for before, event in zip([None, *events], events, strict=False):
        if event["event"] == "start":
            begin = event["time"]
        elif begin is not None and before is not None:
            total += event["time"] - before["time"]
    return round(total, 3)
