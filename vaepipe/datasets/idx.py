"""The file format of MNIST: a big-endian header, then bytes; read in pieces, gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from vaepipe.core.spec import Shape
from vaepipe.errors import DataError

_UINT8 = 8


def exists(path: Path) -> bool:
    """Whether a file is there, as it is or with `.gz`."""
    return path.exists() or _zipped(path).exists()


def shape(path: Path) -> Shape:
    """Number of rows and shape of a row.

    Raises:
        DataError: it is no file of this format.
    """
    with _open(path) as file:
        return _header(path, file)


def rows(path: Path, start: int, stop: int, batch: int) -> Iterator[np.ndarray]:
    """Rows `start` to `stop` as uint8, `batch` at a time; no more than that is in memory.

    Raises:
        DataError: it is no file of this format, or it ends too early.
    """
    with _open(path) as file:
        event = _header(path, file)[1:]
        size = math.prod(event)
        file.seek(start * size, 1)
        for first in range(start, stop, batch):
            count = min(batch, stop - first)
            flat = np.frombuffer(_read(path, file, count * size), np.uint8)
            yield flat.reshape(count, *event)


def _zipped(path: Path) -> Path:
    return path.with_name(path.name + ".gz")


def _open(path: Path) -> BinaryIO:
    return path.open("rb") if path.exists() else cast("BinaryIO", gzip.open(_zipped(path), "rb"))


def _header(path: Path, file: BinaryIO) -> Shape:
    zero, kind, ndim = struct.unpack(">HBB", _read(path, file, 4))
    if zero != 0 or kind != _UINT8 or ndim not in (1, 3):
        raise DataError(f"{path}: not a file of bytes in the format of MNIST. Download it again.")
    return struct.unpack(f">{ndim}I", _read(path, file, 4 * ndim))


def _read(path: Path, file: BinaryIO, size: int) -> bytes:
    try:
        data = file.read(size)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}. Download it again.") from error
    if len(data) != size:
        raise DataError(f"{path}: the file ends too early. Download it again.")
    return data
