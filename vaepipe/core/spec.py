"""The vocabulary that every component shares: data specifications, abilities, parts."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from vaepipe.errors import CompatibilityError, DataError, did_you_mean

Shape = tuple[int, ...]

SUPPORTS: Mapping[str, Constraint] = MappingProxyType(
    {
        "boolean": constraints.boolean,
        "integer": constraints.nonnegative_integer,
        "real": constraints.real,
        "unit_interval": constraints.unit_interval,
    }
)


class Cap(enum.Flag):
    """What a posterior q(z | x) can do: families provide, objectives and priors need."""

    NONE = 0
    SAMPLE = enum.auto()
    """`q.sample()`."""
    RSAMPLE = enum.auto()
    """`q.rsample()`: draws that carry gradients."""
    DENSITY = enum.auto()
    """`q.log_prob(z)` for any z."""
    CODES = enum.auto()
    """`q.codes`: indices into a code book, with straight-through features."""
    TOP_DOWN = enum.auto()
    """`head.top_down`: a density p(z1 | z2) that a prior may share."""


def provided(head: object) -> Cap:
    """The abilities that the head of a posterior declares; none where it declares nothing."""
    return getattr(head, "provides", Cap.NONE)


class Part(enum.Flag):
    """Which parameters a phase of an objective updates."""

    INFERENCE = enum.auto()
    PRIOR = enum.auto()
    GENERATOR = enum.auto()
    OBJECTIVE = enum.auto()
    MODEL = INFERENCE | PRIOR | GENERATOR


class Moments(NamedTuple):
    """Mean and standard deviation of each value over the training split, `[*shape]`, float64."""

    mean: Tensor
    scale: Tensor
    """1 where the values are constant."""


@dataclass(frozen=True, slots=True)
class DataSpec:
    """What one example is: its shape, where its values live, and how many there are.

    Args:
        shape: shape of one example, without batch dimensions.
        support: a constraint of `torch.distributions`; one of `SUPPORTS`.
        num_examples: size of the training split; it scales terms of global variables.
        mean: mean training example `[*shape]`, where a component may start; never needed later.
        levels: how many values an integer has, 0 … levels - 1 (grey levels, words); None: no end.
        scale: standard deviation of each value over the training split `[*shape]`, 1 where it is
            constant; None where it is unknown, and then components work in the data's own units.
        logs: moments of log(1 + x), for integers that have no largest value.
        names: of the values of an example, where they were columns of a table.

    Example:
        >>> DataSpec((784,), SUPPORTS["boolean"], 50_000).support_name
        'boolean'
    """

    shape: Shape
    support: Constraint
    num_examples: int
    mean: Tensor | None = field(default=None, compare=False, repr=False)
    levels: int | None = None
    scale: Tensor | None = field(default=None, compare=False, repr=False)
    logs: Moments | None = field(default=None, compare=False, repr=False)
    names: tuple[str, ...] | None = None

    @property
    def support_name(self) -> str:
        """The name of the support in files."""
        return next(name for name, value in SUPPORTS.items() if _same(value, self.support))

    @property
    def counts(self) -> bool:
        """Whether the values are integers without a largest one."""
        return self.levels is None and self.support_name == "integer"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data; moments are arrays, and are stored beside it."""
        plain = {
            "shape": list(self.shape),
            "support": self.support_name,
            "num_examples": self.num_examples,
        }
        named = None if self.names is None else list(self.names)
        more = {"levels": self.levels, "names": named}
        return plain | {name: value for name, value in more.items() if value is not None}

    @classmethod
    def from_dict(
        cls,
        data: Mapping[str, Any],
        mean: Tensor | None = None,
        scale: Tensor | None = None,
        logs: Moments | None = None,
    ) -> DataSpec:
        """Return the specification that `to_dict` wrote, with its moments where they are given.

        Raises:
            DataError: the support has no such name.
        """
        name = data["support"]
        if name not in SUPPORTS:
            raise DataError(f"unknown support '{name}'.{did_you_mean(name, SUPPORTS)}")
        support, rows = SUPPORTS[name], int(data["num_examples"])
        names = None if data.get("names") is None else tuple(data["names"])
        shape, levels = tuple(data["shape"]), data.get("levels")
        return cls(shape, support, rows, mean, levels, scale, logs, names)


def within(values: Constraint, support: Constraint) -> bool:
    """May values of one support be given to a distribution of another?

    Both must be discrete or both continuous (a mass is not a density), and one inside the other.

    Example:
        >>> within(SUPPORTS["unit_interval"], SUPPORTS["real"])
        True
        >>> within(SUPPORTS["unit_interval"], SUPPORTS["boolean"])
        False
    """
    wider = {"unit_interval": "real", "boolean": "integer"}
    larger = [SUPPORTS[b] for a, b in wider.items() if _same(values, SUPPORTS[a])]
    return any(_same(support, allowed) for allowed in [values, *larger])


def categories(latent_shape: Shape) -> Shape:
    """The shape, if its last dimension can enumerate the categories of a code.

    Raises:
        CompatibilityError: it has no dimension, or fewer than two categories.

    Example:
        >>> categories((8, 10))
        (8, 10)
    """
    if not latent_shape or latent_shape[-1] < 2:
        raise CompatibilityError(
            "one-hot codes need a latent_shape [n, K] of n codes of K categories each, or [K], "
            f"with K of at least 2; got {list(latent_shape)}. Write [8, 10] for 8 codes of 10 "
            "categories."
        )
    return tuple(latent_shape)


def _same(one: Constraint, other: Constraint) -> bool:
    """Constraints have no equality of their own, and pickling makes new ones."""
    return type(one) is type(other) and vars(one) == vars(other)
