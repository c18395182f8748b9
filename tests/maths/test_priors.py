"""Priors are densities, and what their papers say they are."""

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from vaepipe import registry
from vaepipe.core import SUPPORTS, Conditional, DataSpec, LogSimplex, Mixture, StepContext
from vaepipe.errors import CompatibilityError
from vaepipe.families.normal import DiagonalNormal, FullNormal
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO, SampledELBO
from vaepipe.priors.mixture import MixturePrior
from vaepipe.priors.normal import StandardNormal
from vaepipe.priors.vamp import VampPrior
from vaepipe.testing import PPCA, grid
from vaepipe.testing.contracts.base import shaken
from vaepipe.testing.masses import is_discrete

REALS = DataSpec((4,), SUPPORTS["real"], 100)
FAMILIES = [DiagonalNormal, FullNormal]


def inference(family=DiagonalNormal, data=REALS):
    head = family((2,))
    return Conditional(MLP(data.shape, head.feature_shape, hidden=[8]), head, data.shape)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", registry.available("priors"))
def test_the_density_integrates_to_one_on_a_grid(name, family):
    few = {"components": 20} if name == "vamp" else {}
    try:
        prior = registry.part("priors", name, few).build((2,), REALS)
    except CompatibilityError as error:
        pytest.skip(str(error))
    if prior.needs & ~family.provides:
        pytest.skip(f"needs {prior.needs}")
    wide = name in ("student_t", "binary_concrete")
    z, log_cell = grid(2, 60.0, 1201) if wide else grid(2, 9.0, 401)
    with torch.no_grad():
        p = shaken(prior)(inference(family)).z
        if is_discrete(p) or LogSimplex().check(p.sample((9,))).all():
            pytest.skip("no density over the plane")
        mass = (p.log_prob(z).logsumexp(0) + log_cell).exp()
    assert mass == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vamp_prior_at_the_example_itself_costs_nothing(family):
    """K = 1 and u = x: p(z) = q(z | x), so the rate is zero for every draw."""
    q_z_x, x = inference(family), torch.randn(1, 4)
    prior = VampPrior((2,), REALS, components=1)
    with torch.no_grad():
        prior.raw.copy_(x)
    q, p = q_z_x(x), prior(q_z_x).z
    z = q.sample((50,))
    assert torch.allclose(q.log_prob(z), p.log_prob(z), atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vamp_prior_is_the_mean_of_its_posteriors(family):
    q_z_x, prior = inference(family), VampPrior((2,), REALS, components=7)
    z = torch.randn(3, 5, 2)
    each = torch.stack([q_z_x(u).log_prob(z) for u in prior.pseudo_inputs()])
    expected = each.logsumexp(0) - math.log(7)
    assert torch.allclose(prior(q_z_x).z.log_prob(z), expected)


def test_a_vamp_prior_of_the_whole_data_set_bounds_the_information_by_its_size():
    """Then the rate is the mutual information between x and z, at most log N."""
    q_z_x, x = inference(), 10 * torch.randn(32, 4)
    prior = VampPrior((2,), REALS, components=32)
    with torch.no_grad():
        prior.raw.copy_(x)
    q, p = q_z_x(x), prior(q_z_x).z
    z = q.sample((2000,))
    information = (q.log_prob(z) - p.log_prob(z)).mean()
    assert 0 < information < math.log(32)


@pytest.mark.parametrize("support", ["boolean", "unit_interval", "real", "integer"])
def test_pseudo_inputs_start_near_the_mean_example(support):
    mean = torch.tensor([0.0, 0.2, 0.7, 1.0])
    data = DataSpec((4,), SUPPORTS[support], 100, mean)
    u = VampPrior((2,), data, components=400).pseudo_inputs()
    assert torch.allclose(u.mean(0), mean, atol=0.05)
    if support in ("boolean", "unit_interval"):
        assert u.min() >= 0 and u.max() <= 1


def test_a_mixture_of_one_standard_normal_is_the_standard_normal():
    mixture = MixturePrior((2, 3), REALS, components=1)
    with torch.no_grad():
        mixture.loc.zero_()
    z = torch.randn(5, 2, 3)
    standard = StandardNormal((2, 3), REALS)(None).z
    assert torch.allclose(mixture(None).z.log_prob(z), standard.log_prob(z))


def test_a_mixture_weighs_its_parts():
    mixture = MixturePrior((1,), REALS, components=2)
    with torch.no_grad():
        mixture.logits.copy_(torch.tensor([0.25, 0.75]).log())
        mixture.loc.copy_(torch.tensor([[-3.0], [3.0]]))
        mixture.log_scale.fill_(math.log(0.5))
    parts = Normal(torch.tensor([-3.0, 3.0]), 0.5)
    z = torch.linspace(-5, 5, 11).unsqueeze(-1)
    expected = (parts.log_prob(z).exp() @ torch.tensor([0.25, 0.75])).log()
    assert torch.allclose(mixture(None).z.log_prob(z), expected)


def test_elbo_under_a_prior_without_closed_form_is_the_sampled_elbo():
    """The fallback is the same estimator, not another one."""
    ppca = PPCA.random(4, 2, seed=0)
    model, x, ctx = ppca.model(), ppca.draw(5), StepContext(0, 0.0, 10)
    model.prior = MixturePrior((2,), REALS, components=3)
    estimates = []
    for objective in (ELBO(samples=3), SampledELBO(samples=3)):
        torch.manual_seed(1)
        estimates.append(objective.estimate(model, x, ctx))
    assert torch.allclose(estimates[0].bound, estimates[1].bound)
    assert torch.allclose(estimates[0].surrogate, estimates[1].surrogate)


def test_the_standard_normal_is_standard():
    p = StandardNormal((2, 3), REALS)(None).z
    z = torch.randn(5, 2, 3)
    expected = Independent(Normal(torch.zeros(2, 3), 1.0), 2).log_prob(z)
    assert torch.allclose(p.log_prob(z), expected)


def normals(loc, raw):
    return Independent(Normal(loc, raw.exp()), 2)


def full_normals(loc, raw):
    below = raw.flatten(1).unsqueeze(-1) * raw.flatten(1).unsqueeze(-2)
    scale_tril = below.tril(-1) + torch.diag_embed(raw.flatten(1).exp())
    return MultivariateNormal(loc.flatten(1), scale_tril=scale_tril)


def laplaces(loc, raw):
    return Independent(Laplace(loc, raw.exp()), 2)


@pytest.mark.parametrize("parts", [normals, full_normals, laplaces])
def test_a_mixture_is_torchs_in_value_and_gradient(parts):
    """Matrix products or not."""
    logits, loc, raw = torch.randn(5), torch.randn(5, 2, 3), torch.randn(5, 2, 3)
    z = torch.randn(4, 7, *parts(loc, raw).event_shape)
    results = []
    for kind in (Mixture, MixtureSameFamily):
        leaves = [v.clone().requires_grad_() for v in (logits, loc, raw, z)]
        p = kind(Categorical(logits=leaves[0]), parts(leaves[1], leaves[2]))
        log_prob = p.log_prob(leaves[3])
        weighted = log_prob * torch.linspace(-1, 2, 28).reshape(4, 7)
        results.append([log_prob, p.mean, p.variance, *torch.autograd.grad(weighted.sum(), leaves)])
    assert all(torch.allclose(a, b) for a, b in zip(*results, strict=True))


def test_narrow_parts_far_from_the_origin_lose_no_digits():
    """z^2 / s^2 is 10^8 here; in single precision the density is still right to 10^-3."""
    loc, scale = (100 + torch.randn(5, 3)).float(), torch.full((5, 3), 0.01).float()
    weights = Categorical(logits=torch.zeros(5))
    exact = MixtureSameFamily(weights, Independent(Normal(loc.double(), scale.double()), 1))
    single = Mixture(weights, Independent(Normal(loc, scale), 1))
    z = exact.sample((50,)).float()
    assert (single.log_prob(z) - exact.log_prob(z.double())).abs().max() < 1e-3
