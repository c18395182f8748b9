"""What each kind of stage says in a pipeline file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, final

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from vaepipe import wording
from vaepipe.compute.base import ModelSpec
from vaepipe.options import Flag, Integer, Number, Settings
from vaepipe.pipeline import expressions, space
from vaepipe.pipeline.choices import (
    OPTIMIZERS,
    SCHEDULERS,
    SEARCHES,
    Adam,
    Asha,
    GridSearch,
    MedianRule,
    NoScheduler,
    Optimizer,
    OptunaSearch,
    RandomSearch,
)
from vaepipe.pipeline.fields import (
    Alias,
    Component,
    Count,
    FolderName,
    Group,
    Names,
    Tagged,
    Takes,
)
from vaepipe.pipeline.metrics import EVALUATED, SWEEPABLE
from vaepipe.wording import Fault


@final
class ModelSettings(Settings):
    """p(x, z) = p(x | z) p(z), and q(z | x)."""

    latent_shape: Annotated[tuple[Count, ...], MinLen(1)]
    encoder: Annotated[Component, Group("networks")]
    family: Annotated[Component, Group("families")]
    prior: Annotated[Component, Group("priors")]
    decoder: Annotated[Component, Group("networks")]
    likelihood: Annotated[Component, Group("likelihoods")]

    def spec(self) -> ModelSpec:
        """The model as data for workers."""
        return ModelSpec(
            tuple(self.latent_shape),
            encoder=self.encoder.spec,
            family=self.family.spec,
            prior=self.prior.spec,
            decoder=self.decoder.spec,
            likelihood=self.likelihood.spec,
        )


@final
class ValidationSettings(Settings):
    """How a fit is validated: evidence by importance sampling, the same for every objective."""

    examples: Count = 2000
    k: Count = 16
    """Importance samples for each example."""
    every: Count = 1
    """Epochs from one validation to the next."""


@final
class DataStage(Settings):
    """Writes a dataset as Parquet shards."""

    kind: Literal["data"]
    dataset: Annotated[Component, Group("datasets")]


@final
class TrainStage(Settings):
    """Fits one model."""

    kind: Literal["train"]
    settings: Annotated[str | None, Takes("train", "sweep")] = None
    """A stage whose (winning) settings hold where nothing else is said here."""
    data: Annotated[str, Takes("data")]
    model: ModelSettings
    objective: Annotated[Component, Group("objectives")]
    optimizer: Annotated[Optimizer, Tagged("optimizer", "adam", OPTIMIZERS)] = Adam()
    batch_size: Count = 128
    epochs: Count
    workers: Count | None = None
    validation: ValidationSettings = ValidationSettings()
    patience: Count | None = None
    """Epochs without a better validation before a fit stops; null: never."""
    start: Annotated[str | None, Takes("train", "sweep")] = None
    """A stage whose trained weights every part begins with that has the same type and options."""
    accumulate: Count = 1
    """Parts of a batch that are computed one after the other, for batches that do not fit."""
    ema: Annotated[Number, Gt(0), Lt(1)] | None = None
    """Decay of the average of the weights that is validated and kept; null: the weights."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the networks while training; densities are always float32."""
    compile: Flag = False
    """Whether torch compiles the networks."""


def _metric(name: str) -> str:
    if name not in SWEEPABLE:
        raise wording.mistake(wording.unknown("metric", name, tuple(SWEEPABLE)))
    return name


def _space(tree: dict[str, Any]) -> dict[str, Any]:
    found = [fault for path, node in tree.items() for fault in expressions.faults(node, (path,))]
    malformed = {fault.loc[0] for fault in found}
    for path, node in tree.items():
        if path not in malformed and not space.searches(node):
            one = wording.expected("a search such as {choice: [a, b]}", node)
            found.append(Fault((path,), one))
    if found:
        raise wording.invalid("space", found)
    return tree


@final
class SweepStage(Settings):
    """Fits many variants of a train stage and keeps the best."""

    kind: Literal["sweep"]
    over: Annotated[str, Takes("train")]
    metric: Annotated[str, AfterValidator(_metric)] = "val/log_evidence"
    trials: Count | None = None
    """How many; null is for a grid: all of it."""
    repeats: Count = 1
    """Fits of each trial's settings, with seeds of their own; settings are ranked by the mean."""
    search: Annotated[
        RandomSearch | GridSearch | OptunaSearch, Tagged("search", "random", SEARCHES)
    ] = RandomSearch()
    scheduler: Annotated[
        NoScheduler | Asha | MedianRule, Tagged("scheduler", "none", SCHEDULERS)
    ] = NoScheduler()
    space: Annotated[dict[str, Any], MinLen(1), AfterValidator(_space)]
    """Dotted paths of the train stage, each with a search."""
    invalid: Literal["fail", "skip"] = "fail"
    """What becomes of combinations of parts that do not compose."""
    concurrency: Count | None = None
    """Trials at the same time; null: as many as the resources hold."""
    final_k: Count | None = 500
    """Samples per validation row in a second look at trials that may be the best; null: none."""

    @classmethod
    def crosschecks(cls, data: Mapping[str, Any]) -> Iterator[Fault]:
        """A grid is finite; other searches need a number of trials."""
        search = data.get("search", {})
        kind = search.get("type", "random") if isinstance(search, Mapping) else search
        if kind in ("random", "optuna") and data.get("trials") is None:
            yield Fault(("trials",), f"missing; search '{kind}' does not end by itself")
        tree = data.get("space")
        if kind == "grid" and isinstance(tree, Mapping):
            yield from _continuous(tree)


def _continuous(tree: Mapping[str, Any]) -> Iterator[Fault]:
    for path, node in tree.items():
        if not any(expressions.faults(node)) and space.size(node) is None:
            yield Fault(
                ("space", path),
                "a grid has no end here: list values with `grid` or `choice`, or search at random",
            )


_ONE = TypeAdapter(Count)
_SEVERAL = TypeAdapter(Annotated[tuple[Count, ...], MinLen(1)])


def _samples(value: Any) -> int | tuple[int, ...]:
    """One number of samples, or a curve of them, ascending and each once."""
    if isinstance(value, (list, tuple)):
        return tuple(sorted(set(_SEVERAL.validate_python(value))))
    return _ONE.validate_python(value)


@final
class EvidenceSettings(Settings):
    """log p(x) by importance sampling."""

    k: Annotated[Count | tuple[Count, ...], BeforeValidator(_samples)] = 1000
    """Importance samples for each example; a list gives the whole curve in one pass."""
    proposal: Literal["posterior", "defensive", "refined"] = "posterior"
    """Where samples come from: q(z | x); that, a wider one and the prior; the same around each
    example's own best posterior."""
    refine_steps: Count = 50
    """Steps to an example's own best posterior."""


@final
class GapSettings(Settings):
    """Approximation and amortization gap."""

    examples: Count = 200
    """Of each split, evenly spaced."""
    steps: Count = 200
    """Steps to an example's own best posterior."""


@final
class AnnealingSettings(Settings):
    """A second lower bound on log p(x), by annealed importance sampling."""

    examples: Count = 100
    """Of each split, evenly spaced."""
    temperatures: Annotated[Integer, Ge(2)] = 100
    chains: Count = 16
    """Independent paths of each example."""
    leapfrog: Count = 5
    """Steps of each Hamiltonian move."""


@final
class SandwichSettings(Settings):
    """Both sides of log p(x) on examples that the model made, by paths as long as `ais` says."""

    examples: Count = 20


@final
class EvaluateStage(Settings):
    """Scores a model on every example of some splits."""

    kind: Literal["evaluate"]
    model: Annotated[str, Takes("train", "sweep")]
    data: Annotated[str, Takes("data")]
    splits: Names = ("test",)
    evidence: EvidenceSettings = EvidenceSettings()
    decompose: Flag = True
    """Whether the rate is taken apart: mutual information, marginal KL, total correlation."""
    gaps: GapSettings | None = None
    """null: not measured."""
    ais: AnnealingSettings | None = None
    """null: not computed."""
    bdmc: SandwichSettings | None = None
    """null: not computed."""
    batch_size: Count | None = None
    """Rows held at a time; no result depends on it."""
    workers: Count | None = None


def _extra(word: str) -> str:
    if word in ("elbo", "log_lik", "rate") or re.fullmatch(r"(sample|sir):[1-9][0-9]*", word):
        return word
    what = "'elbo', 'log_lik', 'rate', 'sample:N' or 'sir:K'"
    raise wording.mistake(wording.expected(what, word, ("elbo", "log_lik", "sample:1", "sir:10")))


@final
class EncodeStage(Settings):
    """Writes the posterior of every row."""

    kind: Literal["encode"]
    model: Annotated[str, Takes("train", "sweep")]
    data: Annotated[str, Takes("data")]
    splits: Names | None = None
    """null: all."""
    with_: Annotated[tuple[Annotated[str, AfterValidator(_extra)], ...], Field(alias="with")] = ()
    """Columns beyond mean, scale and rate: elbo, log_lik, sample:N, sir:K."""
    refine: Count | None = None
    """Steps that move a row's posterior from the encoder's to its own optimum; null: none."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the encoder network; the densities stay float32."""
    on_bad_row: Literal["fail", "quarantine"] = "fail"
    """What becomes of a row that cannot be read or lies outside the support."""
    max_bad_rows: Annotated[int, Ge(0)] | None = None
    """More quarantined rows than this end the stage; null: any number."""
    keep: tuple[str, ...] | None = None
    """Columns of the data that pass through; null: all."""
    batch_size: Count | None = None
    workers: Count | None = None
    rows_per_file: Count | None = None


@final
class ReportStage(Settings):
    """Writes one page about other stages."""

    kind: Literal["report"]
    of: Annotated[
        tuple[str, ...],
        MinLen(1),
        Takes("data", "train", "sweep", "evaluate", "encode", "register"),
    ]


@final
class Requirement(Settings):
    """Bounds of a metric, both included."""

    at_least: Number | None = None
    at_most: Number | None = None

    @classmethod
    def crosschecks(cls, data: Mapping[str, Any]) -> Iterator[Fault]:
        """One of the two is given."""
        if data.get("at_least") is None and data.get("at_most") is None:
            yield Fault((), "missing; expected `at_least` or `at_most`")


@final
class RegisterStage(Settings):
    """Gives a model a name, a version and an alias in the registry."""

    kind: Literal["register"]
    model: Annotated[str, Takes("train", "sweep")]
    name: FolderName
    alias: Alias | None = None
    requires: Annotated[dict[str, Requirement], Takes("evaluate")] = {}
    """Metrics of evaluate stages, `<stage>/<metric>`, that have to be good enough."""

    @classmethod
    def crosschecks(cls, data: Mapping[str, Any]) -> Iterator[Fault]:
        """Every requirement names a stage and a metric."""
        for key, _ in expressions.parts(data.get("requires")):
            stage, _, rest = str(key).partition("/")
            metric = rest.rpartition("/")[2]
            if not stage or not metric:
                what = "<evaluate stage>/<metric>, as in score/log_evidence"
                yield Fault(("requires", key), wording.expected(what, key))
            elif metric not in EVALUATED:
                yield Fault(("requires", key), wording.unknown("metric", metric, EVALUATED))


Stage = (
    DataStage | TrainStage | SweepStage | EvaluateStage | EncodeStage | ReportStage | RegisterStage
)
"""Any stage."""

KINDS: dict[str, type[Settings]] = {
    "data": DataStage,
    "train": TrainStage,
    "sweep": SweepStage,
    "evaluate": EvaluateStage,
    "encode": EncodeStage,
    "report": ReportStage,
    "register": RegisterStage,
}
"""Stage models by their kind."""
