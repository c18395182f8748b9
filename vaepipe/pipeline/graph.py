"""The stages of a file: each checked by itself, with what it inherits, and all of them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, final

from pydantic import TypeAdapter, ValidationError

from vaepipe import wording
from vaepipe.errors import did_you_mean
from vaepipe.pipeline import expressions, links, space
from vaepipe.pipeline.fields import StageName
from vaepipe.pipeline.inherit import Raw, assigned, written
from vaepipe.pipeline.settings import KINDS, Stage, TrainStage
from vaepipe.wording import Fault, Loc

FIXED = {
    "data": "trials on different data cannot be compared",
    "kind": "a sweep is over a train stage",
    "settings": "it is not a setting of the fit",
    "start": "what a fit begins with is an input of its stage",
    "validation": "trials would be compared by different measures",
}
"""What no sweep may search, with the reason."""

_NAME = TypeAdapter(StageName)


@final
class Stages(dict[str, Stage]):
    """Stages by name, inherited settings filled in; `raw` keeps what the file says."""

    raw: Raw

    def __init__(self, stages: Mapping[str, Stage], raw: Raw) -> None:
        super().__init__(stages)
        self.raw = raw


def parse(raw: Any) -> Stages:
    """Check every stage, the references between them and the spaces of sweeps.

    Raises:
        ValidationError: everything that is wrong.
    """
    if isinstance(raw, Stages):
        return raw
    if not isinstance(raw, Mapping) or not raw:
        raise wording.mistake(wording.expected("a mapping of stages, each {kind: ...}", raw))
    stages: dict[str, Stage] = {}
    found: list[Fault] = []
    for name in raw:
        stage, faults = _stage(raw, name)
        found += [*_name_faults(name), *(fault.under(name) for fault in faults)]
        if stage is not None:
            stages[name] = stage
    found += links.faults(raw)
    for name in raw:
        found += [fault.under(name, "space") for fault in _space_faults(raw, name)]
    if found:
        raise wording.invalid("stages", found)
    return Stages(stages, raw)


def variants(raw: Raw, name: str) -> Iterator[TrainStage]:
    """Fits of a sweep in which every alternative of its space occurs, valid ones only."""
    base = written(raw, name) or {}
    for path, node in raw[name]["space"].items():
        for value, _ in space.cover(node):
            stage, _ = _train(assigned(base, tuple(path.split(".")), value))
            if stage is not None:
                yield stage


def _name_faults(name: Any) -> list[Fault]:
    try:
        _NAME.validate_python(name)
    except ValidationError as error:
        return [fault.under(name) for fault in wording.faults(error)]
    return []


def _stage(raw: Raw, name: str) -> tuple[Stage | None, list[Fault]]:
    value = raw[name]
    if not isinstance(value, Mapping):
        return None, [Fault((), wording.expected("a mapping such as {kind: train, ...}", value))]
    kind = links.kind_of(raw, name)
    if kind is None:
        return None, [_kind_fault(value)]
    if kind == "train" and value.get("settings") is not None:
        return _inheriting(raw, name)
    return _checked(kind, value)


def _kind_fault(value: Raw) -> Fault:
    if "kind" not in value:
        return Fault(("kind",), f"missing; expected {wording.words(tuple(KINDS))}")
    return Fault(("kind",), wording.unknown("kind", value["kind"], tuple(KINDS)))


def _checked(kind: str, value: Raw) -> tuple[Any, list[Fault]]:
    try:
        return KINDS[kind].model_validate(value), []
    except ValidationError as error:
        return None, wording.faults(error)


def _train(settings: Raw) -> tuple[TrainStage | None, list[Fault]]:
    return _checked("train", {**settings, "kind": "train"})


def _inheriting(raw: Raw, name: str) -> tuple[Stage | None, list[Fault]]:
    """A stage whose settings begin elsewhere: what is wrong there is told there."""
    value = raw[name]
    source, whole = value["settings"], written(raw, name)
    if whole is None:
        found = _checked("train", value)[1]
        return None, [fault for fault in found if not fault.message.startswith("missing")]
    inherited = _train(written(raw, source) or {})[1]
    stage, found = _train({**whole, "settings": source})
    return stage, [f for f in found if f not in inherited or _stands(value, f.loc)]


def _stands(value: Any, loc: Loc) -> bool:
    for step in loc:
        entries = dict(expressions.parts(value))
        if step not in entries:
            return False
        value = entries[step]
    return True


def _space_faults(raw: Raw, name: str) -> Iterator[Fault]:
    """What is wrong with the paths and values of a sweep, where its target can be read."""
    if links.kind_of(raw, name) != "sweep":
        return
    tree, target = raw[name].get("space"), raw[name].get("over")
    base = written(raw, target) if links.kind_of(raw, target) == "train" else None
    if not isinstance(tree, Mapping) or base is None:
        return
    stage, known = _train(base)
    for path, node in tree.items():
        message = _path_fault(tree, path, target, stage)
        if message:
            yield Fault((path,), message)
        elif not any(expressions.faults(node)):
            yield from (fault.under(path) for fault in _value_faults(base, path, node, known))


def _path_fault(tree: Raw, path: str, target: str, stage: TrainStage | None) -> str | None:
    around = [other for other in tree if path.startswith(f"{other}.")]
    if around:
        return f"lies inside '{around[0]}', which is searched too: nest this search in its values"
    first = path.split(".")[0]
    if first in FIXED:
        return f"'{first}' cannot be searched: {FIXED[first]}"
    paths = list(_paths(stage.model_dump(mode="json"))) if stage is not None else [path]
    return (
        None if path in paths else f"stage '{target}' has no setting '{path}'.{_near(path, paths)}"
    )


def _near(path: str, paths: list[str]) -> str:
    """The nearest path; for an option that another type of component has, how to search it."""
    parent, _, leaf = path.rpartition(".")
    beside = [other.rpartition(".")[2] for other in paths if other.rpartition(".")[0] == parent]
    if "type" not in beside:
        return did_you_mean(path, paths)
    near = get_close_matches(leaf, beside, n=1)
    if near:
        return f" Did you mean '{parent}.{near[0]}'?"
    nested = f"{parent}: {{choice: [{{type: ..., {leaf}: ...}}]}}"
    return f" An option of another type is searched with its type: {nested}."


def _paths(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")


def _value_faults(base: Raw, path: str, node: Any, known: list[Fault]) -> list[Fault]:
    """What searched values make wrong, each told once, where the value stands."""
    steps: Loc = tuple(path.split("."))
    found: dict[Fault, None] = {}
    for value, made in space.cover(node):
        try:
            varied = assigned(base, steps, value)
        except LookupError:
            break
        for fault in _train(varied)[1]:
            if fault.loc[: len(steps)] == steps:
                at = space.origin(node, made, fault.loc[len(steps) :])
                found[Fault(at, fault.message, fault.at)] = None
            elif fault not in known:
                there = ".".join(map(str, fault.loc))
                message = f"with {wording.shown(value)}, '{there}' is wrong: {fault.message}"
                found[Fault(space.origin(node, made, ()), message)] = None
    return list(found)
