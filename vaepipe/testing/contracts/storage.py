"""A model with the asked component, saved and opened again."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from vaepipe import registry
from vaepipe.core import Cap, DataSpec, Shape, build, examples, within
from vaepipe.errors import CompatibilityError, UserError
from vaepipe.registry import PartSpec
from vaepipe.testing import partners
from vaepipe.testing.contracts.base import NotAsked, shaken
from vaepipe.testing.setting import Setting
from vaepipe.training import bundle

_SMALL = {"hidden": [4]}


def assert_bundle_survives(
    latent_shape: Shape, data: DataSpec, *, setting: Setting, **given: PartSpec
) -> None:
    """Save a model of the given parts and fitting others; open it; compare.

    Raises:
        AssertionError: the numbers differ.
        BundleError: it cannot be opened.
        NotAsked: nothing installed fits beside the parts.
    """
    parts = complete(latent_shape, data, setting, given)
    model = shaken(build(latent_shape, data, **parts))
    card = {
        "model": {
            "latent_shape": list(latent_shape),
            **{role: part.to_dict() for role, part in parts.items()},
        },
        "data": data.to_dict(),
    }
    x = examples(data, 4)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        bundle.save(path, model, card, x)
        twin = bundle.load(path).model
    with torch.no_grad():
        assert torch.equal(model.inference.features(x), twin.inference.features(x))
    state = twin.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} is another after opening"


def complete(
    latent_shape: Shape, data: DataSpec, setting: Setting, given: dict[str, PartSpec]
) -> dict[str, PartSpec]:
    """The given parts and, for the other roles, installed ones that fit."""
    mlp = registry.part("networks", "mlp", _SMALL)
    likelihood = given.get("likelihood") or _likelihood(data)
    parts: dict[str, Any] = {"encoder": mlp, "decoder": mlp, **given, "likelihood": likelihood}
    for family in _candidates("family", "families", given, setting):
        for prior in _candidates("prior", "priors", given, setting):
            chosen = {**parts, "family": family, "prior": prior}
            if _fits(latent_shape, data, chosen):
                return chosen
    raise NotAsked("nothing that is installed fits beside it")


def _candidates(
    role: str, group: str, given: dict[str, PartSpec], setting: Setting
) -> list[PartSpec]:
    named = given.get(role) or getattr(setting, role)
    return [named] if named else list(partners.installed(group))


def _fits(latent_shape: Shape, data: DataSpec, parts: dict[str, PartSpec]) -> bool:
    if parts["prior"].load().needs & ~parts["family"].load().provides & ~Cap.NONE:
        return False
    try:
        model = build(latent_shape, data, **parts)
        x = examples(data, 2)
        return partners.comparable(model.inference(x), model.p_z().z)
    except CompatibilityError:
        return False


def _likelihood(data: DataSpec) -> PartSpec:
    for part in partners.installed("likelihoods"):
        if within(data.support, part.load().support):
            try:
                part.build(data)
            except UserError:
                continue
            return part
    raise NotAsked(f"no installed likelihood is of {data.support_name} data")
