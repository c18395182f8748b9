"""The Indian buffet process prior: its sticks, their divergence, and what the bound says."""

import math

import pytest
import torch
from scipy import integrate, stats
from vaepipe_ibp import IBPPrior, Kumaraswamy

from vaepipe.core import SUPPORTS, Conditional, DataSpec, LatentModel, StepContext, rehearse
from vaepipe.errors import CompatibilityError
from vaepipe.evaluation import score, validate
from vaepipe.families.discrete import BernoulliFamily
from vaepipe.families.relaxed import BinaryConcreteFamily
from vaepipe.likelihoods.bernoulli import BernoulliLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO
from vaepipe.objectives.score import VIMCO
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
    """Probabilities are their means under q, so that scores do not depend on the generator."""
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
