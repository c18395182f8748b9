"""Settings that begin in another stage: where they come from, and what is said over them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from vaepipe.wording import Loc

Raw = Mapping[str, Any]
"""Stages as a file has them."""
Winners = Mapping[str, Mapping[str, Any]]
"""By the name of a sweep: what its best trial set, by dotted path."""

NONE: Mapping[str, Any] = MappingProxyType({})
SOURCES = MappingProxyType({"train": "settings", "sweep": "over"})
"""By kind: the field that names the stage where settings begin."""


def written(raw: Raw, name: str, winners: Winners = NONE) -> dict[str, Any] | None:
    """The settings of a train stage as if they stood in one place; of a sweep, its target's.

    None where there is no way to them: a reference to nothing, or a circle.
    """
    return _written(raw, name, winners, ())


def sweeps(raw: Raw, name: str) -> tuple[str, ...]:
    """The sweeps whose winners go into a stage's settings, nearest first."""
    source = raw[name].get(SOURCES.get(raw[name]["kind"], ""))
    if source is None:
        return ()
    return ((source,) if raw[source]["kind"] == "sweep" else ()) + sweeps(raw, source)


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `base`, field by field; a mapping with a `type` is not merged but replaces.

    Example:
        >>> base = {"optimizer": {"type": "adam", "lr": 0.1}, "epochs": 3}
        >>> merged(base, {"optimizer": {"lr": 0.2}})
        {'optimizer': {'type': 'adam', 'lr': 0.2}, 'epochs': 3}
        >>> merged(base, {"optimizer": {"type": "sgd"}})
        {'optimizer': {'type': 'sgd'}, 'epochs': 3}
    """
    result = dict(base)
    for key, value in own.items():
        below = result.get(key)
        mixes = isinstance(below, Mapping) and isinstance(value, Mapping) and "type" not in value
        result[key] = merged(below or {}, value) if mixes else value
    return result


def assigned(settings: Mapping[str, Any], path: Loc, value: Any) -> dict[str, Any]:
    """A copy in which the value at a path is another.

    Raises:
        LookupError: the path leads through something that is no mapping.
    """
    step, *rest = path
    below = settings.get(str(step), {})
    if rest and not isinstance(below, Mapping):
        raise LookupError(f"'{step}' is {below!r}, which has no fields")
    return {**settings, str(step): assigned(below, tuple(rest), value) if rest else value}


def applied(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with the values at dotted paths replaced.

    Raises:
        LookupError: a path leads through something that is no mapping.
    """
    result = dict(settings)
    for path, value in overrides.items():
        result = assigned(result, tuple(path.split(".")), value)
    return result


def _written(raw: Raw, name: str, winners: Winners, passed: tuple[str, ...]) -> Any:
    stage = raw.get(name)
    kind = str(stage.get("kind")) if isinstance(stage, Mapping) else ""
    if stage is None or kind not in SOURCES or name in passed:
        return None
    base: Any = {}
    if kind == "sweep" or stage.get("settings") is not None:
        base = _written(raw, str(stage.get(SOURCES[kind])), winners, (*passed, name))
    if base is None or kind == "sweep":
        return base and applied(base, winners.get(name, NONE))
    own = {key: value for key, value in stage.items() if key not in ("kind", "settings")}
    return merged(base, own)
