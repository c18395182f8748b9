"""Other libraries' noise goes to a log file; the screen is ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def noise_to(path: Path) -> Iterator[tuple[TextIO, TextIO]]:
    """Send file descriptors 1 and 2 to a log file; yields the real stdout and stderr.

    Descriptors, not `sys.stdout`: C libraries and child processes write to descriptors.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    out, err = (os.fdopen(os.dup(fd), "w", buffering=1) for fd in kept)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield out, err
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(log)
        out.close()
        err.close()
