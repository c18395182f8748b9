"""Densities: Laplace, Gaussian scales, and the continuous Bernoulli on the unit interval."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Bernoulli

from vaepipe.core import SUPPORTS, DataSpec, examples
from vaepipe.likelihoods.continuous_bernoulli import ContinuousBernoulliLikelihood, TiltedUniform
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.likelihoods.laplace import LaplaceLikelihood
from vaepipe.testing.statistics import assert_mean

REALS = DataSpec((4,), SUPPORTS["real"], 100)
UNIT = DataSpec((4,), SUPPORTS["unit_interval"], 100)
SLOPES = [-300.0, -20.0, -1.001, -0.999, -1e-2, -1e-6, 0.0, 1e-8, 1e-3, 0.5, 2.0, 40.0, 300.0]


@pytest.mark.parametrize("slope", [*SLOPES, -1.0, 1.0])
def test_the_score_of_the_continuous_bernoulli_is_x_minus_the_mean(slope):
    """The slope of the mean is the variance; the score is -.282 at l = 1, x = .3."""
    logit = torch.tensor(slope, dtype=torch.float64, requires_grad=True)
    p = TiltedUniform(logit)
    (score,) = torch.autograd.grad(p.log_prob(torch.tensor(0.3, dtype=torch.float64)), logit)
    (spread,) = torch.autograd.grad(p.mean, logit)
    assert score.item() == pytest.approx(0.3 - p.mean.item(), abs=1e-9)
    assert spread.item() == pytest.approx(p.variance.item(), rel=1e-6)


@pytest.mark.parametrize("slope", SLOPES)
def test_the_continuous_bernoulli_is_an_exponential_density_by_quadrature(slope):
    """Mass, mean and variance of exp(l x) on [0, 1], near lambda = 1/2 and far from it."""

    def moment(power):
        peak = max(slope, 0.0)
        value, _ = integrate.quad(
            lambda x: x**power * math.exp(slope * x - peak), 0, 1, epsabs=0, epsrel=1e-12, limit=500
        )
        return value

    p = TiltedUniform(torch.tensor(slope))
    mass, mean = moment(0), moment(1) / moment(0)
    log_mass = math.log(mass) + max(slope, 0.0)
    assert p.log_prob(torch.tensor(0.3)).item() == pytest.approx(0.3 * slope - log_mass, abs=1e-9)
    assert p.mean.item() == pytest.approx(mean, rel=1e-9)
    assert p.variance.item() == pytest.approx(moment(2) / mass - mean**2, rel=1e-6)


@pytest.mark.parametrize("slope", SLOPES)
def test_the_continuous_bernoulli_keeps_its_digits_in_float32(slope):
    """One part in a million, and the gradient x - E x, at every slope."""
    double = torch.tensor(slope).float().double()
    single = double.float().requires_grad_()
    x = torch.tensor(0.3, dtype=torch.float32)
    exact = TiltedUniform(double).log_prob(x.double()).item()
    value = TiltedUniform(single).log_prob(x)
    value.backward()
    assert value.item() == pytest.approx(exact, abs=1e-6 * (1 + abs(slope)))
    expected = x.item() - TiltedUniform(double).mean.item()
    assert single.grad.item() == pytest.approx(expected, abs=1e-6)


def test_a_bernoulli_on_grey_pixels_leaves_out_792_nats_for_an_image():
    """log C(0.1) of 784 pixels: what the continuous Bernoulli adds to x l - softplus(l)."""
    logits = torch.full((784,), math.log(0.1 / 0.9))
    x = torch.rand(784)
    without = (x * logits - torch.nn.functional.softplus(logits)).sum()
    gap = TiltedUniform(logits).log_prob(x).sum() - without
    assert gap.item() == pytest.approx(792.1055, abs=1e-3)
    p = Bernoulli(logits=logits)
    zeros = torch.zeros(784)
    assert (TiltedUniform(logits).log_prob(zeros) - p.log_prob(zeros)).sum() == pytest.approx(
        792.1055, abs=1e-3
    )


def test_draws_of_the_continuous_bernoulli_have_its_mean_and_variance():
    p = TiltedUniform(torch.tensor([-300.0, -3.0, -1e-9, 0.0, 0.7, 20.0]))
    x = p.sample((100_000,))
    assert_mean(x, p.mean, "the mean")
    assert_mean((x - p.mean).square(), p.variance, "the variance")


@pytest.mark.parametrize("value", [-1e-3, 1.001, float("nan")])
def test_a_value_outside_the_unit_interval_is_an_error(value):
    x = torch.rand(3, 4)
    x[1, 2] = value
    with pytest.raises(ValueError, match="outside"):
        ContinuousBernoulliLikelihood(UNIT)(torch.zeros(3, 4)).log_prob(x)


def test_the_continuous_bernoulli_starts_at_the_mean_of_the_data():
    mean = torch.tensor([0.0, 0.2, 0.5, 1.0])
    head = ContinuousBernoulliLikelihood(DataSpec((4,), SUPPORTS["unit_interval"], 9, mean))
    assert torch.allclose(head(torch.zeros(4)).mean, mean.clamp(0.05, 0.95))


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_laplace_agrees_with_scipy(scale):
    loc, x = torch.randn(5, 4), torch.randn(5, 4)
    expected = stats.laplace(loc.numpy(force=True), scale).logpdf(x.numpy(force=True)).sum(-1)
    log_lik = LaplaceLikelihood(REALS, scale=scale)(loc).log_prob(x)
    assert torch.allclose(log_lik, torch.as_tensor(expected).to(log_lik), atol=1e-10)


@pytest.mark.parametrize("kind", [GaussianLikelihood, LaplaceLikelihood])
def test_two_scales_give_two_densities(kind):
    """The normaliser is there: ten times the scale costs log 10 a dimension at the centre."""
    one, ten = (kind(REALS, scale=s)(torch.zeros(4)).log_prob(torch.zeros(4)) for s in (0.3, 3.0))
    assert (one - ten).item() == pytest.approx(4 * math.log(10))


@pytest.mark.parametrize(
    ("kind", "law"), [(GaussianLikelihood, stats.norm), (LaplaceLikelihood, stats.laplace)]
)
def test_a_predicted_scale_is_a_feature(kind, law):
    """It starts near one, grows with its feature, and the density is that of scipy."""
    head = kind(REALS, scale="per_example")
    h, x = torch.randn(5, 2, 4), torch.randn(5, 4)
    p = head(h)
    expected = law(h[:, 0].numpy(force=True), p.base_dist.each.scale.numpy(force=True))
    log_prob = torch.as_tensor(expected.logpdf(x.numpy(force=True)).sum(-1))
    assert torch.allclose(p.log_prob(x), log_prob.to(x))
    assert torch.allclose(head(torch.zeros(2, 4)).base_dist.each.scale, torch.ones(4), atol=2e-3)
    assert not list(head.parameters())


@pytest.mark.parametrize("kind", [GaussianLikelihood, LaplaceLikelihood])
def test_a_learned_scale_has_a_floor_that_it_can_leave(kind):
    """A constant dimension cannot make the density infinite; large errors raise the scale again."""
    head = kind(REALS, scale="per_dimension")
    torch.nn.init.constant_(head.log_scale, -50.0)
    p = head(torch.zeros(4))
    assert torch.allclose(p.base_dist.each.scale, torch.tensor(1e-3))
    p.log_prob(torch.ones(4)).backward()
    assert (head.log_scale.grad > 0).all()


@pytest.mark.parametrize("chosen", ["learned", "per_dimension", "per_example"])
@pytest.mark.parametrize("kind", [GaussianLikelihood, LaplaceLikelihood])
def test_wild_features_give_finite_gradients_in_float32(kind, chosen):
    head = kind(REALS, scale=chosen).float()
    h = (100 * torch.randn(50, *head.feature_shape).sign().float()).requires_grad_()
    head(h).log_prob(examples(REALS, 50).float()).sum().backward()
    assert h.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_wild_slopes_give_finite_gradients_in_float32():
    h = (1e4 * torch.randn(50, 4).sign().float()).requires_grad_()
    ContinuousBernoulliLikelihood(UNIT).float()(h).log_prob(
        torch.rand(50, 4).float()
    ).sum().backward()
    assert h.grad.isfinite().all()
