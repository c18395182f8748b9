"""KL(q || p): closed forms, draws, and the decision between them."""

import itertools
import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Categorical,
    Gamma,
    Independent,
    Laplace,
    MultivariateNormal,
    Normal,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
    StudentT,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.transforms import AffineTransform

from vaepipe import registry
from vaepipe.core import SUPPORTS, Conditional, DataSpec, has_closed_form, rate, rate_per_dimension
from vaepipe.errors import CompatibilityError
from vaepipe.families.normal import DiagonalNormal, FullNormal
from vaepipe.networks.mlp import MLP
from vaepipe.testing import assert_mean
from vaepipe.testing.masses import is_discrete

DATA = DataSpec((4,), SUPPORTS["real"], 100)
PAIRS = list(itertools.product(registry.available("families"), registry.available("priors")))


def posterior_and_prior(family, prior):
    """Of one kind of latent, else there is nothing to ask."""
    try:
        head = registry.part("families", family).build((3,))
        made = registry.part("priors", prior).build((3,), DATA)
    except CompatibilityError as error:
        pytest.skip(str(error))
    inference = Conditional(MLP((4,), head.feature_shape, hidden=[8]), head, (4,))
    if made.needs & ~head.provides:
        pytest.skip(f"{family} does not provide {made.needs}")
    try:
        q, p = inference(torch.randn(4, 4)), made(inference).z
    except CompatibilityError as error:
        pytest.skip(str(error))
    if is_discrete(q) != is_discrete(p):
        pytest.skip("a mass cannot be compared with a density")
    return q, p


@pytest.mark.parametrize(("family", "prior"), PAIRS)
def test_the_rate_is_the_mean_of_sampled_rates(family, prior):
    """Exact where there is a closed form; log q(z) - log p(z) of the given draws elsewhere."""
    q, p = posterior_and_prior(family, prior)
    closed = has_closed_form(q, p)
    z = q.sample((20_000 if closed else 20,))
    sampled = q.log_prob(z) - p.log_prob(z)
    if closed:
        assert rate(q, p, z).shape == (4,)
        assert_mean(sampled, rate(q, p, z), f"{family} to {prior}", limit=4)
    else:
        assert torch.equal(rate(q, p, z), sampled)


def test_normal_families_have_a_closed_form_to_normal_priors_only():
    ours = ("diagonal_normal", "full_normal")
    pairs = itertools.product(ours, ("standard_normal", "learned_normal", "mixture", "vamp"))
    closed = {pair for pair in pairs if has_closed_form(*posterior_and_prior(*pair))}
    assert closed == set(itertools.product(ours, ("standard_normal", "learned_normal")))


def test_full_normal_agrees_with_torch_on_a_prior_written_in_full():
    q = FullNormal((3,))(torch.randn(5, 9))
    loc, scale = torch.randn(3), torch.rand(3) + 0.5
    p = Independent(Normal(loc, scale), 1)
    full = MultivariateNormal(loc, scale_tril=scale.diag())
    assert torch.allclose(kl_divergence(q, p), kl_divergence(q, full))


def test_a_full_normal_with_a_diagonal_scale_is_a_diagonal_normal():
    loc, raw = torch.randn(5, 3), torch.randn(5, 3)
    full = FullNormal((3,))(torch.cat([loc, raw, torch.zeros(5, 3)], -1))
    diagonal = DiagonalNormal((3,))(torch.stack([loc, raw], 1))
    z = torch.randn(7, 5, 3)
    assert torch.allclose(full.log_prob(z), diagonal.log_prob(z))


def test_the_textbook_formula():
    """1/2 sum(mu^2 + sigma^2 - 1 - log sigma^2), sigma^2 being the variance."""
    q = DiagonalNormal((3,))(torch.randn(5, 2, 3))
    p = Independent(Normal(torch.zeros(3), torch.ones(3)), 1)
    variance = q.stddev.square()
    expected = 0.5 * (q.mean.square() + variance - 1 - variance.log()).sum(-1)
    assert torch.allclose(rate(q, p, torch.empty(0)), expected)


def test_rates_of_dimensions_add_up_to_the_rate():
    q = DiagonalNormal((2, 3))(torch.randn(5, 2, 2, 3))
    one = torch.ones(2, 3)
    for p in (Independent(Normal(0 * one, one), 2), Independent(StudentT(5 * one), 2)):
        z = q.sample((7,))
        rates = rate_per_dimension(q, p, z)
        assert rates is not None
        assert torch.allclose(rates.sum((-1, -2)), rate(q, p, z))


def test_densities_that_do_not_factorise_have_no_rates_of_dimensions():
    q, p = posterior_and_prior("full_normal", "standard_normal")
    assert rate_per_dimension(q, p, q.sample((1,))) is None
    q, p = posterior_and_prior("diagonal_normal", "mixture")
    assert rate_per_dimension(q, p, q.sample((1,))) is None


ONE = torch.ones(2, dtype=torch.float64)
NORMAL, GAMMA = Normal(ONE, ONE), Gamma(ONE, ONE)
LAPLACE = Laplace(ONE, ONE)
SHIFT, SCALE = AffineTransform(1.0, ONE), AffineTransform(0.0, 2 * ONE)


@pytest.mark.parametrize(
    ("q", "p", "closed"),
    [
        (NORMAL, NORMAL, True),
        (NORMAL, LAPLACE, True),
        (LAPLACE, NORMAL, True),
        (GAMMA, NORMAL, True),
        (NORMAL, StudentT(ONE), False),
        (Independent(NORMAL, 1), Independent(NORMAL, 1), True),
        (Independent(NORMAL, 1), NORMAL, False),
        (Independent(Normal(ONE.expand(3, 2), ONE), 2), Independent(NORMAL, 1), False),
        (MultivariateNormal(ONE, ONE.diag()), Independent(NORMAL, 1), True),
        (MultivariateNormal(ONE, ONE.diag()), Independent(LAPLACE, 1), False),
        (MultivariateNormal(ONE, ONE.diag()), MultivariateNormal(ONE, ONE.diag()), True),
        (Independent(NORMAL, 1), MultivariateNormal(ONE, ONE.diag()), False),
        (TransformedDistribution(NORMAL, SHIFT), TransformedDistribution(NORMAL, SHIFT), True),
        (TransformedDistribution(NORMAL, SHIFT), TransformedDistribution(NORMAL, SCALE), False),
        (torch.distributions.Beta(ONE, ONE), torch.distributions.Dirichlet(ONE), False),
    ],
)
def test_the_decision_agrees_with_what_torch_can_do(q, p, closed):
    """No closed form is promised that raises, and none is overlooked."""
    assert has_closed_form(q, p) == closed
    if closed:
        assert kl_divergence(q, p).isfinite().all()
    else:
        with pytest.raises((NotImplementedError, RuntimeError)):
            kl_divergence(q, p)


@pytest.mark.parametrize(("a", "b"), [(12, 17), (16, 30), (3, -95), (-12, -17), (0.3, 0.4), (2, 2)])
def test_bits_that_are_almost_certain_have_a_finite_rate_in_single_precision(a, b):
    """sigmoid(17) is 1 in float32; the KL of such bits is still what float64 says."""
    logits = torch.tensor([float(a), float(b)], dtype=torch.float64)
    expected = 3 * kl_divergence(*(Bernoulli(logits=v) for v in logits)).item()
    many, one = logits[0].float().expand(5, 3), logits[1].float().expand(3)
    q, p = (Independent(Bernoulli(logits=v, validate_args=False), 1) for v in (many, one))
    found = rate(q, p, many)
    assert found.shape == (5,)
    assert found.double() == pytest.approx(torch.full((5,), expected), rel=1e-5, abs=1e-7)
    assert torch.equal(rate_per_dimension(q, p, many).sum(-1), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_that_the_prior_almost_excludes_have_a_finite_rate(dtype):
    """120 nats by arithmetic; 59.31 where half of q lies there."""
    certain, half = torch.tensor([-200.0, 0.0], dtype=dtype), torch.zeros(2, dtype=dtype)
    excluded = torch.tensor([0.0, -120.0], dtype=dtype)
    for kind in (OneHotCategorical, OneHotCategoricalStraightThrough, Categorical):
        p = kind(logits=excluded)
        rates = [rate(kind(logits=a), p, torch.empty(0)).item() for a in (certain, half)]
        assert rates == pytest.approx([120.0, 60 - math.log(2)], rel=1e-6)


def test_an_impossible_code_adds_nothing_to_the_rate_and_an_excluded_one_makes_it_infinite():
    logits = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]], requires_grad=True)
    q, p = OneHotCategorical(logits=logits), OneHotCategorical(logits=torch.zeros(2))
    found = rate(q, p, torch.empty(0))
    assert found.tolist() == pytest.approx([math.log(2), 0.0])
    assert torch.autograd.grad(found.sum(), logits)[0][:, 0].tolist() == [0.0, 0.0]
    never = OneHotCategorical(logits=torch.tensor([0.0, -torch.inf]))
    assert rate(q, never, torch.empty(0)).tolist() == [0.0, torch.inf]
