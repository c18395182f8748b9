"""The text of integer examples: what every value says, and how values are joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaepipe.core.sequences import EOS, PAD, SPECIALS, UNK


@dataclass(frozen=True, slots=True)
class Lexicon:
    """A vocabulary: the text of the values 0, 1, …; the first three are `SPECIALS`.

    Args:
        words: text of each value.
        joint: what stands between two words of a sentence.

    Example:
        >>> lexicon = Lexicon.of([["to", "be", "or", "not", "to", "be"]], 5, " ")
        >>> lexicon.words
        ('<pad>', '<eos>', '<unk>', 'be', 'to')
        >>> lexicon.encode([["to", "not", "be"], ["to"] * 5], length=4).tolist()
        [[4, 2, 3, 1], [4, 4, 4, 4]]
        >>> lexicon.read(np.array([[4, 2, 3, 1, 0]]))
        ['to <unk> be']
    """

    words: tuple[str, ...]
    joint: str

    @classmethod
    def of(cls, sentences: Iterable[Sequence[str]], size: int, joint: str) -> Lexicon:
        """The commonest words of some sentences, equals in alphabetical order.

        Args:
            sentences: lists of words.
            size: of the vocabulary, specials included.
            joint: what stands between two words.
        """
        counts = Counter(word for sentence in sentences for word in sentence)
        common = sorted(counts, key=lambda word: (-counts[word], word))
        return cls((*SPECIALS, *common[: size - len(SPECIALS)]), joint)

    def encode(self, sentences: Sequence[Sequence[str]], length: int) -> np.ndarray:
        """Sentences as int64 `[n, length]`: words, the end, filling; a longer one is cut off."""
        number = {word: value for value, word in enumerate(self.words[len(SPECIALS) :], start=3)}
        x = np.full((len(sentences), length), PAD, np.int64)
        for row, sentence in zip(x, sentences, strict=True):
            values = [*(number.get(word, UNK) for word in sentence[:length]), EOS][:length]
            row[: len(values)] = values
        return x

    def read(self, x: np.ndarray) -> list[str]:
        """The sentences of `x` `[n, length]`, each up to its end."""
        return [self._sentence(row) for row in np.asarray(x).astype(np.int64).tolist()]

    def lengths(self, x: np.ndarray) -> np.ndarray:
        """Words of each sentence of `x` `[n, length]`, its end included: int64 `[n]`."""
        ended = np.cumsum(x == EOS, axis=-1) - (x == EOS)
        return (ended == 0).sum(-1)

    def lost(self, x: np.ndarray) -> tuple[float, float]:
        """Return the share of unknown words in `x` `[n, length]`, and of sentences without an end.

        Example:
            >>> Lexicon(("<pad>", "<eos>", "<unk>", "be"), " ").lost(np.array([[3, 2], [3, 1]]))
            (0.3333333333333333, 0.5)
        """
        words, unknown = int(((x != PAD) & (x != EOS)).sum()), int((x == UNK).sum())
        cut = int((x != EOS).all(-1).sum())
        return unknown / max(1, words), cut / max(1, len(x))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {"words": list(self.words), "joint": self.joint}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Lexicon:
        """The inverse of `to_dict`."""
        return cls(tuple(data["words"]), data["joint"])

    def _sentence(self, row: list[int]) -> str:
        end = row.index(EOS) if EOS in row else len(row)
        known = dict(enumerate(self.words))
        return self.joint.join(known.get(value, SPECIALS[UNK]) for value in row[:end])
