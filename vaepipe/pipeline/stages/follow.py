"""The progress of units of work, as events of a journal."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vaepipe.errors import PartialFailure
from vaepipe.journal import Journal
from vaepipe.pipeline.watch import JOURNAL

SECONDS = ("read", "compute", "write", "idle", "wall")
"""What workers say of their time, if they do."""


def follow(
    folder: Path,
    results: Iterable[Mapping[str, Any]],
    todo: Sequence[Mapping[str, Any]],
    units: Sequence[Mapping[str, Any]],
) -> None:
    """Journal the progress of units as their results arrive.

    Events: `start`, then `progress` with `done` and `total` rows, `rows_per_second`,
    `mb_per_second` (of output) and the workers' `share` of time, then `done` or `failed`.

    Raises:
        PartialFailure: some units failed; those that are done stay done.
    """
    journal, pace = Journal(folder / JOURNAL), _Pace()
    total = sum(u["rows"] for u in units)
    done = total - sum(u["rows"] for u in todo)
    journal.write("start", total=total, done=done)
    errors = []
    for result in results:
        if "error" in result:
            errors.append(result["error"])
            continue
        done += result["rows"]
        journal.write("progress", done=done, total=total, **pace.after(result))
    if errors:
        journal.write("failed", error=errors[0])
        raise PartialFailure(f"{len(errors)} of {len(units)} shards failed; first: {errors[0]}")
    journal.write("done", total=total, **pace.now())


class _Pace:
    """Rows, bytes and seconds since the work began."""

    def __init__(self) -> None:
        self.begin, self.rows, self.bytes = time.monotonic(), 0, 0
        self.seconds: Counter[str] = Counter()

    def after(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """How fast it goes, with one more unit."""
        self.rows += result["rows"]
        self.bytes += result.get("bytes", 0)
        self.seconds.update(result.get("seconds", {}))
        return self.now()

    def now(self) -> dict[str, Any]:
        """How fast it went until now."""
        passed = max(1e-9, time.monotonic() - self.begin)
        found: dict[str, Any] = {"rows_per_second": round(self.rows / passed, 1)}
        if self.bytes:
            found["mb_per_second"] = round(self.bytes / passed / 1e6, 3)
        if self.seconds["wall"]:
            wall = self.seconds["wall"]
            found["share"] = {n: round(self.seconds[n] / wall, 3) for n in SECONDS if n != "wall"}
        return found
