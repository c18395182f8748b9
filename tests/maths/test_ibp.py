"""The Indian buffet process prior: its sticks, their divergence, and what the bound says."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch.distributions import Bernoulli, Independent, MixtureSameFamily
from vaepipe_ibp import IBPPrior, Kumaraswamy

from vaepipe.core import (
    SUPPORTS,
    Conditional,
    DataSpec,
    LatentModel,
    StepContext,
    has_closed_form,
    rate,
    rehearse,
)
from vaepipe.errors import CompatibilityError
from vaepipe.evaluation import score, validate
from vaepipe.families.discrete import BernoulliFamily
from vaepipe.families.relaxed import BinaryConcreteFamily
from vaepipe.likelihoods.bernoulli import BernoulliLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO
from vaepipe.objectives.score import VIMCO
from vaepipe.testing.exact import Enumeration, binary_codes
from vaepipe.testing.statistics import assert_mean, z_scores

DATA = DataSpec((4,), SUPPORTS["boolean"], 100)


def made(family=BernoulliFamily, **options):
    """A small model with 2 features, and examples."""
    head = family((2,))
    model = LatentModel(
        Conditional(MLP((4,), (2,), hidden=[]), head, (4,)),
        IBPPrior((2,), DATA, **{"alpha": 2.0, **options}),
        Conditional(MLP((2,), (4,), hidden=[]), BernoulliLikelihood(DATA), (2,), head.read),
    )
    return model, torch.rand(6, 4).round()


def sticks(a, b, n=1):
    return Kumaraswamy(torch.full((n,), a), torch.full((n,), b))


PARAMETERS = [(2.0, 3.0, 5.0), (0.5, 4.0, 1.0), (10.0, 1.0, 10.0), (3.0, 0.3, 0.7)]


@pytest.mark.parametrize(("a", "b", "alpha"), PARAMETERS)
def test_the_divergence_of_a_stick_is_what_quadrature_says(a, b, alpha):
    """No series is cut off: KL(Kumaraswamy(a, b) || Beta(alpha, 1)) to 1e-8.

    The integral is taken over s = (1 - v^a)^b, which is uniform.
    """

    def log_ratio(s):
        log_rest = math.log(s) / b  # log(1 - v^a)
        log_v = math.log(-math.expm1(log_rest)) / a
        log_q = math.log(a * b) + (a - 1) * log_v + (b - 1) * log_rest
        return log_q - math.log(alpha) - (alpha - 1) * log_v

    exact, _ = integrate.quad(log_ratio, 0, 1, epsabs=1e-12, epsrel=1e-12, limit=500)
    assert sticks(a, b).kl_to_beta(alpha).item() == pytest.approx(exact, abs=1e-8)


@pytest.mark.parametrize(("a", "b", "alpha"), PARAMETERS)
def test_draws_means_and_gradients_of_a_stick_agree(a, b, alpha):
    """E v, E log v and its derivatives by draws and in closed form; quantiles by the cdf."""
    q = sticks(a, b, 20_000)
    log_v = q.log_rsample()
    assert_mean(log_v, q.mean_log()[0], "E log v")
    assert_mean(log_v.exp(), q.mean()[0], "E v")
    assert stats.kstest(log_v.exp().numpy(), lambda v: 1 - (1 - v**a) ** b).pvalue > 1e-4
    leaves = [value.clone().requires_grad_() for value in q]
    draws = torch.autograd.grad(Kumaraswamy(*leaves).log_rsample().sum(), leaves)
    means = torch.autograd.grad(Kumaraswamy(*leaves).mean_log().sum(), leaves)
    for path, exact in zip(draws, means, strict=True):
        assert_mean(path, exact[0], "d E log v")


def test_the_expected_number_of_features():
    """alpha (1 - (alpha / (1 + alpha))^K): 9.9993 for alpha = 10, K = 100; by draws too."""
    prior = IBPPrior((100,), DATA, alpha=10.0)
    expected = 10 * (1 - (10 / 11) ** 100)
    assert round(expected, 4) == 9.9993
    assert prior.eval()(None).z.mean.sum().item() == pytest.approx(expected, abs=1e-4)
    assert prior(None).global_kl.item() == pytest.approx(0, abs=1e-12)
    prior.train()
    with torch.no_grad():
        counts = torch.stack([prior(None).z.sample().sum() for _ in range(4000)])
    assert_mean(counts, expected, "the number of features")


def test_one_draw_of_the_sticks_holds_for_a_whole_batch():
    """Two examples with feature 1 are likelier together than apart: the sticks are shared."""
    prior = IBPPrior((1,), DATA, alpha=1.0)
    with torch.no_grad():
        pairs = torch.stack([prior(None).z.sample((2,)).prod() for _ in range(4000)])
    assert_mean(pairs, 1 / 3, "both have it")  # E nu^2; apart it would be (E nu)^2 = 1 / 4


def test_evaluation_draws_no_sticks():
    """Scores do not depend on the generator; a feature has its exact probability under q."""
    model, x = made()
    prior = model.prior
    with torch.no_grad():
        prior.log_a.add_(0.3)
        prior.log_b.sub_(0.4)
    model.eval()
    torch.manual_seed(1)
    one = prior(None).z.mean
    torch.manual_seed(2)
    assert torch.equal(one, prior(None).z.mean)
    assert torch.allclose(one, prior.sticks.mean().cumprod(0))
    assert score(model, x, range(6), k=5).rate.isfinite().all()
    assert validate(model, x, k=5) == validate(model, x, k=5)


def moment(q, n):
    """E v^n = b B(1 + n/a, b) of a Kumaraswamy."""
    first = 1 + n / q.a
    return q.b * (first.lgamma() + q.b.lgamma() - (first + q.b).lgamma()).exp()


WIDTHS = [(0.7, 1.0), (2.0, 1.0), (2.0, 3.0), (30.0, 5.0)]


@pytest.mark.parametrize(("a", "b"), WIDTHS)
def test_the_predictive_distribution_is_the_mean_over_the_sticks(a, b):
    """Masses of two features by moments: to 0.002, where plugging in mean sticks is off by 0.1."""
    prior = IBPPrior((2,), DATA).eval()
    with torch.no_grad():
        prior.log_a.fill_(math.log(a))
        prior.log_b.fill_(math.log(b))
    (one, two), (square, _) = moment(prior.sticks, 1), moment(prior.sticks, 2)
    both, only_second = square * two, (one - square) * two
    exact = torch.stack([1 - one - only_second, only_second, one - both, both])
    p = prior(None).z.log_prob(binary_codes(2)).exp()
    assert p.sum().item() == pytest.approx(1, abs=1e-12)
    assert torch.allclose(p, exact, atol=2e-3, rtol=0)
    pi = torch.stack([one, one * two])
    plugged = torch.where(binary_codes(2) == 1, pi, 1 - pi).prod(-1)
    assert (plugged.log() - exact.log()).max() > (0.1 if a < 10 else 0)


@pytest.mark.parametrize("temperature", [None, 0.5])
def test_densities_under_many_sticks_are_what_torch_says(temperature):
    """Matrix products and loops give the numbers of the plain mixture; its gradient reaches q."""
    prior = IBPPrior((2, 3), DATA, temperature=temperature).eval()
    p = prior(None).z
    z = p.sample((4, 5))
    plain = MixtureSameFamily(p.mixture_distribution, p.component_distribution)
    assert torch.allclose(p.log_prob(z), plain.log_prob(z), atol=1e-12)
    for gradient in torch.autograd.grad(p.log_prob(z).sum(), list(prior.parameters())):
        assert gradient.isfinite().all() and gradient.any()


def wide():
    """A model whose sticks are far from known, in evaluation mode, with examples."""
    torch.manual_seed(4)
    model, x = made(alpha=1.0)
    with torch.no_grad():
        for parameter in model.generator.parameters():
            parameter.mul_(6.0)
    return model.eval(), x


def test_what_is_reported_are_bounds_of_the_predictive_distribution():
    """The ELBO is the enumerated one, the evidence its logarithm of a sum, from below."""
    model, x = wide()
    exact = Enumeration(model, binary_codes(2))
    with torch.no_grad():
        log_p, elbo = exact.log_evidence(x), exact.elbo(x)
        runs = [score(model, x, range(6), k=[2, 400], seed=seed) for seed in range(60)]
    assert not runs[0].closed and runs[0].rate_per_dimension is None
    for k in (2, 400):
        found = torch.stack([run.at[k] for run in runs])
        assert (z_scores(found, log_p) < 4.5).all(), "above the evidence"
    assert_mean((found - log_p).exp(), 1.0, "p(x), without a bias")
    assert_mean(torch.stack([run.elbo for run in runs]), elbo, "the ELBO")
    assert (elbo < log_p).all()


def test_plugged_in_sticks_would_claim_more_than_the_evidence():
    """By tenths of a nat: log p(x | E pi) is no bound on the predictive log p(x)."""
    model, x = wide()
    z = binary_codes(2)
    log_lik = model.generator(z[:, None]).log_prob(x)
    pi = model.prior.sticks.mean().cumprod(0)
    plugged = torch.where(z == 1, pi, 1 - pi).prod(-1).log()
    claimed = (log_lik + plugged[:, None]).logsumexp(0)
    with torch.no_grad():
        log_p = Enumeration(model, z).log_evidence(x)
    assert (claimed - log_p).max() > 0.1


def test_the_rate_is_at_most_the_mean_of_rates_given_the_sticks():
    """KL(q || E p) <= E KL(q || p): evaluation is above what the sticks' draws give."""
    model, x = wide()
    z, p = binary_codes(2).unsqueeze(1), model.p_z().z
    q = model.inference(x)
    assert not has_closed_form(q, p)
    log_q = q.log_prob(z)
    predictive = (log_q.exp() * (log_q - p.log_prob(z))).sum(0)
    pi = p.component_distribution.base_dist
    given = [rate(q, settings_of(pi, m), z) for m in range(len(pi.logits))]
    assert (predictive < torch.stack(given).mean(0)).all()


def settings_of(bits, m):
    """The features under one setting of the sticks."""
    return Independent(Bernoulli(logits=bits.logits[m]), 1)


def test_the_divergence_of_the_sticks_is_divided_by_the_number_of_examples():
    model, x = made(BinaryConcreteFamily, temperature=0.5)
    with torch.no_grad():
        model.prior.log_b.add_(1.0)
    kl = model.p_z().global_kl
    bounds = []
    for num_examples in (10, 20):
        torch.manual_seed(3)
        bounds.append(ELBO().estimate(model, x, StepContext(0, 0.0, num_examples)).bound)
    assert kl.item() > 0.1 and torch.allclose(bounds[1] - bounds[0], kl / 20)


def test_a_stick_learns_the_posterior_of_a_coin():
    """One feature, 30 known bits: q approaches Beta(alpha + n1, 1 + n0), the bound the evidence."""
    prior = IBPPrior((1,), DATA, alpha=2.0)
    n1, n0 = 21, 9
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    grid = (torch.arange(1000) + 0.5) / 1000
    for _ in range(300):
        a, b = prior.sticks
        v = -torch.expm1(torch.log1p(-grid) / b)  # quantiles of q, raised to a
        log_v = v.log() / a
        log_lik = n1 * log_v + n0 * torch.log(-torch.expm1(log_v))
        bound = log_lik.mean() - prior.sticks.kl_to_beta(2.0).sum()
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
    evidence = math.log(2.0) + math.lgamma(2 + n1) + math.lgamma(1 + n0) - math.lgamma(33)
    assert evidence - 0.016 < bound.item() < evidence  # the nearest Kumaraswamy is 0.0148 away
    assert prior.sticks.mean().item() == pytest.approx((2 + n1) / 33, abs=0.005)


def test_the_bound_of_a_data_set_is_below_its_evidence():
    """sum_n bound_n <= log int p(nu) prod_n sum_z p(x_n, z | nu) dnu, by enumeration on a grid."""
    model, x = made(alpha=1.5)
    with torch.no_grad():
        model.prior.log_a.add_(0.2)
        model.prior.log_b.add_(0.2)
    z = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 2)
    log_lik = model.generator(z[:, None]).log_prob(x).detach()  # [4, batch]
    nu = (torch.arange(400) + 0.5) / 400
    first, second = nu[:, None], nu[None, :]
    log_p_nu = sum((1.5 * nu**0.5).log().reshape(shape) for shape in ((400, 1), (1, 400)))
    pi = torch.stack([first.expand(400, 400), first * second], -1)
    log_p_z = torch.stack(
        [torch.where(row == 1, pi.log(), (-pi).log1p()).sum(-1) for row in z]
    )  # [4, 400, 400]
    each = (log_lik[:, :, None, None] + log_p_z[:, None]).logsumexp(0)  # [batch, 400, 400]
    evidence = (each.sum(0) + log_p_nu).flatten().logsumexp(0) - 2 * math.log(400)
    ctx = StepContext(0, 0.0, len(x))
    with torch.no_grad():
        totals = torch.stack([VIMCO(k=3).estimate(model, x, ctx).bound.sum() for _ in range(400)])
    assert z_scores(totals, evidence) < 4.5 and totals.mean() > evidence - 5


@pytest.mark.parametrize(
    ("family", "objective", "temperature"),
    [(BernoulliFamily, VIMCO(), None), (BinaryConcreteFamily, ELBO(), 0.5)],
)
def test_bits_and_relaxed_bits_pass_a_rehearsal(family, objective, temperature):
    """In float32 too, with so many features that the last ones never occur."""
    model, _ = made(family, temperature=temperature)
    assert rehearse(model, objective, DATA).parameters["prior"] == 4
    prior = IBPPrior((300,), DATA, alpha=0.5).float()
    p = prior(None).z
    assert p.log_prob(torch.ones(300).float()).isfinite() and (p.mean > 0).all()


def test_relaxed_bits_need_a_temperature_and_bits_none():
    for family, temperature in ((BernoulliFamily, 0.5), (BinaryConcreteFamily, None)):
        model, _ = made(family, temperature=temperature)
        with pytest.raises(CompatibilityError, match="a mass cannot be compared with a density"):
            rehearse(model, VIMCO(), DATA)
