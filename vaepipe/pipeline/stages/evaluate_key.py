"""What a number of an evaluation must be named with: model, data, samples, and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import torch

from vaepipe import registry
from vaepipe.core import StepContext
from vaepipe.errors import VaepipeError
from vaepipe.registry import PartSpec
from vaepipe.training.bundle import Bundle

ROLES = ("likelihood", "prior", "family")
KINDS = {"k_train": pa.int64(), "beta_final": pa.float64(), "n_params": pa.int64()}
"""Types of the columns that are not text."""


def of_model(loaded: Bundle) -> dict[str, Any]:
    """What the model is made of and how it was fitted, from its card.

    `k_train` is the objective's number of importance samples `k`, `beta_final` its scheduled
    weight `beta` of the rate at the last update of the kept weights; None where the objective has
    no such option. `n_params`
    counts the parameters of p(x, z) and q(z | x), those that they share once.
    """
    objective = PartSpec.from_dict(loaded.card["objective"])
    options = _options(objective)
    parameters = list(loaded.model.parameters())
    dtype = parameters[0].dtype if parameters else torch.get_default_dtype()
    return {
        **{role: loaded.parts[role].type for role in ROLES},
        "objective": objective.type,
        "k_train": options.get("k"),
        "beta_final": _beta(objective, loaded),
        "n_params": sum(each.numel() for each in parameters),
        "dtype": str(dtype).removeprefix("torch."),
    }


def column(name: str, value: Any, rows: int) -> pa.Array:
    """One value for all rows; null where there is none."""
    return pa.array([value] * rows, KINDS.get(name, pa.string()))


def view_names(view: Mapping[str, str], taken: set[str]) -> dict[str, str]:
    """A view's own entries; names that a table has already with `view_` before them."""
    return {f"view_{k}" if k in taken else k: v for k, v in view.items()}


def _beta(objective: PartSpec, loaded: Bundle) -> float | None:
    """The weight of the rate that the last update used, where it follows a schedule."""
    rows, settings = loaded.data.num_examples, loaded.card.get("settings") or {}
    last = StepContext.last(int(loaded.card["epoch"]), rows, settings.get("batch_size", rows))
    try:
        installed = registry.part(objective.group, objective.type, dict(objective.options))
        return installed.build().scheduled(last).get("beta")
    except (VaepipeError, TypeError):  # not installed here, or in a version of other options
        return None


def _options(objective: PartSpec) -> dict[str, Any]:
    """The options that were given, over the defaults of the installed component, if it is."""
    try:
        cls = registry.part(objective.group, objective.type).load()
    except VaepipeError:
        return dict(objective.options)
    found = {name: p.default for name, p in registry.options_signature(cls).items()}
    return found | dict(objective.options)
