"""The register stage: a model gets a name, a version and an alias, if it is good enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vaepipe.errors import UserError, did_you_mean
from vaepipe.pipeline.environment import Environment
from vaepipe.pipeline.plan import Step
from vaepipe.pipeline.settings import RegisterStage


def run(step: Step[RegisterStage], env: Environment, folder: Path) -> dict[str, Any]:
    """Check the requirements and register; the manifest's content."""
    settings = step.settings
    for name, bounds in settings.requires.items():
        _check(step, env, name, bounds.model_dump(exclude_none=True))
    source = env.manifests[settings.model]
    tags = {"vaepipe.pipeline": env.pipeline.name, "vaepipe.fingerprint": step.fingerprint}
    version = env.tracker.register(source["model_uri"], settings.name, settings.alias, tags)
    reference = f"models:/{settings.name}/{version}"
    return {"name": settings.name, "version": version, "alias": settings.alias, "uri": reference}


def _check(step: Step, env: Environment, name: str, bounds: dict[str, float]) -> None:
    """One requirement, such as `score/log_evidence: {at_least: -93}`."""
    stage, _, metric = name.partition("/")
    metrics = env.manifests[stage]["metrics"]
    known = {key.partition("/")[2] if "/" not in metric else key: v for key, v in metrics.items()}
    if metric not in known:
        raise UserError(
            f"stage '{step.name}': requires '{name}': no such metric.{did_you_mean(metric, known)} "
            f"'{stage}' has {', '.join(sorted(known))}."
        )
    value = known[metric]
    low, high = bounds.get("at_least"), bounds.get("at_most")
    if (low is not None and value < low) or (high is not None and value > high):
        limit = f"at least {low}" if low is not None and value < low else f"at most {high}"
        raise UserError(
            f"stage '{step.name}': '{name}' is {value:.4f}, required: {limit}. Not registered."
        )
