"""Estimators of one gradient agree in expectation, and differ in variance as the papers say."""

import pytest
import torch

from vaepipe.core import SUPPORTS, Conditional, DataSpec, LatentModel, StepContext, frozen
from vaepipe.core import log_mean_exp, scale_gradient
from vaepipe.families.normal import DiagonalNormal, FullNormal
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO, SampledELBO
from vaepipe.objectives.importance import IWAE, DReG
from vaepipe.objectives.landing import STL
from vaepipe.priors.mixture import MixturePrior
from vaepipe.priors.normal import StandardNormal
from vaepipe.priors.vamp import VampPrior
from vaepipe.testing import PPCA, assert_mean, assert_same_mean, gradients
from vaepipe.testing.contracts.base import shaken

CONTEXT = StepContext(0, 0.0, 1000)
DATA = DataSpec((3,), SUPPORTS["real"], 100)
PRIORS = {
    "standard_normal": lambda: StandardNormal((2,), DATA),
    "mixture": lambda: MixturePrior((2,), DATA, components=2),
    "vamp": lambda: VampPrior((2,), DATA, components=2),
}


def small_model(prior="standard_normal", family=DiagonalNormal):
    head, likelihood = family((2,)), GaussianLikelihood(DATA, scale="learned")
    return LatentModel(
        Conditional(MLP((3,), head.feature_shape, hidden=[]), head, (3,)),
        PRIORS[prior](),
        Conditional(MLP((2,), (3,), hidden=[]), likelihood, (2,)),
    )


def draws(objective, model, x, parameters=None, n=1500):
    """Independent gradients of the surrogate, `[n, parameters]`."""
    wanted = list((parameters or model).parameters())
    return gradients(lambda: objective.estimate(model, x, CONTEXT).surrogate, wanted, n)


@pytest.mark.parametrize("family", [DiagonalNormal, FullNormal])
@pytest.mark.parametrize("other", [SampledELBO(), STL(samples=2)], ids=["elbo_sampled", "stl"])
def test_gradients_of_the_elbo_agree(other, family):
    model, x = small_model(family=family), torch.randn(3, 3)
    assert_same_mean(draws(ELBO(), model, x), draws(other, model, x), "gradients")


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
def test_gradients_of_the_elbo_agree_under_a_learned_prior(prior):
    """Under a VampPrior the encoder also gets a gradient through p(z)."""
    model, x = small_model(prior), torch.randn(3, 3)
    assert_same_mean(draws(SampledELBO(), model, x), draws(STL(), model, x), "gradients")


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("k", [1, 4])
def test_gradients_of_the_importance_weighted_bound_agree(prior, k):
    model, x = small_model(prior), torch.randn(3, 3)
    assert_same_mean(draws(IWAE(k=k), model, x), draws(DReG(k=k), model, x), "gradients")


def test_one_importance_sample_has_the_gradient_of_the_elbo():
    model, x = small_model(), torch.randn(3, 3)
    assert_same_mean(draws(ELBO(), model, x), draws(IWAE(k=1), model, x), "gradients")


def test_gradients_of_the_elbo_are_those_of_its_closed_form():
    """For a linear model E_q log p(x | z) is known, so the expected gradient is, too."""
    model, x = small_model(), torch.randn(3, 3)
    z, log_scale = model.inference(x), model.generator.head.log_scale
    weight = model.generator.network.layers[0].weight
    residual = (x - model.generator.network(z.mean)).square().sum(-1)
    spread = (z.variance @ weight.square().T).sum(-1)
    log_lik = -0.5 * (residual + spread) / (2 * log_scale).exp() - 3 * log_scale
    rate = 0.5 * (z.mean.square() + z.variance - 1 - z.variance.log()).sum(-1)
    exact = torch.autograd.grad((rate - log_lik).mean(), list(model.parameters()))
    flat = torch.cat([g.flatten() for g in exact])
    assert_mean(draws(ELBO(), model, x), flat, "the gradient of the ELBO")


@pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])
def test_stl_lands_where_the_elbo_goes_on_shaking(diagonal):
    """At q = p(z | x) the path gradient is zero for every draw; the total gradient is not."""
    ppca = PPCA.random(6, 3, seed=3, orthogonal=diagonal)
    model, x = ppca.model(diagonal=diagonal), ppca.draw(1)
    landed = draws(STL(), model, x, model.inference, n=50)
    total = draws(SampledELBO(), model, x, model.inference, n=50)
    assert landed.std(0).max() <= 1e-12
    assert landed.abs().max() <= 1e-12
    assert total.std(0).max() >= 0.5


def test_dreg_lands_too():
    ppca = PPCA.random(6, 3, seed=3)
    model, x = ppca.model(), ppca.draw(1)
    assert draws(DReG(k=5), model, x, model.inference, n=50).abs().max() <= 1e-12


def test_encoder_gradients_drown_under_iwae_and_not_under_dreg():
    """Signal to noise falls as k^-1/2 (Rainforth et al., 2018) and rises (Tucker et al., 2019)."""
    ppca = PPCA.random(6, 3, seed=3)
    model, x = ppca.model(), ppca.draw(1)
    shaken(model.inference)

    def signal_to_noise(objective):
        g = draws(objective, model, x, model.inference, n=1000)
        return (g.mean(0).norm() / g.std(0).norm()).item()

    assert signal_to_noise(DReG(k=1)) < 0.7 * signal_to_noise(DReG(k=64))
    assert signal_to_noise(IWAE(k=64)) < 0.7 * signal_to_noise(DReG(k=64))


def test_a_frozen_module_keeps_its_function_and_loses_its_parameters():
    layer, v = torch.nn.Linear(3, 2), torch.randn(5, 3, requires_grad=True)
    assert torch.equal(frozen(layer)(v), layer(v))
    frozen(layer)(v).sum().backward()
    assert layer.weight.grad is None and v.grad is not None


def test_a_scaled_gradient_is_scaled_once_and_only_on_its_way_back():
    leaf = torch.randn(3, 5, 2, requires_grad=True)
    z, weight = 1 * leaf, torch.rand(3, 5)
    value = z.square().sum()
    scale_gradient(z, weight)
    value.backward()
    assert torch.allclose(leaf.grad, 2 * leaf * weight.unsqueeze(-1))


def test_log_mean_exp_is_exact_where_the_naive_form_underflows():
    log_w = torch.tensor([-900.0, -901.0, -1000.0])
    shifted = log_w + 900
    assert log_w.exp().mean().log().isinf()
    assert torch.allclose(log_mean_exp(log_w), shifted.exp().mean().log() - 900)
