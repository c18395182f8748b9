"""MNIST in torchvision's layout."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, final

import numpy as np
import pyarrow as pa
from annotated_types import Ge
from torch import Tensor

from vaepipe.core.spec import DataSpec
from vaepipe.data.schema import record
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.images import Binarize, GreyView
from vaepipe.errors import DataError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
RANGES = {"train": (0, 50_000), "val": (50_000, 60_000), "test": (60_000, 70_000)}
BATCH = 10_000


def data_root() -> Path:
    """`$VAEPIPE_DATA`, or a cache folder under the user's home."""
    default = Path.home() / ".cache" / "vaepipe" / "data"
    return Path(os.environ.get("VAEPIPE_DATA") or default).absolute()


@final
class MNIST(Dataset):
    """70,000 handwritten digits, 28 × 28 grey levels (LeCun et al., 1998).

    Splits: train 50,000 (the first of the 60,000), val 10,000 (the last), test 10,000; ids count
    through all 70,000.

    Args:
        binarize: `dynamic`, `static`, `threshold` or `none`; see `GreyView`.
        seed: of the static draw and of the frozen draw of evaluation.
    """

    def __init__(self, *, binarize: Binarize = "dynamic", seed: Annotated[int, Ge(0)] = 0) -> None:
        """Nothing is read yet."""
        self._view = GreyView(binarize, 255, seed)
        self.noise_seed = seed

    @property
    def spec(self) -> DataSpec:
        """`(1, 28, 28)`, boolean or in the unit interval."""
        return DataSpec((1, 28, 28), self._view.support, 50_000)

    @property
    def splits(self) -> tuple[str, ...]:
        """train, val, test."""
        return tuple(RANGES)

    def prepare(self) -> None:
        """Find the four files, or download them if the network allows."""
        if not all((self._raw / name).exists() for name in FILES):
            self._download()

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id`, `x` and `label`."""
        from torchvision.datasets import MNIST as Source

        self.prepare()
        source = Source(str(data_root()), train=split != "test", download=False)
        images, labels = source.data.numpy()[:, None], source.targets.numpy()
        start, stop = RANGES[split]
        offset = 60_000 if split == "test" else 0
        for first in range(start, stop, BATCH):
            ids = np.arange(first, min(first + BATCH, stop))
            rows = ids - offset
            yield record(ids, self._view.stored(images[rows], ids), {"label": labels[rows]})

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """Grey levels as binary or unit-interval values."""
        return self._view.tensor(x, uniform)

    def describe(self) -> Mapping[str, str]:
        """Binarization and its seed."""
        return self._view.describe()

    @property
    def _raw(self) -> Path:
        return data_root() / "MNIST" / "raw"

    def _download(self) -> None:
        from torchvision.datasets import MNIST as Source

        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(10.0)
        try:
            Source(str(data_root()), download=True)
        except (OSError, RuntimeError) as error:
            raise DataError(_missing(self._raw, error)) from error
        finally:
            socket.setdefaulttimeout(timeout)


def _missing(raw: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"MNIST is not in {raw} and could not be downloaded ({reason}). "
        f"Expected there: {', '.join(FILES)}. Put the four files there, or set VAEPIPE_DATA to the "
        "folder that holds MNIST/raw. Without them the same file runs on the bundled 8x8 digits: "
        "give the data stage `dataset: {type: digits}`."
    )
