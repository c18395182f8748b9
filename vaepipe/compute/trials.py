"""What every compute does with the trials of a sweep: which are left, when one has to stop."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vaepipe.compute import jobs
from vaepipe.compute.base import SweepTask, TrainTask
from vaepipe.compute.policy import Policy


def pending(sweep: SweepTask) -> Iterator[tuple[int, TrainTask]]:
    """Trials to run, each proposed when it is asked for.

    A trial that ended in an earlier run, whose sweep was interrupted, is only observed.
    """
    for index in sweep.indices:
        task = sweep.propose(index)
        if task is None:
            continue
        if jobs.ended(task) is None:
            yield index, task
        else:
            sweep.observe(index, jobs.outcome(task, sweep.metric))


def judge(sweep: SweepTask, rule: Policy, index: int, metrics: Mapping[str, float]) -> str | None:
    """The scheduler's name if its rule stops the trial after this report, else None."""
    value = metrics.get(sweep.metric)
    if value is None:
        return None
    sign = 1.0 if sweep.mode == "max" else -1.0
    stops = rule.stops(index, int(metrics["epoch"]), sign * value)
    return str(sweep.scheduler["type"]) if stops else None
