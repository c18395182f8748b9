"""Work described as plain data, and the protocol of those who carry it out.

Nothing here knows a pipeline file, Ray or MLflow: a task pickles, turns into JSON, and names
every path absolutely, because workers have another working directory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from vaepipe.registry import PartSpec


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """p(x, z) = p(x | z) p(z) with q(z | x), as names and options."""

    latent_shape: tuple[int, ...]
    encoder: PartSpec
    family: PartSpec
    prior: PartSpec
    decoder: PartSpec
    likelihood: PartSpec

    def parts(self) -> dict[str, PartSpec]:
        """Role to component."""
        return {
            role: getattr(self, role)
            for role in ("encoder", "family", "prior", "decoder", "likelihood")
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        parts = {role: spec.to_dict() for role, spec in self.parts().items()}
        return {"latent_shape": list(self.latent_shape), **parts}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """The inverse of `to_dict`."""
        parts = {k: PartSpec.from_dict(v) for k, v in data.items() if k != "latent_shape"}
        return cls(tuple(data["latent_shape"]), **parts)


@dataclass(frozen=True, slots=True)
class DataRef:
    """A complete data artifact: its folder, the dataset that views it, its digest."""

    path: str
    dataset: PartSpec
    spec: Mapping[str, Any]
    digest: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DataRef:
        """The inverse of `to_dict`."""
        return cls(**{**data, "dataset": PartSpec.from_dict(data["dataset"])})


@dataclass(frozen=True, slots=True)
class TrainTask:
    """One fit, complete: a worker needs nothing else.

    Args:
        name: what people call it, `stage` or `stage/00003`.
        output: absolute folder; gets `journal.jsonl`, `checkpoint/`, `history.parquet`, `model/`.
        optimizer: validated settings for `vaepipe.training.optim.build`.
        validation: `{"examples": int, "k": int, "every": int}`; the evidence is
            estimated in the same way for every objective.
        patience: epochs without a better validation evidence before stopping; None: never.
        seed: an integer child of the pipeline's seed.
        fingerprint: of settings and inputs; a checkpoint of another fingerprint is not resumed.
        accumulate: parts of a batch that are computed one after the other.
        ema: decay of the average of the weights that is validated and kept; None: the weights.
        precision: of the networks while training, `float32` or `bfloat16`.
        compile: whether the networks are compiled.
        start: a model whose weights are taken over where parts agree: `stage`, `path` of its
            bundle, `digest`; None: all weights are new.
        settings: the resolved train stage as JSON data, for the model card.
    """

    name: str
    output: str
    data: DataRef
    model: ModelSpec
    objective: PartSpec
    optimizer: Mapping[str, Any]
    batch_size: int
    epochs: int
    seed: int
    fingerprint: str
    validation: Mapping[str, Any] = field(
        default_factory=lambda: {"examples": 2000, "k": 16, "every": 1}
    )
    patience: int | None = None
    workers: int = 1
    accumulate: int = 1
    ema: float | None = None
    precision: str = "float32"
    compile: bool = False
    start: Mapping[str, str] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self) | {"data": self.data.to_dict(), "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrainTask:
        """The inverse of `to_dict`."""
        parts = {
            "data": DataRef.from_dict(data["data"]),
            "model": ModelSpec.from_dict(data["model"]),
            "objective": PartSpec.from_dict(data["objective"]),
        }
        return cls(**{**data, **parts})


@dataclass(frozen=True, slots=True)
class SweepTask:
    """Many fits and the policy that stops the hopeless ones.

    Args:
        name: the stage.
        output: absolute folder of the stage; trials live in its `trials/`.
        indices: the trials that are not done yet.
        propose: index to task, or None where the proposal is invalid and is to be skipped.
            It runs on the driver, in order of index.
        observe: told `(index, metric)` when a trial ends; the metric is None if it failed.
        metric: a key of the reported metrics; `mode` is "max" or "min".
        scheduler: `{"type": "none" | "asha" | "median", "grace_epochs": int, ...}`.
        concurrency: trials at the same time; None: as many as the resources hold.
    """

    name: str
    output: str
    indices: Sequence[int]
    propose: Callable[[int], TrainTask | None]
    observe: Callable[[int, float | None], None]
    metric: str
    mode: str
    scheduler: Mapping[str, Any]
    concurrency: int | None = None


class Compute(Protocol):
    """Where work runs.  `__init__(*, workers, gpus_per_worker, threads_per_worker, ...)`."""

    workers: int

    def train(self, task: TrainTask) -> None:
        """Fit one model; returns when `task.output` holds its bundle, or raises TrainingError."""
        ...

    def sweep(self, task: SweepTask) -> None:
        """Run trials; a trial that fails writes a `failed` event and does not raise."""
        ...

    def map(
        self,
        target: str,
        units: Sequence[Mapping[str, Any]],
        common: Mapping[str, Any],
        workers: int | None = None,
    ) -> Generator[dict[str, Any], None, None]:
        """Results of `target(common)(unit)` as they complete, in any order.

        `target` is a class's import path "module:Class", built once for each worker; `workers` is
        for this call, by default the compute's own. To close it is to end the work.
        """
        ...

    def close(self) -> None:
        """Give back what was started."""
        ...
