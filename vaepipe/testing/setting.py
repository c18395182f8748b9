"""What a component says about its own conformance check, as plain data.

    class CodeBook(Family):
        conformance = {
            "latent_shape": (4, 3),
            "options": {"codes": 8},
            "exempt": {"wild features stay finite": "codes are looked up, features never overflow"},
        }

Nothing of it is needed where the kit can guess: shapes and partners are found by trying.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from vaepipe import registry
from vaepipe.core import DataSpec, Shape
from vaepipe.errors import PluginError, did_you_mean
from vaepipe.registry import PartSpec

LATENT_SHAPES: tuple[Shape, ...] = ((2,), (3, 2), (2, 3), (4,), (1,), (2, 2, 2))
"""Latent shapes to try where none is declared, in this order."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How the kit should build a component and the parts around it.

    Args:
        latent_shape: shape of z; by default the first of `LATENT_SHAPES` that it accepts.
        data: `{"shape": …, "support": …, "num_examples": …, "levels": …}`, of what x is.
        family: the posterior that a prior or an objective needs: a name, or `{"type": …, options}`.
        prior: the prior that an objective or a family is used with, likewise.
        shapes: pairs of input and output shapes of a network.
        options: small options to be checked with, where the caller gives none.
        same_bound_as: an objective whose bound has the same mean, likewise.
        same_gradient_as: an objective whose gradient in the encoder has the same mean, likewise.
        exempt: questions that it may fail, each with the reason, which the report shows.
    """

    latent_shape: Shape | None = None
    data: DataSpec | None = None
    family: PartSpec | None = None
    prior: PartSpec | None = None
    shapes: tuple[tuple[Shape, Shape], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    same_bound_as: PartSpec | None = None
    same_gradient_as: PartSpec | None = None
    exempt: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, *sources: object) -> Setting:
        """What classes declare as `conformance`, the later ones over the earlier.

        Raises:
            PluginError: a word that means nothing here.

        Example:
            >>> class Wide:
            ...     conformance = {"latent_shape": [4, 3]}
            >>> Setting.of(Wide).latent_shape
            (4, 3)
        """
        merged: dict[str, Any] = {}
        for source in sources:
            merged |= getattr(source, "conformance", {})
        known = {each.name for each in fields(cls)}
        for word in set(merged) - known:
            raise PluginError(
                f"`conformance` has no '{word}'.{did_you_mean(word, known)} "
                f"It may say: {', '.join(sorted(known))}."
            )
        read = {word: _READ.get(word, _same)(value) for word, value in merged.items()}
        return cls(**read)


def words(question: str) -> str:
    """A question's name as people write it.

    Example:
        >>> words("test_its_mass_is_one")
        'its mass is one'
    """
    return question.removeprefix("test_").replace("_", " ")


def _same(value: Any) -> Any:
    return value


def _part(group: str, value: str | Mapping[str, Any]) -> PartSpec:
    plain = {"type": value} if isinstance(value, str) else dict(value)
    return registry.part(group, plain.pop("type"), plain)


_READ: Mapping[str, Any] = {
    "latent_shape": tuple,
    "data": lambda value: DataSpec.from_dict({"num_examples": 100, **value}),
    "family": lambda value: _part("families", value),
    "prior": lambda value: _part("priors", value),
    "same_bound_as": lambda value: _part("objectives", value),
    "same_gradient_as": lambda value: _part("objectives", value),
    "shapes": lambda value: tuple((tuple(i), tuple(o)) for i, o in value),
    "exempt": lambda value: {words(question): reason for question, reason in value.items()},
}
