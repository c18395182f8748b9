"""The live table of a run, drawn by rich."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO, final

from rich import box, live
from rich.console import Console, ConsoleDimensions, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from vaepipe.cli.progress import Job, Stage, duration, tidy
from vaepipe.cli.view import pace, score, standing, warning

MARKS = {
    "waiting": ("·", "-", "dim"),
    "running": ("●", "*", "cyan"),
    "done": ("✓", "+", "green"),
    "done already": ("✓", "+", "dim"),
    "stopped": ("■", "=", "yellow"),
    "invalid": ("■", "=", "yellow"),
    "interrupted": ("■", "=", "yellow"),
    "failed": ("✗", "x", "red"),
}
BAR_WIDTH = 30
TRIALS_SHOWN = 12
WARNINGS_SHOWN = 3
STANDINGS_SHOWN = 5
WIDE = 80
"""Columns of a terminal from which on a trial shows more than its score."""


@final
class Live:
    """Redraws a table of stages, and below it what the running ones are at."""

    def __init__(self, file: TextIO, stages: Mapping[str, Stage], lock: threading.RLock) -> None:
        """Start to draw; `stages` changes under `lock`."""
        self._file, self._stages, self._lock = file, stages, lock
        self._console = Console(file=file, force_terminal=True, highlight=False, markup=False)
        self._unicode = "utf" in (getattr(file, "encoding", None) or "utf").lower()
        self._fit_size()
        self._live = live.Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def stage(self, stage: Stage) -> None:
        """The next frame shows it."""

    def event(self, stage: Stage, job: Job, event: Mapping[str, Any]) -> None:
        """The next frame shows it."""

    def close(self) -> None:
        """Draw the last frame and leave it."""
        self._live.stop()

    def _fit_size(self) -> None:
        """Follow the size of the terminal behind `file`, where it is one."""
        try:
            columns, rows = os.get_terminal_size(self._file.fileno())
        except OSError:
            return
        if columns and rows:
            self._console.size = ConsoleDimensions(columns, rows)

    def _render(self) -> RenderableType:
        with self._lock:
            self._fit_size()
            stages = list(self._stages.values())
            parts: list[RenderableType] = [self._overview(stages)] if stages else []
            parts += [Text(line, "yellow") for stage in stages for line in _warnings(stage)]
            for stage in stages:
                if stage.status == "running" and stage.jobs:
                    parts += [Text(), *self._running(stage, len(stages))]
                parts += _standings(stage)
            return Group(*parts)

    def _overview(self, stages: list[Stage]) -> Table:
        table = Table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True)
        table.add_column(ratio=1, overflow="ellipsis", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        for stage in stages:
            took = duration(stage.elapsed) if stage.elapsed is not None else ""
            name = Text(tidy(stage.name), "bold" if stage.status == "running" else "")
            table.add_row(
                self._mark(stage.status),
                name,
                stage.kind,
                Text(_said(stage), "dim"),
                Text(took, "dim"),
            )
        return table

    def _running(self, stage: Stage, stages: int) -> list[RenderableType]:
        trials = stage.trials
        if trials:
            again = [self._job_line(stage.jobs[None])] if None in stage.jobs else []
            return [self._sweep_line(stage), *again, self._trials(trials, stages)]
        return [self._job_line(stage.job(None))]

    def _sweep_line(self, stage: Stage) -> RenderableType:
        count = f"{stage.ended}/{stage.total}" if stage.total else f"{stage.ended}"
        text = f"{count} trials ended"
        if stage.best is not None:
            text += f", best {tidy(stage.best.name)} {stage.best.value:.2f}"
        if stage.left:
            text += f", about {duration(stage.left)} left"
        return _bar(stage.ended, stage.total, text) if stage.total else Text(text)

    def _job_line(self, job: Job) -> RenderableType:
        shown = score(job) if job.latest and job.unit == "epochs" else ""
        left = None if job.left is None else max(0.0, job.left - (time.time() - job.last))
        rest = f"{duration(left)} left" if left is not None and job.status == "running" else ""
        parts = (job.place, shown, pace(job), rest)
        return _bar(job.done, job.total, "  ".join(part for part in parts if part))

    def _trials(self, trials: list[Job], stages: int) -> Table:
        room = max(3, min(TRIALS_SHOWN, self._console.size.height - stages - 7))
        wide = self._console.size.width >= WIDE
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim", expand=True)
        table.add_column("", width=1)
        table.add_column("trial", no_wrap=True)
        for name in ("epoch", trials[0].metric, *(("s.e.", "rate", "examples/s") if wide else ())):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("", overflow="ellipsis", no_wrap=True, ratio=1)
        for place, job in enumerate(trials[:room]):
            table.add_row(*self._cells(job, wide), style="bold" if place == 0 else "")
        if len(trials) > room:
            table.add_row("", Text(f"+ {len(trials) - room}", "dim"))
        return table

    def _cells(self, job: Job, wide: bool) -> list[RenderableType]:
        scores = job.scores
        cells = [tidy(job.name), f"{job.done}/{job.total}", _number(scores.get(job.metric))]
        if wide:
            cells += [_number(scores.get(name)) for name in (f"{job.metric}_se", "val/rate")]
            cells.append(_number(job.latest.get("examples_per_second"), 0))
        return [self._mark(job.status), *cells, Text(job.error, "red")]

    def _mark(self, status: str) -> Text:
        fancy, simple, style = MARKS.get(status, ("·", "-", ""))
        return Text(fancy if self._unicode else simple, style)


def _warnings(stage: Stage) -> list[str]:
    jobs = [job for job in stage.jobs.values() if job.warning][:WARNINGS_SHOWN]
    return [tidy(warning(stage, job)) for job in jobs]


def _standings(stage: Stage) -> list[RenderableType]:
    """The best trials of a sweep that has ended, and how far apart they are."""
    ranked = [job for job in stage.trials if job.standing] if stage.status == "done" else []
    lines = [
        Text(tidy(f"{job.standing['place']}. {job.name}: {standing(job)}"), overflow="ellipsis")
        for job in ranked[:STANDINGS_SHOWN]
    ]
    return [Text(), Text(tidy(stage.name), "bold"), *lines] if lines else []


def _said(stage: Stage) -> str:
    return stage.detail or ("" if stage.status in ("running", "done") else tidy(stage.status))


def _bar(done: int, total: int, text: str) -> RenderableType:
    row = Table.grid(padding=(0, 2))
    row.add_column(width=BAR_WIDTH)
    row.add_column(overflow="ellipsis", no_wrap=True)
    bar = ProgressBar(
        total=max(1, total),
        completed=done,
        width=BAR_WIDTH,
        complete_style="cyan",
        finished_style="green",
    )
    row.add_row(bar, Text(text))
    return row


def _number(value: object, digits: int = 2) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else ""
