"""PNG and JPEG files as arrays of bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from vaepipe.errors import DataError

Mode = Literal["L", "RGB"]
T = TypeVar("T")
_BATCH_BYTES = 32 * 2**20
_MOST_ROWS = 1024


def read(path: Path, mode: Mode, size: int | None = None) -> np.ndarray:
    """A picture `[channels, height, width]` of uint8, grey (`L`) or in colour (`RGB`).

    With a size it is scaled by area averages until the shorter side has that many pixels, and the
    middle square is kept.

    Raises:
        DataError: the file is no picture, or a damaged one.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.mode == "F" or image.mode.startswith("I"):
                raise ValueError(f"more than 8 bits a channel, mode {image.mode}; convert it first")
            pixels = np.asarray(image.convert(mode), np.uint8)
    except (
        UnidentifiedImageError,
        Image.DecompressionBombError,
        OSError,
        SyntaxError,
        ValueError,
    ) as error:
        raise DataError(
            f"{path}: not a picture that can be read ({error}). Mend or remove the file."
        ) from error
    x = pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return x if size is None or x.shape[1:] == (size, size) else _square(x, size)


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


def _square(x: np.ndarray, size: int) -> np.ndarray:
    """The middle square of `[c, h, w]` at another size."""
    down, across = (_averages(length, min(x.shape[1:]), size) for length in x.shape[1:])
    return np.rint(down @ x.astype(np.float32) @ across.T).astype(np.uint8)


def _averages(length: int, side: int, size: int) -> np.ndarray:
    """Which share of each new pixel is covered by each old one, `[size, length]`."""
    edges = (length - side) / 2 + side * np.arange(size + 1) / size
    pixels = np.arange(length)
    ends = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (ends.clip(0) * size / side).astype(np.float32)
