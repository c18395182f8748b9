"""What every objective promises."""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from vaepipe.core import (
    Conditional,
    Estimate,
    LatentModel,
    Objective,
    Part,
    Phase,
    Prior,
    PriorDraw,
    StepContext,
    rehearse,
)
from vaepipe.testing import partners
from vaepipe.testing.contracts import base
from vaepipe.testing.contracts.base import NotAsked
from vaepipe.testing.partners import Partner
from vaepipe.testing.statistics import assert_same_mean, gradients, judge, note, z_scores

_ROUGH = (0.0, 0.1, 0.3, 0.7)
"""How far q(z | x) is moved from its start when bounds are held against the evidence."""
_REPEAT = 100
"""How often a batch repeats its examples, to draw many bounds at once."""


_TOGETHER = 20
"""How often a batch repeats its examples for one gradient."""


class ObjectiveContract(base.Contract):
    """Write `make`; declare `family` and `prior` only where the kit finds none that fit."""

    group: ClassVar[str] = "objectives"
    draws: ClassVar[int] = 400

    @abstractmethod
    def make(self) -> Objective:
        """A fresh objective, with the options that it is used with at the end of training."""

    def build(self) -> Objective:
        """As `make`."""
        return self.make()

    @functools.cached_property
    def partner(self) -> Partner:
        """The first model of known evidence that this objective accepts."""
        refusals: list[str] = []
        found = next(partners.partners(self.make(), self.setting, refusals), None)
        why = refusals[0] if refusals else "declare `family` and `prior`"
        assert found, f"it accepts no model of installed parts: {why}"
        return found

    def model(self) -> tuple[LatentModel, Tensor, Tensor]:
        """A model whose q(z | x) is *not* the posterior, examples, and their log p(x)."""
        note(f"asked with {self.partner.name}")
        return self.partner.fresh(), self.partner.x, self.partner.log_evidence

    def test_the_bound_has_one_number_for_each_example(self) -> None:
        """`bound` and `terms` are `[batch]` without gradient, `surrogate` is `[]` with one."""
        for estimate in self._estimates():
            assert tuple(estimate.bound.shape) == (8,)
            assert estimate.bound.isfinite().all() and not estimate.bound.requires_grad
            assert tuple(estimate.surrogate.shape) == () and estimate.surrogate.requires_grad
            for name, term in estimate.terms.items():
                assert tuple(term.shape) == (8,) and not term.requires_grad, name

    def test_the_bound_is_below_the_evidence(self) -> None:
        """Averaged over its draws, for every example, with a good q(z | x) and with a bad one."""
        for rough in _ROUGH:
            model, x, log_evidence = self.model()
            torch.manual_seed(3)
            base.shaken(model.inference, rough)
            objective = self.make()
            for phase in objective.phases():
                draws = self._bounds(phase, model, x, self.draws)
                what = f"the bound of '{phase.name}' above the evidence"
                judge(z_scores(draws, log_evidence).max(), what)

    def test_the_bound_is_that_of_its_twin(self) -> None:
        """Another estimator of the bound, declared as `same_bound_as`, has the same mean."""
        twin = self.setting.same_bound_as
        if twin is None:
            raise NotAsked("it declares no other objective with the same bound")
        model, x, _ = self.model()
        one, two = (
            self._bounds(objective.phases()[0], model, x, 10 * self.draws)
            for objective in (self.make(), twin.build())
        )
        assert_same_mean(one, two, f"the bounds of both ({twin.type})")

    def test_the_gradient_is_that_of_its_twin(self) -> None:
        """Another estimator of its gradient, declared as `same_gradient_as`, has the same mean.

        Of the encoder's weights, away from the posterior: there every estimator would agree.
        """
        twin = self.setting.same_gradient_as
        if twin is None:
            raise NotAsked("it declares no other objective with the same gradient")
        model, x, _ = self.model()
        torch.manual_seed(3)
        base.shaken(model.inference, 0.3)
        many = x.repeat(_TOGETHER, *[1] * (x.ndim - 1))
        one, two = (
            self._gradients(objective, model, many) for objective in (self.make(), twin.build())
        )
        assert_same_mean(one, two, f"the gradients of both ({twin.type})")

    def test_the_bound_does_not_know_where_training_stands(self) -> None:
        """Schedules weight the surrogate; the bound is the true one from the first step on."""
        early, late = self._seeded(ctx=StepContext(0, 0.0, 1000)), self._seeded()
        for one, two in zip(early, late, strict=True):
            assert torch.allclose(one.bound, two.bound), "the bound changes with the schedule"

    def test_the_same_seed_gives_the_same_estimate(self) -> None:
        """All its randomness is torch's."""
        one, two = (self._seeded() for _ in range(2))
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a.bound, b.bound) and torch.equal(a.surrogate, b.surrogate)

    def test_any_size_of_batch_will_do(self) -> None:
        """A batch twice as long, or the smallest, has finite bounds, one for each example."""
        model, x, _ = self.model()
        objective = self.make()
        for phase in objective.phases():
            for batch in (torch.cat([x, x]), x[: objective.smallest_batch]):
                bound = _estimate(phase, model, batch).bound
                assert tuple(bound.shape) == (len(batch),), phase.name
                assert bound.isfinite().all(), phase.name

    def test_global_terms_are_divided_by_the_size_of_the_data(self) -> None:
        """A prior's KL(q(g) || p(g)) counts once for the data set, not for each example."""
        for size in (10, 20):
            model, x, _ = self.model()
            counted, prior = self.partner.fresh(), _Counted(self.partner.fresh().prior)
            counted.prior = prior
            ctx, phases = StepContext(10**6, 10.0**6, size), self.make().phases()
            plain, extra = self._seeded(model, x, ctx), self._seeded(counted, x, ctx)
            for phase, without, with_ in zip(phases, plain, extra, strict=True):
                share = (without.bound - with_.bound).mean().item() * size / 3.0
                assert abs(share - 1) < 1e-6, f"{phase.name}: {share:.4g} KL / N in the bound"
                if Part.PRIOR in phase.updates:
                    self._assert_weight(phase, with_, prior.kl, size)

    def test_every_phase_reaches_the_parts_that_it_updates(self) -> None:
        """Each part with parameters that a phase updates gets a gradient that is not all zero."""
        model, x, _ = self.model()
        objective = self.make()
        modules = _modules(model, objective)
        for phase in objective.phases():
            for module in modules.values():
                module.zero_grad(set_to_none=True)
            _estimate(phase, model, x).surrogate.backward()
            for part in phase.updates:
                self._assert_reached(phase, part, modules[part])

    def test_what_it_trains_is_what_its_phases_update(self) -> None:
        """`trains` is the union of the phases' `updates`."""
        objective = self.make()
        updates = Part(0)
        for phase in objective.phases():
            updates |= phase.updates
        own = Part.OBJECTIVE if not any(True for _ in objective.parameters()) else Part(0)
        assert updates | own == objective.trains | own, f"{updates} are updated"

    def test_it_learns(self) -> None:
        """Following its surrogate raises its own bound, on the same noise."""
        model, x, _ = self.model()
        objective = self.make()
        torch.manual_seed(3)
        base.shaken(model, 0.5)
        before = self._level(objective, model, x)
        steps = [torch.optim.Adam(p, 1e-2) for p in self._moved(objective, model)]
        for _ in range(40):
            for phase, step in zip(objective.phases(), steps, strict=True):
                for _ in range(phase.repeat):
                    step.zero_grad()
                    _estimate(phase, model, x).surrogate.backward()
                    step.step()
        after = self._level(objective, model, x)
        note(f"its bound rose from {before:.2f} to {after:.2f} nats")
        assert after > before, f"its bound fell from {before:.2f} to {after:.2f} nats"

    def test_it_is_warm_in_the_end(self) -> None:
        """Schedules finish."""
        assert self.make().warm(_late())

    def test_every_phase_has_a_name_and_work(self) -> None:
        """Names are unique; each phase updates something at least once."""
        phases = self.make().phases()
        assert len({phase.name for phase in phases}) == len(phases) > 0
        assert all(phase.updates and phase.repeat >= 1 for phase in phases)

    def test_it_passes_a_rehearsal(self) -> None:
        """With some model; nothing is left behind."""
        model, _, _ = self.model()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        noise = torch.get_rng_state()
        rehearse(model, self.make(), self.partner.data)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.equal(noise, torch.get_rng_state())

    def test_its_state_can_be_stored(self) -> None:
        """State dict and deep copy carry what it learns besides the model."""
        one, two = base.shaken(self.make()), self.make()
        two.load_state_dict(one.state_dict())
        for name, value in one.state_dict().items():
            assert torch.equal(value, two.state_dict()[name]), name

    def test_it_follows_the_type_of_the_model(self) -> None:
        """A model in float32 gives bounds in float32."""
        model, x, _ = self.model()
        objective = self.make().float()
        for phase in objective.phases():
            assert _estimate(phase, model.float(), x.float()).bound.dtype == torch.float32

    def test_it_follows_the_device_of_the_model(self) -> None:
        """On a GPU, bounds are there."""
        model, x, _ = self.model()
        for device in base.devices():
            objective = self.make().to(device)
            for phase in objective.phases():
                bound = _estimate(phase, model.to(device), x.to(device)).bound
                assert bound.device.type == device

    def _bounds(self, phase: Phase, model: LatentModel, x: Tensor, n: int) -> Tensor:
        """`n` independent bounds of every example, `[n, batch]`: in batches that repeat them."""
        found = []
        for size in [_REPEAT] * (n // _REPEAT):
            bound = _estimate(phase, model, x.repeat(size, *[1] * (x.ndim - 1))).bound
            found.append(bound.reshape(size, len(x)))
        return torch.cat(found)

    def _gradients(self, objective: Objective, model: LatentModel, x: Tensor) -> Tensor:
        """Draws of the first phase's gradient in the encoder."""
        phase = objective.phases()[0]
        weights: list[Tensor] = list(model.inference.parameters())
        return gradients(lambda: _estimate(phase, model, x).surrogate, weights, self.draws)

    def _estimates(self) -> list[Estimate]:
        model, x, _ = self.model()
        return [_estimate(phase, model, x) for phase in self.make().phases()]

    def _seeded(
        self,
        model: LatentModel | None = None,
        x: Tensor | None = None,
        ctx: StepContext | None = None,
    ) -> list[Estimate]:
        if model is None or x is None:
            model, x, _ = self.model()
        torch.manual_seed(2)
        objective, found = self.make(), []
        for phase in objective.phases():
            torch.manual_seed(4)
            found.append(phase.estimate(model, x, ctx or _late()))
        return found

    def _level(self, objective: Objective, model: LatentModel, x: Tensor) -> float:
        """The mean bound of the last phase over the same noise."""
        torch.manual_seed(5)
        phase = objective.phases()[-1]
        return float(torch.stack([_estimate(phase, model, x).bound for _ in range(20)]).mean())

    def _moved(self, objective: Objective, model: LatentModel) -> list[list[nn.Parameter]]:
        modules = _modules(model, objective)
        return [
            [p for part in phase.updates for p in modules[part].parameters() if p.requires_grad]
            for phase in objective.phases()
        ]

    @staticmethod
    def _assert_reached(phase: Phase, part: Part, module: nn.Module) -> None:
        asked = [p for p in module.parameters() if p.requires_grad]
        reached = [p.grad for p in asked if p.grad is not None]
        name = str(part.name).lower()
        assert not asked or any(g.any() for g in reached), f"{phase.name} leaves {name} alone"
        assert all(g.isfinite().all() for g in reached), f"{phase.name}: {name} not finite"

    @staticmethod
    def _assert_weight(phase: Phase, estimate: Estimate, kl: Tensor, size: int) -> None:
        (gradient,) = torch.autograd.grad(
            estimate.surrogate, kl, allow_unused=True, materialize_grads=True
        )
        share = gradient.item() * size
        assert abs(share - 1) < 1e-6, f"{phase.name}: {share:.4g} KL / N in the surrogate"


class _Counted(Prior):
    """A prior with a global divergence of 3 nats, which can be trained."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        self.kl = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, inference: Conditional) -> PriorDraw:
        return PriorDraw(self.prior(inference).z, self.kl)


def _modules(model: LatentModel, objective: Objective) -> dict[Part, nn.Module]:
    return {
        Part.INFERENCE: model.inference,
        Part.PRIOR: model.prior,
        Part.GENERATOR: model.generator,
        Part.OBJECTIVE: objective,
    }


def _estimate(phase: Phase, model: LatentModel, x: Tensor) -> Estimate:
    return phase.estimate(model, x, _late())


def _late() -> StepContext:
    """Far into training, when every schedule has ended."""
    return StepContext(10**6, 10.0**6, 1000)
