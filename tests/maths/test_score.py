"""Estimators that need no gradient through z, against enumeration of an 8-bit latent."""

import copy

import pytest
import torch

from vaepipe.core import SUPPORTS, DataSpec, Network, Part, StepContext, WholeBatch, rehearse
from vaepipe.errors import CompatibilityError
from vaepipe.objectives import score as score_module
from vaepipe.objectives.baselines import AverageBaseline, LearnedBaseline, Moments, OthersBaseline
from vaepipe.objectives.score import VIMCO, Reinforce, without_each
from vaepipe.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep, dream
from vaepipe.testing import (
    PPCA,
    Enumeration,
    assert_mean,
    assert_same_mean,
    binary_codes,
    gradients,
    z_scores,
)

CONTEXT = StepContext(0, 0.0, 1000)
DATA = DataSpec((6,), SUPPORTS["boolean"], 1000)
N = 20_000


class OwnAffine(Network):
    """An affine map with weights of its own for every example, all of equal value.

    The gradients of the examples' weights are then independent draws of one gradient.
    """

    def __init__(self, affine, n):
        super().__init__()
        (layer,) = affine.layers
        self.weight = torch.nn.Parameter(layer.weight.detach().expand(n, -1, -1).clone())
        self.bias = torch.nn.Parameter(layer.bias.detach().expand(n, -1).clone())

    def forward(self, v):
        return torch.einsum("ni,noi->no", v, self.weight) + self.bias


@pytest.fixture
def exact():
    return Enumeration.binary(8, 6, seed=0)


@pytest.fixture
def x():
    return torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0, 1.0]])


def encoder_draws(estimate, exact, x, n=N):
    """`n` independent gradients of every coordinate of the encoder, for one example."""
    own = copy.deepcopy(exact.model)
    own.inference.network = network = OwnAffine(own.inference.network, n)
    estimate(own, x.expand(n, -1), CONTEXT).surrogate.mul(n).backward()
    return torch.cat([p.grad.reshape(n, -1) for p in network.parameters()], 1)


def generator_draws(estimate, exact, x, n=200, batch=100):
    """`n` gradients of decoder and prior, each the mean over `batch` draws."""
    rows = x.expand(batch, -1)
    return gradients(lambda: estimate(exact.model, rows, CONTEXT).surrogate, generator(exact), n)


def encoder(exact):
    return list(exact.model.inference.parameters())


def generator(exact):
    return [*exact.model.generator.parameters(), *exact.model.prior.parameters()]


def gradient(value, parameters):
    """The exact gradient of what is minimised."""
    parts = torch.autograd.grad(value.mean(), parameters, retain_graph=True)
    return torch.cat([part.flatten() for part in parts])


def warmed(objective, exact, x):
    """A baseline that has seen some batches, and a little training."""
    optimizer = torch.optim.Adam([*objective.parameters(), torch.nn.Parameter(torch.zeros(1))])
    for _ in range(50):
        optimizer.zero_grad()
        objective.estimate(exact.model, x.expand(50, -1), CONTEXT).surrogate.backward()
        optimizer.step()
    return objective


REINFORCE = [
    ("none", 1),
    ("average", 1),
    ("learned", 1),
    ("none", 4),
    ("leave_one_out", 2),
    ("leave_one_out", 4),
]


@pytest.mark.parametrize(("baseline", "samples"), REINFORCE)
def test_reinforce_is_unbiased_in_every_coordinate(baseline, samples, exact, x):
    objective = warmed(Reinforce(samples=samples, baseline=baseline), exact, x)
    draws = encoder_draws(objective.estimate, exact, x)
    assert_mean(draws, gradient(-exact.elbo(x), encoder(exact)), "encoder", limit=4)
    draws = generator_draws(objective.estimate, exact, x)
    assert_mean(draws, gradient(-exact.elbo(x), generator(exact)), "generator and prior", limit=4)


@pytest.mark.parametrize("mean", ["geometric", "arithmetic"])
def test_vimco_is_unbiased_in_every_coordinate(mean, exact, x):
    objective = VIMCO(k=2, mean=mean)
    draws = encoder_draws(objective.estimate, exact, x)
    assert_mean(draws, gradient(-exact.iwae_2(x), encoder(exact)), "encoder", limit=4)
    draws = generator_draws(objective.estimate, exact, x)
    expected = gradient(-exact.iwae_2(x), generator(exact))
    assert_mean(draws, expected, "generator and prior", limit=4)


def test_more_draws_of_vimco_agree_whatever_the_mean(exact, x):
    """k = 5: two baselines, one expectation."""
    one = encoder_draws(VIMCO(k=5).estimate, exact, x)
    other = encoder_draws(VIMCO(k=5, mean="arithmetic").estimate, exact, x)
    assert_same_mean(one, other, "encoder", limit=4)


def variance(objective, exact, x):
    return encoder_draws(warmed(objective, exact, x).estimate, exact, x).var(0).sum().item()


def test_baselines_lower_the_variance_of_reinforce(exact, x):
    none, average, learned = (
        variance(Reinforce(samples=1, baseline=b), exact, x) for b in ("none", "average", "learned")
    )
    assert average < 0.8 * none and learned < 0.8 * none
    four = variance(Reinforce(samples=4, baseline="none"), exact, x)
    others = variance(Reinforce(samples=4), exact, x)
    assert others < 0.8 * four
    print("variance", none, average, learned, four, others)


def test_local_baselines_lower_the_variance_of_vimco(exact, x, monkeypatch):
    """Without them every draw is credited with the whole bound."""
    local = variance(VIMCO(k=5), exact, x)
    monkeypatch.setattr(score_module, "without_each", lambda log_w, geometric: 0 * log_w)
    assert local < 0.5 * variance(VIMCO(k=5), exact, x)


@pytest.mark.parametrize("geometric", [True, False])
def test_the_baseline_of_a_draw_does_not_depend_on_it(geometric):
    log_w = (300 * torch.randn(5, 7) - 500).requires_grad_()
    left = without_each(log_w, geometric=geometric)
    assert left.isfinite().all()
    for i in range(5):
        (slope,) = torch.autograd.grad(left[i].sum(), log_w, retain_graph=True)
        assert (slope[i] == 0).all() and slope.abs().sum() > 0


def test_the_arithmetic_baseline_is_the_bound_of_the_other_draws():
    log_w = torch.randn(4, 7)
    left = without_each(log_w, geometric=False)
    others = torch.stack([log_w[[j for j in range(4) if j != i]] for i in range(4)])
    assert torch.allclose(left, others.exp().mean(1).log())


BOUNDS = [
    (Reinforce, {"samples": 1, "baseline": "none"}, "elbo"),
    (Reinforce, {"samples": 3}, "elbo"),
    (Reinforce, {"samples": 1, "baseline": "learned"}, "elbo"),
    (VIMCO, {"k": 2}, "iwae_2"),
    (WakeSleep, {"samples": 2}, "elbo"),
    (ReweightedWakeSleep, {"k": 2}, "iwae_2"),
    (ReweightedWakeSleep, {"k": 2, "wake_phi": False, "sleep_phi": True}, "iwae_2"),
]


@pytest.mark.parametrize(("objective", "options", "bound"), BOUNDS)
def test_every_phase_reports_the_bound_of_the_data(objective, options, bound, exact, x):
    """Also a phase that learns from dreams."""
    truth = getattr(exact, bound)(x).detach()
    for phase in objective(**options).phases():
        estimate = phase.estimate(exact.model, x.expand(N, -1), CONTEXT)
        assert_mean(estimate.bound, truth, phase.name, limit=4)
        assert estimate.terms["log_lik"].shape == (N,)


def test_the_wake_phase_climbs_the_elbo(exact, x):
    wake, _ = WakeSleep(samples=2).phases()
    assert wake.updates == Part.GENERATOR | Part.PRIOR
    expected = gradient(-exact.elbo(x), generator(exact))
    assert_mean(generator_draws(wake.estimate, exact, x), expected, "wake", limit=4)


def dreamed_gradient(exact):
    """-E_p(x, z) d log q(z | x), over all 64 examples and 256 codes."""
    every = binary_codes(6)
    joint = exact.log_joint(every).exp().detach()
    assert joint.sum().item() == pytest.approx(1)
    return gradient(-(joint * exact.log_q(every)).sum(), encoder(exact))


def test_the_sleep_phase_learns_the_inverse_of_the_model(exact, x):
    _, sleep = WakeSleep().phases()
    assert sleep.updates == Part.INFERENCE
    draws = encoder_draws(sleep.estimate, exact, x)
    assert_mean(draws, dreamed_gradient(exact), "sleep", limit=4)


def test_the_wake_phase_of_rws_climbs_the_importance_weighted_bound(exact, x):
    wake, _ = ReweightedWakeSleep(k=2).phases()
    expected = gradient(-exact.iwae_2(x), generator(exact))
    assert_mean(generator_draws(wake.estimate, exact, x), expected, "wake", limit=4)


def phi_of_two_draws(exact, x):
    """The expectation of wake-phi with k = 2, over all pairs of codes."""
    log_q = exact.log_q(x).squeeze(1)
    q = log_q.exp().detach()
    log_w = (exact.log_joint(x).squeeze(1) - log_q).detach()
    v = torch.sigmoid(log_w.unsqueeze(1) - log_w)  # [i, j]: the weight of i beside j
    return gradient(-2 * (q.unsqueeze(1) * q * v * log_q.unsqueeze(1)).sum(), encoder(exact))


def test_wake_phi_of_rws_has_its_expectation_and_its_limit(exact, x):
    """Exact for two draws; for many, the gradient of KL(p(z | x) || q(z | x))."""
    limit = gradient(exact.divergence(x), encoder(exact))
    _, phi = ReweightedWakeSleep(k=2).phases()
    assert phi.updates == Part.INFERENCE
    few, two = encoder_draws(phi.estimate, exact, x), phi_of_two_draws(exact, x)
    assert_mean(few, two, "wake phi of two draws", limit=4)
    assert z_scores(few, limit).abs().max() > 8
    _, phi = ReweightedWakeSleep(k=2000).phases()
    many = encoder_draws(phi.estimate, exact, x, n=300)
    assert_mean(many, limit, "wake phi of many draws", limit=4)
    square = (many.mean(0) - limit).square() - many.var(0) / len(many)  # less what is noise
    assert square.sum() < (0.02 * (two - limit).norm()).square()


def test_sleep_phi_of_rws_is_sleep_and_both_are_averaged(exact, x):
    _, phi = ReweightedWakeSleep(k=2, wake_phi=False, sleep_phi=True).phases()
    asleep = dreamed_gradient(exact)
    assert_mean(encoder_draws(phi.estimate, exact, x), asleep, "sleep phi", limit=4)
    _, phi = ReweightedWakeSleep(k=2, wake_phi=True, sleep_phi=True).phases()
    both = (asleep + phi_of_two_draws(exact, x)) / 2
    assert_mean(encoder_draws(phi.estimate, exact, x), both, "both", limit=4)


def test_dreams_are_examples(exact):
    x = torch.zeros(9, 6, dtype=torch.float32)
    z, dreamed = dream(exact.model, x)
    assert dreamed.shape == x.shape and dreamed.dtype == x.dtype and not dreamed.requires_grad
    assert z.shape == (9, 8) and SUPPORTS["boolean"].check(dreamed).all()


def test_dreams_follow_the_model(exact):
    """Pixels as often on as the sum over all codes says."""
    _, dreamed = dream(exact.model, torch.zeros(N, 6))
    every = binary_codes(6)
    chances = (exact.log_evidence(every).exp().unsqueeze(1) * every).sum(0).detach()
    assert_mean(dreamed, chances, "dreamed pixels", limit=4)


def test_baselines_know_nothing_of_the_batch_at_hand():
    """Else their own signal would bias them."""
    for made in (AverageBaseline(), LearnedBaseline()):
        x, signal = torch.rand(5, 6), torch.randn(1, 5)
        one, _ = copy.deepcopy(made)(x, signal, WholeBatch())
        other, _ = copy.deepcopy(made)(x, signal + 100, WholeBatch())
        assert torch.allclose(other - one, torch.tensor(100.0))
    signal = torch.randn(3, 5)
    left, _ = OthersBaseline()(torch.rand(5, 6), signal, WholeBatch())
    assert torch.allclose(left[0], signal[0] - (signal[1] + signal[2]) / 2)


def test_moments_forget_slowly_and_start_without_a_bias():
    moments = Moments()
    assert [v.item() for v in moments()] == [0.0, 1.0]
    moments.add(torch.tensor([-480.0, -520.0]), WholeBatch())
    assert [v.item() for v in moments()] == pytest.approx([-500.0, 20.0])


def test_a_learned_baseline_learns_what_x_says():
    """A signal that x determines is explained away; only the baseline is trained by its error."""
    baseline = LearnedBaseline()
    optimizer = torch.optim.Adam(baseline.parameters(), lr=1e-2)
    for _ in range(300):
        x = torch.bernoulli(torch.full((100, 6), 0.5))
        signal = (20 * x[:, 0] - 500 + torch.randn(100)).unsqueeze(0)
        optimizer.zero_grad()
        left, error = baseline(x, signal, WholeBatch())
        error.backward()
        optimizer.step()
    assert not left.requires_grad
    assert left.std() < 0.3 * signal.std()


OBJECTIVES = [
    *((Reinforce, {"samples": s, "baseline": b}) for b, s in REINFORCE),
    (VIMCO, {}),
    (WakeSleep, {}),
    (ReweightedWakeSleep, {}),
    (ReweightedWakeSleep, {"sleep_phi": True}),
]


@pytest.mark.parametrize(("objective", "options"), OBJECTIVES)
def test_they_train_discrete_and_continuous_latents_alike(objective, options, exact):
    rehearse(exact.model, objective(**options), DATA)
    ppca = PPCA.random(4, 2, seed=0)
    rehearse(ppca.model(), objective(**options), ppca.data)


def test_options_that_make_no_estimator_are_refused():
    with pytest.raises(CompatibilityError, match="samples: 2 or more"):
        Reinforce(samples=1)
    with pytest.raises(CompatibilityError, match="never trains the encoder"):
        ReweightedWakeSleep(wake_phi=False)
