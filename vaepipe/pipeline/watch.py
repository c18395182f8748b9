"""Follows the journals of running jobs and tells the terminal and the tracker.

The jobs write files and know of neither. How far a journal was told is kept beside it, so that a
run that is continued sends nothing twice.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vaepipe import files
from vaepipe.journal import Follower
from vaepipe.tracking.base import Record

JOURNAL = "journal.jsonl"
TOLD = "tracking.json"
ENDS = {"done": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}


class Screen(Protocol):
    """Where a run is shown."""

    def stage(self, name: str, kind: str, status: str, detail: str = "") -> None:
        """A stage changed its status."""
        ...

    def event(self, stage: str, trial: str | None, event: dict[str, Any]) -> None:
        """A job wrote an event."""
        ...

    def expect(
        self, name: str, *, trials: int | None = None, metric: str = ..., mode: str = ...
    ) -> None:
        """How many trials a sweep is going to have, and what they are compared by."""
        ...


class Told:
    """One journal, its run at the tracker, and how far it was told."""

    def __init__(
        self, folder: Path, open_record: Callable[[str | None], Record], *, ends: bool
    ) -> None:
        """Continue where an earlier process stopped; `ends`: the last event ends the run."""
        self._ends = ends
        self.folder, self._state = folder, folder / TOLD
        state = files.read_json(self._state) if self._state.exists() else {}
        self._seen = int(state.get("events", 0))
        self._follower = Follower(folder / JOURNAL)
        self.record = open_record(state.get("run_id"))
        self._count = 0
        self._ended = False

    def tell(self, show: Callable[[dict[str, Any]], None]) -> None:
        """Pass on the new events."""
        before = self._count
        for event in self._follower:
            self._count += 1
            if self._count > self._seen:
                self._send(event)
            show(event)
        if self._count > before:
            count = max(self._count, self._seen)
            files.write_json(self._state, {"run_id": self.record.id, "events": count})

    def close(self, status: str) -> None:
        """End the run, if no event ended it."""
        if self._ends and not self._ended:
            self.record.finish(status)

    def _send(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "epoch":
            values = {k: v for k, v in event["metrics"].items() if math.isfinite(v)}
            self.record.metrics(event["step"], {**values, "epoch": event["epoch"]}, event["time"])
        elif event["event"] == "warning":
            self.record.tags({"vaepipe.warning": str(event["text"])})
        elif event["event"] in ENDS:
            known = {"vaepipe.end": event["event"], "vaepipe.error": event.get("error")}
            self.record.tags({name: text for name, text in known.items() if text})
            if self._ends:
                self.record.finish(ENDS[event["event"]])
            self._ended = True


class Watcher:
    """Follows the journals below a stage's folder while its work runs.

    Args:
        stage: the stage's name.
        folder: its artifact folder.
        screen: where it is shown.
        open_record: trial (None: the stage itself) and a run id to continue, to a run.
        seconds: between two looks.
    """

    def __init__(
        self,
        stage: str,
        folder: Path,
        screen: Screen,
        open_record: Callable[[str | None, str | None], Record],
        seconds: float = 0.5,
    ) -> None:
        """Nothing runs until the `with` block is entered."""
        self.stage, self.folder, self.screen = stage, folder, screen
        self.open_record, self.seconds = open_record, seconds
        self._told: dict[str | None, Told] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True, name=f"watch-{stage}")
        self._error: BaseException | None = None

    def __enter__(self) -> Watcher:
        """Start to follow."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Tell the rest, and end every run that is still open."""
        self._stop.set()
        self._thread.join()
        if self._error and kind is None:
            raise self._error
        self._look()
        for told in self._told.values():
            told.close("FINISHED" if kind is None else "KILLED")

    def run_id(self, trial: str | None) -> str | None:
        """The tracker's id of a job's run."""
        told = self._told.get(trial)
        return told.record.id if told else None

    def record(self, trial: str | None) -> Record | None:
        """The tracker's run of a job."""
        told = self._told.get(trial)
        return told.record if told else None

    def _loop(self) -> None:
        try:
            while not self._stop.wait(self.seconds):
                self._look()
        except BaseException as error:  # raised in the main thread when the work is over
            self._error = error

    def _look(self) -> None:
        for trial, folder in self._journals().items():
            if trial not in self._told:
                self._told[trial] = Told(
                    folder,
                    lambda run, t=trial: self.open_record(t, run),
                    ends=trial is not None,
                )
            self._told[trial].tell(lambda event, t=trial: self.screen.event(self.stage, t, event))

    def _journals(self) -> dict[str | None, Path]:
        found: dict[str | None, Path] = {}
        if (self.folder / JOURNAL).exists():
            found[None] = self.folder
        for path in sorted(self.folder.glob(f"trials/*/{JOURNAL}")):
            found[path.parent.name] = path.parent
        return found
