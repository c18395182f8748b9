"""What would compose instead: other parts are tried in a small model before they are named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

from torch import nn

from vaepipe import registry
from vaepipe.core.conditional import Conditional, Head
from vaepipe.core.model import LatentModel
from vaepipe.core.noise import seeded
from vaepipe.core.perceptron import Perceptron
from vaepipe.core.rehearsal import rehearse
from vaepipe.core.spec import Cap, DataSpec, Part, Shape, within
from vaepipe.core.streams import Purpose, stream
from vaepipe.errors import PluginError
from vaepipe.registry import PartSpec

Component = type | PartSpec
"""A class, which is built with its default options, or a component as files name it."""
Role = str
"""A key of `GROUP`."""
GROUP: Mapping[Role, str] = MappingProxyType(
    {
        "family": "families",
        "prior": "priors",
        "objective": "objectives",
        "likelihood": "likelihoods",
    }
)
_SHAPES: tuple[Shape, ...] = ((2,), (2, 3))


@dataclass(frozen=True)
class Asked:
    """A combination of components, as `check` is asked about it.

    Args:
        family: q(z | x).
        prior: p(z).
        objective: what training maximises.
        likelihood: p(x | z).
        data: what x is.
        latent_shape: shape of z; without one, small shapes are tried.
    """

    family: Component
    prior: Component
    objective: Component
    likelihood: Component
    data: DataSpec
    latent_shape: Shape | None = None

    def missing(self, role: Role) -> Cap:
        """The abilities that this part needs of q(z | x) and the family does not provide."""
        return class_of(getattr(self, role)).needs & ~class_of(self.family).provides

    @cached_property
    def of_the_data(self) -> bool:
        """May values of the data be given to the likelihood?"""
        return within(self.data.support, class_of(self.likelihood).support)

    def works(self) -> bool:
        """Do the declarations fit, and does a small model of these parts pass its rehearsal?"""
        if self.missing("prior") or self.missing("objective"):
            return False
        shapes = [self.latent_shape] if self.latent_shape else _SHAPES
        return any(self._rehearses(tuple(shape)) for shape in shapes)

    def others(self, role: Role) -> Iterator[str]:
        """Names of installed parts that work in this role, with the rest as it is asked."""
        for name, part in installed(GROUP[role]):
            if self.with_part(role, part).works():
                yield name

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Names of a prior and an objective that work together with the family, and train all."""
        for prior, part in installed(GROUP["prior"]):
            for objective in self.with_part("prior", part).others("objective"):
                if Part.MODEL in registry.load(GROUP["objective"], objective).trains:
                    yield prior, objective

    def with_part(self, role: Role, part: Component) -> Asked:
        """The combination with another part in one role."""
        changed: dict[str, Any] = {role: part}
        return replace(self, **changed)

    def _rehearses(self, latent_shape: Shape) -> bool:
        try:
            with seeded(stream(0, Purpose.REHEARSAL, "alternatives")):
                rehearse(self._model(latent_shape), _made(self.objective), self.data)
        except Exception:  # whatever a part raises, it is nothing to recommend
            return False
        return True

    def _model(self, latent_shape: Shape) -> LatentModel:
        q, p = _made(self.family, latent_shape), _made(self.likelihood, self.data)
        inference = Conditional(_narrow(self.data.shape, q), q, self.data.shape)
        generator = Conditional(_narrow(latent_shape, p), p, latent_shape, q.read)
        return LatentModel(inference, _made(self.prior, latent_shape, self.data), generator)


def installed(group: str) -> Iterator[tuple[str, type]]:
    """Every component that can be loaded; a broken one is not what the user asked about."""
    for name in registry.available(group):
        try:
            yield name, registry.load(group, name)
        except PluginError:
            continue


def likelihoods_of(data: DataSpec) -> list[str]:
    """Names of the installed likelihoods that accept these data with their default options."""
    return [name for name, part in installed("likelihoods") if _accepts(part, data)]


def class_of(part: Component) -> Any:
    """The class of a component, for what it declares."""
    return part.load() if isinstance(part, PartSpec) else part


def _accepts(likelihood: type, data: DataSpec) -> bool:
    if not within(data.support, class_of(likelihood).support):
        return False
    try:
        likelihood(data)
    except Exception:  # as above
        return False
    return True


def _made(part: Component, *args: Any) -> Any:
    return part.build(*args) if isinstance(part, PartSpec) else part(*args)


def _narrow(shape: Shape, head: Head) -> nn.Module:
    """A network of one hidden unit: it costs little between spaces of any size."""
    sizes = math.prod(shape), math.prod(head.feature_shape)
    return nn.Sequential(nn.Flatten(), Perceptron(*sizes, [1], "tanh"))
