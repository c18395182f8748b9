"""What every objective promises."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from vaepipe.core import (
    Conditional,
    Estimate,
    LatentModel,
    Objective,
    Prior,
    PriorDraw,
    StepContext,
    rehearse,
)
from vaepipe.testing.contracts import base
from vaepipe.testing.exact import PPCA
from vaepipe.testing.statistics import z_scores


class ObjectiveContract(base.Contract, ABC):
    """Write `make`; write `model` where the objective needs another kind of latent."""

    @abstractmethod
    def make(self) -> Objective:
        """A fresh objective, with the options that it is used with at the end of training."""

    def model(self) -> tuple[LatentModel, Tensor, Tensor]:
        """A model whose q(z | x) is *not* the posterior, examples, and their log p(x)."""
        ppca = PPCA.random(4, 2, seed=0)
        model, x = ppca.model(), ppca.draw(8)
        base.shaken(model.inference)
        return model, x, ppca.log_evidence(x)

    def test_the_bound_has_one_number_for_each_example(self) -> None:
        """`bound` and `terms` are `[batch]` without gradient, `surrogate` is `[]` with one."""
        for estimate in self._estimates():
            assert tuple(estimate.bound.shape) == (8,)
            assert estimate.bound.isfinite().all() and not estimate.bound.requires_grad
            assert tuple(estimate.surrogate.shape) == () and estimate.surrogate.requires_grad
            for name, term in estimate.terms.items():
                assert tuple(term.shape) == (8,) and not term.requires_grad, name

    def test_the_bound_is_below_the_evidence(self) -> None:
        """Averaged over its draws, for every example."""
        model, x, log_evidence = self.model()
        for phase in self.make().phases():
            draws = torch.stack([phase.estimate(model, x, _context()).bound for _ in range(400)])
            assert (z_scores(draws, log_evidence) < 4.5).all(), phase.name

    def test_the_same_seed_gives_the_same_estimate(self) -> None:
        """All its randomness is torch's."""
        one, two = (self._seeded() for _ in range(2))
        for a, b in zip(one, two, strict=True):
            assert torch.equal(a.bound, b.bound) and torch.equal(a.surrogate, b.surrogate)

    def test_global_terms_are_divided_by_the_size_of_the_data(self) -> None:
        """A prior's KL(q(g) || p(g)) counts once for the data set, not for each example."""
        model, x, _ = self.model()
        prior = _Counted(model.prior)
        counted = LatentModel(model.inference, prior, model.generator)
        for num_examples in (10, 20):
            ctx = StepContext(10**6, 10.0**6, num_examples)
            for plain, extra in zip(
                self._seeded(model, x, ctx), self._seeded(counted, x, ctx), strict=True
            ):
                assert torch.allclose(plain.bound - extra.bound, torch.tensor(3.0 / num_examples))
                (gradient,) = torch.autograd.grad(extra.surrogate, prior.kl)
                assert torch.allclose(gradient, torch.tensor(1.0 / num_examples))

    def test_it_is_warm_in_the_end(self) -> None:
        """Schedules finish."""
        assert self.make().warm(_context())

    def test_every_phase_has_a_name_and_work(self) -> None:
        """Names are unique; each phase updates something at least once."""
        phases = self.make().phases()
        assert len({phase.name for phase in phases}) == len(phases) > 0
        assert all(phase.updates and phase.repeat >= 1 for phase in phases)

    def test_it_passes_a_rehearsal(self) -> None:
        """With some model; nothing is left behind."""
        model, _, _ = self.model()
        data = PPCA.random(4, 2, seed=0).data
        before = {name: value.clone() for name, value in model.state_dict().items()}
        noise = torch.get_rng_state()
        rehearse(model, self.make(), data)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert torch.equal(noise, torch.get_rng_state())

    def _estimates(self) -> list[Estimate]:
        model, x, _ = self.model()
        return [phase.estimate(model, x, _context()) for phase in self.make().phases()]

    def _seeded(
        self,
        model: LatentModel | None = None,
        x: Tensor | None = None,
        ctx: StepContext | None = None,
    ) -> list[Estimate]:
        torch.manual_seed(1)
        if model is None or x is None:
            model, x, _ = self.model()
        torch.manual_seed(2)
        objective = self.make()
        return [phase.estimate(model, x, ctx or _context()) for phase in objective.phases()]


class _Counted(Prior):
    """A prior with a global divergence of 3 nats, which can be trained."""

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        self.kl = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, inference: Conditional) -> PriorDraw:
        return PriorDraw(self.prior(inference).z, self.kl)


def _context() -> StepContext:
    """Far into training, when every schedule has ended."""
    return StepContext(10**6, 10.0**6, 1000)
