"""A sweep by Ray Tune: trials as function trainables, proposals and verdicts from the driver."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from typing import Any, final

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from vaepipe.compute import jobs, outputs, policy, ray_train, trials
from vaepipe.compute.base import SweepTask, TrainTask
from vaepipe.compute.ray_cluster import capacity
from vaepipe.compute.ray_connect import Share
from vaepipe.errors import TrainingError

QUIET = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "600",
}
"""Tune neither logs beside our journals nor swallows the user's Ctrl-C."""


def sweep(task: SweepTask, share: Share, fitted: Callable[[int], Share]) -> None:
    """Run the trials that are left.

    Args:
        task: what to run.
        share: of a trial with one worker.
        fitted: the share of each of some workers, once the cluster holds so many.
    """
    left = trials.pending(task)
    first = next(left, None)
    if first is None:
        return
    workers = first[1].workers
    share = fitted(workers) if workers > 1 else share
    concurrency = task.concurrency or max(1, capacity(share) // workers)
    with ray_train.store(task.output) as folder, _environment(QUIET):
        proposals = _Proposals(task, chain([first], left), share)
        tuner = tune.Tuner(
            tune.with_resources(_trial, _resources),
            tune_config=tune.TuneConfig(
                search_alg=proposals,
                scheduler=_Verdicts(task),
                num_samples=len(task.indices),
                max_concurrent_trials=min(concurrency, len(task.indices)),
                reuse_actors=workers == 1,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(folder),
                failure_config=tune.FailureConfig(max_failures=ray_train.RETRIES),
                verbose=0,
            ),
        )
        tuner.fit()


def _trial(config: Mapping[str, Any]) -> None:
    """A trial: with one worker the fit runs here, with several Ray Train launches them.

    A fit that fails says so in its journal; Tune only hears of processes that die.
    """
    data, share = json.loads(config["task"]), Share(**config["share"])
    if config["workers"] == 1:
        report = _report(TrainTask.from_dict(data))
        trials.attempt(data, share.cpus, gpu=share.gpus > 0, report=report)
    else:
        ray_train.fit_together(data, share, [TuneReportCallback()])


def _report(task: TrainTask) -> jobs.Report:
    """Report to Tune, which hands back the word when the scheduler has seen it."""

    def report(metrics: dict[str, float]) -> str | None:
        tune.report(metrics)
        return outputs.asked_to_stop(task)

    return report


def _resources(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    """What a trial itself holds: next to nothing, if it launches workers that bring their own.

    A trial that held a CPU while its workers wait for one would wait for ever.
    """
    share = Share(**config["share"])
    alone = config["workers"] == 1
    return tune.PlacementGroupFactory([share.resources if alone else {"memory": 1.0}])


class _Kept:
    """Tune copies and pickles what it is given, to restore runs; ours are restored by journals."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Kept:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {}


@final
class _Proposals(_Kept, Searcher):
    """Hands the sweep's proposals to Tune, and tells the sweep what became of them."""

    def __init__(
        self, task: SweepTask, left: Iterator[tuple[int, TrainTask]], share: Share
    ) -> None:
        super().__init__()
        self.task, self.left, self.share = task, left, share
        self.running: dict[str, tuple[int, TrainTask]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial, as plain data."""
        found = next(self.left, None)
        if found is None:
            return Searcher.FINISHED
        self.running[trial_id] = found
        index, trial = found
        return {
            "index": index,
            "workers": trial.workers,
            "share": asdict(self.share),
            "task": json.dumps(trial.to_dict()),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """A trial ended, or its process died once too often."""
        index, trial = self.running.pop(trial_id)
        if error:
            lost = TrainingError(f"{trial.name}: its process died {ray_train.RETRIES + 1} times.")
            outputs.record_failure(trial, lost)
        self.task.observe(index, outputs.outcome(trial, self.task.metric))

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the journals are the state."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journals are the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journals are the state."""


@final
class _Verdicts(_Kept, FIFOScheduler):
    """Asks the trials that the sweep's rule stops to stop.

    They are not killed: they leave their model themselves, and what they launched ends with them.
    """

    def __init__(self, task: SweepTask) -> None:
        super().__init__()
        self.task, self.rule = task, policy.make(task.scheduler)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Leave a word for a trial that has to stop."""
        reason = trials.judge(self.task, self.rule, trial.config["index"], result)
        if reason is not None:
            outputs.ask_to_stop(TrainTask.from_dict(json.loads(trial.config["task"])), reason)
        return TrialScheduler.CONTINUE


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables inside; what was there before comes back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
