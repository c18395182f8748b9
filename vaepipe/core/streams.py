"""What random numbers are for: every stream has a purpose, so that no two uses share numbers."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

GOLDEN = 0x9E3779B97F4A7C15
MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
WORD = 2**64


class Purpose(enum.StrEnum):
    """Every use of random numbers in vaepipe, once.

    The value is hashed into the seed. Changing a value changes the numbers of that use and of no
    other; a new use gets a new member.
    """

    # Data
    SPLITS = "splits by id"
    BINARIZATION = "binarization, drawn once"
    BARS = "bars"
    PLUGIN = "a plugin's own"
    # A fit
    FIRST_WEIGHTS = "first weights"
    ORDER_OF_ROWS = "order of rows"
    TRAINING_NOISE = "training noise"
    VALIDATION_ROWS = "validation rows"
    VALIDATION = "validation"
    VALIDATION_MOMENTS = "moments of a validation"
    FINALISTS = "finalists of a sweep"
    FEATURES = "features that an objective refines"
    SNAPSHOTS = "snapshots"
    GOLDEN_LATENTS = "golden latents"
    GOLDEN_OUTPUTS = "golden outputs"
    # Before a fit
    SEARCH = "search"
    REHEARSAL = "rehearsal"
    PLACEHOLDERS = "weights that are replaced"
    # An evaluation
    EVIDENCE = "evidence"
    ELBO = "elbo"
    MOMENTS = "moments"
    PROPOSAL_MOMENTS = "moments of a proposal"
    PROPOSAL_PILOT = "pilot draws of a proposal"
    PROPOSAL_REFINEMENT = "refinement of a proposal"
    GAPS = "gaps"
    GAPS_REFINEMENT = "refinement for gaps"
    ANNEALING = "annealing"
    SIMULATION = "simulated examples"
    SIMULATED_EVIDENCE = "evidence of simulated examples"
    SIMULATED_ANNEALING = "annealing of simulated examples"
    SURGERY = "elbo surgery"
    PROBE = "kind of the latents"
    # Latents and examples of a model
    SAMPLES = "posterior samples"
    REFINEMENT = "refinement"
    SIR_CANDIDATES = "candidates of sampling-importance-resampling"
    SIR_CHOICE = "choice of sampling-importance-resampling"
    VERIFICATION = "batches that are verified"
    PRIOR_SAMPLES = "prior samples"
    CODES = "codes of rows"
    RECONSTRUCTIONS = "reconstructions"
    RECONSTRUCTION_MEANS = "means of reconstructions"
    INTERPOLATION_ENDS = "ends of an interpolation"
    INTERPOLATION = "interpolation"
    FIGURES = "figures of a report"


_KEPT: Mapping[Purpose, int] = MappingProxyType(
    {
        Purpose.FIRST_WEIGHTS: 0,
        Purpose.ORDER_OF_ROWS: 1,
        Purpose.TRAINING_NOISE: 2,
        Purpose.BINARIZATION: 0xA65C4B55EDB1790A,
        Purpose.SPLITS: 0x146BF7E07378DA4B,
    }
)
"""Tags that keep numbers of before tags were hashes. Those of BINARIZATION and SPLITS solve
row_seed(0, tag) for the seeds that both had: 0 and 20240229."""


@final
@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of random numbers; `stream` makes one, and says what it is for.

    Args:
        word: in [0, 2^63), what the numbers follow from.
    """

    word: int

    def at(self, *keys: int | str) -> Stream:
        """Return a stream of the same purpose for a part of the work, such as an epoch.

        Example:
            >>> epochs = stream(0, Purpose.TRAINING_NOISE)
            >>> epochs.at(1) == epochs.at(2)
            False
        """
        word = self.word
        for key in keys:
            word = row_seed(word, _hashed(key) if isinstance(key, str) else key)
        return Stream(word)


def stream(seed: int, purpose: Purpose, *keys: int | str) -> Stream:
    """Return the stream of a seed for one purpose.

    The word of the stream is a hash of seed, purpose and keys (`row_seed`), so streams of different
    purposes or keys are unrelated, whatever the seeds are: two of them meet with probability 2^-63.
    That holds for splits and for binarization, too: only their tags are chosen, such that the
    default seed gives the numbers that published results were computed with. The single known
    meeting is FIRST_WEIGHTS and BINARIZATION at seed 0, whose words are both 0; the one seeds a
    Mersenne Twister and the other SplitMix64, which have no numbers in common.

    Args:
        seed: the seed that a user or a stage gave.
        purpose: what the numbers are for. A plugin takes `Purpose.PLUGIN` and its name as a key.
        keys: what tells several streams of one purpose apart, such as an epoch or a name.

    Example:
        >>> stream(0, Purpose.ORDER_OF_ROWS) == stream(0, Purpose.TRAINING_NOISE)
        False
    """
    tag = _KEPT.get(purpose)
    return Stream(row_seed(seed, _hashed(purpose) if tag is None else tag)).at(*keys)


def word_of(stream: Stream) -> int:
    """Return the word of a stream.

    Raises:
        TypeError: the argument is a bare seed.
    """
    if not isinstance(stream, Stream):
        raise TypeError(
            f"expected a Stream, got {stream!r}: a seed alone does not say what the numbers are "
            "for. Write `stream(seed, Purpose....)` with a purpose of vaepipe.core.Purpose."
        )
    return stream.word


def row_seed(seed: int, row: int) -> int:
    """Hash a seed and a row's id to a seed in [0, 2^63), the same in all versions and machines.

    Example:
        >>> row_seed(0, 1) == row_seed(0, 1), row_seed(0, 1) == row_seed(1, 0)
        (True, False)
    """
    return mix(mix(seed) + row * GOLDEN) >> 1


def mix(v: int) -> int:
    """Return the finaliser of SplitMix64 (Steele, Lea and Flood, 2014, figure 13) of an integer."""
    v %= WORD
    for shift, factor in MIX:
        v = ((v ^ (v >> shift)) * factor) % WORD
    return v ^ (v >> 31)


def _hashed(text: str) -> int:
    """64 bits of a text's SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
