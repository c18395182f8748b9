"""Work in this process: no cluster, no other process, one unit after the other."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, final

from annotated_types import Ge

from vaepipe.compute import jobs, outputs, policy, trials
from vaepipe.compute.base import SweepTask, TrainTask
from vaepipe.errors import CompatibilityError, VaepipeError


@final
class LocalCompute:
    """Runs everything in this process, one trial and one unit of work at a time.

    Sweeps obey the same stopping rules as on a cluster, but a trial is compared with those before
    it, never with those after it.

    Args:
        workers: 1; more need `type: ray`.
        gpus_per_worker: `auto` uses a GPU where there is one, 0 never does.
        threads_per_worker: torch's threads while work runs.

    Raises:
        CompatibilityError: more than one worker.
    """

    def __init__(
        self,
        *,
        workers: Annotated[int, Ge(1)] = 1,
        gpus_per_worker: Annotated[float, Ge(0)] | Literal["auto"] = "auto",
        threads_per_worker: Annotated[int, Ge(1)] = 1,
    ) -> None:
        """Nothing starts."""
        _one_worker("compute", workers)
        self.workers, self.threads = workers, threads_per_worker
        self.gpu = gpus_per_worker == "auto" or gpus_per_worker > 0

    def train(self, task: TrainTask) -> None:
        """Fit one model here.

        Raises:
            TrainingError: the fit failed.
            CompatibilityError: the task wants several workers.
        """
        error = self._fit(task, jobs.silent)
        if error is not None:
            raise error

    def sweep(self, task: SweepTask) -> None:
        """Run the trials one after the other; one that fails leaves its `failed` event."""
        rule = policy.make(task.scheduler)
        for index, trial in trials.pending(task):
            self._trial(task, rule, index, trial)

    def map(
        self,
        target: str,
        units: Sequence[Mapping[str, Any]],
        common: Mapping[str, Any],
        workers: int | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """Results of `target(common)(unit)`, in order.

        Where no GPU is to be used, the workers are told so by `common["device"]`.
        """
        _one_worker(target.rpartition(":")[2], workers or 1)
        if not units:
            return
        common = common if self.gpu else {**common, "device": "cpu"}
        with trials.torch_threads(self.threads):
            work = build_worker(target, common)
        for unit in units:
            with trials.torch_threads(self.threads):
                result = work(unit)
            yield result

    def close(self) -> None:
        """Nothing was started."""

    def _trial(self, sweep: SweepTask, rule: policy.Policy, index: int, trial: TrainTask) -> None:
        error = self._fit(trial, partial(trials.judge, sweep, rule, index))
        sweep.observe(index, None if error else outputs.outcome(trial, sweep.metric))

    def _fit(self, task: TrainTask, report: jobs.Report) -> VaepipeError | None:
        _one_worker(task.name, task.workers)
        return trials.attempt(task.to_dict(), self.threads, gpu=self.gpu, report=report)


def build_worker(target: str, common: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """The worker of the class "module:Class" for what its units have in common."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(common)


def _one_worker(name: str, workers: int) -> None:
    if workers != 1:
        raise CompatibilityError(
            f"{name}: {workers} workers, but `compute: {{type: local}}` has one. "
            "Choose `type: ray`, or `workers: 1`."
        )
