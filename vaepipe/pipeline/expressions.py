"""Search expressions: places in a setting where a value is to be chosen.

    {choice: [a, b]}            one of these
    {grid: [a, b]}              one of these; random search takes them in turn
    {uniform: [low, high]}      a number, uniform
    {log_uniform: [low, high]}  a number, uniform in its logarithm
    {int_uniform: [low, high]}  an integer, both ends included
    {quantized: [low, high, q]} low, low + q, low + 2q, ... up to high

A *decision* is what a search algorithm chooses: an index where the values can be counted, and a
number in [0, 1] where they cannot.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, final

from vaepipe.errors import did_you_mean
from vaepipe.wording import Fault, Loc, expected, shown, unknown

Decision = int | float


class Expression(ABC):
    """A place where a value is to be chosen."""

    @abstractmethod
    def count(self) -> int | None:
        """How many decisions there are; None for a continuum."""

    @abstractmethod
    def ends(self) -> tuple[Decision, ...]:
        """The decisions among which a wrong value would be: all of a list, both ends of a range."""

    @abstractmethod
    def value(self, decision: Decision) -> Any:
        """What a decision stands for."""

    @abstractmethod
    def decision(self, value: Any) -> Decision | None:
        """The inverse of `value`; None where no decision stands for it."""


@final
@dataclass(frozen=True, slots=True)
class Alternatives(Expression):
    """`choice` and `grid`: values without an order, which may hold further searches."""

    word: str
    values: tuple[Any, ...]

    def count(self) -> int:
        """The number of alternatives."""
        return len(self.values)

    def ends(self) -> tuple[int, ...]:
        """Every alternative."""
        return tuple(range(len(self.values)))

    def value(self, decision: Decision) -> Any:
        """The alternative of this index."""
        return self.values[int(decision)]

    def decision(self, value: Any) -> Decision | None:
        """The index of an alternative."""
        return next((i for i, each in enumerate(self.values) if each == value), None)


@final
@dataclass(frozen=True, slots=True)
class Steps(Expression):
    """`int_uniform` and `quantized`: equally spaced numbers, computed in decimal fractions."""

    low: Any
    high: Any
    step: Any

    def count(self) -> int:
        """How many numbers there are between `low` and `high`."""
        return int((_exact(self.high) - _exact(self.low)) / _exact(self.step)) + 1

    def ends(self) -> tuple[int, ...]:
        """The first and the last number."""
        return (0, self.count() - 1)

    def value(self, decision: Decision) -> Any:
        """`low + decision * step`."""
        number = _exact(self.low) + int(decision) * _exact(self.step)
        whole = isinstance(self.low, int) and isinstance(self.step, int)
        return int(number) if whole else float(number)

    def decision(self, value: Any) -> Decision | None:
        """The index of a number, if it is one of them."""
        if not _is_number(value):
            return None
        index = round((value - self.low) / self.step)
        return index if 0 <= index < self.count() and self.value(index) == value else None


@final
@dataclass(frozen=True, slots=True)
class Interval(Expression):
    """`uniform` and `log_uniform`: a continuum, seen as [0, 1] by its distribution function."""

    low: float
    high: float
    log: bool

    def count(self) -> None:
        """Infinitely many."""

    def ends(self) -> tuple[float, float]:
        """The lowest and the highest number."""
        return (0.0, 1.0)

    def value(self, decision: Decision) -> float:
        """The quantile of `decision`."""
        if self.log:
            number = self.low * (self.high / self.low) ** decision
        else:
            number = self.low + decision * (self.high - self.low)
        return float(min(max(number, self.low), self.high))

    def decision(self, value: Any) -> Decision | None:
        """The distribution function at `value`."""
        if not _is_number(value) or not self.low <= value <= self.high:
            return None
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


_MAKERS: dict[str, Callable[[list[Any]], Expression]] = {
    "choice": lambda values: Alternatives("choice", tuple(values)),
    "grid": lambda values: Alternatives("grid", tuple(values)),
    "int_uniform": lambda ends: Steps(ends[0], ends[1], 1),
    "log_uniform": lambda ends: Interval(ends[0], ends[1], log=True),
    "quantized": lambda ends: Steps(*ends),
    "uniform": lambda ends: Interval(ends[0], ends[1], log=False),
}

WORDS = tuple(_MAKERS)
"""The words of search expressions."""


def expression(node: Any) -> Expression | None:
    """The search expression that stands here, or None for a plain value.

    It must be well formed: `faults` says where it is not.
    """
    if not isinstance(node, Mapping) or len(node) != 1:
        return None
    ((word, argument),) = node.items()
    return _MAKERS[word](argument) if word in _MAKERS else None


def parts(node: Any) -> list[tuple[str | int, Any]]:
    """The entries of a mapping or a list, by key or index; nothing of anything else."""
    if isinstance(node, Mapping):
        return list(node.items())
    return list(enumerate(node)) if isinstance(node, (list, tuple)) else []


def faults(node: Any, at: Loc = ()) -> Iterator[Fault]:
    """Mistakes in how searches are written, at any depth."""
    words = [key for key, _ in parts(node) if key in _MAKERS and "type" not in node]
    if words and len(node) > 1:
        beside = next(key for key in node if key != words[0])
        yield Fault(at, f"'{words[0]}' is a search and stands alone, but '{beside}' is beside it")
    elif words:
        yield from _argument_faults(words[0], node[words[0]], (*at, words[0]))
    elif _misspelled(node):
        yield Fault(at, unknown("search expression", next(iter(node)), WORDS))
    else:
        for key, value in parts(node):
            yield from faults(value, (*at, key))


def _argument_faults(word: str, argument: Any, at: Loc) -> Iterator[Fault]:
    if word not in ("choice", "grid"):
        message = _range_fault(word, argument)
        yield from [Fault(at, message)] if message else []
    elif not isinstance(argument, (list, tuple)):
        yield Fault(at, expected("a list of values", argument))
    elif not argument:
        yield Fault(at, "needs at least one value to choose from, got []")
    else:
        for index, value in enumerate(argument):
            yield from faults(value, (*at, index))


def _range_fault(word: str, argument: Any) -> str | None:
    names = "[low, high, q]" if word == "quantized" else "[low, high]"
    kind = "integers" if word == "int_uniform" else "numbers"
    if not _are_numbers(argument, names.count(",") + 1, whole=word == "int_uniform"):
        return expected(f"{kind} {names}", argument)
    if argument[0] >= argument[1]:
        return f"low must be less than high, got {shown(argument)}"
    if word == "log_uniform" and argument[0] <= 0:
        return f"low must be greater than 0 to have a logarithm, got {shown(argument)}"
    if word == "quantized" and not 0 < argument[2] <= argument[1] - argument[0]:
        return f"q must be greater than 0 and at most high - low, got {shown(argument)}"
    return None


def _are_numbers(argument: Any, length: int, *, whole: bool) -> bool:
    if not isinstance(argument, (list, tuple)) or len(argument) != length:
        return False
    return all(_is_number(each) and (isinstance(each, int) or not whole) for each in argument)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _misspelled(node: Any) -> bool:
    """A mapping of one key that is nearly a search, such as `{chioce: [1, 2]}`."""
    if not isinstance(node, Mapping) or len(node) != 1:
        return False
    ((key, value),) = node.items()
    return isinstance(value, (list, tuple)) and bool(did_you_mean(key, WORDS))


def _exact(number: float) -> Decimal:
    return Decimal(str(number))
