"""Everything a stage needs besides its own settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vaepipe import __version__, files
from vaepipe.compute.base import Compute
from vaepipe.compute.outputs import TASK
from vaepipe.core import DataSpec
from vaepipe.data import shards
from vaepipe.pipeline.config import Pipeline
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.watch import Screen, Watcher
from vaepipe.pipeline.workspace import Workspace
from vaepipe.registry import PartSpec
from vaepipe.tracking.base import Record, Tracker


@dataclass
class Environment:
    """Where a pipeline runs: workspace, compute, tracker, screen.

    Compute and tracker are built when they are first needed.
    """

    pipeline: Pipeline
    workspace: Workspace
    screen: Screen
    compute_part: PartSpec
    tracker_part: PartSpec
    manifests: dict[str, dict[str, Any]] = field(default_factory=dict)
    _specs: dict[str, DataSpec] = field(default_factory=dict)

    @cached_property
    def compute(self) -> Compute:
        """Ray or this process."""
        return self.compute_part.build()

    @cached_property
    def tracker(self) -> Tracker:
        """The tracker, its store and experiment created."""
        tracker = self.tracker_part.build()
        tracker.open(self.pipeline.name, self.workspace.root)
        return tracker

    def data_spec(self, path: str) -> DataSpec:
        """The specification of a data artifact; each is read once."""
        if path not in self._specs:
            self._specs[path] = shards.load_spec(path)
        return self._specs[path]

    def folder(self, stage: str) -> Path:
        """A stage's artifact."""
        return self.workspace.folder(stage)

    def model(self, stage: str) -> Path:
        """The bundle of a train stage, or of a sweep's winner."""
        return self.folder(stage) / self.manifests[stage]["model"]

    def record(self, step: Step, resume: str | None = None) -> Record:
        """The run of a stage."""
        record = self.tracker.start(step.name, resume=resume)
        record.tags(self.tags(step))
        return record

    def tags(self, step: Step) -> dict[str, str]:
        """What every run of this pipeline is tagged with."""
        return {
            "vaepipe.version": __version__,
            "vaepipe.pipeline": self.pipeline.name,
            "vaepipe.stage": step.name,
            "vaepipe.kind": step.settings.kind,
            "vaepipe.fingerprint": step.fingerprint,
            "vaepipe.seed": str(step.seed),
        }

    def watch(self, step: Step, folder: Path, parent: Record) -> Watcher:
        """Follow the journals of a stage: its own is `parent`'s, those of trials its children's."""

        def open_record(trial: str | None, run: str | None) -> Record:
            if trial is None:
                return parent
            child = self.tracker.start(f"{step.name}-{trial}", parent=parent.id, resume=run)
            child.tags({**self.tags(step), "vaepipe.trial": trial})
            settings = files.read_json(folder / "trials" / trial / TASK)
            describe(child, settings)
            return child

        return Watcher(step.name, folder, self.screen, open_record)

    def close(self) -> None:
        """Give back what was built."""
        for name in ("tracker", "compute"):
            if name in self.__dict__:
                self.__dict__[name].close()


def describe(record: Record, task: Mapping[str, Any]) -> None:
    """Parameters, plugins and data of a fit, as its run shows them."""
    record.params(task["settings"])
    parts = [*(p for k, p in task["model"].items() if k != "latent_shape"), task["objective"]]
    plugins = sorted({f"{p['distribution']}=={p['version']}" for p in parts})
    record.tags({"vaepipe.plugins": ", ".join(plugins), "vaepipe.seed": str(task["seed"])})
    data = task["data"]
    for split, context in (("train", "training"), ("val", "validation")):
        record.dataset(
            f"{data['dataset']['type']}/{split}",
            f"{data['path']}/{split}",
            data["digest"],
            json.dumps(data["spec"]),
            context,
        )
