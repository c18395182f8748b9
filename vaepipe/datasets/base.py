"""What a dataset is: rows that are written once, and a view of them as tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from vaepipe.core.noise import row_uniform
from vaepipe.core.spec import DataSpec
from vaepipe.core.streams import Purpose, stream
from vaepipe.data.lexicon import Lexicon
from vaepipe.data.pictures import WHITE, Pictures
from vaepipe.data.text import Losses, Reading

Uniform = Callable[[], Tensor]


class Dataset(ABC):
    """A source of examples and their view as the tensors a model sees.

    The data stage writes `examples` to Parquet once; from then on only `tensor` is called, on
    workers too. `__init__(*, options)`: the keyword-only parameters are the YAML options.
    """

    noise_seed: int = 0
    """Seeds the frozen noise of evaluation, so that models are compared on the same draw."""

    @property
    @abstractmethod
    def spec(self) -> DataSpec:
        """Shape and support of what `tensor` returns; `num_examples` of train, where known."""

    @property
    @abstractmethod
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""

    def prepare(self) -> None:  # noqa: B027 - a source that is always there has nothing to check
        """Check that the source is there, before anything is written.

        Raises:
            DataError: it is not; the message says what was expected where.
        """

    def settled(self) -> Mapping[str, Any]:
        """Return options whose values `prepare` found in the data.

        They are written with the data, so that every later command sees rows in the same way.
        """
        return {}

    @abstractmethod
    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Yield rows of a split: `id`, `x`, and columns that pass through.

        `x` is stored as it is if it is uint8 or float32; the data stage stores float64 as float32,
        and refuses real numbers that lose too much.
        """

    @abstractmethod
    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """Stored values `[batch, *shape]` to what the model sees, floating point.

        Args:
            x: as stored, uint8 or float32.
            uniform: draws U[0, 1) of the shape of `x`, for views that are random.
        """

    def describe(self) -> Mapping[str, str]:
        """What a reader of a result must know about the view, such as its binarization."""
        return {}

    def lexicon(self) -> Lexicon | None:
        """What the integers of an example say, where they are text; asked when it is written."""
        return None

    def reading(self) -> Reading | None:
        """Return how text is cut into words, where examples are sentences; no file is read."""
        return None

    def losses(self, split: str) -> Losses | None:
        """Count what numbers do not say of a split's sentences; asked when it is written."""
        return None

    def state(self) -> str | None:
        """Return what is another once somebody writes to the source; None where nobody does.

        It is asked when the rows are written, and before a later run takes them for the same.

        Raises:
            DataError: the source is not there.
        """
        return None

    def warnings(self) -> tuple[str, ...]:
        """Return what a reader of results must know of the source; asked when it is written."""
        return ()

    def pictures(self) -> Pictures:
        """Return how pictures are decoded, also those that a fitted model is given later."""
        return WHITE

    def frozen(self, x: Tensor, ids: Tensor) -> Tensor:
        """The view of evaluation: its noise depends on the row's id alone."""
        noise = stream(self.noise_seed, Purpose.BINARIZATION)
        return self.tensor(x, lambda: row_uniform(noise, ids, x.shape[1:]))


def bernoulli(probability: Tensor, uniform: Uniform) -> Tensor:
    """1 with the given probability, else 0, as floating point."""
    return (uniform() < probability).to(torch.get_default_dtype())
