"""What is known of a running pipeline: stages, their jobs, how far they are."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ENDED = ("done", "stopped", "failed", "invalid")


def tidy(text: object) -> str:
    r"""One line of printable characters, so that no name can steer a terminal.

    Example:
        >>> tidy("two\nlines\x1b[2J")
        'two lines�[2J'
    """
    line = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def duration(seconds: float) -> str:
    """Seconds in words.

    Example:
        >>> duration(7.21), duration(75), duration(7260)
        ('7.2 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class Job:
    """A fit, or any work that counts what it has done, as its events tell.

    Args:
        name: of a trial; None for the stage itself.
        metric: what it is ranked by; `mode` is "max" or "min".
    """

    name: str | None
    metric: str
    mode: str = "max"
    status: str = "waiting"
    done: int = 0
    total: int = 0
    unit: str = "rows"
    error: str = ""
    warning: str = ""
    latest: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    best_epoch: int | None = None
    by_epoch: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    begun: tuple[float, int] | None = None
    last: float = 0.0
    standing: Mapping[str, Any] = field(default_factory=dict)
    """Of a trial when its sweep has ended: place, difference to the best, whether it is a tie."""

    def tell(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the journal; unknown events change nothing."""
        self.last = float(event.get("time", time.time()))
        taken = getattr(self, f"_on_{event.get('event')}", None)
        if taken is not None:
            taken(event)

    @property
    def scores(self) -> Mapping[str, Any]:
        """Metrics of the kept epoch, or of the best so far."""
        kept = {} if self.best_epoch is None else self.by_epoch.get(self.best_epoch, {})
        if math.isfinite(_value(kept, self.metric)):
            return kept
        known = {n: m for n, m in self.by_epoch.items() if math.isfinite(_value(m, self.metric))}
        if not known:
            return self.latest
        choose = max if self.mode == "max" else min
        return known[choose(known, key=lambda n: _value(known[n], self.metric))]

    @property
    def value(self) -> float:
        """The metric it is ranked by; NaN if it has none yet."""
        return _value(self.scores, self.metric)

    @property
    def fraction(self) -> float:
        """Share of the work that is done, between 0 and 1."""
        return min(1.0, self.done / self.total) if self.total else 0.0

    @property
    def place(self) -> str:
        """How far it is: `epoch 3/30`, `1,024/10,000 rows`."""
        if self.unit == "epochs":
            return f"epoch {self.done}/{self.total}"
        return f"{self.done:,}/{self.total:,} {self.unit}"

    @property
    def left(self) -> float | None:
        """Seconds that the rest will take, as seen at the last event; None if unknown."""
        if self.begun is None or self.done <= self.begun[1] or not self.total:
            return None
        each = (self.last - self.begun[0]) / (self.done - self.begun[1])
        return max(0.0, each * (self.total - self.done))

    def _on_start(self, event: Mapping[str, Any]) -> None:
        self.status, self.error, self.warning = "running", "", ""
        self.unit = "epochs" if "epochs" in event else str(event.get("unit", "rows"))
        self.total = int(event.get("epochs") or event.get("total") or 0)
        self.done = int(event.get("resumed_from") or event.get("done") or 0)
        self.begun = (self.last, self.done)

    def _on_epoch(self, event: Mapping[str, Any]) -> None:
        self.status = "running"
        self.done = int(event["epoch"])
        self.latest = event.get("metrics", {})
        self.by_epoch[self.done] = self.latest
        self.best_epoch = event.get("best_epoch") or self.best_epoch
        self.begun = self.begun or (self.last, self.done)

    def _on_progress(self, event: Mapping[str, Any]) -> None:
        self.status = "running"
        self.done, self.total = int(event["done"]), int(event["total"])
        self.latest = event
        self.begun = self.begun or (self.last, self.done)

    def _on_ranked(self, event: Mapping[str, Any]) -> None:
        self.standing = event

    def _on_warning(self, event: Mapping[str, Any]) -> None:
        self.warning = tidy(event.get("text", ""))

    def _on_done(self, event: Mapping[str, Any]) -> None:
        self.status = str(event["event"])
        self.best_epoch = event.get("best_epoch") or None
        self.seconds = event.get("seconds")
        if self.seconds is None and self.begun is not None:
            self.seconds = self.last - self.begun[0]

    _on_stopped = _on_done

    def _on_failed(self, event: Mapping[str, Any]) -> None:
        self._on_done(event)
        self.error = tidy(event.get("error", ""))


@dataclass
class Stage:
    """A stage of the run and its jobs; a sweep has one for each trial."""

    name: str
    kind: str = ""
    status: str = "waiting"
    detail: str = ""
    metric: str = "val/log_evidence"
    mode: str = "max"
    total: int | None = None
    jobs: dict[str | None, Job] = field(default_factory=dict)
    begun: float | None = None
    seconds: float | None = None

    def turn(self, kind: str, status: str, detail: str) -> None:
        """Take a new status."""
        self.kind, self.status, self.detail = kind, status, detail
        if status == "running" and self.begun is None:
            self.begun = time.monotonic()
        elif self.begun is not None and self.seconds is None and status != "running":
            self.seconds = time.monotonic() - self.begun

    def job(self, name: str | None) -> Job:
        """The job of a trial (None: of the stage itself)."""
        if name not in self.jobs:
            self.jobs[name] = Job(name, self.metric, self.mode)
        return self.jobs[name]

    @property
    def elapsed(self) -> float | None:
        """Seconds since it began to run; None if it never did."""
        if self.begun is None:
            return None
        return self.seconds if self.seconds is not None else time.monotonic() - self.begun

    @property
    def trials(self) -> list[Job]:
        """Trials, best so far first; those without a value, and then the failed, last."""
        sign = -1.0 if self.mode == "max" else 1.0

        def key(job: Job) -> tuple[bool, float, bool, float, str]:
            unknown = math.isnan(job.value)
            return (
                job.status == "failed",
                job.standing.get("place", math.inf),
                unknown,
                0.0 if unknown else sign * job.value,
                f"{job.name}",
            )

        return sorted((job for name, job in self.jobs.items() if name is not None), key=key)

    @property
    def best(self) -> Job | None:
        """The best trial so far."""
        first = next(iter(self.trials), None)
        if first is None or first.status == "failed" or math.isnan(first.value):
            return None
        return first

    @property
    def ended(self) -> int:
        """Trials that will do no more."""
        return sum(job.status in ENDED for job in self.trials)

    @property
    def left(self) -> float | None:
        """Seconds that the remaining trials will take at the pace so far; None if unknown."""
        if not self.total or not self.ended or self.elapsed is None:
            return None
        return self.elapsed / self.ended * (self.total - self.ended)


def _value(metrics: Mapping[str, Any], name: str) -> float:
    value = metrics.get(name)
    return float(value) if isinstance(value, int | float) else math.nan
