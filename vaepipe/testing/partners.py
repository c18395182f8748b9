"""Parts to put beside the one that is asked: found among what is installed, by trying."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaepipe import registry
from vaepipe.core import (
    SUPPORTS,
    Cap,
    Conditional,
    DataSpec,
    Family,
    LatentModel,
    Objective,
    Part,
    Prior,
    Shape,
    rehearse,
)
from vaepipe.errors import CompatibilityError, PluginError, UserError
from vaepipe.families.normal import FullNormal
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.priors.mixture import MixturePrior
from vaepipe.registry import PartSpec
from vaepipe.testing.exact import PPCA, evidence, grid
from vaepipe.testing.masses import all_values, is_discrete
from vaepipe.testing.setting import LATENT_SHAPES, Setting

REAL = DataSpec((4,), SUPPORTS["real"], 100)
_PREFERRED = ("diagonal_normal", "standard_normal")


@dataclass(frozen=True)
class Partner:
    """A small model with known evidence, to ask an objective about.

    Args:
        name: what it is, for reports.
        model: q(z | x) is not the posterior.
        data: what x is.
        x: examples `[batch, *x]`.
        log_evidence: log p(x) `[batch]`, nats.
    """

    name: str
    model: LatentModel
    data: DataSpec
    x: Tensor
    log_evidence: Tensor

    def fresh(self) -> LatentModel:
        """The model as it was, to do anything with."""
        return copy.deepcopy(self.model)


def inference(family: Family, data: DataSpec) -> Conditional:
    """q(z | x) of a small network and this family."""
    network = MLP(data.shape, family.feature_shape, hidden=[8])
    return Conditional(network, family, data.shape)


def comparable(q: Distribution, p: Distribution) -> bool:
    """Are both masses, or both densities, of one shape, and draws of q possible under p?"""
    if is_discrete(q) != is_discrete(p) or q.event_shape != p.event_shape:
        return False
    return bool(p.support is None or p.support.check(q.sample()).all())


def installed(group: str, owners: Collection[str] | None = None) -> Iterator[PartSpec]:
    """Components of a group, the plainest first, in the options that they are checked with.

    Args:
        group: of components.
        owners: the only distributions to look at; by default vaepipe comes first.
    """
    found = []
    for name in registry.available(group):
        try:
            part = registry.part(group, name)
            found.append(registry.part(group, name, Setting.of(part.load()).options))
        except (PluginError, UserError):
            continue  # somebody else's broken part, or a name that two claim
    found.sort(key=lambda p: (p.distribution != "vaepipe", p.type not in _PREFERRED, p.type))
    yield from (part for part in found if owners is None or part.distribution in owners)


def latent_shapes(*parts: PartSpec) -> Sequence[Shape]:
    """Latent shapes to try: what one of the parts declares, else all."""
    declared = [Setting.of(part.load()).latent_shape for part in parts]
    return [shape for shape in declared if shape] or LATENT_SHAPES


def families(
    needs: Cap, latent_shape: Shape, owners: Collection[str] | None = None
) -> Iterator[Family]:
    """Installed families that provide what is needed, for this latent shape."""
    for part in installed("families", owners):
        if needs & ~part.load().provides:
            continue
        try:
            yield part.build(latent_shape)
        except UserError:
            continue


def priors(
    q: Conditional, latent_shape: Shape, data: DataSpec, owners: Collection[str]
) -> Iterator[tuple[str, Prior]]:
    """Priors of these distributions that can stand beside this q(z | x)."""
    for part in installed("priors", owners):
        if part.load().needs & ~q.head.provides:  # type: ignore[operator]
            continue
        try:
            prior = part.build(latent_shape, data)
            fits = comparable(q(torch.zeros(1, *data.shape)), prior(q).z)
        except (UserError, RuntimeError):
            continue
        if fits:
            yield part.type, prior


def partners(objective: Objective, setting: Setting, refusals: list[str]) -> Iterator[Partner]:
    """Models that this objective accepts: probabilistic PCA, else of installed parts.

    Args:
        objective: rehearsed with each.
        setting: may name the family and the prior.
        refusals: filled with the reasons of rehearsals that fail.
    """
    needs = objective.needs & ~FullNormal.provides
    if not (setting.family or setting.prior or needs):
        yield from _rehearsed(objective, _ppca(objective.trains), refusals)
    for family, prior in _pairs(setting):
        if objective.needs & ~family.load().provides:
            continue
        declared = [setting.latent_shape] if setting.latent_shape else None
        for shape in declared or latent_shapes(family, prior):
            yield from _rehearsed(objective, _exact(family, prior, shape), refusals)


def _rehearsed(
    objective: Objective, partner: Partner | None, refusals: list[str]
) -> Iterator[Partner]:
    if partner is None:
        return
    try:
        rehearse(partner.model, objective, partner.data)
    except CompatibilityError as error:
        refusals.append(f"{partner.name}: {error}")
        return
    yield partner


def _ppca(trains: Part) -> Partner:
    """Its q(z | x) near the posterior; its p(z) learned where an objective moves that alone."""
    torch.manual_seed(1)
    ppca = PPCA.random(4, 2, seed=0)
    model, x = ppca.model(), ppca.draw(8)
    with torch.no_grad():
        for parameter in model.inference.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    if not trains & (Part.INFERENCE | Part.GENERATOR):
        model.prior = _learned_normal(ppca.data)
    return Partner("probabilistic PCA", model, ppca.data, x, ppca.log_evidence(x))


def _learned_normal(data: DataSpec) -> Prior:
    """N(0, I) with parameters: a mixture of one component, at its place."""
    prior = MixturePrior((2,), data, components=1)
    for parameter in prior.parameters():
        torch.nn.init.zeros_(parameter)
    return prior


def _pairs(setting: Setting) -> Iterator[tuple[PartSpec, PartSpec]]:
    for family in [setting.family] if setting.family else installed("families"):
        for prior in [setting.prior] if setting.prior else installed("priors"):
            if not prior.load().needs & ~family.load().provides:
                yield family, prior


def _exact(family: PartSpec, prior: PartSpec, shape: Shape) -> Partner | None:
    """A model of these parts, if they fit and if its z can be summed or integrated over."""
    torch.manual_seed(1)
    try:
        head = family.build(shape)
        q, p = inference(head, REAL), prior.build(shape, REAL)
        model = LatentModel(q, p, _generator(shape, head.read))
        fits = comparable(q(torch.zeros(1, *REAL.shape)), p(q).z)
        points = _points(p(q).z) if fits else None
    except (UserError, RuntimeError):
        return None
    if points is None or torch.as_tensor(p(q).global_kl).item():
        return None
    x = torch.randn(8, *REAL.shape)
    with torch.no_grad():
        log_evidence = evidence(model, x, *points)
    return Partner(f"{family.type} x {prior.type}", model, REAL, x, log_evidence)


def _generator(shape: Shape, read: Callable[[Tensor], Tensor]) -> Conditional:
    network, head = MLP(shape, REAL.shape, hidden=[8]), GaussianLikelihood(REAL, scale=0.7)
    return Conditional(network, head, shape, read)


def _points(p: Distribution) -> tuple[Tensor, float] | None:
    """Every z of a discrete prior, or a grid over two real dimensions."""
    if is_discrete(p):
        values = all_values(p)
        values = _visited(p) if values is None else values
        return None if values is None else (values, 0.0)
    if tuple(p.event_shape) != (2,):
        return None
    points = grid(2, 8.0, 161)
    return points if p.support is None or p.support.check(points[0]).all() else None


def _visited(p: Distribution) -> Tensor | None:
    """The values that draws visit, if that is all of them: the vectors of a small code book."""
    values = p.sample((20_000,)).flatten(1).unique(dim=0).reshape(-1, *p.event_shape)
    complete = (p.log_prob(values).exp().sum() - 1).abs() < 1e-6
    return values if complete else None
