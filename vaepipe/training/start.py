"""Begin a fit with the trained weights of another model, part by part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from vaepipe.core import LatentModel, Units
from vaepipe.registry import PartSpec
from vaepipe.training import bundle

PLACES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "encoder": ("inference.network.", "inference.read."),
        "family": ("inference.head.",),
        "prior": ("prior.",),
        "decoder": ("generator.network.",),
        "likelihood": ("generator.head.",),
    }
)
"""Where the weights of a part are in the state of a model; an encoder's with its units."""

FAR = 10.0
"""Standard deviations between two means, or a ratio of two deviations, that tell of other units."""

Parts = Mapping[str, PartSpec]
State = Mapping[str, Tensor]


class Agreement(NamedTuple):
    """Parts that have weights: those that are taken over, and why the others are not."""

    kept: tuple[str, ...]
    new: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        """As `encoder, decoder; new: prior (mixture)`."""
        new = ", ".join(f"{role} ({why})" for role, why in self.new.items())
        return (", ".join(self.kept) or "nothing") + (f"; new: {new}" if new else "")


def compare(parts: Parts, state: State, source: Parts, source_state: State) -> Agreement:
    """Which parts of a model agree with those of another, in type, options and shapes.

    Args:
        parts: of the model that is to be trained.
        state: its state dict.
        source: parts of the trained model.
        source_state: its state dict.
    """
    kept, new = [], {}
    for role, place in PLACES.items():
        mine, theirs = _shapes(state, place), _shapes(source_state, place)
        if not mine:
            continue
        why = _difference(parts[role], source.get(role), same_shapes=mine == theirs)
        if why:
            new[role] = why
        else:
            kept.append(role)
    return Agreement(tuple(kept), new)


def adopt(model: LatentModel, parts: Parts, path: Path) -> Agreement:
    """Put the weights of a bundle into the parts of a model that agree with its own.

    Raises:
        BundleError: the bundle cannot be opened.
    """
    source = bundle.load(path)
    state, theirs = model.state_dict(), source.model.state_dict()
    found = compare(parts, state, source.parts, theirs)
    before = {name: value.clone() for name, value in state.items()}
    with torch.no_grad():
        for role in found.kept:
            for name in _shapes(state, PLACES[role]):
                state[name].copy_(theirs[name])
    units = [name for name, module in model.named_modules() if isinstance(module, Units)]
    said = [text for name in units if (text := _far(name, before, state))]
    return found._replace(warnings=tuple(said[:1]))


def _far(name: str, before: State, after: State) -> str | None:
    """Say where the units of the data are far from those that came with the weights."""
    (mean, scale), (own, spread) = (
        [state[f"{name}.{what}"].double().flatten() for what in ("mean", "scale")]
        for state in (before, after)
    )
    distance = torch.maximum((mean - own).abs() / spread, (scale / spread).log().abs().exp())
    worst = int(distance.argmax())
    if distance[worst] <= FAR:
        return None
    return (
        f"the weights were fitted to data in other units: value {worst} of an example has mean "
        f"{mean[worst]:.4g} and standard deviation {scale[worst]:.4g} in these data, had "
        f"{own[worst]:.4g} and {spread[worst]:.4g} in those. Bring the data to the units of the "
        "first fit, or leave `start` out."
    )


def _difference(mine: PartSpec, theirs: PartSpec | None, *, same_shapes: bool) -> str:
    if theirs is None or (mine.type, mine.distribution) != (theirs.type, theirs.distribution):
        return mine.type
    if _plain(mine) != _plain(theirs):
        return "other options"
    return "" if same_shapes else "other shapes"


def _plain(part: PartSpec) -> str:
    """Options as text: what went through a file has lists where there were tuples."""
    return json.dumps(dict(part.options), sort_keys=True)


def _shapes(state: State, place: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(v.shape) for name, v in state.items() if name.startswith(place)}
