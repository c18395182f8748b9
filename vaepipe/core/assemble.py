"""From names to a model: build it, and compare needs with abilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from vaepipe import registry
from vaepipe.core.conditional import Conditional, Family, Likelihood
from vaepipe.core.model import LatentModel
from vaepipe.core.objective import Objective
from vaepipe.core.prior import Prior
from vaepipe.core.spec import Cap, DataSpec, Shape, within
from vaepipe.errors import CompatibilityError, PluginError
from vaepipe.registry import PartSpec, options_signature


def build(
    latent_shape: Shape,
    data: DataSpec,
    *,
    encoder: PartSpec,
    family: PartSpec,
    prior: PartSpec,
    decoder: PartSpec,
    likelihood: PartSpec,
) -> LatentModel:
    """The model that five components make; its weights are drawn from torch's generator.

    Args:
        latent_shape: shape of z.
        data: what x is.
        encoder: network from x to the features of `family`; integers are shown to it as 2 x /
            (levels - 1) - 1, or log(1 + x) where they have no end, unless it takes `levels`.
        family: q(z | x).
        prior: p(z).
        decoder: network from z to the features of `likelihood`.
        likelihood: p(x | z).
    """
    q, p = family.build(latent_shape), likelihood.build(data)
    knows = "levels" in options_signature(encoder.load())
    reader = _told(encoder, data) if knows else encoder
    shown = None if knows else _shown(data)
    inference = Conditional(reader.build(data.shape, q.feature_shape), q, data.shape, shown)
    writer = decoder.build(latent_shape, p.feature_shape)
    generator = Conditional(writer, p, latent_shape, q.read)
    return LatentModel(inference, prior.build(latent_shape, data), generator)


def _told(encoder: PartSpec, data: DataSpec) -> PartSpec:
    """A network whose option `levels` is left null is told how many values the data have."""
    if encoder.options.get("levels"):
        return encoder
    return replace(encoder, options={**encoder.options, "levels": data.levels})


def _shown(data: DataSpec) -> Callable[[Tensor], Tensor] | None:
    """How a network that does not know integers sees them: of the order of one, like other data."""
    if data.support_name != "integer":
        return None
    return torch.log1p if data.levels is None else partial(_centred, levels=data.levels)


def _centred(x: Tensor, levels: int) -> Tensor:
    """Levels 0 … levels - 1 as numbers from -1 to 1."""
    return 2 * x / max(1, levels - 1) - 1


def check(
    family: type[Family],
    prior: type[Prior],
    objective: type[Objective],
    likelihood: type[Likelihood],
    data: DataSpec,
) -> None:
    """What can be known from the classes alone.

    Raises:
        CompatibilityError: the family lacks an ability that the prior or the objective needs
            (`missing` says which), or the likelihood is of other values than the data.
    """
    _check_needs("prior", prior, family)
    _check_needs("objective", objective, family)
    _check_support(likelihood, data)


def _check_needs(role: str, part: type[Prior] | type[Objective], family: type[Family]) -> None:
    missing = part.needs & ~family.provides
    if not missing:
        return
    group = f"{role}s"
    error = CompatibilityError(
        f"{role} '{_name(group, part)}' needs {_words(missing)} of the posterior, which family "
        f"'{_name('families', family)}' does not provide (it provides {_words(family.provides)}). "
        f"{group.capitalize()} that fit this family: {_fitting(group, family)}."
    )
    error.missing = missing
    raise error


def _check_support(likelihood: type[Likelihood], data: DataSpec) -> None:
    if within(data.support, likelihood.support):
        return
    fitting = [n for n, part in _installed("likelihoods") if within(data.support, part.support)]
    grey = data.support_name == "unit_interval"
    raise CompatibilityError(
        f"likelihood '{_name('likelihoods', likelihood)}' is of {_word(likelihood.support)} "
        f"values, but the data are '{data.support_name}'. "
        + ("Set 'binarize: dynamic' in the dataset, or choose" if grey else "Choose")
        + f" a likelihood for such data: {_listed(fitting)}."
    )


def _fitting(group: str, family: type[Family]) -> str:
    return _listed([n for n, part in _installed(group) if not part.needs & ~family.provides])


def _installed(group: str) -> Iterator[tuple[str, type]]:
    """Every component that can be loaded; a broken one is not what the user asked about."""
    for name in registry.available(group):
        try:
            yield name, registry.load(group, name)
        except PluginError:
            continue


def _name(group: str, part: type) -> str:
    """The name in files of an installed component, else the name of its class."""
    target = f"{part.__module__}:{part.__qualname__}"
    names = registry.available(group).items()
    return next((n for n, points in names if target in {p.value for p in points}), part.__name__)


def _words(caps: Cap) -> str:
    return _listed([str(cap.name).lower() for cap in caps])


def _word(support: object) -> str:
    return type(support).__name__.strip("_").lower()


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"
