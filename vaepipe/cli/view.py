"""The screen of a run: a live table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from typing import Any, Protocol, TextIO, final

from vaepipe.cli.progress import Job, Stage, duration, tidy

STEPS = 10
"""Lines that a fit may write on its way, where they cannot be overwritten."""
PLACES = 10
"""Places of a leaderboard that are shown when a sweep has ended."""


def is_plain(file: TextIO) -> bool:
    """Whether a file is no terminal that can move its cursor."""
    return not file.isatty() or os.environ.get("TERM", "") in ("", "dumb")


class Painter(Protocol):
    """Shows the stages of a run as they change."""

    def stage(self, stage: Stage) -> None:
        """A stage changed its status."""
        ...

    def event(self, stage: Stage, job: Job, event: Mapping[str, Any]) -> None:
        """A job told something."""
        ...

    def close(self) -> None:
        """Nothing more will be shown."""
        ...


@final
class View:
    """Shows what `stage` and `event` are told; any thread may call them.

    Args:
        file: where to; a run sends descriptors 1 and 2 to its log, so this is a copy made before.
        plain: whole lines only, nothing is overwritten, no colour.
    """

    def __init__(self, file: TextIO, plain: bool) -> None:
        """Nothing is shown until something is told."""
        self._stages: dict[str, Stage] = {}
        self._lock = threading.RLock()
        self._open = True
        self._painter: Painter = Lines(file) if plain else _live(file, self._stages, self._lock)

    def expect(
        self,
        name: str,
        *,
        trials: int | None = None,
        metric: str = "val/log_evidence",
        mode: str = "max",
    ) -> None:
        """How many trials a sweep will have, and what it ranks them by."""
        with self._lock:
            stage = self._stages.setdefault(name, Stage(name))
            stage.total, stage.metric, stage.mode = trials, metric, mode

    def stage(self, name: str, kind: str, status: str, detail: str = "") -> None:
        """A stage changed its status: waiting, running, done, skipped, failed …"""
        with self._lock:
            stage = self._stages.setdefault(name, Stage(name))
            stage.turn(kind, status, tidy(detail))
            if self._open:
                self._painter.stage(stage)

    def event(self, stage: str, trial: str | None, event: Mapping[str, Any]) -> None:
        """A job of a stage wrote an event to its journal.

        Besides a fit's events, `{"event": "progress", "done": 3, "total": 10}` says how many rows
        any other work has done.
        """
        with self._lock:
            found = self._stages.setdefault(stage, Stage(stage))
            job = found.job(trial)
            job.tell(event)
            if self._open:
                self._painter.event(found, job, event)

    def close(self) -> None:
        """Leave the last state on the screen and stop; calling it again does nothing."""
        with self._lock:
            was_open, self._open = self._open, False
        if was_open:
            self._painter.close()


@final
class Lines:
    """One line for each change of a stage, each trial that ended, each tenth of a fit."""

    def __init__(self, file: TextIO) -> None:
        """Write to `file`."""
        self._file = file
        self._tenths: dict[tuple[str, str | None], int] = {}

    def stage(self, stage: Stage) -> None:
        """`tune (sweep) running: 12 trials`; stages that wait are not worth a line."""
        if stage.status == "waiting":
            return
        detail = f": {stage.detail}" if stage.detail else ""
        self._write(f"{stage.name} ({stage.kind}) {stage.status}{detail}")

    def event(self, stage: Stage, job: Job, event: Mapping[str, Any]) -> None:
        """A line, if the event is worth one."""
        kind = event.get("event")
        if kind in ("done", "stopped", "failed"):
            self._write(_end(stage, job) if job.name is not None else _fit_end(stage, job))
        elif kind == "warning":
            self._write(warning(stage, job))
        elif kind == "ranked" and event["place"] <= PLACES:
            self._write(f"{stage.name}: {event['place']}. {job.name}: {standing(job)}")
        elif kind == "start" and job.name is None:
            self._due(stage, job)
            self._write(_start(stage, job, event))
        elif kind in ("epoch", "progress") and job.name is None and self._due(stage, job):
            self._write(_progress(stage, job))

    def close(self) -> None:
        """Nothing is left to do."""

    def _due(self, stage: Stage, job: Job) -> bool:
        """Whether another tenth of the work is done."""
        key, tenth = (stage.name, job.name), math.floor(job.fraction * STEPS)
        before, self._tenths[key] = self._tenths.get(key, 0), tenth
        return tenth > before

    def _write(self, line: str) -> None:
        self._file.write(tidy(line) + "\n")
        self._file.flush()


PACES = (
    ("examples_per_second", "examples/s", 0),
    ("rows_per_second", "rows/s", 0),
    ("mb_per_second", "MB/s", 1),
)
"""What events say of speed: key, unit, digits."""


def score(job: Job) -> str:
    """The metric of a job with its standard error, or that it has none.

    Example:
        >>> job = Job("00001", "val/log_evidence")
        >>> job.latest = {"val/log_evidence": -97.123, "val/log_evidence_se": 0.314}
        >>> score(job)
        'val/log_evidence -97.12 (se 0.31)'
    """
    value, se = job.scores.get(job.metric), job.scores.get(f"{job.metric}_se")
    if not isinstance(value, int | float):
        return f"no {job.metric}"
    return f"{job.metric} {value:.2f}{_error(se)}"


def standing(job: Job) -> str:
    """Return the metric of a trial, and how far the trial is from the best.

    Example:
        >>> job = Job("00001", "val/log_evidence")
        >>> job.latest = {"val/log_evidence": -97.123}
        >>> job.standing = {"difference_to_best": -0.13, "difference_se": 0.1, "tie": True}
        >>> standing(job)
        'val/log_evidence -97.12, -0.13 (se 0.10) to the best, a tie'
    """
    final = job.standing.get("final/log_evidence")
    parts = [score(job)]
    if final is not None:
        parts.append(f"final {final:.2f}{_error(job.standing.get('final/log_evidence_se'))}")
    off = job.standing.get("difference_to_best")
    if off is not None:
        parts.append(f"{off:+.2f}{_error(job.standing.get('difference_se'))} to the best")
    return ", ".join([*parts, *(["a tie"] if job.standing.get("tie") else [])])


def _error(se: object) -> str:
    return f" (se {se:.2f})" if isinstance(se, int | float) else ""


def pace(job: Job) -> str:
    """Examples or rows a second, what was written, and where workers spend their time."""
    latest = job.latest
    parts = [
        f"{latest[name]:,.{digits}f} {unit}"
        for name, unit, digits in PACES
        if isinstance(latest.get(name), int | float)
    ]
    shares = [f"{name} {share:.0%}" for name, share in latest.get("share", {}).items()]
    return ", ".join([*parts, *([" ".join(shares)] if shares else [])])


def warning(stage: Stage, job: Job) -> str:
    """What a job warned of, and which."""
    trial = f", {job.name}" if job.name is not None else ""
    return f"{stage.name}{trial}: warning: {job.warning}"


def _start(stage: Stage, job: Job, event: Mapping[str, Any]) -> str:
    if job.unit != "epochs":
        whole = f"{job.total:,} {job.unit}"
        return f"{stage.name}: {job.place if job.done else whole}"
    begun = f"resumed after epoch {job.done} of {job.total}" if job.done else f"{job.total} epochs"
    size = event.get("world_size", 1)
    workers = f"{size} worker{'s' if size != 1 else ''}"
    return f"{stage.name}: {begun}, {workers}, {event.get('device', 'cpu')}"


def _progress(stage: Stage, job: Job) -> str:
    shown = score(job) if job.latest and job.unit == "epochs" else ""
    left = f"{duration(job.left)} left" if job.left else ""
    parts = [job.place, shown, pace(job), left]
    return f"{stage.name}: " + ", ".join(part for part in parts if part)


def _fit_end(stage: Stage, job: Job) -> str:
    if job.status == "failed":
        return f"{stage.name}: failed: {job.error}"
    kept = f"best epoch {job.best_epoch}" if job.best_epoch else ""
    parts = [f"{job.status} {_after(job)}".strip(), kept, score(job) if job.by_epoch else ""]
    return f"{stage.name}: " + ", ".join(part for part in parts if part)


def _end(stage: Stage, job: Job) -> str:
    count = f"{stage.ended}/{stage.total}" if stage.total else f"{stage.ended}"
    said = job.error if job.status == "failed" else f"{score(job)}, {job.place}"
    took = f", {duration(job.seconds)}" if job.seconds is not None else ""
    best = stage.best
    leader = f"; best {best.name} {best.value:.2f}" if best else ""
    return f"{stage.name}: {count} trials, {job.name} {job.status}: {said}{took}{leader}"


def _after(job: Job) -> str:
    return f"in {duration(job.seconds)}" if job.seconds is not None else ""


def _live(file: TextIO, stages: Mapping[str, Stage], lock: threading.RLock) -> Painter:
    from vaepipe.cli.live import Live

    return Live(file, stages, lock)
