"""Objectives that pay for the rate in other coins: schedules, capacity, parts of it, distances."""

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical, Independent, MultivariateNormal, Normal
from torch.distributions.kl import kl_divergence

from vaepipe.core import (
    SUPPORTS,
    Conditional,
    DataSpec,
    LatentModel,
    Mixture,
    StepContext,
    rate,
)
from vaepipe.errors import CompatibilityError, UserError
from vaepipe.families.mixture import MixtureFamily
from vaepipe.families.normal import FullNormal, raw_of
from vaepipe.families.relaxed import ConcreteFamily
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.capacity import Capacity
from vaepipe.objectives.elbo import ELBO, SampledELBO
from vaepipe.objectives.mmd import WAE, InfoVAE, discrepancy, prior_draws
from vaepipe.objectives.schedules import Ramp
from vaepipe.objectives.total_correlation import (
    BetaTC,
    log_aggregate,
    marginals,
    total_correlation,
)
from vaepipe.priors.vamp import VampPrior
from vaepipe.testing import PPCA, assert_mean, assert_same_mean, gradients
from vaepipe.testing.contracts.base import shaken

REALS = DataSpec((4,), SUPPORTS["real"], 100)


def at(epoch, num_examples=1000):
    return StepContext(0, epoch, num_examples)


@pytest.fixture(params=[False, True], ids=["full", "diagonal"])
def model(request):
    made = PPCA.random(6, 3, seed=3, orthogonal=True).model(diagonal=request.param)
    return shaken(made)


@pytest.fixture
def x():
    return PPCA.random(6, 3, seed=3, orthogonal=True).draw(20)


def estimate(objective, model, x, epoch=0.0):
    torch.manual_seed(5)
    return objective.estimate(model, x, at(epoch))


# Schedules


def test_a_cycle_rises_stays_and_starts_again():
    """Fu et al. (2019): 4 epochs up, half of each cycle of 8; the last one stays."""
    ramp = Ramp(3.0, length=4.0, cycles=3, share=0.5)
    shares = {
        0: 0,
        2: 0.5,
        4: 1,
        7.5: 1,
        8: 0,
        9: 0.25,
        12: 1,
        16: 0,
        19: 0.75,
        20: 1,
        24: 1,
        99: 1,
    }
    for epoch, share in shares.items():
        assert ramp.at(at(epoch)) == pytest.approx(3.0 * share), epoch
        assert ramp.ended(at(epoch)) == (epoch >= 20)


def test_one_cycle_is_the_linear_rise_and_no_length_none():
    for epoch in (0.0, 0.3, 2.0, 5.0, 11.0):
        assert Ramp(2.0, 5.0).at(at(epoch)) == 2.0 * min(1.0, epoch / 5.0)
        assert Ramp(2.0, 5.0, cycles=1, share=0.1).at(at(epoch)) == Ramp(2.0, 5.0).at(at(epoch))
        assert Ramp(2.0).at(at(epoch)) == 2.0 and Ramp(2.0).ended(at(epoch))


@pytest.mark.parametrize("objective", [ELBO, SampledELBO])
def test_cycles_that_could_not_be_seen_are_refused(objective):
    with pytest.raises(UserError, match="Set warmup_epochs"):
        objective(cycles=4)


@pytest.mark.parametrize("objective", [ELBO, SampledELBO])
def test_objectives_follow_the_cycles_and_are_warm_after_the_last_rise(objective, model, x):
    cyclic = objective(beta=2.0, warmup_epochs=4, cycles=2, cycle_share=0.5)
    for epoch, weight in ((2.0, 1.0), (6.0, 2.0), (8.0, 0.0), (10.0, 1.0), (40.0, 2.0)):
        expected = estimate(objective(beta=weight), model, x)
        found = estimate(cyclic, model, x, epoch)
        assert torch.allclose(found.surrogate, expected.surrogate)
        assert torch.equal(found.bound, expected.bound)
        assert cyclic.warm(at(epoch)) == (epoch >= 12)


# Capacity


@pytest.mark.parametrize("target", [0.5, 500.0])
def test_capacity_is_the_distance_of_the_rate_from_its_target(target, model, x):
    objective = Capacity(gamma=7.0, capacity=target, warmup_epochs=10, samples=2)
    for epoch, share in ((0.0, 0.0), (2.5, 0.25), (10.0, 1.0), (30.0, 1.0)):
        e = estimate(objective, model, x, epoch)
        distance = (e.terms["rate"].mean() - share * target).abs()
        assert torch.allclose(e.surrogate, 7.0 * distance - e.terms["log_lik"].mean())
        assert torch.equal(e.bound, estimate(ELBO(samples=2), model, x).bound)
        assert objective.warm(at(epoch)) == (epoch >= 10)


def test_below_its_target_capacity_raises_the_rate_and_above_it_lowers_it(model, x):
    def slope(target):
        parameters = list(model.inference.parameters())
        surrogate = estimate(Capacity(gamma=1.0, capacity=target), model, x).surrogate
        q, p = model.inference(x), model.p_z().z
        r = torch.autograd.grad(rate(q, p, torch.empty(0)).mean(), parameters)
        paid = torch.autograd.grad(surrogate, parameters)
        torch.manual_seed(5)
        z = model.inference(x).rsample((1,))
        lik = torch.autograd.grad(model.generator(z).log_prob(x).mean(), parameters)
        return [(a + b) / c for a, b, c in zip(paid, lik, r, strict=True)]

    for ratio in slope(500.0):
        assert torch.allclose(ratio, -torch.ones(()))
    for ratio in slope(0.0):
        assert torch.allclose(ratio, torch.ones(()))


# The weight of the rate: exact on probabilistic PCA


def tempered(ppca, model, beta):
    """The best encoder for this decoder and beta: the likelihood to the power 1 / beta."""
    w, s2 = ppca.weight, ppca.scale**2
    precision = torch.eye(w.shape[1]) + w.T @ w / (s2 * beta)
    to_loc = torch.linalg.solve(precision, w.T / (s2 * beta))
    (layer,) = model.inference.network.layers
    with torch.no_grad():
        layer.weight[: w.shape[1]] = to_loc
        layer.bias[: w.shape[1]] = -to_loc @ ppca.bias
        layer.bias[w.shape[1] :] = raw_of(precision.diagonal().rsqrt())


def test_the_rate_falls_and_the_distortion_rises_with_beta():
    """Every point is the optimum of its own objective, and none is below the evidence."""
    ppca = PPCA.random(6, 3, seed=3, orthogonal=True)
    model, x = ppca.model(diagonal=True), ppca.draw(200)
    w, points = ppca.weight, []
    for beta in (1e-6, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0):
        tempered(ppca, model, beta)
        with torch.no_grad():
            q = model.inference(x)
            r = rate(q, model.p_z().z, torch.empty(0)).mean().item()
            residual = (x - model.generator.network(q.mean)).square().sum(-1)
            spread = (q.variance @ w.square().T).sum(-1)
            log_norm = 6 * math.log(2 * math.pi * ppca.scale**2)
            d = 0.5 * ((residual + spread) / ppca.scale**2 + log_norm).mean().item()
        points.append((beta, r, d))
    nll = -ppca.log_evidence(x).mean().item()
    for (_, r, d), (_, next_r, next_d) in itertools.pairwise(points):
        assert next_r < r and next_d > d
    slopes = [(b[2] - a[2]) / (b[1] - a[1]) for a, b in itertools.pairwise(points)]
    assert slopes == sorted(slopes, reverse=True), "the curve is convex"
    assert all(r + d >= nll - 1e-9 for _, r, d in points)
    assert points[3][1] + points[3][2] == pytest.approx(nll, abs=1e-9)
    assert points[0][1] > 20 > 1 > points[-1][1]


@pytest.mark.parametrize("beta", [0.5, 4.0])
def test_the_elbo_with_beta_is_stationary_at_the_tempered_posterior(beta):
    ppca = PPCA.random(6, 3, seed=3, orthogonal=True)
    model, x = ppca.model(diagonal=True), ppca.draw(4)
    tempered(ppca, model, beta)
    wanted = list(model.inference.parameters())
    objective = ELBO(beta=beta, samples=20)
    draws = gradients(lambda: objective.estimate(model, x, at(0.0)).surrogate, wanted, 150)
    assert_mean(draws, 0.0, "the gradient at the optimum")


# Total correlation


def test_with_beta_one_it_is_the_elbo(model, x):
    ours, elbo = estimate(BetaTC(beta=1.0), model, x), estimate(ELBO(), model, x)
    assert torch.equal(ours.surrogate, elbo.surrogate) and torch.equal(ours.bound, elbo.bound)


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
def test_beta_prices_the_total_correlation(estimator, model, x):
    objective = BetaTC(beta=5.0, estimator=estimator, warmup_epochs=8)
    elbo = estimate(ELBO(), model, x)
    for epoch, extra in ((0.0, 0.0), (2.0, 1.0), (8.0, 4.0)):
        e = estimate(objective, model, x, epoch)
        expected = elbo.surrogate + extra * e.terms["total_correlation"].mean()
        assert torch.allclose(e.surrogate, expected)
        assert torch.equal(e.bound, elbo.bound)
        assert objective.warm(at(epoch)) == (epoch >= 8)


def test_the_stratified_estimate_of_the_aggregate_posterior_is_unbiased():
    """Over all batches of 3 from 6 examples that contain the one that z came from."""
    q = Independent(Normal(torch.randn(6, 2), torch.rand(6, 2) + 0.3), 1)
    z = torch.randn(2)
    exact = q.log_prob(z).exp().mean()
    found = []
    for others in itertools.permutations(range(1, 6), 2):
        batch = torch.tensor([0, *others])
        log_q = q.log_prob(z)[batch].expand(3, 3)
        found.append(log_aggregate(log_q, 6, "stratified")[0].exp())
    assert torch.allclose(torch.stack(found).mean(), exact)


def test_a_batch_of_all_the_data_gives_the_aggregate_posterior_itself():
    """Both estimators, exactly."""
    q = Independent(Normal(torch.randn(7, 2), torch.rand(7, 2) + 0.3), 1)
    z = q.sample()
    log_q = q.log_prob(z.unsqueeze(1))
    exact = log_q.logsumexp(1) - math.log(7)
    assert torch.allclose(log_aggregate(log_q, 7, "stratified"), exact)
    assert torch.allclose(log_aggregate(log_q, 7, "weighted"), exact)


def test_the_total_correlation_of_a_normal_aggregate_posterior():
    """Codes on a correlated Normal cloud: TC = -1/2 log(1 - rho^2), for many examples."""
    rho, n, spread = 0.8, 3000, 0.3
    covariance = torch.tensor([[1.0, rho], [rho, 1.0]]) - spread**2 * torch.eye(2)
    loc = MultivariateNormal(torch.zeros(2), covariance).sample((n,))
    q = Independent(Normal(loc, torch.full((n, 2), spread)), 1)
    tc = total_correlation(q, q.sample(), n, "stratified").mean().item()
    assert tc == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.06)


@pytest.mark.parametrize("estimator", ["weighted", "stratified"])
@pytest.mark.parametrize("num_examples", [1200, 10**6])
def test_the_total_correlation_of_a_gaussian_aggregate_is_estimated(estimator, num_examples):
    """1/2 (sum_d log S_dd - log det S), whatever N: no constant is counted d times."""
    torch.manual_seed(0)
    d, noise = 3, 0.5
    c = torch.full((d, d), 0.6).fill_diagonal_(1.0)
    s = c + noise * torch.eye(d)
    exact = 0.5 * (s.diagonal().log().sum() - s.logdet())
    means = MultivariateNormal(torch.zeros(d), c).sample((1200,))
    q = Independent(Normal(means, math.sqrt(noise)), 1)
    found = total_correlation(q, q.sample(), num_examples, estimator).mean()
    assert found.item() == pytest.approx(exact.item(), abs=0.06)


def test_marginals_are_those_of_the_joint():
    """A full Normal and the diagonal one with its variances have the same marginals."""
    scale_tril = torch.randn(4, 3, 3).tril(-1) + torch.diag_embed(torch.rand(4, 3) + 0.5)
    q = MultivariateNormal(torch.randn(4, 3), scale_tril=scale_tril)
    one = Normal(q.mean, (scale_tril @ scale_tril.mT).diagonal(dim1=-2, dim2=-1).sqrt())
    z = torch.randn(4, 3)
    assert torch.allclose(marginals(q).log_prob(z), one.log_prob(z))
    assert torch.allclose(marginals(Independent(one, 1)).log_prob(z), one.log_prob(z))


@pytest.mark.parametrize("event", [(2,), (1, 2)])
def test_marginals_of_a_mixture_are_its_joint_with_the_rest_integrated_away(event):
    """int q(z_1, z_2 | x) dz_2 = q(z_1 | x), and the same for z_2, of several posteriors."""
    head = MixtureFamily(event, components=3)
    q = head(torch.randn(4, *head.feature_shape))
    line = torch.linspace(-12, 12, 801)
    plane = torch.cartesian_prod(line, line).reshape(-1, 1, *event)
    joint = q.log_prob(plane).exp().reshape(801, 801, 4)
    each = marginals(q).log_prob(line.reshape(-1, 1, *[1] * len(event))).exp().reshape(801, 4, 2)
    step = line[1] - line[0]
    assert torch.allclose(joint.sum(1) * step, each[..., 0], atol=1e-9)
    assert torch.allclose(joint.sum(0) * step, each[..., 1], atol=1e-9)


def test_a_mixture_of_one_component_has_the_total_correlation_of_that_normal():
    loc, scale = torch.randn(30, 2), torch.rand(30, 2) + 0.3
    one = Independent(Normal(loc, scale), 1)
    parts = Independent(Normal(loc.unsqueeze(1), scale.unsqueeze(1)), 1)
    q, z = Mixture(Categorical(logits=torch.zeros(30, 1)), parts), one.sample()
    found = [total_correlation(d, z, 1000, "stratified") for d in (q, one)]
    assert torch.allclose(*found)


def test_the_total_correlation_of_a_mixture_is_that_of_its_modes():
    """One posterior for all x with modes at (m, m) and (-m, -m): TC -> log 2, none within."""
    loc = torch.tensor([[4.0, 4.0], [-4.0, -4.0]]).expand(600, 2, 2)
    parts = Independent(Normal(loc, torch.full_like(loc, 0.5)), 1)
    q = Mixture(Categorical(logits=torch.zeros(600, 2)), parts)
    tc = total_correlation(q, q.sample(), 600, "stratified")
    assert_mean(tc, math.log(2), "the total correlation of two modes")


def test_relaxed_codes_are_variables_and_independent_ones_cost_nothing():
    """q(z) = prod_i q(z_i) where no code depends on x: the total correlation is zero."""
    head = ConcreteFamily((3, 4))
    q = head(torch.randn(3, 4).expand(6, 3, 4))
    assert marginals(q).event_shape == (4,)
    tc = total_correlation(q, q.sample(), 6, "stratified")
    assert torch.allclose(tc, torch.zeros(6))
    alone = ConcreteFamily((4,))(torch.randn(6, 4))
    assert torch.equal(total_correlation(alone, alone.sample(), 6, "weighted"), torch.zeros(6))


def test_codes_that_agree_have_the_total_correlation_of_one_of_them():
    """Two sharp codes of K = 4, always the same and each as often: TC -> log 4."""
    logits = 60.0 * torch.eye(4).repeat(100, 1).unsqueeze(1).expand(-1, 2, -1)
    q = ConcreteFamily((2, 4), temperature=0.5)(logits)
    tc = total_correlation(q, q.sample(), 400, "stratified").mean()
    assert tc.item() == pytest.approx(math.log(4), abs=1e-6)


def test_unknown_marginals_are_refused():
    class Odd(torch.distributions.Distribution):
        arg_constraints = {}

    with pytest.raises(CompatibilityError, match=r"beta_tc.*Odd.*'elbo' with `beta`"):
        marginals(Odd())


# Distances between the aggregate posterior and the prior


def test_info_vae_is_the_elbo_where_its_weights_say_so(model, x):
    ours, elbo = estimate(InfoVAE(alpha=0.0, strength=1.0), model, x), estimate(ELBO(), model, x)
    assert torch.allclose(ours.surrogate, elbo.surrogate) and torch.equal(ours.bound, elbo.bound)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_weights_of_rate_and_discrepancy(kernel, model, x):
    e = estimate(InfoVAE(alpha=0.3, strength=5.0, kernel=kernel), model, x)
    log_lik, r, mmd = (e.terms[n].mean() for n in ("log_lik", "rate", "mmd"))
    assert torch.allclose(e.surrogate, 0.7 * r + 4.3 * mmd - log_lik)
    e = estimate(WAE(strength=5.0, kernel=kernel), model, x)
    assert torch.allclose(e.surrogate, 5.0 * e.terms["mmd"].mean() - log_lik)
    assert torch.equal(e.bound, estimate(ELBO(), model, x).bound)


def test_a_reward_for_distance_is_refused():
    with pytest.raises(UserError, match="at least 1"):
        InfoVAE(alpha=0.2, strength=0.5)


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_the_discrepancy_of_one_distribution_from_itself_is_zero_on_average(kernel):
    draws = torch.stack(
        [discrepancy(torch.randn(10, 3), torch.randn(10, 3), kernel) for _ in range(2000)]
    )
    assert draws.min() < 0
    assert_mean(draws, 0.0, "an unbiased discrepancy")


def test_the_gaussian_discrepancy_of_two_normals_is_its_closed_form():
    """E exp(-|a - b|^2 / c) = (1 + 4 / c)^(-d/2) exp(-|delta|^2 / (c + 4)), c = 2 d s^2."""
    d, bandwidth, shift = 3, 0.7, torch.tensor([0.5, -1.0, 0.3])
    c = 2 * d * bandwidth**2
    scale = (1 + 4 / c) ** (-d / 2)
    exact = 2 * scale * (1 - math.exp(-shift.square().sum().item() / (c + 4)))
    draws = torch.stack(
        [
            discrepancy(torch.randn(20, d), torch.randn(20, d) + shift, "rbf", bandwidth)
            for _ in range(1000)
        ]
    )
    assert_mean(draws, exact, "the discrepancy")


def test_a_learned_prior_is_moved_by_the_discrepancy():
    """Draws of the prior carry gradients where they can."""
    loc = torch.zeros(2, requires_grad=True)
    p = Independent(Normal(loc, torch.ones(2)), 1)
    discrepancy(torch.randn(50, 2) + 1, p.rsample((50,)), "imq").backward()
    assert (loc.grad < 0).all()


def vamp(components=3):
    """A full Normal q(z | x), the prior of its posteriors at three pseudo-inputs."""
    head = FullNormal((2,))
    inference = Conditional(MLP((4,), head.feature_shape, hidden=[8]), head, (4,))
    return inference, VampPrior((2,), REALS, components=components)


def test_draws_of_a_vamp_prior_are_draws_of_its_mixture():
    inference, prior = vamp()
    p = shaken(prior, 2.0)(inference).z
    draws = prior_draws(p, 20_000).detach()
    u = torch.randn(2, 6)
    waves = [torch.cat([(z @ u).cos(), (z @ u).sin()], -1) for z in (draws, p.sample((20_000,)))]
    assert_same_mean(*waves, "draws that carry gradients against draws that do not")


def test_gradients_of_a_vamp_prior_by_its_draws_are_those_by_its_score():
    """d/du E_p f(z) along the path of z, and by f(z) d/du log p(z)."""
    inference, prior = vamp()
    shaken(prior, 1.0)
    target = torch.randn(2)

    def value(z):
        return (z - target).square().sum(-1)

    def path():
        return value(prior_draws(prior(inference).z, 500)).mean()

    def score():
        p = prior(inference).z
        z = p.sample((500,))
        f = value(z)
        return ((f - f.mean()) * p.log_prob(z)).sum() / 499

    wanted = [prior.raw, *inference.parameters()]
    one, two = (gradients(each, wanted, 300) for each in (path, score))
    assert_same_mean(one, two, "gradients by draws and by the score")


def test_a_draw_of_a_vamp_prior_follows_the_component_that_was_chosen():
    """Its derivative in that mean is one, in others zero; it was a ratio that densities divide."""
    loc = (6 * torch.arange(4.0)).reshape(4, 1).requires_grad_()
    parts = Independent(Normal(loc, torch.ones(4, 1)), 1)
    z = prior_draws(Mixture(Categorical(logits=torch.zeros(4)), parts), 1000)
    (slope,) = torch.autograd.grad(z.sum(), loc)
    assert torch.equal(slope, slope.round()) and slope.sum() == 1000 and (slope > 200).all()


def test_the_wasserstein_autoencoder_moves_pseudo_inputs_towards_the_codes():
    """Only they are trained, on the discrepancy alone: it falls to that of equal distributions."""
    inference, prior = vamp(components=20)
    generator = Conditional(MLP((2,), (4,), hidden=[]), GaussianLikelihood(REALS), (2,))
    model, x = LatentModel(inference, prior, generator), torch.randn(100, 4) + 3
    objective, optimizer = WAE(strength=100.0), torch.optim.Adam([prior.raw], 0.05)

    def distance():
        with torch.no_grad():
            draws = [objective.estimate(model, x, at(0.0)).terms["mmd"][0] for _ in range(50)]
        return torch.stack(draws).mean().item()

    before = distance()
    for _ in range(200):
        optimizer.zero_grad()
        objective.estimate(model, x, at(0.0)).surrogate.backward()
        optimizer.step()
    assert distance() < 0.1 * before


def test_a_prior_whose_draws_would_not_move_it_is_refused():
    """Nothing is trained silently: a density with weights, draws without a gradient."""

    class Deaf(Independent):
        has_rsample = False

    loc = torch.zeros(2, requires_grad=True)
    p = Deaf(Normal(loc, torch.ones(2)), 1)
    with pytest.raises(CompatibilityError, match="Deaf carry no gradient"):
        prior_draws(p, 5)
    assert prior_draws(Deaf(Normal(loc.detach(), torch.ones(2)), 1), 5).shape == (5, 2)


# The limit of a point posterior


def test_an_ever_narrower_posterior_is_an_autoencoder_whose_rate_diverges():
    """E_q log p(x | z) goes to -|x - g(mu)|^2 / 2 s^2 + const; the rate grows by log 10 a digit."""
    ppca = PPCA.random(6, 3, seed=3, orthogonal=True)
    model, x = ppca.model(diagonal=True), ppca.draw(10)
    (layer,) = model.inference.network.layers
    squared = (x - model.generator.network(model.inference(x).mean)).square().sum(-1)
    const = -3 * math.log(2 * math.pi * ppca.scale**2)
    autoencoder = -squared / (2 * ppca.scale**2) + const
    rates, misses = [], []
    for sigma in (1e-1, 1e-2, 1e-3, 1e-4):
        with torch.no_grad():
            layer.bias[3:] = raw_of(torch.full((3,), sigma))
        e = estimate(ELBO(samples=400), model, x)
        misses.append((e.terms["log_lik"] - autoencoder).abs().max().item())
        rates.append(e.terms["rate"].mean().item())
    assert misses == sorted(misses, reverse=True) and misses[-1] < 1e-3
    for one, other in itertools.pairwise(rates[1:]):
        assert other - one == pytest.approx(3 * math.log(10), abs=1e-3)
    point = Independent(Normal(torch.zeros(3), torch.full((3,), 1e-4)), 1)
    assert kl_divergence(point, model.p_z().z) > 20
