"""Masses of a known number of values: categorical, discretised logistic, mixture of logistics."""

import math

import pytest
import torch
from scipy import stats

from vaepipe.core import SUPPORTS, DataSpec, examples
from vaepipe.errors import CompatibilityError
from vaepipe.likelihoods.categorical import CategoricalLikelihood
from vaepipe.likelihoods.logistic import (
    DiscretizedLogisticLikelihood,
    LogisticLevels,
    LogisticMixtureLikelihood,
)
from vaepipe.testing.statistics import assert_mean

KINDS = {
    "categorical": CategoricalLikelihood,
    "logistic": DiscretizedLogisticLikelihood,
    "predicted": lambda data: DiscretizedLogisticLikelihood(data, scale="per_example"),
    "mixture": LogisticMixtureLikelihood,
}


def of(levels, shape=(3,), mean=None):
    return DataSpec(shape, SUPPORTS["integer"], 100, mean, levels)


def masses(p, levels):
    """p(x) of every value of one number: `[levels, *batch]`."""
    x = torch.arange(levels, dtype=p.mean.dtype).reshape(-1, *(1 for _ in p.batch_shape), 1)
    return p.log_prob(x).exp()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("levels", "shape"), [(2, (1,)), (256, (1,)), (1000, (1,))])
def test_the_masses_of_all_levels_add_up_to_one(kind, levels, shape):
    """The outer bins included, for wide, narrow and displaced distributions."""
    head = KINDS[kind](of(levels, shape))
    for size in (0.1, 1.0, 10.0):
        h = size * torch.randn(50, *head.feature_shape)
        total = masses(head(h), levels).sum(0)
        assert (total - 1).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_the_masses_add_up_to_one_in_float32(kind):
    """A bin ends where the next begins, to the last digit, so that errors cancel in the sum."""
    head = KINDS[kind](of(256, (1,))).float()
    for size in (0.0, 1.0):
        h = size * torch.randn(200, *head.feature_shape).float()
        total = masses(head(h), 256).double().sum(0)
        assert (total - 1).abs().max() < 1e-6


def test_an_indifferent_model_of_256_grey_levels_costs_8_bits_for_each():
    """D log2(256) bits for an image of D pixels: nats / (D log 2) = 8.000."""
    head = CategoricalLikelihood(of(256, (1, 28, 28)))
    x = torch.randint(0, 256, (5, 1, 28, 28)).to(torch.get_default_dtype())
    nats = -head(torch.zeros(5, *head.feature_shape)).log_prob(x)
    bits = nats / (784 * math.log(2))
    assert torch.allclose(bits, torch.tensor(8.0), atol=1e-12)
    assert torch.allclose(bits * 784 * math.log(2), nats)


def test_grey_levels_as_a_density_differ_from_their_mass_by_log_256():
    """Dequantised to [0, 1], a uniform density is 0 nats; a mass is log 256 less for each pixel."""
    mass = CategoricalLikelihood(of(256, (1,)))(torch.zeros(256, 1)).log_prob(torch.zeros(1))
    assert mass.item() == pytest.approx(0 - math.log(256))


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_discretised_logistic_has_the_masses_of_scipys_distribution_function(levels):
    loc, log_scale = 0.7 * torch.randn(20, 1), torch.randn(20, 1) - 1.5
    p = LogisticLevels(torch.zeros(20, 1), loc, log_scale, levels)
    half = (levels - 1) / 2
    law = stats.logistic(
        ((loc + 1) * half).numpy(force=True), (log_scale.exp() * half).numpy(force=True)
    )
    edges = [-math.inf, *(j + 0.5 for j in range(levels - 1)), math.inf]
    cdf = torch.as_tensor(law.cdf(edges))
    expected = cdf.diff(dim=1)
    got = p.log_prob(torch.arange(levels, dtype=loc.dtype)[:, None]).exp().T
    assert torch.allclose(got, expected.to(got), atol=1e-12)


def test_far_bins_have_finite_logarithms_where_the_difference_of_two_ones_is_zero():
    """A bin 60 scales away: the naive difference underflows in float32, the product does not."""
    p = LogisticLevels(*(torch.tensor([[v]]) for v in (0.0, 1.0, math.log(1 / 255))), 256)
    x = torch.tensor([3.0])
    naive = (
        torch.sigmoid((x + 0.5 - 255) * 2.0).float() - torch.sigmoid((x - 0.5 - 255) * 2.0).float()
    )
    assert naive.item() == 0.0
    expected = -(255 - 3.5) * 2.0 + math.log(-math.expm1(-2.0))
    assert p.log_prob(x).item() == pytest.approx(expected, rel=1e-9)


def test_a_mixture_has_the_mass_of_its_parts():
    logits, loc, log_scale = torch.randn(7, 3), torch.randn(7, 3), torch.randn(7, 3) - 1
    x = torch.randint(0, 16, (7,)).to(loc)
    whole = LogisticLevels(logits, loc, log_scale, 16).log_prob(x).exp()
    parts = [
        LogisticLevels(torch.zeros(7, 1), loc[:, k, None], log_scale[:, k, None], 16)
        .log_prob(x)
        .exp()
        for k in range(3)
    ]
    assert torch.allclose(whole, (logits.softmax(-1) * torch.stack(parts, -1)).sum(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_variance_are_those_of_draws(kind):
    head = KINDS[kind](of(20))
    p = head(0.5 * torch.randn(head.feature_shape))
    x = p.sample((50_000,))
    assert_mean(x, p.mean.detach(), "the mean")
    assert_mean((x - p.mean).square().detach(), p.variance.detach(), "the variance")
    assert SUPPORTS["integer"].check(x).all()
    assert x.max() <= 19


@pytest.mark.parametrize("kind", KINDS)
def test_zero_features_have_the_mean_of_the_data(kind):
    """Within two hundredths of the range, ends included."""
    mean = torch.tensor([0.0, 3.0, 128.0, 250.0, 255.0])
    head = KINDS[kind](of(256, (5,), mean))
    assert (head(torch.zeros(head.feature_shape)).mean - mean).abs().max() < 0.02 * 255


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-1.0, 0.5, 256.0, float("nan")])
def test_values_that_are_no_level_are_an_error(kind, value):
    head = KINDS[kind](of(256))
    x = torch.zeros(2, 3)
    x[1, 1] = value
    with pytest.raises(ValueError, match="up to 255"):
        head(torch.zeros(2, *head.feature_shape)).log_prob(x)


@pytest.mark.parametrize("kind", KINDS)
def test_integers_without_an_end_are_refused_with_the_way_out(kind):
    with pytest.raises(CompatibilityError, match=r"binarize: levels.*poisson"):
        KINDS[kind](DataSpec((3,), SUPPORTS["integer"], 100))


@pytest.mark.parametrize("kind", KINDS)
def test_wild_features_give_finite_gradients_in_float32(kind):
    head = KINDS[kind](of(256)).float()
    h = (100 * torch.randn(100, *head.feature_shape).sign().float()).requires_grad_()
    log_lik = head(h).log_prob(examples(of(256), 100).float())
    log_lik.sum().backward()
    assert log_lik.isfinite().all()
    assert h.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in head.parameters())
