"""Sentences of a text file, as integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, final

import numpy as np
import pyarrow as pa
import torch
from annotated_types import Ge
from torch import Tensor

from vaepipe.core.spec import SUPPORTS, DataSpec
from vaepipe.data.formats import find
from vaepipe.data.lexicon import Lexicon
from vaepipe.data.schema import record
from vaepipe.data.text import Level, Losses, Reading, Unit, Words, decoded, sentences
from vaepipe.datasets.base import Dataset, Uniform
from vaepipe.datasets.mnist import data_root
from vaepipe.datasets.splits import Fractions, by_id
from vaepipe.errors import DataError

BYTES = 256
"""Values that fit a byte; larger vocabularies are stored as float32, exact to 2^24."""


@final
class Text(Dataset):
    r"""Sentences of a UTF-8 file: integers `[length]` below the size of the vocabulary.

    Values: 0 fills what follows the end, 1 is the end of a sentence, 2 is any word outside the
    vocabulary, and from 3 on come the words of the training split, the commonest first, equals
    in alphabetical order. A sentence has no beginning mark. One of `length` words or more is cut
    to `length` words and has no end. The vocabulary is kept with the data (`lexicon` of the
    manifest) and with every model that is fitted to them.

    Args:
        path: the file; by default the only one in the folder `text` of `VAEPIPE_DATA`.
        unit: `line`: every line that is not empty is a sentence, and lines end at `\n` or
            `\r\n` only; `sentence`: lines are joined, and a sentence ends after a full stop,
            question or exclamation mark, or at an empty line.
        level: a sentence is made of words and punctuation, or of characters.
        lowercase: capitals are written small.
        length: most values of a sentence, its end included.
        vocabulary: number of values, the three special ones included.
        splits: shares of the rows; a sentence's split is decided by a hash of its number.

    Raises:
        DataError: when the file is read: it is missing, empty, or not UTF-8.
    """

    def __init__(
        self,
        *,
        path: Path | None = None,
        unit: Unit = "line",
        level: Level = "word",
        lowercase: bool = True,
        length: Annotated[int, Ge(2)] = 20,
        vocabulary: Annotated[int, Ge(4)] = 1000,
        splits: Fractions = {"train": 0.8, "val": 0.1, "test": 0.1},  # noqa: B006
    ) -> None:
        """Nothing is read yet."""
        self._path = path
        self._reading = Reading(unit, level, lowercase)
        self._length, self._vocabulary, self._fractions = length, vocabulary, dict(splits)

    @property
    def spec(self) -> DataSpec:
        """`(length,)`, integers below `vocabulary`; the number of rows is known when written."""
        support = SUPPORTS["integer"]
        return DataSpec((self._length,), support, 1, levels=self._vocabulary)

    @property
    def splits(self) -> tuple[str, ...]:
        """As given."""
        return tuple(self._fractions)

    def prepare(self) -> None:
        """Read the file."""
        _ = self._masks

    def examples(self, split: str) -> Iterator[pa.RecordBatch]:
        """Rows with `id`, the number of the sentence in the file, and `x`."""
        ids = self._ids(split)
        if not len(ids):
            return
        x = self._lexicon.encode([self._sentences[i] for i in ids], self._length)
        small = self._vocabulary <= BYTES
        yield record(ids, x.astype(np.uint8 if small else np.float32))

    def tensor(self, x: Tensor, uniform: Uniform) -> Tensor:
        """The integers, as floating point."""
        return x.to(torch.get_default_dtype())

    def state(self) -> str | None:
        """Return a digest of the size and time of the file."""
        return find(str(self._file), self._reading.unit).state

    def lexicon(self) -> Lexicon:
        """The vocabulary, of the training split only."""
        return self._lexicon

    def reading(self) -> Reading:
        """How sentences are cut into words."""
        return self._reading

    def losses(self, split: str) -> Losses:
        """Count words outside the vocabulary, and cut sentences."""
        texts = (self._sentences[i] for i in self._ids(split))
        return Losses.of(texts, Words(self._reading, self._lexicon), self._length)

    def describe(self) -> Mapping[str, str]:
        """What a value is."""
        reading = self._reading
        return {
            "unit": reading.unit,
            "level": reading.level,
            "lowercase": str(reading.lowercase),
        }

    @cached_property
    def _lexicon(self) -> Lexicon:
        train = self._ids("train" if "train" in self._fractions else next(iter(self._fractions)))
        texts = (self._sentences[i] for i in train)
        return Lexicon.of(texts, self._vocabulary, self._reading.joint)

    @cached_property
    def _masks(self) -> dict[str, np.ndarray]:
        return by_id(np.arange(len(self._sentences)), self._fractions, str(self._file))

    def _ids(self, split: str) -> np.ndarray:
        return np.flatnonzero(self._masks[split])

    @cached_property
    def _sentences(self) -> list[list[str]]:
        """Every sentence as its words or characters."""
        path = self._file
        try:
            text = decoded(str(path), path.read_bytes())
        except OSError as error:
            raise DataError(f"{path}: expected a UTF-8 text file; {error.strerror}.") from error
        found = [self._reading.words(each) for each in sentences(text, self._reading.unit)]
        if not found:
            raise DataError(f"{path} holds no sentence; expected UTF-8 text with some words in it.")
        return found

    @property
    def _file(self) -> Path:
        if self._path is not None:
            return Path(self._path)
        folder = data_root() / "text"
        files = sorted(p for p in folder.glob("*") if p.is_file() and not p.name.startswith("."))
        if len(files) != 1:
            names = ", ".join(p.name for p in files) or "nothing"
            raise DataError(
                f"expected one UTF-8 text file in {folder}, found {names}. Put one there, set "
                "VAEPIPE_DATA to the folder that holds `text`, or name the file in the data "
                "stage: `dataset: {type: text, path: corpus.txt}`."
            )
        return files[0]
