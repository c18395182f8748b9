"""References between stages: what they name, whether it fits, and whether they go in circles."""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from vaepipe import wording
from vaepipe.errors import did_you_mean
from vaepipe.pipeline import expressions
from vaepipe.pipeline.fields import Takes
from vaepipe.pipeline.settings import KINDS, Stage
from vaepipe.wording import Fault, Loc

Edges = dict[str, set[str]]


def references(stage: Stage) -> tuple[str, ...]:
    """The stages that a stage names, each once, in the order of its fields."""
    found = [
        target for field, _ in _fields(stage.kind) for _, target in _targets(getattr(stage, field))
    ]
    return tuple(dict.fromkeys(found))


def kind_of(raw: Mapping[str, Any], name: Any) -> str | None:
    """The kind of a stage as written, if it is one."""
    stage = raw.get(name) if isinstance(name, str) else None
    kind = stage.get("kind") if isinstance(stage, Mapping) else None
    return kind if isinstance(kind, str) and kind in KINDS else None


def faults(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """References to nothing, to stages of the wrong kind, to oneself, and circles."""
    edges: Edges = {}
    for name in raw:
        for field, takes in _fields(kind_of(raw, name)):
            for step, target in _targets(raw[name].get(field)):
                message = _fault(raw, name, takes, target)
                if message:
                    yield Fault((name, field, *step), message)
                else:
                    edges.setdefault(name, set()).add(target)
    yield from _circles(list(raw), edges)


def _fields(kind: str | None) -> Iterator[tuple[str, Takes]]:
    for field, about in KINDS[kind].model_fields.items() if kind else ():
        for mark in about.metadata:
            if isinstance(mark, Takes):
                yield field, mark


def _targets(value: Any) -> Iterator[tuple[Loc, str]]:
    """The stages in a field, with where in it: text, a list, or keys `<stage>/...`."""
    if isinstance(value, str):
        yield (), value
    for step, each in expressions.parts(value):
        if isinstance(value, Mapping):
            yield (step,), str(step).partition("/")[0]
        elif isinstance(each, str):
            yield (step,), each


def _fault(raw: Mapping[str, Any], name: str, takes: Takes, target: str) -> str | None:
    fits = [each for each in raw if kind_of(raw, each) in takes.kinds and each != name]
    hint = f"Stages that fit: {', '.join(fits) or 'none'}."
    if target == name:
        return f"a stage cannot refer to itself. {hint}"
    if target not in raw:
        return f"no stage {wording.shown(target)}.{did_you_mean(target, raw) or f' {hint}'}"
    kind = kind_of(raw, target)
    if kind is None or kind in takes.kinds:
        return None
    wanted = wording.words(takes.kinds)
    return f"'{target}' is a stage of kind {kind}, expected {wanted}. {hint}"


def _circles(names: list[str], edges: Edges) -> Iterator[Fault]:
    """Each circle, told at its first stage in the file."""
    circle = _circle(edges)
    while circle:
        start = min(range(len(circle)), key=lambda i: names.index(circle[i]))
        way = [*circle[start:], *circle[: start + 1]]
        yield Fault((way[0],), f"stages wait for each other in a circle: {' -> '.join(way)}")
        for here, there in pairwise(way):
            edges[here].discard(there)
        circle = _circle(edges)


def _circle(edges: Edges) -> list[str]:
    try:
        graphlib.TopologicalSorter(edges).prepare()
    except graphlib.CycleError as error:
        return list(reversed(error.args[1][1:]))
    return []
