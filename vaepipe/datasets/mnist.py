"""MNIST and the datasets that came after it, in torchvision's layout."""

from __future__ import annotations

from typing import Annotated, Literal, final

from annotated_types import Ge

from vaepipe.datasets.images import Binarize
from vaepipe.datasets.published import IdxImages
from vaepipe.datasets.published import data_root as data_root

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

EMNISTSplit = Literal["balanced", "letters", "digits", "mnist", "byclass", "bymerge"]
_COUNTS: dict[str, tuple[int, int]] = {
    "balanced": (112_800, 18_800),
    "letters": (124_800, 20_800),
    "digits": (240_000, 40_000),
    "mnist": (60_000, 10_000),
    "byclass": (697_932, 116_323),
    "bymerge": (697_932, 116_323),
}


@final
class MNIST(IdxImages):
    """70,000 handwritten digits, 28 × 28 grey levels (LeCun et al., 1998).

    Splits: train 50,000 (the first of the 60,000), val 10,000 (the last), test 10,000; ids count
    through all 70,000.

    Args:
        binarize: `dynamic`, `static`, `threshold`, `none` or `levels`; see `GreyView`.
        seed: of the static draw and of the frozen draw of evaluation.
    """

    title, folder = "MNIST", "MNIST"
    files, counts = FILES, (60_000, 10_000)

    def __init__(self, *, binarize: Binarize = "dynamic", seed: Annotated[int, Ge(0)] = 0) -> None:
        """Nothing is read yet."""
        self._see(binarize, seed)

    def fetch(self) -> object:
        """Download through torchvision."""
        from torchvision.datasets import MNIST as Source

        return Source(str(data_root()), download=True)


@final
class FashionMNIST(IdxImages):
    """70,000 pictures of clothes, 28 × 28 grey levels (Xiao, Rasul and Vollgraf, 2017).

    Splits and ids as in `MNIST`.

    Args:
        binarize: `dynamic`, `static`, `threshold`, `none` or `levels`; see `GreyView`.
        seed: of the static draw and of the frozen draw of evaluation.
    """

    title, folder = "Fashion-MNIST", "FashionMNIST"
    files, counts = FILES, (60_000, 10_000)

    def __init__(self, *, binarize: Binarize = "dynamic", seed: Annotated[int, Ge(0)] = 0) -> None:
        """Nothing is read yet."""
        self._see(binarize, seed)

    def fetch(self) -> object:
        """Download through torchvision."""
        from torchvision.datasets import FashionMNIST as Source

        return Source(str(data_root()), download=True)


@final
class EMNIST(IdxImages):
    """Handwritten letters and digits, 28 × 28 grey levels (Cohen et al., 2017).

    The files hold every image transposed; it is turned upright here. Labels are those of the files
    (`letters` count from one). Splits: the published test set; val is the last of the published
    training set, as large as test; train the others.

    Args:
        split: `balanced` (47 classes), `letters`, `digits`, `mnist`, `byclass` (62 classes) or
            `bymerge`.
        binarize: `dynamic`, `static`, `threshold`, `none` or `levels`; see `GreyView`.
        seed: of the static draw and of the frozen draw of evaluation.
    """

    title, folder, transposed = "EMNIST", "EMNIST", True

    def __init__(
        self,
        *,
        split: EMNISTSplit = "balanced",
        binarize: Binarize = "dynamic",
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        """Nothing is read yet."""
        self._split = split
        self.files = _emnist_files(split)
        self.counts = _COUNTS[split]
        self._see(binarize, seed)

    def fetch(self) -> object:
        """Download through torchvision: one archive of all splits, half a gigabyte."""
        from torchvision.datasets import EMNIST as Source

        return Source(str(data_root()), split=self._split, download=True)


def _emnist_files(split: str) -> tuple[str, str, str, str]:
    """Names of the four files of a split."""
    train, test = (f"emnist-{split}-{part}" for part in ("train", "test"))
    images, labels = "images-idx3-ubyte", "labels-idx1-ubyte"
    return (f"{train}-{images}", f"{train}-{labels}", f"{test}-{images}", f"{test}-{labels}")
