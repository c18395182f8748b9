"""Other libraries' noise goes to a log file; the screen is ours."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


@contextmanager
def noise_to(path: Path) -> Iterator[tuple[TextIO, TextIO]]:
    """Send file descriptors 1 and 2 to a log file; yields the real stdout and stderr.

    Descriptors, not `sys.stdout`: C libraries and child processes write to descriptors. Warnings
    of our own loggers go to the real stderr.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    out, err = (os.fdopen(os.dup(fd), "w", buffering=1) for fd in kept)
    handler = logging.StreamHandler(err)
    handler.setFormatter(logging.Formatter("vaepipe: %(message)s"))
    handler.setLevel(logging.WARNING)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        logging.getLogger("vaepipe").addHandler(handler)
        yield out, err
    finally:
        logging.getLogger("vaepipe").removeHandler(handler)
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(log)
        out.close()
        err.close()
