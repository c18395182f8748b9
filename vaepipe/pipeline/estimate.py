"""What a step needs: trials, workers, disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vaepipe.pipeline.config import Pipeline
from vaepipe.pipeline.plan import Step

KEPT = 6
"""Copies of the weights in a fit's folder: model, checkpoint, best, and Adam's two moments + 1."""


def estimate(step: Step, pipeline: Pipeline, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Trials, workers and bytes of a step, as far as they are known beforehand."""
    kind, found = step.settings.kind, facts.get(step.name, {})
    needs: dict[str, Any] = {}
    if kind == "sweep":
        base = pipeline.train_settings(step.name)
        needs |= {"trials": found["trials"], "invalid": found["invalid"]}
        needs |= {"warning": "; ".join(found["warnings"])} if found["warnings"] else {}
        needs["workers"] = base.workers or 1
        needs["disk_bytes"] = found["trials"] * _weights(facts, step.settings.over)
    elif kind == "train":
        needs["workers"] = pipeline.train_settings(step.name).workers or 1
        needs["disk_bytes"] = _weights(facts, step.name)
        needs |= {k: v for k, v in found.get("notes", {}).items() if k in ("start", "warning")}
    elif kind == "data":
        spec = step.settings.dataset.part("datasets").build().spec
        needs["disk_bytes"] = spec.num_examples * math.prod(spec.shape)
    elif kind in ("evaluate", "encode"):
        needs["workers"] = pipeline.compute.part("computes").options.get("workers", 1)
    return needs


def _weights(facts: Mapping[str, Any], stage: str) -> int:
    parameters = facts.get(stage, {}).get("parameters", {})
    return 4 * KEPT * sum(parameters.values())
