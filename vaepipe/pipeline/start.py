"""From a file on disk to a run that is ready to start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vaepipe.errors import UserError, did_you_mean
from vaepipe.pipeline import config
from vaepipe.pipeline.check import check, prepare_sources
from vaepipe.pipeline.config import Pipeline
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.plan import Step, plan
from vaepipe.pipeline.run import bring_back, dependents, require_no_failures, run
from vaepipe.pipeline.stages import data
from vaepipe.pipeline.watch import Screen
from vaepipe.pipeline.workspace import Workspace
from vaepipe.registry import PartSpec, options_signature


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

    def prepare_sources(self) -> None:
        """Look for the data of the steps that are not done; raises before anything is written."""
        prepare_sources(self.pipeline, {step.name for step in self.steps if not step.done})

    def stale(self) -> Iterator[str]:
        """Say which stages of data are done, but hold the rows of files that changed since."""
        for step in self.steps:
            manifest = self.workspace.find(step.name, step.fingerprint)
            if step.settings.kind != "data" or manifest is None:
                continue
            if data.is_stale(step.settings.dataset.part("datasets"), manifest):
                yield _stale(step, self.workspace, dependents(step.name, self.steps))

    def run(self, screen: Screen) -> dict[str, dict[str, Any]]:
        """Execute the steps."""
        env = Environment(self.pipeline, self.workspace, screen, self.compute, self.tracker)
        return run(self.steps, env)

    def bring_back(self) -> dict[str, dict[str, Any]]:
        """The stages, where all of them are done; artifacts that were set aside come back."""
        return bring_back(self.steps, self.workspace)

    def require_no_failures(self) -> None:
        """Raise `PartialFailure` if trials of the stages failed."""
        require_no_failures(self.steps, self.workspace)


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
        compute = _at(compute, address)
    tracker = pipeline.tracking.part("trackers")
    return Prepared(pipeline, place, plan(pipeline, place, only), compute, tracker)


def _stale(step: Step, workspace: Workspace, others: Sequence[str]) -> str:
    more = f" and the folders of {', '.join(others)}" if others else ""
    return (
        f"the files that '{step.name}' read were written to since, or copied without their times; "
        "its rows, and what was made from them, are those of then. To read the files again, "
        f"remove {workspace.folder(step.name)}{more}."
    )


def _at(compute: PartSpec, address: str) -> PartSpec:
    """A compute at another address."""
    if "address" not in options_signature(compute.load()):
        raise UserError(f"--address: compute '{compute.type}' has no address; use `type: ray`.")
    return replace(compute, options={**compute.options, "address": address})
