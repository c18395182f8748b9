"""Mean and standard deviation of each value, from batches; and what float32 loses of it."""

from __future__ import annotations

from typing import final

import numpy as np

from vaepipe.core.spec import Shape
from vaepipe.errors import DataError

_SHARE = 1e-3
"""How much of a standard deviation a value may lose in float32."""
_SPREADS = (1e-36, 1e36)
"""Standard deviations that float32 can compute with."""


@final
class Running:
    """Mean and standard deviation of each value of examples that come in batches.

    In float64, by the update of Chan, Golub and LeVeque (1983, "Algorithms for computing the sample
    variance"), eq. 2.1: deviations are from means near them, so that a large mean costs no digits.

    Args:
        shape: of one example.

    Example:
        >>> running = Running((1,))
        >>> for batch in ([[1e9 + 1], [1e9 + 2]], [[1e9 + 3], [1e9 + 6]]):
        ...     running.add(np.array(batch))
        >>> (running.mean - 1e9).tolist(), running.scale.round(4).tolist()
        ([3.0], [1.8708])
    """

    def __init__(self, shape: Shape) -> None:
        self.count = 0
        self.total, self._centre, self._squares = (np.zeros(shape) for _ in range(3))
        self.low, self.high = np.full(shape, np.inf), np.full(shape, -np.inf)

    def add(self, x: np.ndarray) -> None:
        """Add examples `[n, *shape]`, n > 0."""
        x = x.astype(np.float64, copy=False)
        n, centre = len(x), x.mean(0)
        after = self.count + n
        apart = centre - self._centre
        self._squares += np.square(x - centre).sum(0) + np.square(apart) * (self.count * n / after)
        self._centre += apart * (n / after)
        self.count = after
        self.total += x.sum(0)
        self.low, self.high = np.minimum(self.low, x.min(0)), np.maximum(self.high, x.max(0))

    @property
    def mean(self) -> np.ndarray:
        """The mean of each value `[*shape]`, float64."""
        return self.total / self.count

    @property
    def varies(self) -> np.ndarray:
        """Whether each value differs between examples, bool `[*shape]`."""
        return self.low < self.high

    @property
    def scale(self) -> np.ndarray:
        """The standard deviation of each value `[*shape]`, float64; 1 where it is constant."""
        return np.where(self.varies, np.sqrt(self._squares / self.count), 1.0)


@final
class Narrowing:
    """The conversion of one split to the types that shards store, and what it loses.

    Example:
        >>> narrow = Narrowing()
        >>> narrow(np.array([[16777217.0], [16777218.0]])).dtype
        dtype('float32')
        >>> narrow.check("train")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        vaepipe.errors.DataError: train: value 0 of the examples runs from 16777217 to 16777218 ...
    """

    def __init__(self) -> None:
        self._running: Running | None = None
        self._lost = np.zeros(())

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return `x` `[n, *shape]` as uint8 if it is, else as float32.

        Raises:
            DataError: a value is beyond the range of float32.
        """
        if x.dtype in (np.uint8, np.float32) or not len(x):
            return x
        with np.errstate(over="ignore"):
            stored = x.astype(np.float32)
        if not np.isfinite(stored).all():
            raise DataError(_beyond(x, stored))
        self._running = self._running or Running(x.shape[1:])
        self._running.add(x)
        self._lost = np.maximum(self._lost, np.abs(x - stored.astype(np.float64)).max(0))
        return stored

    def check(self, where: str, names: tuple[str, ...] | None = None) -> None:
        """Check that every value that varies is held at 1/1000 of its standard deviation.

        Args:
            where: what the rows are, for the message.
            names: of the values of an example, where they have names.

        Raises:
            DataError: naming the first value that is not.
        """
        if self._running is None:
            return
        seen = self._running
        lost = seen.varies & (self._lost > _SHARE * seen.scale)
        if lost.any():
            at = int(np.flatnonzero(lost.reshape(-1))[0])
            low, high, scale, most = (
                v.reshape(-1)[at] for v in (seen.low, seen.high, seen.scale, self._lost)
            )
            raise DataError(
                f"{where}: {named(at, names)} runs from {low:.8g} to {high:.8g} with standard "
                f"deviation {scale:.4g}, and float32, in which examples are stored, moves it by up "
                f"to {most:.4g}. Subtract an origin that all rows share (such as the smallest "
                "value) first, or leave the value out."
            )


def check_scale(where: str, scale: np.ndarray, names: tuple[str, ...] | None = None) -> None:
    """Check that float32 can compute with every standard deviation.

    Raises:
        DataError: naming the first value for which it cannot.
    """
    least, most = _SPREADS
    wild = ((scale < least) | (scale > most)).reshape(-1)
    if wild.any():
        at = int(np.flatnonzero(wild)[0])
        raise DataError(
            f"{where}: {named(at, names)} has standard deviation {scale.reshape(-1)[at]:.4g}, and "
            f"float32 computes with {least:g} to {most:g}. Give it in another unit."
        )


def named(at: int, names: tuple[str, ...] | None) -> str:
    """Name one value of an example by its place in the flat example, and its column if known."""
    return f"value {at} of the examples" if names is None else f"column '{names[at]}'"


def _beyond(x: np.ndarray, stored: np.ndarray) -> str:
    flat = (~np.isfinite(stored)).reshape(len(x), -1)
    row, at = (int(i) for i in np.argwhere(flat)[0])
    return (
        f"value {at} of an example is {x.reshape(len(x), -1)[row, at]:.4g}, and float32, in which "
        "examples are stored, ends at 3.4e+38. Give it in another unit."
    )
