"""log p(x | z), constants included."""

import math

import pytest
import torch
from scipy import stats
from torch.distributions import Bernoulli, Independent

from vaepipe.core import SUPPORTS, Conditional, DataSpec, LatentModel, StepContext
from vaepipe.families.normal import DiagonalNormal
from vaepipe.likelihoods.bernoulli import BernoulliLikelihood, BernoulliLogits
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO
from vaepipe.priors.normal import StandardNormal

PIXELS = DataSpec((784,), SUPPORTS["boolean"], 50_000)
REALS = DataSpec((4,), SUPPORTS["real"], 100)


def binary(*shape):
    return torch.bernoulli(torch.full(shape, 0.3))


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_zero_logits_cost_784_log_2_at_any_batch_size(batch):
    """The loss of one image is a sum over its pixels and does not depend on its batch."""
    head = DiagonalNormal((2,))
    model = LatentModel(
        Conditional(MLP((784,), (2, 2), hidden=[]), head, (784,)),
        StandardNormal((2,), PIXELS),
        Conditional(MLP((2,), (784,), hidden=[]), BernoulliLikelihood(PIXELS), (2,)),
    )
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    estimate = ELBO().estimate(model, binary(batch, 784), StepContext(0, 0.0, 100))
    assert round(estimate.surrogate.item(), 2) == 543.43
    assert torch.allclose(estimate.bound, torch.tensor(-784 * math.log(2)), atol=1e-4)


def test_bernoulli_agrees_with_torch():
    logits, x = 3 * torch.randn(4, 5, 2, 3), binary(5, 2, 3)
    expected = Independent(Bernoulli(logits=logits), 2)
    p = BernoulliLogits(logits, 2)
    assert torch.allclose(p.log_prob(x), expected.log_prob(x))
    assert torch.equal(p.mean, expected.mean)
    assert torch.allclose(p.variance, expected.variance)
    assert p.expand((6, 4, 5)).log_prob(x).shape == (6, 4, 5)
    assert torch.equal(p.mode, (p.mean > 0.5).to(logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [100.0, -100.0])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_extreme_logits_are_exact(logit, value, dtype):
    """log p is 0 or -100 for each of ten pixels, with the gradient x - sigmoid(l)."""
    logits = torch.full((1, 10), logit, dtype=dtype, requires_grad=True)
    x = torch.full((1, 10), value, dtype=dtype)
    log_lik = BernoulliLogits(logits, 1).log_prob(x)
    right = value == float(logit > 0)
    assert log_lik.item() == pytest.approx(0 if right else -1000, abs=1e-40)
    log_lik.sum().backward()
    assert torch.allclose(logits.grad, x - logits.sigmoid())


@pytest.mark.parametrize("value", [0.5, 1e-3, 1 - 1e-6, -1.0, 2.0, float("nan"), float("inf")])
def test_a_grey_pixel_is_an_error_and_never_a_number(value):
    x = binary(3, 784)
    x[1, 17] = value
    p = BernoulliLogits(torch.randn(5, 3, 784), 1)
    with pytest.raises(ValueError, match="binarize"):
        p.log_prob(x)


def test_bernoulli_starts_at_the_base_rate_of_every_pixel():
    mean = torch.tensor([0.0, 0.2, 0.7, 1.0])
    data = DataSpec((4,), SUPPORTS["boolean"], 100, mean)
    assert torch.allclose(BernoulliLikelihood(data)(torch.zeros(4)).mean, mean.clamp(0.001, 0.999))


def test_the_base_rate_is_stored_with_the_weights():
    data = DataSpec((4,), SUPPORTS["boolean"], 100, torch.rand(4))
    bare = BernoulliLikelihood(DataSpec((4,), SUPPORTS["boolean"], 100))
    bare.load_state_dict(BernoulliLikelihood(data).state_dict())
    assert torch.allclose(bare(torch.zeros(4)).mean, data.mean)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_gaussian_agrees_with_scipy(scale):
    mean, x = torch.randn(5, 4), torch.randn(5, 4)
    expected = stats.norm(mean.numpy(force=True), scale).logpdf(x.numpy(force=True)).sum(-1)
    log_lik = GaussianLikelihood(REALS, scale=scale)(mean).log_prob(x)
    assert torch.allclose(log_lik, torch.as_tensor(expected), atol=1e-10)


@pytest.mark.parametrize(("scale", "numbers"), [("learned", 1), ("per_dimension", 4), (0.3, 0)])
def test_gaussian_scales_are_fixed_shared_or_one_for_every_dimension(scale, numbers):
    head = GaussianLikelihood(REALS, scale=scale)
    assert sum(p.numel() for p in head.parameters()) == numbers


def test_a_learned_scale_finds_the_residual():
    """Its gradient vanishes where sigma^2 is the mean square of x - mu."""
    head, x = GaussianLikelihood(REALS, scale="per_dimension"), 3 * torch.randn(50, 4)
    with torch.no_grad():
        head.log_scale.copy_(0.5 * x.square().mean(0).log())
    head(torch.zeros(50, 4)).log_prob(x).sum().backward()
    assert head.log_scale.grad.abs().max() < 1e-9
