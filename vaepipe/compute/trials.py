"""What every compute does with fits: try one, find those that are left, judge when one stops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from vaepipe.compute import jobs, outputs
from vaepipe.compute.base import SweepTask, TrainTask
from vaepipe.compute.policy import Policy
from vaepipe.errors import TrainingError, VaepipeError


def attempt(
    data: Mapping[str, Any], threads: int, *, gpu: bool, report: jobs.Report = jobs.silent
) -> VaepipeError | None:
    """Fit in this process; the error is returned, so that nobody mistakes it for a dead worker.

    Args:
        data: of a `TrainTask`.
        threads: torch's threads meanwhile.
        gpu: whether to use a GPU, if there is one.
        report: told the metrics of every validated epoch.
    """
    task = TrainTask.from_dict(data)
    device = "cuda" if gpu and torch.cuda.is_available() else "cpu"
    try:
        with torch_threads(threads):
            jobs.train_job(task, device=device, report=report)
    except VaepipeError as error:
        return error
    except Exception as error:
        failure = TrainingError(f"{task.name}: {outputs.describe(error)}")
        failure.__cause__ = error
        return failure
    return None


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """So many torch threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pending(sweep: SweepTask) -> Iterator[tuple[int, TrainTask]]:
    """Trials to run, each proposed when it is asked for.

    A trial that ended in an earlier run, whose sweep was interrupted, is only observed.
    """
    for index in sweep.indices:
        task = sweep.propose(index)
        if task is None:
            continue
        if outputs.ended(task) is None:
            yield index, task
        else:
            sweep.observe(index, outputs.outcome(task, sweep.metric))


def judge(sweep: SweepTask, rule: Policy, index: int, metrics: Mapping[str, float]) -> str | None:
    """The scheduler's name if its rule stops the trial after this report, else None."""
    value = metrics.get(sweep.metric)
    if value is None:
        return None
    sign = 1.0 if sweep.mode == "max" else -1.0
    epoch, warm = int(metrics["epoch"]), metrics.get(jobs.WARM)
    stops = rule.stops(index, epoch, sign * value, None if warm is None else int(warm))
    return str(sweep.scheduler["type"]) if stops else None
