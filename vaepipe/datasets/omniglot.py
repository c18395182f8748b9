"""Omniglot: characters of fifty alphabets, in torchvision's layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, final

import numpy as np
import pyarrow as pa
from annotated_types import Ge
from torch import Tensor

from vaepipe.core.spec import DataSpec
from vaepipe.data.pictures import Pictures
from vaepipe.data.schema import record
from vaepipe.datasets import pictures
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.images import Binarize, GreyView
from vaepipe.datasets.published import data_root, download
from vaepipe.datasets.splits import by_id
from vaepipe.errors import DataError

FOLDERS = ("images_background", "images_evaluation")
FRACTIONS = {"train": 0.9, "val": 0.1}
NUM_BACKGROUND = 19_280


@final
class Omniglot(Dataset):
    """32,460 handwritten characters of 50 alphabets (Lake, Salakhutdinov and Tenenbaum, 2015).

    Ink is 1 and paper 0, the other way round than in the files. Splits: train and val are the
    background alphabets, 90 % and 10 % by a hash of the id; test are the evaluation alphabets,
    which a model has never seen. `label` counts the characters, `alphabet` is a name. These are not
    the splits of Burda, Grosse and Salakhutdinov (2016), who mixed the alphabets.

    Args:
        size: 105 pixels as drawn, or 28 by area averages.
        binarize: `dynamic`, `static`, `threshold`, `none` or `levels`; see `GreyView`.
        seed: of the static draw and of the frozen draw of evaluation.
    """

    def __init__(
        self,
        *,
        size: Literal[28, 105] = 28,
        binarize: Binarize = "dynamic",
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        """Nothing is read yet."""
        self._size, self._pictures = size, Pictures(size=size, negative=True)
        self._view = GreyView(binarize, 255, seed)
        self.noise_seed = seed

    @property
    def spec(self) -> DataSpec:
        """`(1, size, size)`, boolean, in the unit interval, or integer."""
        rows = by_id(np.arange(NUM_BACKGROUND), FRACTIONS)["train"].sum()
        return self._view.spec((1, self._size, self._size), int(rows))

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, test."""
        return (*FRACTIONS, "test")

    def prepare(self) -> None:
        """Find the two folders, or download them if the network allows."""
        missing = [name for name in FOLDERS if not (self.root / name).is_dir()]
        if missing:
            expected = " and ".join(f"{name}/<alphabet>/<character>/*.png" for name in FOLDERS)
            download("Omniglot", self.root, expected, lambda: _fetch(missing))

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id`, `x`, `label` and `alphabet`."""
        self.prepare()
        paths, labels = self._drawings()
        rows = np.flatnonzero(self._mask(split, paths))
        for chunk in pictures.chunks(rows, self._size**2):
            ids, files = np.array(chunk), [paths[row] for row in chunk]
            x = np.stack([pictures.read(path, "L", self._pictures) for path in files])
            extra = {"label": [labels[row] for row in chunk], "alphabet": _alphabets(files)}
            yield record(ids, self._view.stored(x, ids), extra)

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """Ink as binary, unit-interval or integer values."""
        return self._view.tensor(x, uniform)

    def pictures(self) -> Pictures:
        """Ink as 255 and paper as 0, at `size`."""
        return self._pictures

    def describe(self) -> Mapping[str, str]:
        """Binarization and its seed."""
        return self._view.describe()

    @property
    def root(self) -> Path:
        """Where the folders lie."""
        return data_root() / "omniglot-py"

    def _drawings(self) -> tuple[list[Path], list[int]]:
        """Files of the background, then of the evaluation, by name; the number of the character."""
        characters = [c for name in FOLDERS for c in _inside(self.root / name)]
        files = [sorted(character.glob("*.png")) for character in characters]
        labels = [number for number, some in enumerate(files) for _ in some]
        return [path for some in files for path in some], labels

    def _mask(self, split: str, paths: list[Path]) -> np.ndarray:
        """Which drawings are of a split, `[n]`."""
        known = np.array([path.is_relative_to(self.root / FOLDERS[0]) for path in paths])
        if split == "test":
            return ~known
        return known & by_id(np.arange(len(paths)), FRACTIONS)[split]


def _alphabets(files: list[Path]) -> list[str]:
    return [path.parts[-3] for path in files]


def _inside(folder: Path) -> list[Path]:
    """Characters of all alphabets.

    Raises:
        DataError: there are none.
    """
    found = sorted(path for path in folder.glob("*/*") if path.is_dir())
    if not found:
        raise DataError(f"{folder}: no folders <alphabet>/<character>. Unpack Omniglot again.")
    return found


def _fetch(missing: list[str]) -> None:
    from torchvision.datasets import Omniglot as Source

    for name in missing:
        Source(str(data_root()), background=name == FOLDERS[0], download=True)
