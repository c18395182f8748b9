"""SIGINT and SIGTERM as exceptions, so that work is put away before the process ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(BaseException):
    """The process was asked to end."""


class Asked:
    """Which signal came, if one did.

    The exception alone is not enough: raised inside a C extension, it can come out as another.
    """

    number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember the signal and raise."""
        self.number = number
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    @property
    def code(self) -> int | None:
        """The exit code of the signal: 130 or 143."""
        return None if self.number is None else 128 + self.number


@contextmanager
def listening() -> Iterator[Asked]:
    """Raise KeyboardInterrupt or `Terminated` in the main thread when a signal comes."""
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
