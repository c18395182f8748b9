"""An append-only file of events: what a job tells the world while it runs.

The job that does the work appends one JSON line for each event; whoever watches (terminal,
tracker) follows the file. A watcher that dies or an unreachable server costs the job nothing, and
the events are still there afterwards.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Journal:
    """Appends events to one file; every line is written whole or not at all."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the journal; the file appears with the first event."""
        self.path = Path(path)

    def write(self, event: str, /, **values: Any) -> None:
        """Append one event with the present time."""
        line = json.dumps({"event": event, "time": time.time(), **values}, allow_nan=True) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def read(self) -> list[dict[str, Any]]:
        """All complete events so far."""
        return list(Follower(self.path))


class Follower:
    """Reads the events of a journal that is still growing; each iteration yields the new ones."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Start at the beginning of the file, which need not exist yet."""
        self.path, self._offset = Path(path), 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield events that were completed since the last iteration."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                event = _parsed(line)
                if event is not None:
                    yield event


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        return json.loads(line)
    except ValueError:  # a line cut by a crash and continued by the next run
        return None
