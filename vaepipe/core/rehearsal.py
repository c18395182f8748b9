"""One step on two made-up examples, before any worker starts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaepipe.core.batch import WholeBatch
from vaepipe.core.model import LatentModel
from vaepipe.core.noise import seeded
from vaepipe.core.objective import Estimate, Objective, Phase, StepContext
from vaepipe.core.spec import DataSpec, Part, Shape
from vaepipe.core.streams import Purpose, stream
from vaepipe.errors import CompatibilityError

_BATCH = 2
_DRAWS = torch.Size((16,))
"""Draws by which supports are compared."""
_NEAR = 0.05
"""By which share of its size a number is changed to see whether it can change alone."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a rehearsal found out."""

    notes: Mapping[str, str]
    """Decisions made from types, as `{"rate": "closed form"}`."""
    parameters: Mapping[str, int]
    """Trained numbers of every role."""


def rehearse(model: LatentModel, objective: Objective, data: DataSpec) -> Assembly:
    """Run every phase once, on a copy of the model and two made-up examples.

    Nothing is changed: no weight, no gradient, none of torch's generators.

    Raises:
        CompatibilityError: q(z | x) and p(z) do not live in one place, a phase fails or gives no
            finite bound `[batch]`, or a parameter that the objective says it trains gets no
            gradient.
    """
    stage = _Stage(copy.deepcopy(model), copy.deepcopy(objective), data)
    with seeded(stream(0, Purpose.REHEARSAL)), torch.enable_grad():
        x = stage.examples()
        notes = stage.compare(x)
        trained = {name for phase in stage.objective.phases() for name in stage.play(phase, x)}
    stage.require(trained)
    return Assembly(notes, stage.parameters())


def examples(data: DataSpec, n: int) -> Tensor:
    """Return made-up examples `[n, *shape]` from the support of the data.

    Real numbers and counts have the mean and the standard deviation of the data where these are
    known: others may be so far away that float32 holds no density of them.

    Example:
        >>> from vaepipe.core.spec import SUPPORTS
        >>> examples(DataSpec((3,), SUPPORTS["boolean"], 10), 2).shape
        torch.Size([2, 3])
    """
    shape = (n, *data.shape)
    draw = {
        "boolean": lambda: torch.rand(shape).round(),
        "integer": lambda: _integers(data, shape),
        "real": lambda: _normal(data, shape),
        "unit_interval": lambda: torch.rand(shape),
    }
    return draw[data.support_name]()


def _integers(data: DataSpec, shape: Shape) -> Tensor:
    if data.counts and data.scale is not None:
        return _normal(data, shape).clamp_min(0).round()
    return torch.rand(shape).mul(data.levels or 10).floor()


def _normal(data: DataSpec, shape: Shape) -> Tensor:
    """Normal draws with the moments of the data, where they are known."""
    draws = torch.randn(shape)
    if data.mean is None or data.scale is None:
        return draws
    return data.mean.to(draws) + data.scale.to(draws) * draws


@dataclass(frozen=True, slots=True)
class _Stage:
    model: LatentModel
    objective: Objective
    data: DataSpec

    @property
    def name(self) -> str:
        return type(self.objective).__name__

    def examples(self) -> Tensor:
        x = examples(self.data, _BATCH)
        like = next(self.model.parameters(), x)
        return x.to(device=like.device, dtype=like.dtype)

    def compare(self, x: Tensor) -> dict[str, str]:
        """q(z | x) and p(z) must be of one kind, one shape and one place."""
        q, p = self.model.inference(x), self.model.p_z().z
        if _is_discrete(q) != _is_discrete(p):
            raise CompatibilityError(
                f"q(z|x) lives on {_place(q)} but p(z) on {_place(p)}: a mass cannot be compared "
                "with a density. Choose a prior for such latents, or another family."
            )
        if q.event_shape != p.event_shape:
            raise CompatibilityError(
                f"q(z|x) is of shape {list(q.event_shape)} but p(z) of {list(p.event_shape)}."
            )
        check_places(q, p)
        return self.objective.notes(q, p)

    def play(self, phase: Phase, x: Tensor) -> set[str]:
        """The names of the parameters that one phase gives a gradient."""
        self.model.zero_grad(set_to_none=True)
        self.objective.zero_grad(set_to_none=True)
        try:
            batch = _Counted()
            ctx = StepContext(0, 0.0, self.data.num_examples, batch)
            estimate = phase.estimate(self.model, x, ctx)
            self._check(phase, estimate)
            self._check_couples(phase, batch)
            estimate.surrogate.backward()
        except CompatibilityError:
            raise
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise CompatibilityError(f"phase '{phase.name}' of '{self.name}': {error}") from error
        moved = self._trainable(phase.updates)
        return {name for name, parameter in moved.items() if parameter.grad is not None}

    def require(self, trained: set[str]) -> None:
        """Every parameter of the parts that the objective trains must have got a gradient."""
        idle = sorted(set(self._trainable(self.objective.trains)) - trained)
        if idle:
            raise CompatibilityError(f"no phase of '{self.name}' trains: {', '.join(idle)}")

    def parameters(self) -> dict[str, int]:
        """Trained numbers of every role."""
        roles = {
            "encoder": self.model.inference.network,
            "family": self.model.inference.head,
            "prior": self.model.prior,
            "decoder": self.model.generator.network,
            "likelihood": self.model.generator.head,
            "objective": self.objective,
        }
        return {role: _size(module) for role, module in roles.items()}

    def _check(self, phase: Phase, estimate: Estimate) -> None:
        bound = estimate.bound
        if bound.shape != (_BATCH,) or not bound.isfinite().all():
            raise CompatibilityError(
                f"phase '{phase.name}' of '{self.name}' gives the bound {bound.tolist()} for "
                f"{_BATCH} examples: expected one finite number for each."
            )
        if not estimate.surrogate.requires_grad:
            raise CompatibilityError(
                f"phase '{phase.name}' of '{self.name}' gives a surrogate without a gradient: "
                "neither draws nor densities of q(z|x) depend on what it updates."
            )

    def _check_couples(self, phase: Phase, batch: _Counted) -> None:
        if batch.asked and not self.objective.couples:
            raise CompatibilityError(
                f"phase '{phase.name}' of '{self.name}' asks for the rows of the whole batch "
                "and does not declare it: set `couples = True` in its class."
            )

    def _trainable(self, parts: Part) -> dict[str, nn.Parameter]:
        roots: dict[Part, tuple[str, nn.Module]] = {
            Part.INFERENCE: ("inference", self.model.inference),
            Part.PRIOR: ("prior", self.model.prior),
            Part.GENERATOR: ("generator", self.model.generator),
            Part.OBJECTIVE: ("objective", self.objective),
        }
        return {
            f"{root}.{name}": parameter
            for part in parts
            for root, module in [roots[part]]
            for name, parameter in module.named_parameters()
            if parameter.requires_grad
        }


class _Counted(WholeBatch):
    """Two examples that are the whole batch; whether somebody asked for all rows."""

    asked = False

    def rows(self, mine: Tensor) -> Tensor:
        """The same."""
        self.asked = True
        return mine


def check_places(q: Distribution, p: Distribution) -> None:
    """Compare supports by what lies in them.

    Draws of q lie in the support of p. Where values are discrete, or tied to each other (points of
    a sphere, of a simplex), draws of p lie in the support of q too: a part of a space has a volume
    of its own, and a density on it cannot be compared with one on the whole space.

    Args:
        q: q(z | x).
        p: p(z), of the event shape of q.

    Raises:
        CompatibilityError: draws lie outside, or on a part of a space only.
    """
    z, other = q.sample(_DRAWS), p.sample(_DRAWS)
    inside = _holds(p, z)
    same = inside and (not (_is_discrete(q) or _tied(q, z) or _tied(p, other)) or _holds(q, other))
    if same:
        return
    if _kind(q) != _kind(p):
        raise CompatibilityError(
            f"q(z|x) is over {_KINDS[_kind(q)]} but p(z) over {_KINDS[_kind(p)]}: "
            f"{_apart(q, p)}. Choose the prior that belongs to the family."
        )
    if not inside:
        raise CompatibilityError(
            f"draws of q(z|x) lie outside the support of p(z): {_place(q)} and {_place(p)}. "
            "Choose a prior that is made for this family."
        )
    raise CompatibilityError(
        f"q(z|x) lives on {_place(q)}, a part of {_place(p)}, where p(z) lives: {_apart(q, p)}. "
        "Choose a prior that is made for this family."
    )


def _holds(d: Distribution, z: Tensor) -> bool:
    """Whether all of z lies in the support of a distribution; one that is not known holds all."""
    return d.support is None or bool(d.support.check(z).all())


def _tied(d: Distribution, z: Tensor) -> bool:
    """Whether one number of an event cannot change alone, a little up or a little down.

    Args:
        d: over real numbers.
        z: draws of it, `[*lead, *event]`.
    """
    if d.support is None or _constraint(d) == "Real":
        return False
    flat = z.flatten(z.ndim - len(d.event_shape)) if d.event_shape else z.unsqueeze(-1)
    for place in range(flat.shape[-1]):
        gap = torch.zeros_like(flat)
        gap[..., place] = _NEAR * flat[..., place].abs()
        up, down = (d.support.check((flat + s * gap).reshape(z.shape)) for s in (1, -1))
        if not (up | down).reshape(len(z), -1).all():
            return True
    return False


_KINDS = {
    "OneHot": "one-hot codes",
    "LogSimplex": "relaxed one-hot codes",
    "Simplex": "points of a simplex",
    "": "variables that are free of each other",
}


_PLACES = {"Boolean": "bits", "Real": "real numbers", "OneHot": "one-hot codes"}


def _kind(d: Distribution) -> str:
    """Which constraint ties the numbers of an event to each other: such a space has a volume, or
    values, of its own.
    """
    name = _constraint(d)
    return name if name in _KINDS else ""


def _apart(q: Distribution, p: Distribution) -> str:
    """Why q and p of different kinds are not compared."""
    if not _is_discrete(q):
        return "their densities are of different volumes and cannot be subtracted"
    if _kind(p):
        return "draws of q(z|x) lie outside the support of p(z)"
    return (
        "p(z) gives mass to values that q(z|x) never draws, which importance weights and sleep "
        "phases would miss"
    )


def _place(d: Distribution) -> str:
    """The support in words, where it has some."""
    return _PLACES.get(_constraint(d), str(d.support))


def _constraint(d: Distribution) -> str:
    support = d.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint  # type: ignore[union-attr]
    return type(support).__name__.strip("_")


def _is_discrete(d: Distribution) -> bool:
    support = d.support
    return bool(support is not None and support.is_discrete)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
