"""Coordinate ascent: exact on a model of a few states, by gradients on the components."""

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from vaepipe.core import LatentModel, Part, StepContext
from vaepipe.errors import CompatibilityError
from vaepipe.objectives.aggregate import AggregatePosterior
from vaepipe.objectives.elbo import ELBO, SampledELBO
from vaepipe.objectives.em import VariationalEM
from vaepipe.priors.mixture import MixturePrior
from vaepipe.testing import PPCA, assert_mean, gradients
from vaepipe.testing.contracts.base import shaken

CONTEXT = StepContext(0, 0.0, 1000)


class States:
    """z in 3 states, x in 5, and data with given frequencies; every table is a distribution."""

    def __init__(self, seed, frequencies=None):
        g = torch.Generator().manual_seed(seed)
        self.data = frequencies
        if frequencies is None:
            self.data = torch.rand(5, generator=g)
            self.data = self.data / self.data.sum()
        self.prior = torch.rand(3, generator=g).softmax(0)
        self.likelihood = torch.rand(3, 5, generator=g).mul(3).softmax(1)  # [z, x]
        self.q = torch.rand(5, 3, generator=g).mul(3).softmax(1)  # [x, z]

    def elbo(self):
        """Mean over the data of E_q log p(x | z) - KL(q || p)."""
        log_lik = (self.q * self.likelihood.T.log()).nan_to_num(0).sum(1)
        rate = kl_divergence(Categorical(self.q), Categorical(self.prior.expand(5, 3)))
        return (self.data * (log_lik - rate)).sum()

    def log_evidence(self):
        return (self.data * (self.prior @ self.likelihood).log()).sum()

    def expect(self):
        joint = self.prior * self.likelihood.T
        self.q = joint / joint.sum(1, keepdim=True)

    def fit_prior(self):
        self.prior = self.data @ self.q

    def fit_likelihood(self):
        counts = (self.data[:, None] * self.q).T
        self.likelihood = counts / counts.sum(1, keepdim=True)


@pytest.mark.parametrize("seed", range(5))
def test_no_half_step_lowers_the_elbo(seed):
    toy = States(seed)
    last = toy.elbo()
    for _ in range(100):
        for half_step in (toy.expect, toy.fit_prior, toy.fit_likelihood):
            half_step()
            assert toy.elbo() >= last - 1e-12
            last = toy.elbo()
    toy.expect()
    assert torch.isclose(toy.elbo(), toy.log_evidence(), atol=1e-12)


def test_the_prior_of_an_m_step_is_the_aggregate_posterior_and_not_a_point():
    """No other prior on a grid of the simplex does better."""
    toy = States(0)
    toy.expect()
    toy.fit_prior()
    best, aggregate = toy.elbo(), toy.prior
    assert torch.allclose(aggregate, toy.data @ toy.q) and aggregate.min() > 0.05
    for i in range(1, 40):
        for j in range(1, 40 - i):
            toy.prior = torch.tensor([i, j, 40 - i - j]) / 40
            assert toy.elbo() <= best + 1e-12


def test_a_point_is_the_fixed_point_of_repeated_steps_with_one_datum():
    """p(z) of one step is q(z | x); of many, all mass on the state that explains x best."""
    one = torch.zeros(5)
    one[2] = 1.0
    toy = States(1, one)
    toy.expect()
    toy.fit_prior()
    assert torch.allclose(toy.prior, toy.q[2]) and toy.prior.max() < 0.9
    for _ in range(2000):
        toy.expect()
        toy.fit_prior()
    assert toy.prior[toy.likelihood[:, 2].argmax()] > 1 - 1e-9


def misjudged():
    ppca = PPCA.random(4, 2, seed=0)
    model = ppca.model()
    shaken(model.inference)
    return ppca, model, ppca.draw(8)


def test_the_phases_are_the_halves_of_the_elbo():
    """The same draws give the E-step the encoder's gradient, the M-step all others."""
    _, model, x = misjudged()
    e, m = VariationalEM(e_steps=3, m_steps=2, samples=2).phases()
    assert (e.repeat, m.repeat) == (3, 2)
    assert (e.updates, m.updates) == (Part.INFERENCE, Part.GENERATOR | Part.PRIOR)

    def gradient(estimate, part):
        torch.manual_seed(3)
        wanted = list(part.parameters())
        return torch.autograd.grad(estimate(model, x, CONTEXT).surrogate, wanted)

    for phase, part in ((e, model.inference), (m, model.generator)):
        ours, joint = gradient(phase.estimate, part), gradient(ELBO(samples=2).estimate, part)
        assert all(torch.allclose(a, b) for a, b in zip(ours, joint, strict=True))


def trained(objective, steps):
    """The bound in the last steps of a fit from a shaken start."""
    ppca = PPCA.random(4, 2, seed=0)
    torch.manual_seed(5)
    model, x = ppca.model(), ppca.draw(64)
    shaken(model, 0.3)
    moved = {Part.INFERENCE: model.inference, Part.GENERATOR: model.generator}
    phases = objective.phases()
    optimizers = [
        torch.optim.Adam(
            [p for part in phase.updates if part in moved for p in moved[part].parameters()], 0.02
        )
        for phase in phases
    ]
    bounds = []
    for _ in range(steps):
        for phase, optimizer in zip(phases, optimizers, strict=True):
            for _ in range(phase.repeat):
                optimizer.zero_grad()
                estimate = phase.estimate(model, x, CONTEXT)
                estimate.surrogate.backward()
                optimizer.step()
        bounds.append(estimate.bound.mean())
    return torch.stack(bounds[-50:]).mean().item()


def test_turns_reach_the_elbo_that_joint_steps_reach():
    """Within 0.3 nats."""
    joint = trained(ELBO(samples=4), 200)
    assert trained(VariationalEM(samples=4), 200) == pytest.approx(joint, abs=0.3)


def with_mixture(model, x):
    """A prior of one Normal that equals the aggregate posterior in mean and spread."""
    q = model.inference(x)
    prior = MixturePrior((2,), None, components=1)
    mean = q.mean.mean(0)
    spread = (q.variance + (q.mean - mean).square()).mean(0)
    with torch.no_grad():
        prior.loc.copy_(mean)
        prior.log_scale.copy_(0.5 * spread.log())
    return LatentModel(model.inference, prior, model.generator)


def test_aggregate_fits_the_moments_of_the_aggregate_posterior():
    """The best single Normal has its moments: there the expected gradient is zero."""
    _, model, x = misjudged()
    model = with_mixture(model, x)
    prior = model.prior

    def surrogate():
        return AggregatePosterior(samples=20).estimate(model, x, CONTEXT).surrogate

    wanted = [prior.loc, prior.log_scale]
    assert_mean(gradients(surrogate, wanted, 150), 0.0, "the gradient at the moments")
    with torch.no_grad():
        prior.loc.add_(0.5)
    assert gradients(surrogate, wanted, 20).mean(0).abs().max() > 0.05


def test_aggregate_reports_the_elbo_and_moves_the_prior_only():
    _, model, x = misjudged()
    model = with_mixture(model, x)
    torch.manual_seed(4)
    ours = AggregatePosterior(samples=3).estimate(model, x, CONTEXT)
    torch.manual_seed(4)
    elbo = SampledELBO(samples=3).estimate(model, x, CONTEXT)
    assert torch.allclose(ours.bound, elbo.bound)
    ours.surrogate.backward()
    assert all(p.grad is None for p in model.inference.parameters())
    assert all(p.grad is None for p in model.generator.parameters())
    assert AggregatePosterior().phases()[0].updates == Part.PRIOR == AggregatePosterior.trains


def test_aggregate_has_nothing_to_do_for_a_prior_without_parameters():
    _, model, x = misjudged()
    with pytest.raises(CompatibilityError, match=r"StandardNormal has nothing to train.*vamp"):
        AggregatePosterior().estimate(model, x, CONTEXT)
