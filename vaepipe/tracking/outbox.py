"""Updates on their way to a tracking server, kept in a file until they are delivered.

A run never waits for its tracker: an update is one appended line, and a thread delivers it. What a
process could not deliver stays in its file, and the next process that opens the same store
delivers it. Every operation may be delivered twice without harm.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, final

from vaepipe.errors import Unreachable, UserError

Operation = dict[str, Any]
"""JSON data: `op` names it, `record` is the run it belongs to; `log` holds lists and mappings."""

REFUSED = "refused.jsonl"
LINGER = 0.5
"""Seconds in which updates gather before they are sent together."""
PAUSES = (1.0, 2.0, 5.0, 15.0, 30.0)
"""Seconds before the server is tried again."""
STUMBLES = 5
HURRY = 3.0
"""Seconds that all waits may take together after an interruption; the rest stays in the file."""

_logger = logging.getLogger("vaepipe.tracking")


class RefusedError(UserError):
    """The server answered, and it will not take this operation however often it is sent."""


class Stumbled(Unreachable):
    """The server answered that it failed: a later try may succeed, or never will."""


def merged(operations: Sequence[Operation]) -> list[Operation]:
    """Neighbouring `log` operations of a record as one; the order within a record is kept.

    Example:
        >>> log = {"op": "log", "record": "a", "params": {}, "tags": {}}
        >>> pair = [log | {"metrics": [["loss", 1.0]]}, log | {"metrics": [["loss", 0.5]]}]
        >>> merged(pair)[0]["metrics"]
        [['loss', 1.0], ['loss', 0.5]]
    """
    queues: dict[str, list[Operation]] = {}
    for operation in operations:
        queue = queues.setdefault(operation["record"], [])
        if queue and operation["op"] == queue[-1]["op"] == "log":
            _extend(queue[-1], operation)
        else:
            queue.append(_copied(operation))
    return [operation for queue in queues.values() for operation in queue]


@final
class Outbox:
    """A queue of operations with a file behind it and a thread that empties it.

    Args:
        folder: of the files of all outboxes of a workspace.
        address: the store that the operations are for; other stores' operations are left alone.
        deliver: sends one operation; raises `Unreachable` (it is tried again) or `RefusedError`.
    """

    def __init__(self, folder: Path, address: str, deliver: Callable[[Operation], None]) -> None:
        """Take over what earlier processes left, and start to deliver."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.address, self._deliver = folder, address, deliver
        draft = folder / f"{uuid.uuid4().hex}.new"
        self._file, self.path = _locked(draft), draft.with_suffix(".outbox")
        self._empty_file()
        draft.rename(self.path)  # locked before anyone looks for it
        self._changed = threading.Condition()
        self._waiting: list[Operation] = []
        self._number = self._attempts = self._stumbles = 0
        self._failing: Unreachable | None = None
        self._urgent = self._closing = False
        self._deadline = math.inf
        self._adopt()
        self._thread = threading.Thread(target=self._loop, name="vaepipe-outbox", daemon=True)
        self._thread.start()

    def put(self, operation: Operation) -> None:
        """Keep an operation; it is delivered when the server is there."""
        with self._changed:
            self._file.write(json.dumps(operation, default=str) + "\n")
            self._file.flush()
            self._number += 1
            self._waiting.append({**operation, "number": self._number})
            self._changed.notify_all()

    def wait(self, seconds: float, *, insist: bool = False) -> bool:
        """Wait until everything that was put before is delivered; whether it is.

        While the server does not answer this returns at once, unless it is to insist on a try.
        Where an interruption is being handled, it waits for `HURRY` seconds at most.
        """
        if isinstance(sys.exception(), KeyboardInterrupt):
            self._deadline = min(self._deadline, time.monotonic() + HURRY)
        seconds = min(seconds, max(0.0, self._deadline - time.monotonic()))
        with self._changed:
            tried, last = self._attempts, self._number
            if insist or not self._failing:
                self._urgent = True
                self._changed.notify_all()
                self._changed.wait_for(
                    lambda: self._empty(last) or (self._failing and self._attempts > tried), seconds
                )
            return self._empty(last)

    def close(self, seconds: float) -> int:
        """Deliver what can be delivered; how many updates stay in the file."""
        self.wait(seconds, insist=True)
        with self._changed:
            self._closing = True
            left = sum(map(_updates, self._waiting))
            self._changed.notify_all()
        self._thread.join(1.0)
        if not left:
            self.path.unlink(missing_ok=True)
        self._file.close()
        with contextlib.suppress(OSError):  # others still keep their files there
            self.folder.rmdir()
        return left

    @property
    def failing(self) -> Unreachable | None:
        """Why the last try failed, if it did."""
        return self._failing

    def _empty(self, last: int) -> bool:
        """Whether nothing waits that was put before the operation after number `last`."""
        return all(operation["number"] > last for operation in self._waiting)

    def _loop(self) -> None:
        while batch := self._batch():
            rest = self._send(merged(batch))
            with self._changed:
                self._waiting[: len(batch)] = rest
                self._attempts += 1
                if not self._waiting and not self._closing:
                    self._empty_file()
                self._changed.notify_all()

    def _batch(self) -> list[Operation]:
        """The operations to send, once they have gathered; none when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            pause = PAUSES[min(self._stumbles, len(PAUSES)) - 1] if self._failing else LINGER
            self._changed.wait_for(lambda: self._urgent or self._closing, pause)
            self._urgent = False
            return [] if self._closing else list(self._waiting)

    def _send(self, batch: list[Operation]) -> list[Operation]:
        """Deliver in order; what is left if the server stops answering."""
        for index, operation in enumerate(batch):
            try:
                self._deliver(operation)
            except RefusedError as error:
                self._set_aside(operation, error)
            except Unreachable as error:
                if not self._give_up(error):
                    return [{**operation, "again": True}, *batch[index + 1 :]]
                self._set_aside(operation, error)
            except Exception as error:  # a defect of this operation; the thread must outlive it
                self._set_aside(operation, error)
            self._answered()
        return []

    def _give_up(self, error: Unreachable) -> bool:
        """Note a failed try; True if this operation alone keeps the rest from being delivered."""
        if self._failing is None:
            _logger.warning("%s Updates are kept in %s and sent when it does.", error, self.path)
        self._failing, self._stumbles = error, self._stumbles + 1
        return isinstance(error, Stumbled) and self._stumbles >= STUMBLES

    def _answered(self) -> None:
        if self._failing is not None:
            _logger.info("%s answers again.", self.address)
        self._failing, self._stumbles = None, 0

    def _set_aside(self, operation: Operation, error: Exception) -> None:
        path = self.folder / REFUSED
        with path.open("a") as file:
            file.write(json.dumps({**operation, "error": repr(error)}, default=str) + "\n")
        _logger.warning("%s The update is kept in %s.", str(error) or repr(error), path)

    def _adopt(self) -> None:
        for path in sorted(self.folder.glob("*.outbox")):
            if path != self.path:
                for operation in _left_behind(path, self.address):
                    self.put({**operation, "again": True})

    def _empty_file(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps({"address": self.address, "time": time.time()}) + "\n")
        self._file.flush()


def _left_behind(path: Path, address: str) -> Iterator[Operation]:
    """The operations of a dead process for this address; its file goes when they are taken."""
    try:
        file = _locked(path)
    except OSError:  # its process lives, or another process was faster
        return
    with file:
        header, *operations = list(_lines(file)) or [{}]
        if header.get("address") == address or not operations:
            yield from operations
            path.unlink(missing_ok=True)


def _locked(path: Path) -> IO[str]:
    """Open for reading and appending, held until it is closed or the process ends.

    Raises:
        OSError: another process holds it.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _lines(file: IO[str]) -> Iterator[Operation]:
    file.seek(0)
    for line in file:
        with contextlib.suppress(ValueError):  # cut off by the end of its process
            yield json.loads(line)


def _updates(operation: Operation) -> int:
    """How many calls of `put` an operation stands for."""
    return operation.get("updates", 1)


def _copied(operation: Operation) -> Operation:
    if operation["op"] != "log":
        return operation
    fresh = {key: type(operation[key])(operation[key]) for key in ("metrics", "params", "tags")}
    return {**operation, **fresh}


def _extend(target: Operation, more: Operation) -> None:
    target["updates"] = _updates(target) + _updates(more)
    target["metrics"].extend(more["metrics"])
    target["params"].update(more["params"])
    target["tags"].update(more["tags"])
