"""What a fit leaves in its folder, and how others read it or leave a word for the fit.

journal.jsonl     what happened, as it happens
checkpoint/       where the fit stands
model/            the bundle, when it ended
history.parquet   the metrics of every epoch, when it ended
validation.parquet  what each validation row is worth under the model, when it ended
snapshots/        posterior means of some validation rows at some epochs
"""

from __future__ import annotations

import fcntl
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exception
from typing import IO, Any

from vaepipe import files
from vaepipe.compute.base import TrainTask
from vaepipe.errors import TrainingError, VaepipeError
from vaepipe.journal import Journal
from vaepipe.training import bundle

JOURNAL, HISTORY, LOCK, STOP = "journal.jsonl", "history.parquet", ".lock", ".stop"
TASK = "task.json"
"""The task as data, written by whoever starts it."""
CHECKPOINT, MODEL, VALIDATION = "checkpoint", "model", "validation.parquet"
PATIENCE = 60.0
"""Seconds to wait for another process that is about to end."""


@contextmanager
def alone(task: TrainTask) -> Iterator[None]:
    """No other process works on the task; waits for one that is about to end.

    Raises:
        TrainingError: it does not end.
    """
    deadline = time.monotonic() + PATIENCE
    with (Path(task.output) / LOCK).open("a") as file:
        while not _lock(file):
            if time.monotonic() > deadline:
                raise TrainingError(f"{task.name}: another process is still at work on it.")
            time.sleep(0.1)
        yield


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def record_failure(task: TrainTask, error: BaseException, traceback: str | None = None) -> None:
    """Write the `failed` event of a task."""
    text = "".join(format_exception(error)) if traceback is None else traceback
    Path(task.output).mkdir(parents=True, exist_ok=True)
    Journal(Path(task.output) / JOURNAL).write("failed", error=describe(error), traceback=text)


def describe(error: BaseException) -> str:
    """An error in a line; our own speak for themselves."""
    text = str(error).strip() or "no message"
    return text if isinstance(error, VaepipeError) else f"{type(error).__name__}: {text}"


def ended(task: TrainTask) -> str | None:
    """`done` or `stopped`, if a fit with this task's fingerprint has left its model."""
    folder = Path(task.output)
    card = folder / MODEL / bundle.CARD
    if not card.exists() or files.read_json(card).get("fingerprint") != task.fingerprint:
        return None
    events = Journal(folder / JOURNAL).read()
    last = events[-1]["event"] if events else None
    return last if last in ("done", "stopped") else None


def outcome(task: TrainTask, metric: str) -> float | None:
    """A metric of the epoch whose weights are kept, by the journal; None if there is no number."""
    events = Journal(Path(task.output) / JOURNAL).read()
    found = epochs(events)
    if not found or events[-1]["event"] == "failed":
        return None
    value = found[found[max(found)]["best_epoch"]]["metrics"].get(metric)
    return value if value is not None and math.isfinite(value) else None


def epochs(events: Iterable[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """The epochs of a fit, since it last started from nothing."""
    found: dict[int, Mapping[str, Any]] = {}
    for event in events:
        if event["event"] == "start" and event["resumed_from"] is None:
            found.clear()
        elif event["event"] == "epoch":
            found[event["epoch"]] = event
    return found


def ask_to_stop(task: TrainTask, reason: str) -> None:
    """Leave a word for the process that fits: it stops when it next reports."""
    files.write_json(Path(task.output) / STOP, {"reason": reason})


def asked_to_stop(task: TrainTask) -> str | None:
    """The reason that was left, if there is one."""
    path = Path(task.output) / STOP
    return files.read_json(path)["reason"] if path.exists() else None
