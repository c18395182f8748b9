"""From a file on disk to a run that is ready to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vaepipe.errors import UserError, did_you_mean
from vaepipe.pipeline import config
from vaepipe.pipeline.check import check
from vaepipe.pipeline.config import Pipeline
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.plan import Step, plan
from vaepipe.pipeline.run import run
from vaepipe.pipeline.watch import Screen
from vaepipe.pipeline.workspace import Workspace
from vaepipe.registry import PartSpec


@dataclass(frozen=True, slots=True)
class Prepared:
    """A parsed pipeline, where it goes, and its steps."""

    pipeline: Pipeline
    workspace: Workspace
    steps: Sequence[Step]
    compute: PartSpec
    tracker: PartSpec

    def check(self) -> Mapping[str, Any]:
        """Assemble and rehearse; raises before anything is written."""
        return check(self.pipeline)

    def run(self, screen: Screen) -> dict[str, dict[str, Any]]:
        """Execute the steps."""
        env = Environment(self.pipeline, self.workspace, screen, self.compute, self.tracker)
        return run(self.steps, env)

    def stages(self) -> dict[str, Any]:
        """Status of every step."""
        return {
            step.name: {
                "kind": step.settings.kind,
                "status": "done" if step.done else "to do",
                "fingerprint": step.fingerprint,
            }
            for step in self.steps
        }


def prepare(
    file: Path,
    sets: Sequence[str],
    workspace: str | Path,
    only: str | None = None,
    address: str | None = None,
) -> Prepared:
    """Parse a file and plan its run; nothing is written.

    Raises:
        ConfigError: every mistake of the file.
        UserError: `only` is no stage of the file.
    """
    pipeline = config.read(file, sets)
    if only is not None and only not in pipeline.stages:
        raise UserError(
            f"--only '{only}': no such stage.{did_you_mean(only, pipeline.stages)} "
            f"Stages: {', '.join(pipeline.stages)}."
        )
    place = Workspace(workspace, pipeline.name)
    compute = pipeline.compute.part("computes")
    if address is not None:
        compute = replace(compute, options={**compute.options, "address": address})
    tracker = pipeline.tracking.part("trackers")
    return Prepared(pipeline, place, plan(pipeline, place, only), compute, tracker)
