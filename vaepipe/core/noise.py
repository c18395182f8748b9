"""Randomness that can be put back, and noise that belongs to a row and not to a batch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vaepipe.core.spec import Shape

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_WORD = 2**64


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators (CPU, and the current GPU if in use) inside; restore them after.

    Example:
        >>> with seeded(1):
        ...     a = torch.rand(2)
        >>> with seeded(1):
        ...     b = torch.rand(2)
        >>> torch.equal(a, b)
        True
    """
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        if gpus:
            torch.cuda.manual_seed(seed)
        yield


def row_seed(seed: int, row: int) -> int:
    """A seed in [0, 2^63) for one row, stable between versions, machines and batchings.

    Example:
        >>> row_seed(0, 1) == row_seed(0, 1), row_seed(0, 1) == row_seed(1, 0)
        (True, False)
    """
    return _mix(_mix(seed) + row * _GOLDEN) >> 1


def row_uniform(seed: int, ids: Tensor, shape: Shape) -> Tensor:
    """Uniform noise that depends on (seed, id, position) only: any batching gives the same.

    The j-th value of a row is the j-th output of SplitMix64 (Steele, Lea and Flood, 2014,
    figure 13) started from a hash of the seed and the row's id, cut to 24 bits.

    Args:
        seed: of the stream.
        ids: int64 `[batch]`.
        shape: of one row's noise.

    Returns:
        float32 in [0, 1), `[batch, *shape]`, on the device of `ids`; the same on every device.

    Example:
        >>> ids = torch.arange(6)
        >>> torch.equal(row_uniform(7, ids, (3,))[4:], row_uniform(7, ids[4:], (3,)))
        True
    """
    steps = torch.arange(1, math.prod(shape) + 1, device=ids.device) * _signed(_GOLDEN)
    start = _mix_tensor(ids * _signed(_GOLDEN) + _signed(_mix(seed)))
    bits = _shift(_mix_tensor(start[:, None] + steps), 40)
    return (bits.to(torch.float32) * 2.0**-24).reshape(len(ids), *shape)


def _mix(v: int) -> int:
    """The finaliser of SplitMix64, on a Python integer."""
    v %= _WORD
    for shift, factor in _MIX:
        v = ((v ^ (v >> shift)) * factor) % _WORD
    return v ^ (v >> 31)


def _mix_tensor(v: Tensor) -> Tensor:
    """The same, on int64 tensors, whose products wrap around."""
    for shift, factor in _MIX:
        v = (v ^ _shift(v, shift)) * _signed(factor)
    return v ^ _shift(v, 31)


def _shift(v: Tensor, n: int) -> Tensor:
    """A logical right shift: torch's own repeats the sign bit."""
    return (v >> n) & ((1 << (64 - n)) - 1)


def _signed(v: int) -> int:
    """An unsigned 64-bit word, read as int64."""
    return v - _WORD if v >= _WORD // 2 else v
