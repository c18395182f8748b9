"""Pictures as arrays of bytes: one decoder for folders, columns and datasets of pictures."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from vaepipe.core.spec import Shape
from vaepipe.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Mode = Literal["L", "RGB"]
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
"""Endings of files that are taken for pictures."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What brings a picture upright, by its orientation."""
_FAULTS = (OSError, SyntaxError, ValueError, EOFError, KeyError, TypeError, struct.error)
"""What Pillow raises where a file is damaged."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """How a picture becomes an array; the same in every command that reads pictures.

    A picture is turned upright as its EXIF orientation says. Pixels that let something through lie
    before a background of one colour, so that the colours of invisible pixels do not count.

    Args:
        background: a colour: a name such as `white`, or `#rrggbb`.
        size: side of a square that pictures are scaled and cropped to; None keeps their size.
        negative: whether black and white change places, for drawings in ink on paper.

    Raises:
        DataError: there is no such colour.

    Example:
        >>> Pictures("no colour")
        Traceback (most recent call last):
        ...
        vaepipe.errors.DataError: background 'no colour': expected a colour, white or #00ff00 say.
    """

    background: str = "white"
    size: int | None = None
    negative: bool = False

    def __post_init__(self) -> None:
        """Check the colour."""
        if self.background != "white":
            self._colour()

    def decode(self, data: bytes | Path, mode: Mode, shape: Shape | None = None) -> np.ndarray:
        """Return a picture as uint8 `[channels, height, width]`.

        With a size it is scaled by area averages until the shorter side has that many pixels, and
        the middle square is kept.

        Args:
            data: a file, or its bytes.
            mode: `L` is grey, `RGB` colour.
            shape: of an example; a picture of another size is refused before it is decoded.

        Raises:
            ValueError: not a picture, a damaged one, one of another size, of several pages, or with
                more than 8 bits a channel.
        """
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(BytesIO(data) if isinstance(data, bytes) else data) as image:
                _check_kind(image)
                if shape is not None and self.size is None:
                    _check_size(image.size, mode, shape, turned=True)
                pixels = self._pixels(image, mode)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise ValueError(f"an image of far too many pixels: {error}") from error
        except _RefusedError:
            raise
        except UnidentifiedImageError as error:
            raise ValueError("no readable image: of none of the known forms") from error
        except _FAULTS as error:
            raise ValueError(f"no readable image: {error}") from error
        x = pixels[None] if mode == "L" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
        if self.size is not None and x.shape[1:] != (self.size, self.size):
            x = _square(x, self.size)
        if shape is not None:
            _check_size((x.shape[2], x.shape[1]), mode, shape)
        return 255 - x if self.negative else x

    def _pixels(self, image: Picture, mode: Mode) -> np.ndarray:
        """The pixels of an upright picture before the background."""
        from PIL import Image

        image.load()
        turn = TURNS.get(_orientation(image))
        upright = image if turn is None else image.transpose(Image.Transpose[turn])
        if upright.has_transparency_data:
            upright = upright.convert("RGBA")
            behind = Image.new("RGBA", upright.size, self._colour())
            upright = Image.alpha_composite(behind, upright)
        return np.asarray(upright.convert(mode), np.uint8)

    def _colour(self) -> tuple[int, int, int]:
        from PIL import ImageColor

        try:
            red, green, blue = ImageColor.getrgb(self.background)[:3]
        except ValueError:
            raise DataError(
                f"background '{self.background}': expected a colour, white or #00ff00 say."
            ) from None
        return red, green, blue


WHITE = Pictures()
"""Upright, before white, of their own size."""


class _RefusedError(ValueError):
    """A picture that could be read, but is not what was expected."""


def _check_kind(image: Picture) -> None:
    """Raise `ValueError` where a picture has several pages, or values that bytes do not hold."""
    deep = any(re.search(r";16[LBN]", str(tile[3])) for tile in getattr(image, "tile", ()))
    if image.mode == "F" or image.mode.startswith("I") or deep:
        kind = "16 bits" if deep else f"mode {image.mode}"
        raise _RefusedError(f"an image of more than 8 bits a channel ({kind}); convert it first")
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format != "MPO":  # a telephone's JPEG with a small copy of itself
        raise _RefusedError(f"an image of {pages} pages, expected one; split the file first")


def _check_size(size: tuple[int, int], mode: Mode, shape: Shape, *, turned: bool = False) -> None:
    """Raise `ValueError` unless a picture fills a shape; one that may be turned, either way."""
    width, height = size
    values = width * height * (3 if mode == "RGB" else 1)
    sides = [(height, width), (width, height)] if turned else [(height, width)]
    flat = len(shape) == 1
    if values != math.prod(shape) or not (flat or tuple(shape[-2:]) in sides):
        raise _RefusedError(f"an image of {width} x {height}, expected shape {shape}")


def _orientation(image: Picture) -> int:
    """Return the EXIF orientation; 1, upright, where it cannot be read."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except _FAULTS:
        return 1


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
