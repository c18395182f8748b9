"""A tracker that remembers runs as plain Python data, for tests and for runs without a store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from vaepipe.errors import UserError, did_you_mean
from vaepipe.tracking.text import flatten


@final
@dataclass
class MemoryRecord:
    """One run: everything that was told about it, in the order it was told."""

    id: str
    name: str
    parent: str | None
    status: str = "RUNNING"
    parameters: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    history: list[tuple[int, float, dict[str, float]]] = field(default_factory=list)
    datasets: list[dict[str, str]] = field(default_factory=list)
    files: list[tuple[Path, str | None]] = field(default_factory=list)
    models: dict[str, Path] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)

    def params(self, values: Mapping[str, Any]) -> None:
        """Settings, flattened with dots."""
        self.parameters.update(flatten(values))

    def tags(self, values: Mapping[str, str]) -> None:
        """Tags; a later value replaces an earlier one."""
        self.labels.update(values)

    def metrics(self, step: int, values: Mapping[str, float], time: float) -> None:
        """Metrics at an optimiser step and a time."""
        self.history.append((step, time, dict(values)))

    def dataset(self, name: str, source: str, digest: str, schema: str, context: str) -> None:
        """The data a run read."""
        self.datasets.append(
            {"name": name, "source": source, "digest": digest, "schema": schema, "context": context}
        )

    def file(self, path: Path, folder: str | None = None) -> None:
        """A file or a folder; only its path is remembered."""
        self.files.append((path, folder))

    def model(self, bundle: Path) -> str:
        """The same bundle of the same run has one URI; only its path is remembered."""
        for uri, path in self.models.items():
            if path == bundle:
                return uri
        uri = f"models:/m-{self.id}-{len(self.models)}"
        self.models[uri] = bundle
        return uri

    def score(self, model_uri: str, values: Mapping[str, float]) -> None:
        """Metrics that belong to a logged model."""
        self.scores.setdefault(model_uri, {}).update(values)

    def finish(self, status: str) -> None:
        """End the run."""
        self.status = status


@dataclass
class _Registered:
    versions: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    tags: dict[str, dict[str, str]] = field(default_factory=dict)


@final
class MemoryTracker:
    """Remembers in this process; nothing is kept when it ends."""

    def __init__(self) -> None:
        """Nothing is remembered yet."""
        self.uri = "memory:"
        self.experiment = ""
        self.records: dict[str, MemoryRecord] = {}
        self.registered: dict[str, _Registered] = {}

    def connect(self, workspace: Path) -> None:
        """Nothing to reach."""

    def open(self, experiment: str, workspace: Path) -> None:
        """Remember the experiment's name."""
        self.experiment = experiment

    def start(
        self, name: str, *, parent: str | None = None, resume: str | None = None
    ) -> MemoryRecord:
        """A new run, or the run `resume` again if this process knows it."""
        if resume in self.records:
            self.records[resume].status = "RUNNING"
            return self.records[resume]
        record = MemoryRecord(f"run-{len(self.records):04d}", name, parent)
        self.records[record.id] = record
        return record

    def register(
        self, model_uri: str, name: str, alias: str | None, tags: Mapping[str, str]
    ) -> str:
        """A version for each model; the same model again has the version it had."""
        self.fetch(model_uri)
        model = self.registered.setdefault(name, _Registered())
        if model_uri not in model.versions:
            model.versions.append(model_uri)
        version = str(model.versions.index(model_uri) + 1)
        model.tags[version] = dict(tags)
        if alias is not None:
            model.aliases[alias] = version
        return version

    def promote(self, name: str, version: str, alias: str) -> str | None:
        """Let an alias point to a version; the version it pointed to before."""
        self.fetch(f"models:/{name}/{version}")
        aliases = self.registered[name].aliases
        before, aliases[alias] = aliases.get(alias), version
        return before

    def fetch(self, model_uri: str) -> Path:
        """The folder of the bundle behind `models:/m-…`, `models:/name/version` or `…@alias`."""
        known = {
            uri: path for record in self.records.values() for uri, path in record.models.items()
        }
        known |= {uri: known[target] for uri, target in self._names().items()}
        if model_uri not in known:
            raise UserError(f"no model '{model_uri}'.{did_you_mean(model_uri, known)}")
        return known[model_uri]

    def pinned(self, model_uri: str) -> str:
        """The name of a version, where the URI has an alias."""
        name, _, alias = model_uri.removeprefix("models:/").partition("@")
        return f"models:/{name}/{self.registered[name].aliases[alias]}" if alias else model_uri

    def origin(self, model_uri: str) -> str | None:
        """The id of the run that logged a model."""
        return next((r.id for r in self.records.values() if model_uri in r.models), None)

    def datasets(self, run_id: str) -> Mapping[str, str]:
        """What a run read: the name of each dataset and its source."""
        if run_id not in self.records:
            raise UserError(f"no run '{run_id}'.{did_you_mean(run_id, self.records)}")
        return {each["name"]: each["source"] for each in self.records[run_id].datasets}

    def close(self) -> None:
        """Nothing to flush."""

    def _names(self) -> dict[str, str]:
        names = {}
        for name, model in self.registered.items():
            for number, uri in enumerate(model.versions, 1):
                names[f"models:/{name}/{number}"] = uri
            for alias, version in model.aliases.items():
                names[f"models:/{name}@{alias}"] = model.versions[int(version) - 1]
        return names
