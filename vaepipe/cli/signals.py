"""SIGINT and SIGTERM as exceptions, so that work is put away before the process ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

ECHO = 1.0
"""Seconds in which another signal counts as the first: `timeout` and terminals send two."""


class Asked:
    """Which signal came, if one did.

    The first one raises KeyboardInterrupt, for SIGTERM too: where a C extension waits, Ray hands
    on no other exception. A second one ends the process at once, with all that it started.
    """

    number: int | None = None
    since: float = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal and raise."""
        if self.number is None:
            self.number, self.since = number, time.monotonic()
            raise KeyboardInterrupt
        if time.monotonic() - self.since > ECHO:
            for child in descendants(os.getpid()):
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            os._exit(128 + number)

    @property
    def code(self) -> int | None:
        """The exit code of the signal: 130 or 143."""
        return None if self.number is None else 128 + self.number


@contextmanager
def listening() -> Iterator[Asked]:
    """Raise KeyboardInterrupt in the main thread when a signal comes."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {n: signal.signal(n, asked) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def descendants(pid: int) -> list[int]:
    """Return the descendants of a process (on Linux)."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                found += [child, *descendants(child)]
    return found
