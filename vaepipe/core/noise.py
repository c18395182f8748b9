"""Randomness that can be put back, and noise that belongs to a row and not to a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from vaepipe.core.spec import Shape
from vaepipe.core.streams import GOLDEN, MIX, WORD, Stream, mix, word_of

T = TypeVar("T")

_WORDS = slice(24, 24 + 8 * 624)
"""Bytes of a CPU generator's state that hold the 624 words of MT19937, each in eight bytes."""


@contextmanager
def seeded(stream: Stream) -> Iterator[None]:
    """Seed torch's generators (CPU, and the current GPU if in use) inside; restore them after.

    torch seeds its CPU generator, MT19937, with the low 32 bits of a seed and drops the others;
    a GPU's, Philox, with all 64. So on CPU two streams give the same numbers with probability
    2^-32: next to nothing for the few streams of a fit or a report. Streams of rows, of which there
    are many, are seeded with all their bits: see `by_row`.

    Raises:
        TypeError: a bare seed is given, which does not say what the numbers are for.

    Example:
        >>> from vaepipe.core import Purpose, stream
        >>> with seeded(stream(1, Purpose.PRIOR_SAMPLES)):
        ...     a = torch.rand(2)
        >>> with seeded(stream(1, Purpose.PRIOR_SAMPLES)):
        ...     b = torch.rand(2)
        >>> torch.equal(a, b)
        True
    """
    word = word_of(stream)
    with replayed():
        torch.default_generator.manual_seed(word)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed(word)
        yield


@contextmanager
def replayed() -> Iterator[None]:
    """Restore torch's generators (CPU, and the current GPU if in use) after the block.

    What is drawn inside is drawn again after it.

    Example:
        >>> with replayed():
        ...     a = torch.rand(2)
        >>> torch.equal(a, torch.rand(2))
        True
    """
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        yield


def by_row(
    work: Callable[[int], T], ids: Iterable[int], stream: Stream, device: torch.device | str = "cpu"
) -> list[T]:
    """Call `work` with the place of each row, torch's generators seeded by the stream and its id.

    All 63 bits of a row's stream go into the state of the CPU generator (SplitMix64 fills the 624
    words of MT19937), so that a billion rows have a billion states. The generators are restored
    after.

    Args:
        work: what to do with the row at a place 0, 1, ...
        ids: the rows' ids, in their order.
        stream: of all rows.
        device: where `work` draws.

    Returns:
        The results, in the order of the rows.

    Example:
        >>> from vaepipe.core import Purpose, stream
        >>> draw = lambda place: torch.rand(()).item()
        >>> whole = by_row(draw, [3, 4, 5], stream(0, Purpose.SAMPLES))
        >>> by_row(draw, [5], stream(0, Purpose.SAMPLES)) == whole[2:]
        True
    """
    word_of(stream)
    gpus = [torch.device(device)] if torch.device(device).type == "cuda" else []
    results = []
    with torch.random.fork_rng(devices=gpus):
        for place, number in enumerate(ids):
            word = stream.at(int(number)).word
            torch.default_generator.set_state(_cpu_state(word))
            for gpu in gpus:
                with torch.cuda.device(gpu):
                    torch.cuda.manual_seed(word)
            results.append(work(place))
    return results


def id_tensor(ids: Iterable[int], device: torch.device | str = "cpu") -> Tensor:
    """Return ids as int64 `[n]`; those from 2^63 on keep their bits.

    Example:
        >>> id_tensor([1, 2**64 - 1])
        tensor([ 1, -1])
    """
    return torch.tensor([_signed(int(i) % 2**64) for i in ids], dtype=torch.int64, device=device)


def row_uniform(stream: Stream, ids: Tensor, shape: Shape) -> Tensor:
    """Return uniform noise that depends on (stream, id, position) only, whatever the batching.

    The j-th value of a row is the j-th output of SplitMix64 (Steele, Lea and Flood, 2014,
    figure 13) started from a hash of the stream and the row's id, cut to 24 bits.

    Args:
        stream: what the noise is for.
        ids: int64 or uint64 `[batch]`.
        shape: of one row's noise.

    Returns:
        float32 in [0, 1), `[batch, *shape]`, on the device of `ids`; the same on every device.

    Raises:
        TypeError: a bare seed is given, which does not say what the numbers are for.

    Example:
        >>> from vaepipe.core import Purpose, stream
        >>> ids, flips = torch.arange(6), stream(7, Purpose.PLUGIN, "flips")
        >>> torch.equal(row_uniform(flips, ids, (3,))[4:], row_uniform(flips, ids[4:], (3,)))
        True
    """
    ids = ids.view(torch.int64) if ids.dtype == torch.uint64 else ids  # the same bits
    start = _mix_tensor(ids * _signed(GOLDEN) + _signed(mix(word_of(stream))))
    bits = _shift(_outputs(start[:, None], math.prod(shape)), 40)
    return (bits.to(torch.float32) * 2.0**-24).reshape(len(ids), *shape)


def _cpu_state(word: int) -> Tensor:
    """A state of torch's CPU generator that follows from all bits of a word."""
    state = torch.Generator().manual_seed(0).get_state()
    start = torch.tensor(_signed(mix(word)))
    state[_WORDS].view(torch.int64)[:] = _shift(_outputs(start, 624), 32)
    return state


def _outputs(start: Tensor, n: int) -> Tensor:
    """The first n outputs of SplitMix64, 64 bits each, for states that broadcast with `[n]`."""
    steps = torch.arange(1, n + 1, device=start.device) * _signed(GOLDEN)
    return _mix_tensor(start + steps)


def _mix_tensor(v: Tensor) -> Tensor:
    """The finaliser `mix`, on int64 tensors, whose products wrap around."""
    for shift, factor in MIX:
        v = (v ^ _shift(v, shift)) * _signed(factor)
    return v ^ _shift(v, 31)


def _shift(v: Tensor, n: int) -> Tensor:
    """A logical right shift: torch's own repeats the sign bit."""
    return (v >> n) & ((1 << (64 - n)) - 1)


def _signed(v: int) -> int:
    """An unsigned 64-bit word, read as int64."""
    return v - WORD if v >= WORD // 2 else v
