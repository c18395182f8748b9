"""A folder of pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, final

import numpy as np
import pyarrow as pa
from annotated_types import Ge
from torch import Tensor

from vaepipe.core.spec import DataSpec, Shape
from vaepipe.data import formats
from vaepipe.data.formats import Gallery
from vaepipe.data.pictures import SUFFIXES, Mode, Pictures
from vaepipe.data.schema import record
from vaepipe.datasets import pictures
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.images import Binarize, GreyView
from vaepipe.datasets.splits import Fractions, by_id
from vaepipe.errors import DataError

_BITS = 53  # an id is exact as a floating-point number, in any reader


@final
class ImageFolder(Dataset):
    """Pictures of a folder and of the folders in it: PNG, JPEG, TIFF, BMP, GIF and WebP files.

    A file's id is a hash of its path below `path`, so that files that are added or removed move no
    other between splits. Names that begin with `.` are not meant, links are followed, and files
    that are not read are a warning. `file` is kept as a column. Pictures are
    turned upright as their EXIF orientation says; sizes are those after it. Transparent pixels show
    `background`, whatever colour is stored in them. Black and white, grey, palette and CMYK
    pictures are converted to `mode`; those of more than 8 bits a channel or of several pages are
    refused. `encode` and the like read pictures in the same way, `size` included.

    Args:
        path: the folder.
        size: side of a square: the shorter side is scaled to it by area averages, and the middle
            kept; without it all pictures must have the size of the first.
        mode: `L` for grey levels, `RGB` for colour.
        background: colour behind transparent pixels: a name, or `#rrggbb`.
        labels: keep the name of the folder that a file lies in as `class`, and its number in
            alphabetical order as `label`.
        binarize: `dynamic`, `static`, `threshold`, `none` or `levels`; see `GreyView`.
        seed: of the static draw and of the frozen draw of evaluation.
        splits: shares of the rows; a picture's split is decided by its id.

    Raises:
        DataError: when the files are read: none there, one damaged, sizes that differ, a link to
            nothing or to another of them.
    """

    def __init__(
        self,
        *,
        path: Path,
        size: Annotated[int, Ge(1)] | None = None,
        mode: Mode = "RGB",
        background: str = "white",
        labels: bool = False,
        binarize: Binarize = "none",
        seed: Annotated[int, Ge(0)] = 0,
        splits: Fractions = {"train": 0.8, "val": 0.1, "test": 0.1},  # noqa: B006
    ) -> None:
        """Nothing is read yet."""
        self._path, self._labels = Path(path), labels
        self._size, self._pictures = size, Pictures(background, size)
        self._mode: Mode = mode
        self._view = GreyView(binarize, 255, seed)
        self._fractions = dict(splits)
        self.noise_seed = seed

    @property
    def spec(self) -> DataSpec:
        """`(channels, height, width)`: of the first picture, unless `size` says it."""
        return self._view.spec(self._shape, self._rows)

    @property
    def splits(self) -> tuple[str, ...]:
        """As given."""
        return tuple(self._fractions)

    def prepare(self) -> None:
        """Look for the files, decide on the splits, and read the first."""
        _ = self._masks
        self._decoded(self._files[0])

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id`, `x`, `file` and, if asked for, `label` and `class`."""
        rows = np.flatnonzero(self._masks[split])
        for chunk in pictures.chunks(rows, int(np.prod(self._shape))):
            names = [self._files[row] for row in chunk]
            x = np.stack([self._read(name) for name in names])
            ids = self._ids[chunk]
            yield record(ids, self._view.stored(x, ids), {"file": names} | self._classes(names))

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """Bytes as binary, unit-interval or integer values."""
        return self._view.tensor(x, uniform)

    def state(self) -> str | None:
        """Return a digest of the names, sizes and times of the pictures."""
        _ = self._files
        return self._listed.state

    def warnings(self) -> tuple[str, ...]:
        """Name files beside the pictures."""
        return formats.unread(str(self._path), self._listed.left)

    def pictures(self) -> Pictures:
        """Upright, before `background`, at `size`."""
        return self._pictures

    def describe(self) -> Mapping[str, str]:
        """Where the pictures come from, binarization and its seed."""
        return {"source": str(self._path), "mode": self._mode, **self._view.describe()}

    @cached_property
    def _listed(self) -> Gallery:
        """The pictures, as every reader finds them."""
        there = self._path.is_dir()
        return formats.pictures(str(self._path)) if there else Gallery([], "", ())

    @cached_property
    def _files(self) -> list[str]:
        """Paths below the folder, in alphabetical order."""
        found = sorted(self._listed.names)
        if not found:
            kinds = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
            raise DataError(
                f"{self._path}: no pictures there. Expected {kinds} in it or in its folders."
            )
        return found

    @cached_property
    def _ids(self) -> np.ndarray:
        ids = np.array([_id(name) for name in self._files], np.int64)
        unique, first, counts = np.unique(ids, return_index=True, return_counts=True)
        if len(unique) < len(ids):
            name = self._files[first[counts > 1][0]]
            raise DataError(f"{self._path / name}: another file has the same id; rename it.")
        return ids

    @cached_property
    def _masks(self) -> dict[str, np.ndarray]:
        return by_id(self._ids, self._fractions, str(self._path))

    @property
    def _rows(self) -> int:
        return max(1, int(np.count_nonzero(self._masks.get("train", ()))))

    @cached_property
    def _shape(self) -> Shape:
        if self._size is not None:
            return (1 if self._mode == "L" else 3, self._size, self._size)
        return self._decoded(self._files[0]).shape

    @cached_property
    def _names(self) -> list[str]:
        return sorted({_class(name) for name in self._files})

    def _classes(self, files: list[str]) -> dict[str, list[str] | list[int]]:
        if not self._labels:
            return {}
        names = [_class(file) for file in files]
        return {"label": [self._names.index(name) for name in names], "class": names}

    def _decoded(self, name: str) -> np.ndarray:
        return pictures.read(self._path / name, self._mode, self._pictures)

    def _read(self, name: str) -> np.ndarray:
        x = self._decoded(name)
        if x.shape != self._shape:
            height, width = self._shape[1:]
            raise DataError(
                f"{self._path / name}: a picture of {x.shape[2]} x {x.shape[1]} pixels, but the "
                f"first, {self._files[0]}, has {width} x {height}. Give `size` to bring all of "
                "them to one."
            )
        return x


def _id(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> (64 - _BITS)


def _class(name: str) -> str:
    return name.rpartition("/")[0] or "."
