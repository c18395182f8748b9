"""The seam between a run and the place where runs are remembered."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol


class Record(Protocol):
    """One run of the tracker: a stage, or a trial of a sweep."""

    id: str

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, flattened with dots; written once."""
        ...

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags: fingerprint, plugins, seeds, status in words."""
        ...

    def metrics(self, step: int, values: Mapping[str, float], time: float) -> None:
        """Metrics at an optimiser step and a time (seconds since the epoch); may be buffered."""
        ...

    def dataset(self, name: str, source: str, digest: str, schema: str, context: str) -> None:
        """The data a run read: `context` is training, validation, testing or inference."""
        ...

    def file(self, path: Path, folder: str | None = None) -> None:
        """A file or a folder as an artifact."""
        ...

    def model(self, bundle: Path) -> str:
        """Log a model bundle; its URI, `models:/m-...`."""
        ...

    def score(self, model_uri: str, values: Mapping[str, float]) -> None:
        """Metrics that belong to a logged model."""
        ...

    def finish(self, status: str) -> None:
        """Flush and end: FINISHED, FAILED or KILLED."""
        ...


class Tracker(Protocol):
    """Remembers runs and models.  `__init__(*, uri: str | None = None)`."""

    uri: str

    def connect(self, workspace: Path) -> None:
        """Reach the store, to look and to fetch; creates no experiment, or raises Unreachable."""
        ...

    def open(self, experiment: str, workspace: Path) -> None:
        """Create what many writers would race for (database, experiment), or raise Unreachable."""
        ...

    def start(self, name: str, *, parent: str | None = None, resume: str | None = None) -> Record:
        """A new run, a child of `parent`; or the run `resume` again, if it still exists."""
        ...

    def register(
        self, model_uri: str, name: str, alias: str | None, tags: Mapping[str, str]
    ) -> str:
        """Register a logged model; its version.  Registering the same model again is no new one."""
        ...

    def promote(self, name: str, version: str, alias: str) -> str | None:
        """Let an alias of a registered model point to a version; the version it was before."""
        ...

    def fetch(self, model_uri: str) -> Path:
        """A local folder with the bundle of `runs:/...` or `models:/...`."""
        ...

    def pinned(self, model_uri: str) -> str:
        """The same model by a name that never means another: the version of an alias."""
        ...

    def origin(self, model_uri: str) -> str | None:
        """The id of the run that logged a model; None where nobody remembers."""
        ...

    def datasets(self, run_id: str) -> Mapping[str, str]:
        """What a run read: the name of each dataset and the URI of its source."""
        ...

    def close(self) -> None:
        """Flush everything."""
        ...
