"""Everything that can be known to be wrong before a worker starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from vaepipe.core import DataSpec
from vaepipe.errors import CompatibilityError, ConfigError, Problem
from vaepipe.pipeline import search, space
from vaepipe.pipeline.config import Pipeline
from vaepipe.pipeline.plan import child_seed
from vaepipe.pipeline.rehearsal import agreement, rehearse_parts
from vaepipe.pipeline.settings import SweepStage, TrainStage


def check(pipeline: Pipeline) -> dict[str, Any]:
    """Assemble and rehearse every fit and every trial that is known beforehand.

    Returns:
        For each train stage its parameters and notes, for each sweep its trials and skips.

    Raises:
        ConfigError: every combination of parts that does not compose, at its line.
    """
    specs = {n: s.dataset.spec.build().spec for n, s in _stages(pipeline, "data")}
    problems: list[Problem] = []
    found: dict[str, Any] = {}
    for name, stage in _stages(pipeline, "train"):
        settings = pipeline.train_settings(name)
        attempt = _attempt(pipeline, name, settings, specs, problems)
        found[name] = {"data": stage.data, **attempt}
    for name, stage in _stages(pipeline, "sweep"):
        found[name] = _check_sweep(pipeline, name, stage, specs, problems)
    if problems:
        raise ConfigError(problems)
    return found


def _attempt(
    pipeline: Pipeline,
    name: str,
    settings: TrainStage,
    specs: dict[str, DataSpec],
    problems: list[Problem],
) -> dict[str, Any]:
    try:
        objective = settings.objective.part("objectives")
        assembly = rehearse_parts(settings.model.spec(), objective, specs[settings.data])
        notes = {**assembly.notes, **_beginning(pipeline, settings, specs)}
    except CompatibilityError as error:
        path = f"stages.{name}"
        problems.append(Problem(str(pipeline.path), pipeline.line(path), path, str(error)))
        return {}
    return {"parameters": assembly.parameters, "notes": notes}


def _beginning(
    pipeline: Pipeline, settings: TrainStage, specs: dict[str, DataSpec]
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
    models = (settings.model.spec(), specs[settings.data])
    found = agreement(*models, source.model.spec(), specs[source.data])
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
    specs: dict[str, DataSpec],
    problems: list[Problem],
) -> dict[str, Any]:
    """Try what the search is going to propose; report each reason once."""
    reasons: dict[str, list[int]] = {}
    tried = 0
    for index, settings in enumerate(_proposals(pipeline, name, sweep)):
        tried += 1
        reason = _reason(pipeline, name, settings, specs)
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
    return {"trials": trials, "invalid": skipped * sweep.repeats, "reasons": list(reasons)}


def _proposals(pipeline: Pipeline, name: str, sweep: SweepStage) -> Iterator[dict[str, Any]]:
    """All trials where they are known beforehand, else every combination of component types."""
    if sweep.search.type == "optuna":
        yield from space.combinations(sweep.space)
        return
    seed = child_seed(child_seed(pipeline.seed, name), "search")
    proposer = search.make_proposer(sweep, seed)
    for index in range(sweep.trials or proposer.size or 0):
        settings = proposer.propose(index)
        if settings is None:
            return
        yield dict(settings)


def _reason(
    pipeline: Pipeline, name: str, settings: dict[str, Any], specs: dict[str, DataSpec]
) -> str | None:
    try:
        fit = pipeline.train_settings(name, settings)
        rehearse_parts(fit.model.spec(), fit.objective.part("objectives"), specs[fit.data])
    except (CompatibilityError, ConfigError) as error:
        return str(error)
    return None


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
