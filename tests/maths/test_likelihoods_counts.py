"""Masses of counts: Poisson, negative binomial, and the latter with extra zeros."""

import math

import mpmath
import pytest
import torch
from scipy import special, stats

from vaepipe.core import SUPPORTS, DataSpec
from vaepipe.likelihoods.counts import PoissonLikelihood, PoissonLogRate, stirling_error
from vaepipe.likelihoods.elementwise import log_positive
from vaepipe.likelihoods.negative_binomial import (
    GammaPoisson,
    NegativeBinomialLikelihood,
    ZeroInflated,
    ZeroInflatedNegativeBinomialLikelihood,
)
from vaepipe.testing.statistics import assert_mean

COUNTS = DataSpec((3,), SUPPORTS["integer"], 100)
KINDS = {
    "poisson": PoissonLikelihood,
    "negative_binomial": NegativeBinomialLikelihood,
    "predicted": lambda data: NegativeBinomialLikelihood(data, dispersion="per_example"),
    "zinb": ZeroInflatedNegativeBinomialLikelihood,
    "zinb predicted": lambda d: ZeroInflatedNegativeBinomialLikelihood(d, dispersion="per_example"),
}
XS = torch.tensor([0, 1, 2, 5, 15, 16, 17, 100, 1e4, 1e6], dtype=torch.float64)
MEANS = torch.tensor([1e-3, 0.3, 2.0, 100.0, 1e4, 1e6], dtype=torch.float64)[:, None]
DISPERSIONS = torch.tensor([1e-4, 0.1, 1.0, 15.9, 16.1, 1e3, 1e6], dtype=torch.float64)


@pytest.mark.parametrize("x", [15.5, 16.0, 16.5])
def test_the_error_of_stirling_has_its_slope_where_the_formula_changes(x):
    """d/dx = digamma(x + 1) - log x - 1 / (2 x), at 16 too."""
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(stirling_error(at), at)
    assert slope.item() == pytest.approx(special.digamma(x + 1) - math.log(x) - 0.5 / x, rel=1e-6)


def test_the_logarithm_of_a_positive_feature_has_its_slope_where_the_formula_changes():
    raw = -15 - math.log(math.expm1(1.0)) + torch.tensor([-1e-9, 0.0, 1e-9], dtype=torch.float64)
    raw.requires_grad_()
    (slope,) = torch.autograd.grad(log_positive(raw).sum(), raw)
    assert slope.tolist() == pytest.approx([1.0, 1.0, 1.0], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_poisson_agrees_with_scipy_for_all_sizes_of_counts(dtype):
    """In float32 too, where x log(rate) and log x! are 10^7 and cancel."""
    p = PoissonLogRate(MEANS.log().to(dtype))
    expected = torch.as_tensor(stats.poisson(p.log_rate.double().exp().numpy()).logpmf(XS.numpy()))
    error = (p.log_prob(XS.to(dtype)).double() - expected).abs()
    assert (error / (1 + expected.abs())).max() < (1e-9 if dtype == torch.float64 else 5e-6)


@pytest.mark.parametrize("dispersion", DISPERSIONS.tolist())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_negative_binomial_agrees_with_scipy_for_all_sizes_of_counts(dispersion, dtype):
    r = torch.tensor(dispersion, dtype=dtype).expand(MEANS.shape)
    p = GammaPoisson(MEANS.log().to(dtype), r)
    mean, n = p.log_mean.double().exp(), r.double()
    law = stats.nbinom(n.numpy(), (n / (n + mean)).numpy())
    expected = torch.as_tensor(law.logpmf(XS.numpy()))
    error = (p.log_prob(XS.to(dtype)).double() - expected).abs()
    assert (error / (1 + expected.abs())).max() < (1e-7 if dtype == torch.float64 else 5e-6)


@pytest.mark.parametrize("dispersion", [1.0, 1e3, 1e6, None])
def test_counts_of_a_billion_keep_their_nats_in_float32(dispersion):
    """Against 50 digits; a float32 of log mean has 1e-6 of the mean, which Poisson sees."""
    log_mean = torch.tensor(1e9, dtype=torch.float64).log().float()
    x = torch.tensor([1e9, 1e9 + 3e4, 1e9 - 6e4]).float()
    with mpmath.workdps(50):
        mean = mpmath.exp(mpmath.mpf(log_mean.item()))
        expected = [float(mass(mpmath.mpf(n), mean, dispersion)) for n in x.double().tolist()]
    if dispersion is None:
        p = PoissonLogRate(log_mean.expand(3))
    else:
        p = GammaPoisson(log_mean.expand(3), torch.tensor(dispersion).expand(3).float())
    off = (p.log_prob(x).double() - torch.tensor(expected, dtype=torch.float64)).abs().max()
    assert off < (0.05 if dispersion is None else 1e-4)


def mass(x, mean, dispersion):
    """log p(x) of a Poisson variable, or of a negative binomial one, in mpmath's precision."""
    log, gamma = mpmath.log, mpmath.loggamma
    if dispersion is None:
        return x * log(mean) - mean - gamma(x + 1)
    r = mpmath.mpf(dispersion)
    binomial = gamma(x + r) - gamma(r) - gamma(x + 1)
    return binomial + r * log(r / (r + mean)) + x * log(mean / (r + mean))


def test_a_large_dispersion_is_the_poisson_limit():
    log_mean = torch.tensor([0.1, 5.0, 80.0]).log()
    x = torch.tensor([0.0, 7.0, 60.0])
    p = GammaPoisson(log_mean, torch.tensor(1e9).expand(3))
    assert torch.allclose(p.log_prob(x), PoissonLogRate(log_mean).log_prob(x), atol=1e-5)


def test_extra_zeros_are_a_mixture_with_a_point_at_zero():
    counts = GammaPoisson(torch.randn(4), torch.rand(4) + 0.5)
    logits = torch.randn(4)
    p, x = ZeroInflated(counts, logits), torch.tensor([0.0, 0.0, 1.0, 9.0])
    expected = logits.sigmoid() * (x == 0) + (1 - logits.sigmoid()) * counts.log_prob(x).exp()
    assert torch.allclose(p.log_prob(x).exp(), expected)
    assert torch.allclose(p.expand((2, 4)).log_prob(x), p.log_prob(x).expand(2, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_the_masses_add_up_to_one(kind):
    head = KINDS[kind](DataSpec((1,), SUPPORTS["integer"], 100))
    p = head(torch.randn(20, *head.feature_shape))
    total = p.log_prob(torch.arange(3000.0)[:, None, None]).exp().sum(0)
    assert (total - 1).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_variance_are_those_of_draws(kind):
    head = KINDS[kind](COUNTS)
    p = head(torch.randn(head.feature_shape))
    x = p.sample((50_000,))
    assert_mean(x, p.mean.detach(), "the mean")
    assert_mean((x - p.mean).square().detach(), p.variance.detach(), "the variance")


@pytest.mark.parametrize("kind", KINDS)
def test_zero_features_have_the_mean_of_the_data(kind):
    """At least a thousandth, so that a first count of a constant zero is not impossible."""
    mean = torch.tensor([0.0, 0.4, 1234.0])
    head = KINDS[kind](DataSpec((3,), SUPPORTS["integer"], 100, mean))
    assert torch.allclose(head(torch.zeros(head.feature_shape)).mean, mean.clamp_min(1e-3))


def with_moments(mean, scale):
    """Counts with the moments of a training split."""
    mean, scale = (torch.tensor(v, dtype=torch.float64) for v in (mean, scale))
    return DataSpec((3,), SUPPORTS["integer"], 100, mean, scale=scale)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_features_have_the_mean_of_large_counts_that_hardly_vary(kind):
    mean = [5.0, 1e6, 1e9]
    head = KINDS[kind](with_moments(mean, [1e-3, 1e3, 3e4]))
    p = head(torch.zeros(head.feature_shape))
    assert torch.allclose(p.mean, torch.tensor(mean))


@pytest.mark.parametrize("kind", ["negative_binomial", "zinb"])
def test_zero_features_have_the_variance_of_the_data(kind):
    """Where it is between that of r = 1 and that of Poisson variables."""
    scale = torch.tensor([4.0, 1e5, 1e8])
    head = KINDS[kind](with_moments([5.0, 1e6, 1e9], scale.tolist()))
    found = head(torch.zeros(head.feature_shape)).base_dist
    counts = found.counts if kind == "zinb" else found
    assert torch.allclose(counts.variance.sqrt(), scale, rtol=0.1)


def test_features_of_one_are_about_one_standard_deviation():
    mean, scale = torch.tensor([5.0, 1e6, 1e9]), torch.tensor([1.0, 1e3, 3e4])
    head = PoissonLikelihood(with_moments(mean.tolist(), scale.tolist()))
    moved = (head(torch.ones(3)).mean - mean) / scale
    assert ((moved > 0.6) & (moved < 0.7)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [3e4, 1e8, 1e9])
def test_a_billion_gives_finite_numbers_and_gradients_in_float32(kind, scale):
    head = KINDS[kind](with_moments([1e9] * 3, [scale] * 3)).float()
    for size in (1.0, 100.0):
        h = (size * torch.randn(100, *head.feature_shape).sign().float()).requires_grad_()
        for count in (0.0, 1.0, 1e9, 2e9):
            log_lik = head(h).log_prob(torch.full((100, 3), count).float())
            grads = torch.autograd.grad(log_lik.sum(), [h, *head.parameters()])
            assert log_lik.isfinite().all() and all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-1.0, 0.5, float("nan"), float("inf")])
def test_what_is_no_count_is_an_error(kind, value):
    head = KINDS[kind](COUNTS)
    x = torch.zeros(2, 3)
    x[1, 1] = value
    with pytest.raises(ValueError, match="integers 0, 1, 2"):
        head(torch.zeros(2, *head.feature_shape)).log_prob(x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [0.0, 3.0, 1e6])
def test_wild_features_give_finite_numbers_and_gradients_in_float32(kind, count):
    head = KINDS[kind](COUNTS).float()
    h = (100 * torch.randn(100, *head.feature_shape).sign().float()).requires_grad_()
    log_lik = head(h).log_prob(torch.full((100, 3), count).float())
    log_lik.sum().backward()
    assert log_lik.isfinite().all()
    assert h.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize(
    ("dispersion", "numbers"), [("learned", 1), ("per_dimension", 3), ("per_example", 0)]
)
def test_the_dispersion_is_shared_one_for_each_dimension_or_predicted(dispersion, numbers):
    head = NegativeBinomialLikelihood(COUNTS, dispersion=dispersion)
    assert sum(p.numel() for p in head.parameters()) == numbers


def test_the_dispersion_finds_the_variance_of_the_data():
    """Fitted to draws of r = 3, the likelihood is highest near r = 3."""
    x = GammaPoisson(torch.tensor(math.log(10.0)), torch.tensor(3.0)).sample((20_000,))
    grid = torch.tensor([1.0, 2.0, 3.0, 4.0, 6.0])
    fits = GammaPoisson(torch.full((5,), math.log(10.0)), grid).log_prob(x[:, None]).mean(0)
    assert grid[fits.argmax()] == 3.0
