"""The sweep stage: many fits, compared on evidence that does not depend on their objective."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from vaepipe import files
from vaepipe.compute import outputs
from vaepipe.compute.base import SweepTask, TrainTask
from vaepipe.data import shards
from vaepipe.errors import CompatibilityError, ConfigError, TrainingError
from vaepipe.pipeline import judging, search
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.metrics import direction
from vaepipe.pipeline.plan import Step, child_seed, search_stream
from vaepipe.pipeline.rehearsal import rehearse
from vaepipe.pipeline.settings import SweepStage, TrainStage
from vaepipe.pipeline.stages import finalists, train
from vaepipe.pipeline.stages.leaderboard import FINAL, SETTING, Board, Row, repeated
from vaepipe.pipeline.watch import TOLD, Watcher
from vaepipe.tracking.base import Record

EVIDENCE = "val/log_evidence"
"""The metric that a second look is taken at."""
COMPARED: tuple[str, ...] = (FINAL, f"{FINAL}_se", "difference_to_best", "difference_se")
"""Columns of `trials.parquet` that are null where nothing was compared."""


def run(step: Step[SweepStage], env: Environment, folder: Path, record: Record) -> dict[str, Any]:
    """Run the trials that are not done, rank all; the manifest's content."""
    trials = Trials(step, env, folder)
    record.params(step.settings.model_dump(mode="json"))
    env.screen.expect(
        step.name,
        trials=trials.count,
        metric=step.settings.metric,
        mode=direction(step.settings.metric),
    )
    with env.watch(step, folder, record) as watcher:
        env.compute.sweep(trials.task())
        rows = trials.collect()
        board = _ranked(step, env, folder, rows)
    _show(step, env, board)
    _write_table(folder / "trials.parquet", rows)
    best = _best(step, board)
    files.write_json(folder / "best.json", best)
    return _publish(step, env, folder, record, watcher, rows, best)


@dataclass
class Trials:
    """The trials of one sweep: proposes the missing ones and keeps what became of each."""

    step: Step[SweepStage]
    env: Environment
    folder: Path
    invalid: dict[int, str] = field(default_factory=dict)
    proposed: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    values: dict[int, list[float | None]] = field(default_factory=dict)
    """By settings, counted from 0: what their repeats were worth."""

    def __post_init__(self) -> None:
        """Tell the search what earlier runs found."""
        self.sweep = self.step.settings
        self.winners = train.winners(self.step, self.env)
        self.proposer = search.make_proposer(self.sweep, search_stream(self.step.seed))
        for trial in self.folder.glob("trials/*"):
            files.sweep_temporaries(trial)
        self.count = (self.sweep.trials or self.proposer.size or 0) * self.sweep.repeats
        self.finished = {i for i in range(self.count) if self._complete(i)}
        for index in sorted(self.finished):
            self.proposed[index] = files.read_json(self._trial(index) / "settings.json")
            self.observe(index, _metric(train.outcome(self._trial(index)), self.sweep.metric))

    def task(self) -> SweepTask:
        """What is left to do."""
        return SweepTask(
            name=self.step.name,
            output=str(self.folder),
            indices=[i for i in range(self.count) if i not in self.finished],
            propose=self.propose,
            observe=self.observe,
            metric=self.sweep.metric,
            mode=direction(self.sweep.metric),
            scheduler=self.sweep.scheduler.model_dump(mode="json"),
            concurrency=self.sweep.concurrency,
        )

    def propose(self, index: int) -> TrainTask | None:
        """The task of a trial; None if its parts do not compose and the sweep skips such."""
        trial = self._trial(index)
        path = trial / "settings.json"
        settings = files.read_json(path) if path.exists() else self._proposal(index)
        if settings is None:
            return None
        self.proposed[index] = settings
        try:
            fit = self.env.pipeline.train_settings(self.step.name, settings, self.winners)
            task = self._task(index, fit)
            rehearse(task, self.env.data_spec)
            judging.require_time(fit, self.sweep, self.env.data_spec(task.data.path))
        except (CompatibilityError, ConfigError) as error:
            if self.sweep.invalid == "fail":
                raise
            self.invalid[index] = str(error)
            return None
        trial.mkdir(parents=True, exist_ok=True)
        files.write_json(path, settings)
        files.write_json(trial / outputs.TASK, task.to_dict())
        return task

    def observe(self, index: int, value: float | None) -> None:
        """Tell the search what settings were worth, when their last repeat ended: the mean."""
        number = index // self.sweep.repeats
        values = self.values.setdefault(number, [])
        values.append(value)
        if len(values) == self.sweep.repeats:
            known = [each for each in values if each is not None]
            self.proposer.observe(number, self.proposed[index], fmean(known) if known else None)

    def _proposal(self, index: int) -> Mapping[str, Any] | None:
        """The settings of a trial: those of its repeats, or new ones."""
        repeats = self.sweep.repeats
        first = index - index % repeats
        known = [self.proposed[i] for i in range(first, first + repeats) if i in self.proposed]
        return known[0] if known else self.proposer.propose(index // repeats)

    def collect(self) -> list[Row]:
        """A row for each trial, and a manifest for each that ended."""
        rows = []
        for index in range(self.count):
            if index in self.invalid:
                rows.append(
                    _row(
                        index,
                        self.proposed[index],
                        {"status": "invalid", "error": self.invalid[index]},
                    )
                )
            elif index in self.proposed:
                rows.append(self._collected(index))
        return rows

    def _collected(self, index: int) -> dict[str, Any]:
        trial = self._trial(index)
        summary = train.outcome(trial)
        if summary["status"] in ("done", "stopped"):
            summary["model"] = f"trials/{trial.name}/model"
            task = files.read_json(trial / outputs.TASK)
            manifest = {**summary, "fingerprint": task["fingerprint"], "kind": "trial"}
            files.write_json(trial / "manifest.json", manifest)
        told = trial / TOLD
        summary["mlflow_run_id"] = files.read_json(told)["run_id"] if told.exists() else ""
        return _row(index, self.proposed[index], summary)

    def _task(self, index: int, fit: TrainStage) -> TrainTask:
        seed = child_seed(self.step.seed, index)
        key = {"stage": self.step.identity, "seed": seed, "settings": fit.model_dump(mode="json")}
        return train.make_task(
            self.step,
            self.env,
            fit,
            self._trial(index),
            name=f"{self.step.name}/{index:05d}",
            seed=seed,
            fingerprint=files.digest(key),
        )

    def _trial(self, index: int) -> Path:
        return self.folder / "trials" / f"{index:05d}"

    def _complete(self, index: int) -> bool:
        return (self._trial(index) / "manifest.json").exists()


def _metric(summary: Mapping[str, Any], metric: str) -> float | None:
    value = summary["metrics"].get(metric)
    return value if value is not None and math.isfinite(value) else None


def _row(index: int, settings: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trial": index,
        "status": summary["status"],
        "error": summary.get("error", ""),
        **{f"setting.{path}": json.dumps(value) for path, value in settings.items()},
        **{k: v for k, v in summary.get("metrics", {}).items() if k.startswith("val/")},
        "epochs": summary.get("epochs", 0),
        "seconds": summary.get("seconds", 0.0),
        "mlflow_run_id": summary.get("mlflow_run_id", ""),
        "model": summary.get("model", ""),
    }


def _write_table(path: Path, rows: list[Row]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    tail = [*COMPARED, "epochs", "seconds", "mlflow_run_id", "model"]
    names = [n for n in names if n not in tail] + tail
    kinds = dict.fromkeys(COMPARED, pa.float64())
    columns = {n: pa.array([row.get(n) for row in rows], kinds.get(n)) for n in names}
    shards.write_table(path, pa.table(columns))


def _ranked(step: Step[SweepStage], env: Environment, folder: Path, rows: list[Row]) -> Board:
    """Compare the trials, after a second look at those that may be the best.

    Raises:
        TrainingError: no trial has a model and a value.
    """
    sweep = step.settings
    board = Board(folder, rows, sweep.metric, direction(sweep.metric))
    if not board.entries:
        errors = sorted({r["error"] for r in rows if r["error"]})
        raise TrainingError(
            f"stage '{step.name}': none of {len(rows)} trials has a model with {sweep.metric}. "
            + (f"First error: {errors[0]}" if errors else "Was it given a `val` split?")
        )
    k = env.pipeline.train_settings(step.name, winners=train.winners(step, env)).validation.k
    if sweep.metric == EVIDENCE and sweep.final_k is not None and sweep.final_k > k:
        finalists.rescore(board, folder, sweep.final_k, step.seed, env.compute)
    board.compare()
    return board


def _show(step: Step[SweepStage], env: Environment, board: Board) -> None:
    """Show the trials, best first, with their differences to the best."""
    for place, entry in enumerate(board.ranked(), start=1):
        for row in entry.rows:
            values = {name: row.get(name) for name in COMPARED}
            event = {"event": "ranked", "place": place, "tie": board.tie(entry), **values}
            env.screen.event(step.name, f"{row['trial']:05d}", event)


def _best(step: Step[SweepStage], board: Board) -> dict[str, Any]:
    """The winner, by both numbers where it was scored again, and who comes next."""
    metric, row = step.settings.metric, board.winner
    settings = {
        k.removeprefix(SETTING): json.loads(v)
        for k, v in row.items()
        if k.startswith(SETTING) and v is not None
    }
    found = {"metric": metric, "value": row[metric], "settings": settings}
    found |= {k: row[k] for k in ("trial", "model", "epochs", "mlflow_run_id")}
    found |= repeated([each[metric] for each in board.best.rows])
    if board.best.final is not None:
        over = repeated([each[FINAL] for each in board.best.rows])
        number = {"value": row[FINAL], "se": row.get(f"{FINAL}_se"), **over}
        found["final"] = {"metric": FINAL, "k": step.settings.final_k, **number}
    runner_up = next((e for e in board.ranked()[1:] if "difference_to_best" in e.rows[0]), None)
    if runner_up is not None:
        names = ("trial", "difference_to_best", "difference_se")
        second = {name: runner_up.rows[0][name] for name in names}
        found["runner_up"] = {**second, "tie": board.tie(runner_up)}
    ties = [e for e in board.entries if board.tie(e)]
    return {**found, "ties": sorted(row["trial"] for e in ties for row in e.rows)}


def _publish(
    step: Step[SweepStage],
    env: Environment,
    folder: Path,
    record: Record,
    watcher: Watcher,
    rows: list[Row],
    best: dict[str, Any],
) -> dict[str, Any]:
    """Log table and winner; count the trials by status."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    record.file(folder / "trials.parquet")
    record.file(folder / "best.json")
    record.tags(
        {
            "vaepipe.best_trial": str(best["trial"]),
            f"vaepipe.best.{best['metric']}": f"{best.get('mean', best['value']):.4f}",
        }
    )
    child = watcher.record(f"{best['trial']:05d}") or record
    uri = child.model(folder / best["model"])
    final = best.get("final")
    more = {} if final is None else {final["metric"]: final["value"]}
    child.score(uri, {best["metric"]: best["value"], **more})
    return {"model": best["model"], "model_uri": uri, "best": best, "trials": counts}
