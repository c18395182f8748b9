"""Files of pictures as arrays of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from vaepipe.data.pictures import WHITE, Mode, Pictures
from vaepipe.errors import DataError

T = TypeVar("T")
_BATCH_BYTES = 32 * 2**20
_MOST_ROWS = 1024


def read(path: Path, mode: Mode, pictures: Pictures = WHITE) -> np.ndarray:
    """A picture `[channels, height, width]` of uint8, grey (`L`) or in colour (`RGB`).

    Raises:
        DataError: the file is not a picture, or one that cannot be read, see `Pictures.decode`.
    """
    try:
        return pictures.decode(path, mode)
    except ValueError as error:
        raise DataError(
            f"{path}: not a picture that can be read ({error}). Mend or remove the file."
        ) from error


def chunks(items: Iterable[T], row_bytes: int) -> Iterator[list[T]]:
    """Lists of items, each of rows that fit some megabytes.

    Example:
        >>> [len(chunk) for chunk in chunks(range(2500), 1)]
        [1024, 1024, 452]
    """
    count = max(1, min(_MOST_ROWS, _BATCH_BYTES // max(row_bytes, 1)))
    source = iter(items)
    while chunk := list(islice(source, count)):
        yield chunk
