"""Published datasets in torchvision's layout: where they are, how they come, what is missing."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from textwrap import shorten
from typing import ClassVar

import numpy as np
import pyarrow as pa
from torch import Tensor

from vaepipe.core.spec import DataSpec
from vaepipe.data.schema import record
from vaepipe.datasets import idx
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.images import Binarize, GreyView
from vaepipe.errors import DataError

BATCH = 10_000
TIMEOUT = 10.0


def data_root() -> Path:
    """`$VAEPIPE_DATA`, or a cache folder under the user's home."""
    default = Path.home() / ".cache" / "vaepipe" / "data"
    return Path(os.environ.get("VAEPIPE_DATA") or default).absolute()


def download(name: str, folder: Path, expected: str, fetch: Callable[[], object]) -> None:
    """Fetch what is missing; a server that does not answer in ten seconds counts as no network.

    Raises:
        DataError: it could not be had; with the folder, what is expected there, and the offline
            alternative.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        fetch()
    except (OSError, RuntimeError) as error:
        raise DataError(_missing(name, folder, expected, error)) from error
    finally:
        socket.setdefaulttimeout(timeout)


class IdxImages(Dataset, ABC):
    """Grey images of 28 × 28 in four files of the format of MNIST, as published or gzipped.

    Authors write the attributes, `__init__` and `fetch`. Splits: test is the test
    file, val the last of the training file, as many as test has, and train the others. Ids count
    through the training file, then through the test file.
    """

    title: ClassVar[str]
    """How the dataset is called in messages."""
    folder: ClassVar[str]
    """Of torchvision, under the root."""
    transposed: ClassVar[bool] = False
    """Whether the files hold columns where others hold rows."""

    files: tuple[str, str, str, str]
    """Names of the training images, training labels, test images and test labels."""
    counts: tuple[int, int]
    """How many images the published training and test files hold."""

    _view: GreyView

    @abstractmethod
    def fetch(self) -> object:
        """Download the files into torchvision's layout."""

    @property
    def spec(self) -> DataSpec:
        """`(1, 28, 28)`, boolean, in the unit interval, or integer."""
        train, test = self.counts
        return self._view.spec((1, 28, 28), train - test)

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, test."""
        return ("train", "val", "test")

    def prepare(self) -> None:
        """Find the four files, or download them if the network allows."""
        if not all(idx.exists(self.raw / name) for name in self.files):
            download(self.title, self.raw, ", ".join(self.files), self.fetch)

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id`, `x` and `label`."""
        self.prepare()
        images, labels, first, start, stop = self._place(split)
        pairs = zip(
            idx.rows(images, start, stop, BATCH), idx.rows(labels, start, stop, BATCH), strict=True
        )
        for pixels, classes in pairs:
            ids = np.arange(first, first + len(pixels))
            first += len(pixels)
            x = pixels.transpose(0, 2, 1) if self.transposed else pixels
            yield record(ids, self._view.stored(x[:, None], ids), {"label": classes.astype(int)})

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """Grey levels as binary, unit-interval or integer values."""
        return self._view.tensor(x, uniform)

    def describe(self) -> Mapping[str, str]:
        """Binarization and its seed."""
        return self._view.describe()

    @property
    def raw(self) -> Path:
        """Where the files lie."""
        return data_root() / self.folder / "raw"

    def _place(self, split: str) -> tuple[Path, Path, int, int, int]:
        """Images, labels, the first id, and the rows of a split."""
        paths = [self.raw / name for name in self.files]
        for images, labels in (paths[:2], paths[2:]):
            _check_pair(images, labels)
        train, test = idx.shape(paths[0])[0], idx.shape(paths[2])[0]
        if split == "test":
            return paths[2], paths[3], train, 0, test
        edge = max(train - test, 0)
        start, stop = (0, edge) if split == "train" else (edge, train)
        return paths[0], paths[1], start, start, stop

    def _see(self, binarize: Binarize, seed: int) -> None:
        self._view = GreyView(binarize, 255, seed)
        self.noise_seed = seed


def _check_pair(images: Path, labels: Path) -> None:
    shape, (count, *_) = idx.shape(images), idx.shape(labels)
    if shape[1:] != (28, 28):
        raise DataError(f"{images}: images of 28 x 28 expected, got {shape[1:]}.")
    if count != shape[0]:
        raise DataError(f"{labels}: {count} labels for the {shape[0]} images of {images.name}.")


def _missing(name: str, folder: Path, expected: str, error: Exception) -> str:
    reason = shorten(str(error), 200) or type(error).__name__
    return (
        f"{name} is not in {folder} and could not be downloaded ({reason}). "
        f"Expected there: {expected}. Put them there, or set VAEPIPE_DATA to the folder that holds "
        f"{folder.relative_to(data_root())}. Without them the same file runs on the bundled 8x8 "
        "digits: give the data stage `dataset: {type: digits}`."
    )
