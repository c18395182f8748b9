"""Bounds against models whose evidence is known."""

import itertools
import math

import pytest
import torch

from vaepipe.core import (
    SUPPORTS,
    Conditional,
    DataSpec,
    LatentModel,
    StepContext,
    log_mean_exp,
    log_weights,
    rate,
)
from vaepipe.families.normal import DiagonalNormal, FullNormal
from vaepipe.likelihoods.bernoulli import BernoulliLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO, SampledELBO
from vaepipe.objectives.importance import IWAE, DReG
from vaepipe.objectives.landing import STL
from vaepipe.priors.normal import StandardNormal
from vaepipe.testing import PPCA, assert_mean, evidence, grid, z_scores
from vaepipe.testing.contracts.base import shaken

CONTEXT = StepContext(0, 0.0, 1000)
LATENT = 3


def ppca_and_model(diagonal):
    ppca = PPCA.random(6, LATENT, seed=3, orthogonal=diagonal)
    return ppca, ppca.model(diagonal=diagonal)


def sigma_points(shape, dtype, device):
    """2 d noises with exactly the mean and covariance of the standard Normal."""
    corners = math.sqrt(LATENT) * torch.eye(LATENT, dtype=dtype, device=device)
    return torch.cat([corners, -corners]).unsqueeze(1).expand(shape)


@pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])
@pytest.mark.parametrize(
    "objective",
    [SampledELBO(samples=2), STL(samples=2), IWAE(k=1), IWAE(k=7), DReG(k=7)],
    ids=["elbo_sampled", "stl", "iwae_1", "iwae_7", "dreg_7"],
)
def test_a_bound_at_the_exact_posterior_is_the_evidence(objective, diagonal):
    """Every single draw gives log p(x), because all weights are equal."""
    ppca, model = ppca_and_model(diagonal)
    x = ppca.draw(20)
    bound = objective.estimate(model, x, CONTEXT).bound
    assert (bound - ppca.log_evidence(x)).abs().max() <= 1e-10


@pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])
def test_the_closed_form_elbo_at_the_exact_posterior_is_the_evidence(diagonal, monkeypatch):
    """log p(x | z) is quadratic in z, so noises with exact moments average it exactly."""
    for module in ("normal", "multivariate_normal"):
        monkeypatch.setattr(f"torch.distributions.{module}._standard_normal", sigma_points)
    ppca, model = ppca_and_model(diagonal)
    x = ppca.draw(20)
    bound = ELBO(samples=2 * LATENT).estimate(model, x, CONTEXT).bound
    assert (bound - ppca.log_evidence(x)).abs().max() <= 1e-10


def test_single_precision_is_within_a_thousandth_of_the_evidence():
    ppca, model = ppca_and_model(False)
    x = ppca.draw(20)
    bound = IWAE(k=5).estimate(model.float(), x.float(), CONTEXT).bound
    assert (bound - ppca.log_evidence(x)).abs().max() <= 1e-3


def test_evidence_is_bound_plus_divergence_from_the_posterior():
    """log p(x) = ELBO + KL(q(z | x) || p(z | x)), with q off the posterior."""
    ppca, model = ppca_and_model(False)
    shaken(model.inference)
    x = ppca.draw(4)
    draws = torch.stack([ELBO(samples=50).estimate(model, x, CONTEXT).bound for _ in range(200)])
    gap = rate(model.inference(x), ppca.posterior(x), torch.empty(0))
    assert gap.min() > 0.01
    assert_mean(draws, ppca.log_evidence(x) - gap, "the ELBO")


def test_more_importance_samples_never_lower_the_bound():
    """Jensen's ladder: chunks of the same draws, so that neighbours are paired."""
    ppca, model = ppca_and_model(False)
    shaken(model.inference)
    x = ppca.draw(300)
    q = model.inference(x)
    with torch.no_grad():
        log_w = log_weights(model, x, q.sample((64,)), model.p_z(), q)
    counts = (1, 2, 4, 8, 16, 32, 64)
    ladder = [log_mean_exp(log_w.reshape(k, 64 // k, -1)).mean(0) for k in counts]
    for lower, upper in itertools.pairwise(ladder):
        assert z_scores(upper - lower) > -2
    assert ladder[0].mean() + 0.1 < ladder[-1].mean()
    assert z_scores(ppca.log_evidence(x) - ladder[-1]) > -2


def test_the_objective_iwae_climbs_the_same_ladder():
    ppca, model = ppca_and_model(False)
    shaken(model.inference)
    x = ppca.draw(2000)
    bounds = [IWAE(k=k).estimate(model, x, CONTEXT).bound.mean() for k in (1, 3, 10, 100)]
    assert bounds == sorted(bounds)
    assert bounds[-1] < ppca.log_evidence(x).mean() + 0.02


def test_summation_over_a_grid_gives_the_evidence():
    ppca = PPCA.random(5, 2, seed=0)
    x = ppca.draw(3)
    z, log_cell = grid(2, 7.0, 301)
    assert torch.allclose(evidence(ppca.model(), x, z, log_cell), ppca.log_evidence(x), atol=1e-8)


@pytest.mark.parametrize("family", [DiagonalNormal, FullNormal])
def test_importance_sampling_finds_the_evidence_of_a_nonlinear_model(family):
    """A Bernoulli decoder with curvature; the truth by quadrature."""
    head, data = family((2,)), DataSpec((9,), SUPPORTS["boolean"], 100)
    likelihood = BernoulliLikelihood(data)
    model = LatentModel(
        Conditional(MLP((9,), head.feature_shape, hidden=[8]), head, (9,)),
        StandardNormal((2,), data),
        Conditional(MLP((2,), (9,), hidden=[8], activation="tanh"), likelihood, (2,)),
    )
    x = torch.bernoulli(torch.full((5, 9), 0.4))
    truth = evidence(model, x, *grid(2, 8.0, 401))
    q = model.inference(x)
    with torch.no_grad():
        log_w = log_weights(model, x, q.sample((100_000,)), model.p_z(), q)
    assert_mean((log_w - truth).exp(), 1.0, "the importance weights over the evidence")
