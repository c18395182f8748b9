"""From names to a model: build it, and compare needs with abilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from vaepipe import registry
from vaepipe.core.alternatives import GROUP, Asked, Component, Role, class_of, likelihoods_of
from vaepipe.core.conditional import Conditional
from vaepipe.core.model import LatentModel
from vaepipe.core.spec import Cap, DataSpec, Shape
from vaepipe.core.units import LogUnits, units_of
from vaepipe.errors import CompatibilityError
from vaepipe.registry import PartSpec, options_signature

_NEEDY = ("prior", "objective")
"""Whose needs are compared with the abilities of the family."""
_CHANGEABLE = ("family", *_NEEDY)
_advised: dict[str, str] = {}
"""Advice by what was asked: a sweep may ask the same a thousand times."""


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
        encoder: network from x to the features of `family`. It is shown real numbers in units of
            their standard deviation from their mean, and so log(1 + x) of integers that have no
            largest value; other integers as 2 x / (levels - 1) - 1, unless it takes `levels`; bits
            and numbers in [0, 1] as they are.
        family: q(z | x).
        prior: p(z).
        decoder: network from z to the features of `likelihood`.
        likelihood: p(x | z).
    """
    q, p = family.build(latent_shape), likelihood.build(data)
    reader = _told(encoder, data)
    shown = None if reader.options.get("levels") else _shown(data)
    inference = Conditional(reader.build(data.shape, q.feature_shape), q, data.shape, shown)
    writer = decoder.build(latent_shape, p.feature_shape)
    generator = Conditional(writer, p, latent_shape, q.read)
    return LatentModel(inference, prior.build(latent_shape, data), generator)


def _told(encoder: PartSpec, data: DataSpec) -> PartSpec:
    """The encoder; its option `levels`, if it has one and it is null, is that of the data."""
    if "levels" not in options_signature(encoder.load()) or encoder.options.get("levels"):
        return encoder
    return replace(encoder, options={**encoder.options, "levels": data.levels})


def _shown(data: DataSpec) -> Callable[[Tensor], Tensor] | None:
    """What an encoder that does not take integers for words is shown: of the order of one."""
    if data.support_name == "real":
        return units_of(data)
    if data.support_name != "integer":
        return None
    if data.levels is None:
        return LogUnits(data.shape, data.logs)
    return partial(_centred, levels=data.levels)


def _centred(x: Tensor, levels: int) -> Tensor:
    """Levels 0 … levels - 1 as numbers from -1 to 1."""
    return 2 * x / max(1, levels - 1) - 1


def check(
    family: Component,
    prior: Component,
    objective: Component,
    likelihood: Component,
    data: DataSpec,
    *,
    latent_shape: Shape | None = None,
) -> None:
    """What can be known from declarations alone.

    What it recommends instead has been rehearsed with the rest of what is asked: with the options
    of components that are given as `PartSpec`, with default options of others; for the latent shape
    if it is given, else for a small one.

    Args:
        family: q(z | x): a class, or a component as files name it.
        prior: p(z), likewise.
        objective: likewise.
        likelihood: p(x | z), likewise.
        data: what x is.
        latent_shape: shape of z.

    Raises:
        CompatibilityError: the family lacks an ability that the prior or the objective needs
            (`missing` says which), or the likelihood is of other values than the data.
    """
    asked = Asked(family, prior, objective, likelihood, data, latent_shape)
    lacking = [role for role in _NEEDY if asked.missing(role)]
    said = [] if asked.of_the_data else [_wrong_values(asked)]
    said += [_lacks(asked, role) for role in lacking]
    if lacking:
        said.append(_remembered_advice(asked, lacking))
    if said:
        error = CompatibilityError(" ".join([said[0], *(s[0].upper() + s[1:] for s in said[1:])]))
        error.missing = asked.missing("prior") | asked.missing("objective") if lacking else None
        raise error


def _wrong_values(asked: Asked) -> str:
    data, support = asked.data, class_of(asked.likelihood).support
    grey = data.support_name == "unit_interval"
    return (
        f"likelihood '{_name('likelihoods', asked.likelihood)}' is of {_word(support)} "
        f"values, but the data are '{data.support_name}'. "
        + ("Set 'binarize: dynamic' in the dataset, or choose" if grey else "Choose")
        + f" a likelihood for such data: {_listed(likelihoods_of(data))}."
    )


def _lacks(asked: Asked, role: Role) -> str:
    provided = class_of(asked.family).provides
    return (
        f"{role} '{_name(GROUP[role], getattr(asked, role))}' needs "
        f"{_words(asked.missing(role))} of the posterior, which family "
        f"'{_name('families', asked.family)}' does not provide (it provides {_words(provided)})."
    )


def _remembered_advice(asked: Asked, lacking: Sequence[Role]) -> str:
    key = repr(asked)  # names every class, option, shape and size
    if key not in _advised:
        _advised[key] = _advice(asked, lacking)
    return _advised[key]


def _advice(asked: Asked, lacking: Sequence[Role]) -> str:
    """The one part to change: what lacks something, else another; else two at once."""
    fitting = likelihoods_of(asked.data)
    if fitting and not asked.of_the_data:
        asked = asked.with_part("likelihood", registry.part("likelihoods", fitting[0]))
    one = next(filter(None, (_others(asked, role) for role in lacking)), "")
    if one:
        return one
    unasked = [role for role in _CHANGEABLE if role not in lacking]
    one = next(filter(None, (_others(asked, role) for role in unasked)), "")
    return f"{one} {_pair(asked)}".strip()


def _others(asked: Asked, role: Role) -> str:
    names = list(asked.others(role))
    return f"{GROUP[role].capitalize()} that work with the rest: {_listed(names)}." if names else ""


def _pair(asked: Asked) -> str:
    pair = next(asked.pairs(), None)
    if pair is None:
        return "Nothing that is installed works with this family: choose another."
    return f"This family works with prior '{pair[0]}' and objective '{pair[1]}' together."


def _name(group: str, part: Component) -> str:
    """The name in files of an installed component, else the name of its class."""
    if isinstance(part, PartSpec):
        return part.type
    target = f"{part.__module__}:{part.__qualname__}"
    names = registry.available(group).items()
    return next((n for n, points in names if target in {p.value for p in points}), part.__name__)


def _words(caps: Cap) -> str:
    return _listed([str(cap.name).lower() for cap in caps])


def _word(support: object) -> str:
    return type(support).__name__.strip("_").lower()


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
