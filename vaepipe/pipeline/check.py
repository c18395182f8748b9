"""Everything that can be known to be wrong before a worker starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vaepipe.core import Assembly, DataSpec
from vaepipe.datasets.base import Dataset
from vaepipe.errors import CompatibilityError, ConfigError, DataError, Problem, UserError
from vaepipe.pipeline import judging, search, space
from vaepipe.pipeline.config import Pipeline
from vaepipe.pipeline.inputs import check_examples, check_splits
from vaepipe.pipeline.plan import child_seed, search_stream
from vaepipe.pipeline.rehearsal import agreement, rehearse_parts
from vaepipe.pipeline.settings import EncodeStage, EvaluateStage, SweepStage, TrainStage


def check(pipeline: Pipeline) -> dict[str, Any]:
    """Assemble and rehearse every fit and every trial that is known beforehand.

    Returns:
        For each train stage its parameters and notes, for each sweep its trials and skips, and
        warnings.

    Raises:
        ConfigError: every combination of parts that does not compose, and every fit that cannot be
            judged as its settings ask, at its line.
    """
    problems: list[Problem] = []
    datasets = _datasets(pipeline, problems)
    found: dict[str, Any] = {}
    for name, stage in _stages(pipeline, "train"):
        settings = pipeline.train_settings(name)
        if settings.data in datasets:
            _check_splits(pipeline, f"stages.{name}", ("train",), settings.data, datasets, problems)
            attempt = _attempt(pipeline, name, settings, datasets, problems)
            found[name] = {"data": stage.data, **attempt}
    for name, stage in _stages(pipeline, "sweep"):
        if pipeline.train_settings(name).data in datasets:
            found[name] = _check_sweep(pipeline, name, stage, datasets, problems)
    for name, stage in (*_stages(pipeline, "evaluate"), *_stages(pipeline, "encode")):
        if stage.data in datasets:
            _check_use(pipeline, name, stage, datasets, problems)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: problem.line or 0))
    return found


class Known(NamedTuple):
    """What a dataset says before it is written; to ask again may be to open all its files."""

    spec: DataSpec
    splits: tuple[str, ...]


def _datasets(pipeline: Pipeline, problems: list[Problem]) -> dict[str, Known]:
    """Those that say what their examples are; the others are problems."""
    found: dict[str, Known] = {}
    for name, stage in _stages(pipeline, "data"):
        try:
            dataset: Dataset = stage.dataset.spec.build()
            known = Known(dataset.spec, dataset.splits)
        except UserError as error:
            problems.append(_problem(pipeline, f"stages.{name}.dataset", error))
        else:
            found[name] = known
    return found


def _check_use(
    pipeline: Pipeline,
    name: str,
    stage: EvaluateStage | EncodeStage,
    datasets: Mapping[str, Known],
    problems: list[Problem],
) -> None:
    """The splits are there, and the model reads such examples, where it is known what it reads."""
    path, data = f"stages.{name}", datasets[stage.data]
    _check_splits(pipeline, f"{path}.splits", stage.splits or (), stage.data, datasets, problems)
    fitted = pipeline.train_settings(stage.model).data
    if pipeline.sweeps(stage.model) or fitted not in datasets:
        return
    try:
        where = f"model '{stage.model}' and data '{stage.data}'"
        check_examples(datasets[fitted].spec, data.spec, where)
    except CompatibilityError as error:
        problems.append(_problem(pipeline, path, error))


def _check_splits(
    pipeline: Pipeline,
    path: str,
    wanted: Sequence[str],
    data: str,
    datasets: Mapping[str, Known],
    problems: list[Problem],
) -> None:
    try:
        check_splits(wanted, datasets[data].splits, f"data '{data}'")
    except DataError as error:
        problems.append(_problem(pipeline, path, error))


def _problem(pipeline: Pipeline, path: str, error: Exception) -> Problem:
    return Problem(str(pipeline.path), pipeline.line(path), path, str(error))


def _attempt(
    pipeline: Pipeline,
    name: str,
    settings: TrainStage,
    datasets: Mapping[str, Known],
    problems: list[Problem],
) -> dict[str, Any]:
    data = datasets[settings.data]
    try:
        _check_workers(pipeline, settings)
        assembly = _judged(settings, None, data)
        notes = {**assembly.notes, **_beginning(pipeline, settings, datasets)}
    except UserError as error:
        problems.append(_problem(pipeline, f"stages.{name}", error))
        return {}
    late = judging.unfinished(settings, data.spec)
    notes |= {} if late is None else {"warning": late}
    return {"parameters": assembly.parameters, "notes": notes}


def _judged(settings: TrainStage, sweep: SweepStage | None, data: Known) -> Assembly:
    """Rehearse a fit that can be judged as its settings ask.

    Raises:
        UserError: its parts do not compose, or it cannot be judged.
    """
    judging.require_rows(settings, sweep, data.splits)
    objective = settings.objective.part("objectives")
    model = settings.model.spec()
    assembly = rehearse_parts(model, objective, data.spec, settings.batch_size)
    judging.require_time(settings, sweep, data.spec)
    return assembly


def _check_workers(pipeline: Pipeline, settings: TrainStage) -> None:
    # By name: to load a compute's class is to import its cluster library.
    if pipeline.compute.type == "local" and (settings.workers or 1) > 1:
        raise CompatibilityError(
            f"{settings.workers} workers, but `compute: {{type: local}}` has one. "
            "Choose `type: ray`, or `workers: 1`."
        )


def _beginning(
    pipeline: Pipeline, settings: TrainStage, datasets: Mapping[str, Known]
) -> dict[str, str]:
    """Which weights a fit begins with, as far as it is known before its source has been trained.

    Raises:
        CompatibilityError: none.
    """
    stage = settings.start
    if stage is None:
        return {}
    if pipeline.sweeps(stage) or pipeline.stages[stage].kind == "sweep":
        return {"start": f"'{stage}', where parts agree with the winner's"}
    source = pipeline.train_settings(stage)
    models = (settings.model.spec(), datasets[settings.data].spec)
    found = agreement(*models, source.model.spec(), datasets[source.data].spec)
    if not found.kept:
        raise CompatibilityError(
            f"start: nothing that '{stage}' trains can be taken over; new: "
            + ", ".join(f"{role} ({why})" for role, why in found.new.items())
            + ". Give parts the same type, options and shapes, or leave `start` out."
        )
    return {"start": f"'{stage}': {found}"}


def _check_sweep(
    pipeline: Pipeline,
    name: str,
    sweep: SweepStage,
    datasets: Mapping[str, Known],
    problems: list[Problem],
) -> dict[str, Any]:
    """Try what the search is going to propose; report each reason once."""
    base = pipeline.train_settings(name)
    try:
        judging.require_rows(base, sweep, datasets[base.data].splits)
    except DataError as error:
        problems.append(_problem(pipeline, f"stages.{name}", error))
        return {"trials": 0, "invalid": 0, "reasons": [], "warnings": []}
    reasons: dict[str, list[int]] = {}
    warnings: dict[str, None] = {}
    tried = 0
    for index, settings in enumerate(_proposals(pipeline, name, sweep)):
        tried += 1
        reason, warning = _reason(pipeline, name, settings, sweep, datasets)
        if warning:
            warnings[warning] = None
        if reason:
            reasons.setdefault(reason, []).append(index)
    if sweep.invalid == "fail" or (len(reasons) and sum(map(len, reasons.values())) == tried):
        path = f"stages.{name}.space"
        for reason, trials in reasons.items():
            text = f"{len(trials)} of {tried} proposals do not compose: {reason}"
            hint = " Set `invalid: skip` to leave them out." if sweep.invalid == "fail" else ""
            problems.append(Problem(str(pipeline.path), pipeline.line(path), path, text + hint))
    skipped = sum(map(len, reasons.values()))
    trials = (sweep.trials or tried) * sweep.repeats
    invalid = skipped * sweep.repeats
    found = {"trials": trials, "invalid": invalid, "reasons": list(reasons)}
    return {**found, "warnings": list(warnings)}


def _proposals(pipeline: Pipeline, name: str, sweep: SweepStage) -> Iterator[dict[str, Any]]:
    """All trials where they are known beforehand, else every combination of component types."""
    if sweep.search.type == "optuna":
        yield from space.combinations(sweep.space)
        return
    proposer = search.make_proposer(sweep, search_stream(child_seed(pipeline.seed, name)))
    for index in range(sweep.trials or proposer.size or 0):
        settings = proposer.propose(index)
        if settings is None:
            return
        yield dict(settings)


def _reason(
    pipeline: Pipeline,
    name: str,
    settings: dict[str, Any],
    sweep: SweepStage,
    datasets: Mapping[str, Known],
) -> tuple[str | None, str | None]:
    """Why a proposal cannot be a trial, or else what to warn of."""
    try:
        fit = pipeline.train_settings(name, settings)
        _judged(fit, sweep, datasets[fit.data])
    except UserError as error:
        return str(error), None
    return None, judging.unfinished(fit, datasets[fit.data].spec)


def prepare_sources(pipeline: Pipeline, stages: Collection[str]) -> None:
    """Look whether the sources of some data stages are there; a dataset may download its own.

    Raises:
        DataError: one is not.
    """
    for name, stage in _stages(pipeline, "data"):
        if name in stages:
            stage.dataset.spec.build().prepare()


def _stages(pipeline: Pipeline, kind: str) -> list[tuple[str, Any]]:
    return [(name, stage) for name, stage in pipeline.stages.items() if stage.kind == kind]
