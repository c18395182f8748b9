"""From a pipeline to an ordered list of steps, each with a fingerprint and what is done of it."""

from __future__ import annotations

import graphlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from vaepipe import files
from vaepipe.options import Settings
from vaepipe.pipeline.config import Pipeline
from vaepipe.pipeline.workspace import Workspace

if TYPE_CHECKING:
    from vaepipe.core import Stream

FORMAT = 2
"""Changes when an artifact of older code must not be taken for a new one."""
BUDGET = {"sweep": {"trials", "final_k"}}
"""What changes a stage's result and no trial of it."""


S = TypeVar("S", bound=Settings)


@dataclass(frozen=True, slots=True)
class Step(Generic[S]):
    """A stage, its inputs, and the fingerprint of everything that its result depends on."""

    name: str
    settings: S
    inputs: tuple[str, ...]
    fingerprint: str
    identity: str
    seed: int
    done: bool


def child_seed(seed: int, *path: str | int) -> int:
    """A child of the pipeline's seed: the same path gives the same 63-bit integer.

    Example:
        >>> child_seed(7, "fit") == child_seed(7, "fit") != child_seed(7, "fit", 0)
        True
    """
    key = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in path]
    state = np.random.SeedSequence(seed, spawn_key=tuple(key)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def search_stream(seed: int) -> Stream:
    """Return the stream of a sweep's search, from the seed of its stage."""
    from vaepipe.core import Purpose, Stream

    return Stream(child_seed(seed, Purpose.SEARCH))


def order(pipeline: Pipeline) -> list[str]:
    """Stage names, inputs first."""
    graph = {name: pipeline.references(name) for name in pipeline.stages}
    return list(graphlib.TopologicalSorter(graph).static_order())


def plan(pipeline: Pipeline, workspace: Workspace, only: str | None = None) -> list[Step]:
    """The steps of a run, in order; with `only`, a stage and what it needs."""
    wanted = set(pipeline.stages) if only is None else _needed(pipeline, only)
    steps: dict[str, Step] = {}
    for name in order(pipeline):
        if name in wanted:
            steps[name] = _step(pipeline, workspace, name, steps)
    return list(steps.values())


def _step(pipeline: Pipeline, workspace: Workspace, name: str, before: Mapping[str, Step]) -> Step:
    inputs = pipeline.references(name)
    seed = child_seed(pipeline.seed, name)
    key = {
        "format": FORMAT,
        "settings": identity_settings(pipeline, name),
        "inputs": {i: before[i].fingerprint for i in inputs},
        "seed": seed,
    }
    fingerprint = files.digest(key)
    budget = BUDGET.get(pipeline.stages[name].kind, set())
    key["settings"] = {k: v for k, v in key["settings"].items() if k not in budget}
    done = workspace.find(name, fingerprint) is not None
    stage = pipeline.stages[name]
    return Step(name, stage, inputs, fingerprint, files.digest(key), seed, done)


def identity_settings(pipeline: Pipeline, name: str) -> dict[str, Any]:
    """What a stage's result depends on: its settings, and the versions of its components."""
    settings = pipeline.identity(name)
    placement = {"concurrency"} | ({"workers"} if settings["kind"] != "train" else set())
    return {key: value for key, value in settings.items() if key not in placement}


def _needed(pipeline: Pipeline, stage: str) -> set[str]:
    found, todo = set(), [stage]
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo.extend(pipeline.references(name))
    return found
