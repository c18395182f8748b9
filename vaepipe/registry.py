"""One way in: entry-point names become classes, for built-ins and third parties alike.

Listing reads installed metadata and imports nothing; loading imports one module.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from vaepipe.errors import PluginError, UnknownComponent, did_you_mean

GROUPS = (
    "likelihoods",
    "priors",
    "families",
    "objectives",
    "networks",
    "datasets",
    "metrics",
    "computes",
    "trackers",
)


@dataclass(frozen=True, slots=True)
class PartSpec:
    """A component as plain data: which class of which distribution, with which options.

    It is what travels to workers and into `model.json`; it pickles and turns into JSON.
    """

    group: str
    type: str
    target: str
    distribution: str
    version: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> type:
        """Import the class by the path that the driver resolved."""
        return _import(self.target, f"{self.group} '{self.type}'", self.requirement)

    def build(self, *args: Any) -> Any:
        """Construct the component: positional arguments, then this spec's options."""
        return self.load()(*args, **self.options)

    @property
    def requirement(self) -> str:
        """`distribution==version`, as pip reads it."""
        return f"{self.distribution}=={self.version}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PartSpec:
        """The inverse of `to_dict`."""
        return cls(**data)


def available(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Names of a group, sorted, each with every entry point that claims it; imports nothing."""
    return dict(_scan(_known_group(group), tuple(sys.path)))


def find(group: str, name: str) -> EntryPoint:
    """The one entry point of this name; `dist:name` pins the distribution.

    Raises:
        UnknownComponent: nothing has this name; the message offers the nearest.
        PluginError: two distributions claim it and the name does not pin one.
    """
    pin, _, short = name.rpartition(":")
    names = available(group)
    points = [p for p in names.get(short, ()) if not pin or _same(distribution(p)[0], pin)]
    if not points:
        known = ", ".join(names) or "none"
        raise UnknownComponent(
            f"unknown {group} '{name}'.{did_you_mean(short, names)} Installed: {known}."
        )
    if len(points) > 1:
        owners = sorted(distribution(p)[0] for p in points)
        raise PluginError(
            f"{group} '{short}' is claimed by {len(points)} distributions: {', '.join(owners)}. "
            f"Pin one, as in '{owners[0]}:{short}', or uninstall the other."
        )
    return points[0]


def load(group: str, name: str) -> type:
    """The class behind a name; imports its module and nothing else."""
    return part(group, name).load()


def part(group: str, name: str, options: Mapping[str, Any] | None = None) -> PartSpec:
    """A component as data, its class resolved from installed metadata."""
    found = _resolve(group, name, tuple(sys.path))
    return PartSpec(group, name, *found, options=dict(options or {}))


def distribution(point: EntryPoint) -> tuple[str, str]:
    """Name and version of the distribution that declares an entry point."""
    if point.dist is None:
        raise PluginError(f"entry point '{point.name}' belongs to no installed distribution")
    return point.dist.name, point.dist.version


def options_signature(cls: type) -> dict[str, inspect.Parameter]:
    """The keyword-only parameters of a constructor: they are the component's YAML options.

    Raises:
        PluginError: the constructor takes `*args` or `**kwargs`, or an option has no annotation.
    """
    parameters = list(inspect.signature(cls).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise PluginError(
                f"{cls.__module__}:{cls.__qualname__} takes '{parameter}': a component names "
                "every option as a keyword-only parameter, so that files can be checked."
            )
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.annotation is parameter.empty:
            raise PluginError(
                f"{cls.__module__}:{cls.__qualname__}: option '{parameter.name}' has no annotation."
            )
    return {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY}


@cache
def _scan(group: str, path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    """Read the metadata once for each state of the import path."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=f"vaepipe.{group}"):
        if point not in found.setdefault(point.name, []):
            found[point.name].append(point)
    return {name: tuple(found[name]) for name in sorted(found)}


@cache
def _resolve(group: str, name: str, path: tuple[str, ...]) -> tuple[str, str, str]:
    """Target, distribution and version of a name."""
    point = find(group, name)
    return (point.value, *distribution(point))


@cache
def _import(target: str, what: str, requirement: str) -> type:
    module, _, attribute = target.partition(":")
    try:
        loaded: Any = importlib.import_module(module)
        for name in attribute.split("."):
            loaded = getattr(loaded, name)
    except Exception as error:
        raise PluginError(
            f"{what} (entry point '{target}' of {requirement}) cannot be loaded: "
            f"{type(error).__name__}: {error}. Reinstall or upgrade '{requirement}'."
        ) from error
    if not inspect.isclass(loaded):
        raise PluginError(f"{what} (entry point '{target}' of {requirement}) is not a class.")
    return loaded


def _known_group(group: str) -> str:
    if group not in GROUPS:
        raise UnknownComponent(
            f"unknown group '{group}'.{did_you_mean(group, GROUPS)} Groups: {', '.join(GROUPS)}."
        )
    return group


def _same(one: str, other: str) -> bool:
    return one.lower().replace("_", "-") == other.lower().replace("_", "-")
