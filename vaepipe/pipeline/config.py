"""From a pipeline file to a `Pipeline`, or to every mistake of the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, final

from pydantic import AfterValidator, BaseModel, Field, PlainValidator, PrivateAttr, ValidationError

from vaepipe import wording
from vaepipe.errors import ConfigError, Problem, UserError
from vaepipe.options import Integer, Settings
from vaepipe.pipeline import graph, inherit, links, locate, overrides
from vaepipe.pipeline.fields import Component, FolderName, Group, Whole
from vaepipe.pipeline.graph import Stages
from vaepipe.pipeline.inherit import NONE, Winners
from vaepipe.pipeline.locate import Document
from vaepipe.pipeline.overrides import Source, dotted
from vaepipe.pipeline.settings import SweepStage, TrainStage
from vaepipe.wording import Fault

VERSION = 1
"""The version of pipeline files that this program reads."""


def _version(number: int) -> int:
    if number != VERSION:
        raise wording.mistake(f"this vaepipe reads version {VERSION}, got {number}")
    return number


@final
class Pipeline(Settings):
    """A pipeline: stages that refer to each other, where they run, where runs are remembered."""

    version: Annotated[Integer, AfterValidator(_version)]
    name: FolderName
    """Also the MLflow experiment, and the folder under the workspace."""
    seed: Whole = 0
    """All randomness derives from it."""
    compute: Annotated[Component, Group("computes")] = Field(
        {"type": "local"},
        validate_default=True,
    )
    tracking: Annotated[Component, Group("trackers")] = Field(
        {"type": "mlflow"},
        validate_default=True,
    )
    stages: Annotated[Stages, PlainValidator(graph.parse)]

    _document: Document = PrivateAttr(Document("", None))

    @property
    def path(self) -> Path:
        """The file that was read."""
        return Path(self._document.file)

    def line(self, path: str) -> int | None:
        """The line of a dotted path in the file."""
        return self._document.line(self._document.steps(path))

    def references(self, stage: str) -> tuple[str, ...]:
        """The stages that a stage names, each once, in the order of its fields."""
        return links.references(self.stages[stage])

    def sweeps(self, stage: str) -> tuple[str, ...]:
        """The sweeps whose winners go into the settings of a train or sweep stage."""
        return inherit.sweeps(self.stages.raw, stage)

    def train_settings(
        self, stage: str, overrides: Mapping[str, Any] = NONE, winners: Winners = NONE
    ) -> TrainStage:
        """The settings of a fit: of a train stage, or of the target of a sweep.

        Args:
            stage: a train stage or a sweep.
            overrides: values by dotted path that go over everything, such as a trial's.
            winners: by the name of a sweep that settings come from, what its best trial set; what
                stands beside `settings:` in the file goes over it.

        Raises:
            UserError: the stage has no settings of a fit.
            ConfigError: the overrides do not fit.
        """
        found = inherit.written(self.stages.raw, stage, winners)
        if found is None:
            raise UserError(f"stage '{stage}' is neither a train stage nor a sweep.")
        source = getattr(self.stages[stage], "settings", None)
        try:
            values = inherit.applied(found, overrides)
            return TrainStage.model_validate({**values, "kind": "train", "settings": source})
        except LookupError as error:
            raise self._error(stage, [Fault((), str(error))]) from None
        except ValidationError as error:
            raise self._error(stage, wording.faults(error)) from None

    def identity(self, stage: str) -> dict[str, Any]:
        """What a stage's result depends on besides its inputs: settings, versions of components."""
        found = self.stages[stage]
        fits = list(self._fits(stage))
        settings = found.model_dump(mode="json", exclude={"settings"})
        if isinstance(found, SweepStage):
            settings["fit"] = fits[0].model_dump(mode="json", exclude={"settings"})
        parts = [part for model in (found, *fits) for part in _components(model)]
        return {**settings, "components": sorted({part.spec.requirement for part in parts})}

    def _fits(self, stage: str) -> Iterator[TrainStage]:
        if isinstance(self.stages[stage], SweepStage):
            yield self.train_settings(stage)
            yield from graph.variants(self.stages.raw, stage)

    def _error(self, stage: str, faults: Sequence[Fault]) -> ConfigError:
        line, file = self.line(f"stages.{stage}"), self._document.file
        return ConfigError(
            [Problem(file, line, dotted(("stages", stage, *f.loc)), f.message) for f in faults]
        )


def read(path: Path, sets: Sequence[str] = ()) -> Pipeline:
    """Read a pipeline file, with fields set over it as `a.b=value`.

    Raises:
        ConfigError: every mistake of the file, in the order of its lines.
        PluginError: a component that the file names is broken.
    """
    return parse(locate.load(path), sets)


def parse(document: Document, sets: Sequence[str] = ()) -> Pipeline:
    """As `read`, from a document."""
    source = overrides.apply(document, sets)
    pipeline, faults = _pipeline(source)
    found = [*source.problems, *map(source.problem, (*document.faults, *faults))]
    if found or pipeline is None:
        raise ConfigError(sorted(dict.fromkeys(found), key=_place))
    pipeline._document = document
    return pipeline


def _pipeline(source: Source) -> tuple[Pipeline | None, list[Fault]]:
    if not isinstance(source.data, Mapping):
        empty = source.data is None
        what = "a mapping with version, name and stages"
        return None, [
            Fault((), f"empty; expected {what}" if empty else wording.expected(what, source.data))
        ]
    try:
        return Pipeline.model_validate(source.data), []
    except ValidationError as error:
        return None, wording.faults(error)


def _place(problem: Problem) -> tuple[bool, int]:
    return problem.file == overrides.SET, problem.line or 0


def _components(settings: BaseModel) -> Iterator[Component]:
    for _, value in settings:
        if isinstance(value, Component):
            yield value
        elif isinstance(value, BaseModel):
            yield from _components(value)
