"""What happens, as JSON: one object a line, for programs that watch."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import Any, TextIO, final


@final
class Events:
    """A screen that is read by a program: `stage`, `trial` and the event's own fields."""

    def __init__(self, file: TextIO) -> None:
        """Write to `file`."""
        self._file, self._lock = file, threading.Lock()

    def expect(
        self,
        name: str,
        *,
        trials: int | None = None,
        metric: str = "val/log_evidence",
        mode: str = "max",
    ) -> None:
        """How many trials a sweep will have."""
        self._write(stage=name, event="expect", trials=trials, metric=metric, mode=mode)

    def stage(self, name: str, kind: str, status: str, detail: str = "") -> None:
        """A stage changed its status."""
        self._write(stage=name, event="stage", kind=kind, status=status, detail=detail)

    def event(self, stage: str, trial: str | None, event: Mapping[str, Any]) -> None:
        """A job wrote an event."""
        self._write(stage=stage, trial=trial, **event)

    def close(self) -> None:
        """Nothing is left to do."""

    def _write(self, **fields: Any) -> None:
        with self._lock:
            self._file.write(json.dumps(fields, default=str) + "\n")
            self._file.flush()
