"""Reading ahead and writing behind, in a thread each and never by more than a few items."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, TypeVar, final

T = TypeVar("T")

DEPTH = 2
"""Items that may wait between two threads: enough to hide a hiccup, and memory stays bounded."""


@dataclass(slots=True)
class Clock:
    """Seconds that went into reading, computing and writing; threads overlap, so they may add up.

    `idle` is what the computing thread spent waiting for the other two.
    """

    read: float = 0.0
    compute: float = 0.0
    write: float = 0.0
    idle: float = 0.0


class _End:
    """What follows the last item: the error that ended the source, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def ahead(items: Iterator[T], clock: Clock) -> Iterator[T]:
    """The same items, made in another thread, at most `DEPTH` ahead of who takes them.

    Example:
        >>> list(ahead(iter("abc"), Clock()))
        ['a', 'b', 'c']
    """
    waiting: queue.Queue[T | _End] = queue.Queue(DEPTH)
    stop = threading.Event()
    thread = threading.Thread(target=_read, args=(items, waiting, stop, clock), daemon=True)
    thread.start()
    try:
        while True:
            item = _timed(clock, waiting.get)
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stop.set()
        thread.join()


@final
class Behind(Generic[T]):
    """Hands items to a thread that writes them, at most `DEPTH` of them waiting.

    Leaving the block waits for the last one and raises what writing raised.
    """

    def __init__(self, write: Callable[[T], None], clock: Clock) -> None:
        """The thread starts with the block."""
        self._write, self._clock = write, clock
        self._waiting: queue.Queue[T | _End] = queue.Queue(DEPTH)
        self._error: BaseException | None = None
        self.taken = 0
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> Behind[T]:
        """Start to write."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for what is left."""
        self._waiting.put(_End(error))
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def put(self, item: T) -> None:
        """Leave an item to be written; waits while too many do."""
        if self._error is not None:
            raise self._error
        self.taken += 1
        _timed(self._clock, lambda: self._waiting.put(item))

    def _loop(self) -> None:
        """Write until the end; after an error only make room, so that nobody waits for ever."""
        while not isinstance(item := self._waiting.get(), _End):
            if self._error is None:
                self._try(item)

    def _try(self, item: T) -> None:
        begin = time.perf_counter()
        try:
            self._write(item)
        except BaseException as error:
            self._error = error
        self._clock.write += time.perf_counter() - begin


def _read(
    items: Iterator[T], waiting: queue.Queue[T | _End], stop: threading.Event, clock: Clock
) -> None:
    try:
        while not stop.is_set():
            begin = time.perf_counter()
            item = next(items)
            clock.read += time.perf_counter() - begin
            _offer(waiting, item, stop)
    except StopIteration:
        _offer(waiting, _End(None), stop)
    except BaseException as error:
        _offer(waiting, _End(error), stop)


def _offer(waiting: queue.Queue[T], item: T, stop: threading.Event) -> None:
    """Put the item, unless nobody is going to take it."""
    while not stop.is_set():
        with contextlib.suppress(queue.Full):
            waiting.put(item, timeout=0.1)
            return


def _timed(clock: Clock, act: Callable[[], T]) -> T:
    begin = time.perf_counter()
    try:
        return act()
    finally:
        clock.idle += time.perf_counter() - begin
