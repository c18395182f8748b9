"""Mixtures as posteriors: densities of batches, and draws whose gradients are exact."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from vaepipe.core import (
    SUPPORTS,
    Conditional,
    DataSpec,
    LatentModel,
    Mixture,
    StepContext,
    log_over_strata,
    over_strata,
    stratified,
    through_mixture,
)
from vaepipe.families.mixture import MixtureFamily
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO, SampledELBO
from vaepipe.objectives.em import VariationalEM
from vaepipe.objectives.importance import CIWAE, IWAE, MIWAE, DReG
from vaepipe.objectives.landing import STL
from vaepipe.objectives.mmd import WAE, _of_prior, discrepancy
from vaepipe.priors.normal import StandardNormal
from vaepipe.priors.vamp import VampPrior
from vaepipe.testing import PPCA, assert_mean, gradients


def mixture(batch, k, event):
    parts = Normal(torch.randn(*batch, k, *event), torch.rand(*batch, k, *event) + 0.2)
    return Categorical(logits=torch.randn(*batch, k)), Independent(parts, len(event))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (5,), (4, 5)])
@pytest.mark.parametrize("event", [(6,), (2, 3)])
def test_the_density_is_that_of_torch_for_every_batch(lead, batch, event):
    weights, parts = mixture(batch, 4, event)
    z = torch.randn(*lead, *batch, *event)
    exact = MixtureSameFamily(weights, parts).log_prob(z)
    assert torch.allclose(Mixture(weights, parts).log_prob(z), exact, atol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_implicit_gradients_are_those_of_the_inverse_distribution_function(d):
    """Hold the uniform vector that z stands for, move a parameter, solve for z again."""
    weights, parts = mixture((), 3, (d,))
    normals = parts.base_dist
    values = [v.clone() for v in (weights.logits, normals.loc, normals.scale)]
    z = Mixture(weights, parts).sample((20,))
    fixed = conditional_cdfs(z, *values)
    for which, value in enumerate(values):
        way = torch.randn_like(value)
        moved = [_solved(fixed, _with(values, which, value + s * way)) for s in (1e-5, -1e-5)]
        _, found = torch.autograd.functional.jvp(
            lambda v, i=which: _through(z, _with(values, i, v)), value, way
        )
        assert torch.allclose(found, (moved[0] - moved[1]) / 2e-5, atol=1e-6, rtol=1e-5)


def _through(z, values):
    logits, loc, scale = values
    return through_mixture(z, logits, Normal(loc, scale))


def _with(values, which, value):
    return [*values[:which], value, *values[which + 1 :]]


def conditional_cdfs(z, logits, loc, scale):
    """P(Z_d <= z_d | z_1 ... z_{d-1}) one dimension after the other, `[n, d]`."""
    log_r, out = logits.expand(len(z), -1), []
    for d in range(z.shape[-1]):
        part, column = Normal(loc[:, d], scale[:, d]), z[:, d : d + 1]
        out.append((log_r.softmax(-1) * part.cdf(column)).sum(-1))
        log_r = log_r + part.log_prob(column)
    return torch.stack(out, -1)


def _solved(fixed, values):
    """z with these conditional distribution functions, by halving."""
    low, high = torch.full_like(fixed, -20.0), torch.full_like(fixed, 20.0)
    for d in range(fixed.shape[-1]):
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = conditional_cdfs(middle, *values)[:, d] > fixed[:, d]
            high[:, d] = torch.where(above, middle[:, d], high[:, d])
            low[:, d] = torch.where(above, low[:, d], middle[:, d])
    return 0.5 * (low + high)


def test_the_gradient_of_the_mean_is_that_of_its_formula():
    """d E[z] / d logits = w_k (mu_k - E[z]), d E[z] / d mu_k = w_k, d E[z] / d sigma_k = 0."""
    weights, parts = mixture((), 3, (2,))
    n = 20_000
    leaves = [v.expand(n, *v.shape).clone().requires_grad_() for v in _values(weights, parts)]
    q = Mixture(Categorical(logits=leaves[0]), Independent(Normal(*leaves[1:]), 1))
    q.rsample()[:, 1].sum().backward()
    w, loc = weights.probs, parts.base_dist.loc[:, 1]
    assert_mean(leaves[0].grad, w * (loc - (w * loc).sum()), "the gradient of the logits")
    assert_mean(leaves[1].grad, torch.stack([0 * w, w], -1), "the gradient of the means")
    assert_mean(leaves[2].grad, 0.0, "the gradient of the scales")


def _values(weights, parts):
    return weights.logits, parts.base_dist.loc, parts.base_dist.scale


def test_one_component_is_a_normal_to_the_last_gradient():
    h = torch.randn(7, 6, requires_grad=True)
    q = MixtureFamily((2, 1), components=1)(torch.cat([h[:, :1], h[:, 1:5]], -1))
    z = q.rsample((3,))
    normal = q.component_distribution.base_dist
    noise = (z.detach() - normal.loc[:, 0]) / normal.scale[:, 0]
    twin = normal.loc[:, 0] + noise.detach() * normal.scale[:, 0]
    weight = torch.randn_like(z)
    one, other = (torch.autograd.grad((v * weight).sum(), h, retain_graph=True) for v in (z, twin))
    assert torch.allclose(one[0], other[0], atol=1e-10)


def test_gradients_are_finite_in_single_precision_when_components_are_far_apart():
    h = (100 * torch.randn(50, MixtureFamily((3,)).feature_shape[0]).sign()).float()
    q = MixtureFamily((3,))(h.requires_grad_())
    q.rsample((20,)).square().sum().backward()
    assert h.grad.isfinite().all()


def test_components_that_are_no_normals_have_no_such_draws():
    parts = Independent(torch.distributions.Laplace(torch.zeros(3, 2), torch.ones(3, 2)), 1)
    q = Mixture(Categorical(logits=torch.zeros(3)), parts)
    assert not q.has_rsample
    with pytest.raises(NotImplementedError):
        q.rsample()


def test_a_vamp_prior_of_mixtures_is_a_mixture_of_mixtures():
    head, data = MixtureFamily((2,), components=3), PPCA.random(3, 2, seed=0).data
    inference = Conditional(MLP((3,), head.feature_shape, hidden=[4]), head, (3,))
    prior = VampPrior((2,), data, components=4)
    z, parts = torch.randn(6, 5, 2), inference(prior.pseudo_inputs())
    each = torch.stack([parts.log_prob(row.expand(4, 2)) for row in z.reshape(-1, 2)])
    exact = (each.logsumexp(-1) - torch.tensor(4.0).log()).reshape(6, 5)
    assert torch.allclose(prior(inference).z.log_prob(z), exact, atol=1e-10)


# Draws of every component: the gradient of the weights, however far apart components are

SEPARATIONS = [0.5, 2.0, 6.0, 20.0]


@pytest.mark.parametrize("apart", SEPARATIONS)
def test_the_gradient_of_the_weights_does_not_depend_on_the_gap(apart):
    """E z = sum_k w_k mu_k. By paths it was 2.18 +- .10 for 5 at 20 sd, and 2.28 for 3."""
    n, loc = 4000, torch.tensor([[-0.5], [0.5]]) * apart
    logits = torch.zeros(n, 2).requires_grad_()
    parts = Independent(Normal(loc.expand(n, 2, 1), torch.ones(n, 2, 1)), 1)
    q = Mixture(Categorical(logits=logits), parts)
    z = stratified(q, 1)
    over_strata(q, z.sum(-1)).sum().backward()
    assert_mean(logits.grad, torch.tensor([-0.25, 0.25]) * apart, "the gradient of the weights")


DATA = DataSpec((1,), SUPPORTS["real"], 100)
BOUNDS = {
    "elbo": (ELBO, 1),
    "elbo_sampled": (SampledELBO, 1),
    "stl": (STL, 1),
    "em": (VariationalEM, 1),
    "iwae": (lambda: IWAE(k=1), 0),
    "ciwae": (lambda: CIWAE(beta=1.0, k=1), 1),
    "miwae": (lambda: MIWAE(m=2, k=1), 0),
}


def one_mode_each_side(apart):
    """q(z | x) with two modes, a decoder x = z + noise, p(z) = N(0, 1), and x = 1."""
    head = MixtureFamily((1,), components=2)
    inference = Conditional(MLP((1,), head.feature_shape, hidden=[]), head, (1,))
    generator = Conditional(MLP((1,), (1,), hidden=[]), GaussianLikelihood(DATA, scale=1.0), (1,))
    model = LatentModel(inference, StandardNormal((1,), DATA), generator)
    (layer,), (back,) = inference.network.layers, generator.network.layers
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([0.3, -apart / 2, 0.5413, -0.2, apart / 2, 0.5413]))
        back.weight.fill_(1.0), back.bias.zero_()
    return model, layer.bias


def quadrature(model, x, wanted):
    """The gradient of the ELBO by a sum over a fine grid of z."""
    grid = torch.linspace(-20, 20, 20001)[:, None, None]
    q, p = model.inference(x), model.p_z().z
    log_q = q.log_prob(grid)
    f = model.generator(grid).log_prob(x) + p.log_prob(grid) - log_q
    elbo = (log_q.exp() * f).sum() * (40 / 20000)
    return torch.autograd.grad(-elbo, wanted)[0]


@pytest.mark.parametrize("apart", SEPARATIONS)
@pytest.mark.parametrize("name", [name for name, (_, exact) in BOUNDS.items() if exact])
def test_gradients_of_bounds_are_those_of_quadrature(name, apart):
    model, wanted = one_mode_each_side(apart)
    objective, x = BOUNDS[name][0](), torch.ones(1, 1)
    phase = objective.phases()[0]
    ctx = StepContext(0, 0.0, 100)
    draws = gradients(lambda: phase.estimate(model, x, ctx).surrogate, [wanted], 1500)
    assert_mean(draws, quadrature(model, x, wanted), "the gradient")


@pytest.mark.parametrize("name", ["iwae", "miwae"])
def test_importance_weights_are_averaged_over_components_inside_the_logarithm(name):
    """log sum_k w_k p(x, z_k) / q(z_k | x): its exponential has the evidence as its mean."""
    model, _ = one_mode_each_side(6.0)
    x, ctx = torch.ones(4000, 1), StepContext(0, 0.0, 100)
    with torch.no_grad():
        q = model.inference(x)
        z = stratified(q, 1)
        log_w = model.generator(z).log_prob(x) + model.p_z().z.log_prob(z) - q.log_prob(z)
        w = log_over_strata(q, log_w)[0].exp()
    evidence = Normal(0.0, 2.0**0.5).log_prob(torch.tensor(1.0)).exp()
    assert_mean(w[:, None], evidence, "the mean importance weight")
    assert BOUNDS[name][0]().phases()[0].estimate(model, x, ctx).bound.mean() < evidence.log()


def test_a_discrepancy_knows_what_the_weights_of_a_mixture_are_worth():
    """Of N(-10, 1) and a mixture over -10 and 10, whose kernel means are 3^-1/2 or 0:

    MMD^2 = (w_1^2 + w_2^2 + 1 - 2 w_1) / sqrt(3),   d/d logit_1: -4 w_1 w_2^2 / sqrt(3)
    """
    logits = torch.tensor([0.4, -0.4]).requires_grad_()
    parts = Independent(Normal(torch.tensor([[-10.0], [10.0]]), torch.ones(2, 1)), 1)
    n, ones = 20, torch.ones(20, 1)

    def distance():
        z, w = _of_prior(Mixture(Categorical(logits=logits), parts), n)
        return discrepancy(torch.randn(n, 1, 1) - 10, z, "rbf", 1.0, (ones, w))

    one, two = logits.detach().softmax(0)
    slope = -4 * one * two**2 / 3**0.5
    draws = gradients(distance, [logits], 400)
    assert_mean(draws, torch.stack([slope, -slope]), "the gradient of the weights")


def test_an_autoencoder_with_a_mixture_for_a_posterior_moves_its_weights():
    model, wanted = one_mode_each_side(6.0)
    e = WAE(strength=10.0).estimate(model, torch.ones(50, 1), StepContext(0, 0.0, 100))
    (slope,) = torch.autograd.grad(e.surrogate, wanted)
    assert slope.isfinite().all() and slope[0].abs() > 0.1


def test_dreg_says_that_it_follows_the_path_through_a_mixture():
    model, _ = one_mode_each_side(2.0)
    q, p = model.inference(torch.ones(1, 1)), model.p_z().z
    assert "far apart" in DReG().notes(q, p)["gradient"]
    assert DReG().notes(Normal(0.0, 1.0), p) == {}
