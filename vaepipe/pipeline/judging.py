"""Whether a fit can be judged as its settings ask: with rows to judge by, at a time to judge at."""

from __future__ import annotations

from collections.abc import Collection

from vaepipe.core import DataSpec, StepContext
from vaepipe.errors import CompatibilityError, DataError
from vaepipe.pipeline.settings import SweepStage, TrainStage
from vaepipe.training import schedule

SPLIT = "val"


def require_rows(fit: TrainStage, sweep: SweepStage | None, splits: Collection[str]) -> None:
    """Raise `DataError` if trials are compared or a fit may stop early without validation rows.

    Args:
        fit: settings of a train stage or of a trial.
        sweep: that compares it with others; None where there is none.
        splits: of its data.
    """
    if SPLIT in splits or (sweep is None and fit.patience is None):
        return
    who = f"`patience: {fit.patience}`" if sweep is None else f"a sweep by {sweep.metric}"
    raise DataError(
        f"{who} judges fits on the split '{SPLIT}', which data '{fit.data}' lacks (splits: "
        f"{', '.join(splits)}). Add '{SPLIT}' to its `splits`."
    )


def unfinished(fit: TrainStage, data: DataSpec) -> str | None:
    """Return what to say of an objective's schedule that the fit is too short for."""
    objective = fit.objective.part("objectives")
    last = StepContext.last(fit.epochs, data.num_examples, fit.batch_size)
    return schedule.unfinished(objective, last, fit.epochs)


def require_time(fit: TrainStage, sweep: SweepStage | None, data: DataSpec) -> None:
    """Raise `CompatibilityError` if `patience` or a scheduler waits for a schedule in vain."""
    scheduler = "none" if sweep is None else sweep.scheduler.type
    if fit.patience is None and scheduler == "none":
        return
    late = unfinished(fit, data)
    if late is not None:
        who = f"scheduler '{scheduler}'" if scheduler != "none" else f"`patience: {fit.patience}`"
        raise CompatibilityError(f"{who} would never judge this fit: {late}. {schedule.ADVICE}")
