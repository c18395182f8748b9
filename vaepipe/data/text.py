"""Sentences: where a text is cut into them, and how a model's words make numbers of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from vaepipe.core.sequences import UNK
from vaepipe.data.lexicon import Lexicon
from vaepipe.errors import DataError

Unit = Literal["line", "sentence"]
Level = Literal["word", "character"]
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
"""A word, with its apostrophes, or one sign of punctuation."""
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n\s*\n")
_PROPER = re.compile(r"\w")
MUCH = 0.2
"""A share of unknown words or of cut sentences that is worth a warning."""


def decoded(where: str, data: bytes) -> str:
    """Return UTF-8 text, without a byte order mark.

    Raises:
        DataError: the bytes are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: expected UTF-8 text, but byte {error.start} is no part of any; convert the "
            "file, for example with `iconv -t utf-8`."
        ) from error


def sentences(text: str, unit: Unit) -> list[str]:
    r"""Return the sentences of a text; empty ones are left out.

    Lines end at `\n` or `\r\n` and at nothing else: a line or paragraph separator of Unicode, a
    form feed or a tab is white space within a line, as for `wc` and `grep`.

    Example:
        >>> sentences("To be.\r\n\n or\u2028not", "line")
        ['To be.', ' or\u2028not']
        >>> sentences("To be. Or\nnot", "sentence")
        ['To be.', 'Or\nnot']
    """
    text = text.replace("\r\n", "\n")
    parts = text.split("\n") if unit == "line" else SENTENCE_END.split(text)
    return [part for part in parts if not part.isspace() and part]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a sentence is cut into words.

    Args:
        unit: a sentence is a line, or ends after a full stop, question or exclamation mark.
        level: a word is a word, or a character.
        lowercase: capitals are written small.
    """

    unit: Unit
    level: Level
    lowercase: bool

    def words(self, sentence: str) -> list[str]:
        """Return the words of a sentence.

        Example:
            >>> Reading("line", "word", True).words("Don't stop!")
            ["don't", 'stop', '!']
        """
        text = sentence.lower() if self.lowercase else sentence
        return WORD.findall(text) if self.level == "word" else list(" ".join(text.split()))

    @property
    def joint(self) -> str:
        """What stands between two words."""
        return " " if self.level == "word" else ""


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a model: it reads every text with them.

    Args:
        reading: how sentences are cut into words.
        lexicon: the number of each word.
        stored: the words whose numbers are stored, where these are others than the model's.
    """

    reading: Reading
    lexicon: Lexicon
    stored: Lexicon | None = None

    def encode(self, sentences: Sequence[str], length: int) -> np.ndarray:
        """Return sentences as int64 `[n, length]`."""
        return self.lexicon.encode([self.reading.words(each) for each in sentences], length)

    def renumbered(self, x: np.ndarray) -> np.ndarray:
        """Return stored numbers as those that the same words have in the lexicon.

        Example:
            >>> of = lambda *words: Lexicon(("<pad>", "<eos>", "<unk>", *words), " ")
            >>> reading = Reading("line", "word", True)
            >>> Words(reading, of("owl", "cat"), of("cat", "dog")).renumbered(np.array([3, 4, 1]))
            array([4, 2, 1])
        """
        if self.stored is None:
            return x
        number = {word: value for value, word in enumerate(self.lexicon.words)}
        table = np.array([number.get(word, UNK) for word in self.stored.words], np.int64)
        known = (x >= 0) & (x < len(table))
        return np.where(known, table[np.where(known, x, 0).astype(np.int64)], -1)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        stored = None if self.stored is None else self.stored.to_dict()
        return {
            "reading": asdict(self.reading),
            "lexicon": self.lexicon.to_dict(),
            "stored": stored,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Words:
        """The inverse of `to_dict`."""
        stored = None if data["stored"] is None else Lexicon.from_dict(data["stored"])
        return cls(Reading(**data["reading"]), Lexicon.from_dict(data["lexicon"]), stored)


class Losses(NamedTuple):
    """What numbers of words do not say of some sentences."""

    sentences: int
    cut: int
    """Sentences of more words than there are numbers, the end included."""
    words: int
    """Words that have a number in a sentence; of sentences read by characters, characters."""
    unknown: int
    """Those outside the vocabulary."""
    signs: int
    """Signs of punctuation outside the vocabulary."""

    @classmethod
    def of(cls, texts: Iterable[Sequence[str]], words: Words, length: int) -> Losses:
        """Count what is lost of sentences, given as words, in `length` numbers each."""
        known, character = frozenset(words.lexicon.words), words.reading.level == "character"
        found = [0, 0, 0, 0, 0]
        for text in texts:
            kept = text[:length]
            proper = [word for word in kept if character or _PROPER.match(word)]
            lost = sum(word not in known for word in kept)
            unknown = sum(word not in known for word in proper)
            each = (1, len(text) >= length, len(proper), unknown, lost - unknown)
            found = [total + more for total, more in zip(found, each, strict=True)]
        return cls(*found)

    def to_dict(self) -> dict[str, int | float]:
        """Return shares, and how many words and signs are unknown, as plain JSON data."""
        return {
            "unknown_words": self.unknown / max(1, self.words),
            "cut_sentences": self.cut / max(1, self.sentences),
            "unknown": self.unknown + self.signs,
        }


def warnings(where: str, unknown: float, cut: float, words: Words, length: int) -> Iterator[str]:
    """Say what is much, and what to do about it.

    Args:
        where: the sentences are.
        unknown: share of the words that are outside the vocabulary.
        cut: share of the sentences that have no end.
        words: they are read with.
        length: of an example.
    """
    unit = "characters" if words.reading.level == "character" else "words"
    if unknown > MUCH:
        other = "" if unit == "characters" else " or with `level: character`"
        yield (
            f"{where}: {unknown:.0%} of the {unit} are not in the vocabulary of "
            f"{len(words.lexicon.words):,} and are read as <unk>. Fit with a larger "
            f"`vocabulary`{other}."
        )
    if cut > MUCH:
        yield (
            f"{where}: {cut:.0%} of the sentences are cut: they have {length} {unit} or more. Fit "
            f"with a larger `length` than {length}."
        )
