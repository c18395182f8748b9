"""Estimators of one gradient agree in expectation, and differ in variance as the papers say."""

import copy
import math

import pytest
import torch

from vaepipe.core import (
    SUPPORTS,
    Conditional,
    DataSpec,
    LatentModel,
    Network,
    StepContext,
    frozen,
    log_mean_exp,
    scale_gradient,
)
from vaepipe.families.normal import DiagonalNormal, FullNormal, raw_of
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO, SampledELBO
from vaepipe.objectives.importance import IWAE, DReG
from vaepipe.objectives.landing import STL
from vaepipe.priors.mixture import MixturePrior
from vaepipe.priors.normal import StandardNormal
from vaepipe.priors.vamp import VampPrior
from vaepipe.testing import PPCA, assert_mean, assert_same_mean, gradients

CONTEXT = StepContext(0, 0.0, 1000)
DATA = DataSpec((3,), SUPPORTS["real"], 100)
PRIORS = {
    "standard_normal": lambda: StandardNormal((2,), DATA),
    "mixture": lambda: MixturePrior((2,), DATA, components=2),
    "vamp": lambda: VampPrior((2,), DATA, components=2),
}


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
        n, out, fan_in = self.weight.shape
        return (
            torch.einsum("kni,noi->kno", v.reshape(-1, n, fan_in), self.weight) + self.bias
        ).reshape(-1, out)


def small_model(prior="standard_normal", family=DiagonalNormal):
    head, likelihood = family((2,)), GaussianLikelihood(DATA, scale="learned")
    return LatentModel(
        Conditional(MLP((3,), head.feature_shape, hidden=[]), head, (3,)),
        PRIORS[prior](),
        Conditional(MLP((2,), (3,), hidden=[]), likelihood, (2,)),
    )


def many(model, n):
    """The model with weights of its own for each of `n` examples."""
    for conditional in (model.inference, model.generator):
        conditional.network = OwnAffine(conditional.network, n)
    return model


def draws(objective, model, x, n=20_000):
    """`n` independent gradients for one example x, of encoder and decoder: `[n, parameters]`."""
    own = many(copy.deepcopy(model), n)
    objective.estimate(own, x.expand(n, -1), CONTEXT).surrogate.mul(n).backward()
    parts = [own.inference.network, own.generator.network]
    return torch.cat([p.grad.reshape(n, -1) for part in parts for p in part.parameters()], 1)


def slow_draws(objective, model, x, n=500):
    """The same, one by one, for all parameters (those of a prior are shared by examples)."""
    wanted = list(model.parameters())
    return gradients(lambda: objective.estimate(model, x, CONTEXT).surrogate, wanted, n)


@pytest.mark.parametrize("family", [DiagonalNormal, FullNormal])
@pytest.mark.parametrize(
    "other",
    [SampledELBO(), STL(samples=2), IWAE(k=1), DReG(k=1)],
    ids=["elbo_sampled", "stl", "iwae_1", "dreg_1"],
)
def test_gradients_of_the_elbo_agree(other, family):
    model, x = small_model(family=family), torch.randn(3)
    assert_same_mean(draws(ELBO(), model, x), draws(other, model, x), "gradients")


@pytest.mark.parametrize("family", [DiagonalNormal, FullNormal])
@pytest.mark.parametrize("k", [2, 8])
def test_gradients_of_the_importance_weighted_bound_agree(k, family):
    model, x = small_model(family=family), torch.randn(3)
    assert_same_mean(draws(IWAE(k=k), model, x), draws(DReG(k=k), model, x), "gradients")


@pytest.mark.parametrize("prior", ["mixture", "vamp"])
@pytest.mark.parametrize(
    ("one", "other"), [(SampledELBO(), STL()), (IWAE(k=3), DReG(k=3))], ids=["elbo", "iwae"]
)
def test_gradients_agree_under_a_learned_prior(one, other, prior):
    """Under a VampPrior the encoder also gets a gradient through p(z)."""
    model, x = small_model(prior), torch.randn(3, 3)
    assert_same_mean(slow_draws(one, model, x), slow_draws(other, model, x), "gradients")


def test_gradients_of_the_elbo_are_those_of_its_closed_form():
    """For a linear model E_q log p(x | z) is known, so the expected gradient is, too."""
    model, x = small_model(), torch.randn(1, 3)
    z, log_scale = model.inference(x), model.generator.head.log_scale
    weight = model.generator.network.layers[0].weight
    residual = (x - model.generator.network(z.mean)).square().sum(-1)
    spread = (z.variance @ weight.square().T).sum(-1)
    log_lik = -0.5 * (residual + spread) / (2 * log_scale).exp() - 3 * log_scale
    rate = 0.5 * (z.mean.square() + z.variance - 1 - z.variance.log()).sum(-1)
    wanted = [*model.inference.parameters(), *model.generator.network.parameters()]
    exact = torch.autograd.grad(rate - log_lik, wanted)
    flat = torch.cat([g.flatten() for g in exact])
    assert_mean(draws(ELBO(), model, x), flat, "the gradient of the ELBO")


def encoder_draws(objective, model, x, n):
    """The encoder's part of `draws`."""
    size = sum(p.numel() for p in model.inference.parameters())
    return draws(objective, model, x, n)[:, :size]


@pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])
def test_stl_lands_where_the_elbo_goes_on_shaking(diagonal):
    """At q = p(z | x) the path gradient is zero for every draw; the total gradient is not."""
    ppca = PPCA.random(6, 3, seed=3, orthogonal=diagonal)
    model, x = ppca.model(diagonal=diagonal), ppca.draw(1)
    landed = encoder_draws(STL(), model, x, 200)
    total = encoder_draws(SampledELBO(), model, x, 200)
    assert landed.std(0).max() <= 1e-12
    assert landed.abs().max() <= 1e-12
    assert total.std(0).max() >= 0.5


def test_dreg_lands_too():
    ppca = PPCA.random(6, 3, seed=3)
    assert encoder_draws(DReG(k=5), ppca.model(), ppca.draw(1), 200).abs().max() <= 1e-12


def overdispersed_model():
    """x ~ N(z, I), z ~ N(0, I) in twenty dimensions, with a q that is a little off and too wide.

    The example of Rainforth et al. (2018), section 4.
    """
    ppca = PPCA(torch.eye(20), torch.zeros(20), scale=1.0)
    model = ppca.model(diagonal=True)
    (layer,) = model.inference.network.layers
    with torch.no_grad():
        layer.bias[20:] = raw_of(torch.full((20,), (2 / 3) ** 0.5))
        layer.bias[:20] += 0.1 * torch.randn(20)
    return model, ppca.draw(1)


def signal_to_noise(objective, model, x, n):
    """Root mean square over the bias of the mean, without the part that is left of the noise."""
    g = torch.cat([encoder_draws(objective, model, x, 500)[:, -40:-20] for _ in range(n // 500)])
    noise = g.var(0)
    ratio = ((g.mean(0).square() - noise / n) / noise).mean().sqrt().item()
    assert n >= 25 / ratio**2, f"{n} draws tell nothing about a ratio of {ratio:.3f}"
    return ratio


def slope(objective, few, many, n):
    model, x = overdispersed_model()
    low, high = (signal_to_noise(objective(k=k), model, x, n) for k in (few, many))
    return math.log(high / low) / math.log(many / few)


def test_encoder_gradients_drown_under_iwae():
    """Signal to noise falls as k^-1/2 (Rainforth et al., 2018, theorem 1)."""
    assert slope(IWAE, 4, 32, 45_000) == pytest.approx(-0.5, abs=0.1)


def test_encoder_gradients_do_not_drown_under_dreg():
    """Signal to noise rises (Tucker et al., 2019, section 5)."""
    assert slope(DReG, 16, 128, 2000) >= 0.35


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
