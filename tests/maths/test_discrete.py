"""Bits and one-hot codes as latents: masses, divergences, and evaluation against enumeration."""

import itertools
import math

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    Normal,
    OneHotCategorical,
    constraints,
)

from vaepipe import registry
from vaepipe.core import (
    SUPPORTS,
    DataSpec,
    StepContext,
    build,
    has_closed_form,
    log_weights,
    rate,
    rate_per_dimension,
    rehearse,
)
from vaepipe.core.rehearsal import check_places
from vaepipe.errors import CompatibilityError
from vaepipe.evaluation import score, validate
from vaepipe.families.discrete import BernoulliFamily, CategoricalFamily
from vaepipe.families.normal import DiagonalNormal, FullNormal
from vaepipe.objectives.score import VIMCO, Reinforce
from vaepipe.priors.discrete import BernoulliPrior, CategoricalPrior
from vaepipe.priors.normal import LearnedNormal
from vaepipe.testing import Enumeration, assert_mean, binary_codes, evidence
from vaepipe.testing.contracts.base import shaken

DATA = DataSpec((6,), SUPPORTS["boolean"], 1000)
LATENT, CATEGORIES = 3, 4
NOTHING = torch.empty(0)


def one_hot_codes(n, k):
    """Every value of n codes of k categories: `[k^n, n, k]`."""
    return torch.stack([torch.eye(k)[list(c)] for c in itertools.product(range(k), repeat=n)])


def bits(learned=True):
    q = BernoulliFamily((LATENT,))(torch.randn(5, LATENT))
    prior = shaken(BernoulliPrior((LATENT,), DATA, learned=learned))
    return q, prior(None).z, binary_codes(LATENT)


def codes(learned=True):
    q = CategoricalFamily((2, CATEGORIES))(torch.randn(5, 2, CATEGORIES))
    prior = shaken(CategoricalPrior((2, CATEGORIES), DATA, learned=learned))
    return q, prior(None).z, one_hot_codes(2, CATEGORIES)


def model(family, prior, latent=(4,)):
    network = registry.part("networks", "mlp", {"hidden": [5]})
    return build(
        latent,
        DATA,
        encoder=network,
        family=registry.part("families", family),
        prior=registry.part("priors", prior),
        decoder=network,
        likelihood=registry.part("likelihoods", "bernoulli"),
    )


@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
@pytest.mark.parametrize("kind", [bits, codes])
def test_the_rate_is_exact(kind, learned):
    """Against the sum over all codes."""
    q, p, z = kind(learned)
    assert has_closed_form(q, p)
    log_q = q.log_prob(z.unsqueeze(1))
    expected = (log_q.exp() * (log_q - p.log_prob(z.unsqueeze(1)))).sum(0)
    assert torch.allclose(rate(q, p, NOTHING), expected, atol=1e-12)
    assert torch.allclose(log_q.exp().sum(0), torch.ones(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("k", [2, 10, 512])
def test_a_certain_code_under_the_uniform_prior_costs_log_k(k, dtype):
    """One-hot q, uniform p: KL = log K for every code, whatever the code."""
    h = torch.zeros(3, 7, k, dtype=dtype)
    h[:, torch.arange(7), torch.randint(k, (7,))] = 1e4
    q = CategoricalFamily((7, k))(h)
    p = CategoricalPrior((7, k), DATA).to(dtype)(None).z
    exact = torch.tensor(7 * math.log(k), dtype=dtype)
    assert torch.allclose(rate(q, p, NOTHING), exact.expand(3), rtol=4 * torch.finfo(dtype).eps)
    each = rate(q.base_dist, p.base_dist, NOTHING)
    log_k = -p.base_dist.log_prob(torch.eye(k, dtype=dtype)[0])
    assert torch.equal(each, log_k.expand(3, 7))
    assert (each - math.log(k)).abs().max() <= torch.finfo(dtype).eps * math.log(k)


def test_rates_of_bits_add_up_and_codes_have_none_for_a_number():
    """A category is no dimension of its own: only the whole code has a rate."""
    q, p, _ = bits()
    each = rate_per_dimension(q, p, NOTHING)
    assert each is not None and each.shape == (5, LATENT) and (each >= 0).all()
    assert torch.allclose(each.sum(-1), rate(q, p, NOTHING))
    assert rate_per_dimension(*codes()) is None


ONE = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("q", "p", "closed"),
    [
        (Independent(Bernoulli(ONE / 2), 2), Independent(Bernoulli(ONE / 3), 2), True),
        (Independent(OneHotCategorical(ONE), 1), Independent(OneHotCategorical(ONE), 1), True),
        (OneHotCategorical(ONE), OneHotCategorical(ONE), True),
        (Independent(OneHotCategorical(ONE), 1), Independent(Bernoulli(ONE / 2), 2), False),
        (Independent(Bernoulli(ONE / 2), 2), Independent(Normal(ONE, ONE), 2), False),
        (Independent(Bernoulli(ONE / 2), 2), Independent(OneHotCategorical(ONE), 1), False),
    ],
)
def test_closed_forms_are_known_between_masses_of_one_kind(q, p, closed):
    assert has_closed_form(q, p) == closed


@pytest.mark.parametrize("size", [100.0, 1e4])
@pytest.mark.parametrize("kind", [BernoulliFamily, CategoricalFamily])
def test_certain_posteriors_stay_finite_in_single_precision(kind, size):
    h = size * torch.randn(50, 4, 3).sign().float()
    prior = {BernoulliFamily: BernoulliPrior, CategoricalFamily: CategoricalPrior}[kind]
    q, p = kind((4, 3))(h.requires_grad_()), prior((4, 3), DATA).float()(None).z
    z = q.sample((10,))
    divergence = rate(q, p, z)
    assert q.log_prob(z).isfinite().all() and divergence.isfinite().all()
    (divergence.sum() + q.log_prob(z).sum()).backward()
    assert h.grad is not None and h.grad.isfinite().all()


@pytest.mark.parametrize("latent", [(), (1,), (4, 1)])
@pytest.mark.parametrize(
    "make", [CategoricalFamily, lambda shape: CategoricalPrior(shape, DATA)], ids=["q", "p"]
)
def test_codes_need_two_categories(make, latent):
    with pytest.raises(CompatibilityError, match="at least 2"):
        make(latent)


@pytest.mark.parametrize(
    ("family", "prior", "message"),
    [
        ("bernoulli", "standard_normal", "a mass cannot be compared with a density"),
        ("binary_concrete", "bernoulli", "a mass cannot be compared with a density"),
        ("bernoulli", "categorical", "over variables that are free.* but p.z. over one-hot codes"),
        ("concrete", "standard_normal", "over relaxed one-hot codes but p.z. over variables"),
        ("diagonal_normal", "concrete", "over variables .* but p.z. over relaxed one-hot codes"),
    ],
)
def test_latents_of_two_kinds_do_not_compare(family, prior, message):
    with pytest.raises(CompatibilityError, match=message):
        rehearse(model(family, prior), VIMCO(), DATA)


@pytest.mark.parametrize("objective", [VIMCO(), Reinforce()], ids=["vimco", "reinforce"])
@pytest.mark.parametrize(
    ("family", "prior"),
    [
        ("bernoulli", "bernoulli"),
        ("categorical", "categorical"),
        ("bernoulli", "vamp"),
        ("categorical", "vamp"),
        ("binary_concrete", "binary_concrete"),
        ("binary_concrete", "learned_normal"),
        ("concrete", "concrete"),
        ("concrete", "vamp"),
    ],
)
def test_latents_of_one_kind_do(family, prior, objective):
    rehearse(model(family, prior), objective, DATA)


def test_evaluation_agrees_with_enumeration():
    """Exact rates, and evidence from weights whose mean is p(x)."""
    exact = Enumeration.binary(8, 6, seed=0)
    x = torch.bernoulli(torch.full((40, 6), 0.5))
    q, p = exact.model.inference(x), exact.model.p_z().z
    scores = score(exact.model, x, range(40), k=4000)
    assert torch.allclose(scores.rate, rate(q, p, NOTHING))
    assert scores.rate_per_dimension is not None
    assert torch.allclose(scores.rate_per_dimension.sum(-1), scores.rate)
    assert torch.allclose(scores.mean, q.mean) and torch.allclose(scores.scale, q.stddev)
    errors = (scores.log_evidence - exact.log_evidence(x)) / scores.log_evidence_se
    assert errors.abs().max() < 4.5
    assert (scores.elbo - exact.elbo(x)).mean().abs() < 0.02
    log_w = log_weights(
        exact.model,
        x[:3],
        q.sample((20_000,))[:, :3],
        exact.model.p_z(),
        exact.model.inference(x[:3]),
    )
    assert_mean((log_w - exact.log_evidence(x[:3])).exp(), 1.0, "weights over the evidence")


def test_evaluation_of_codes():
    """The evidence of one-hot codes, against the sum over all of them."""
    made = shaken(model("categorical", "categorical", (2, CATEGORIES)), 0.5)
    x = torch.bernoulli(torch.full((10, 6), 0.5))
    scores = score(made, x, range(10), k=4000)
    truth = evidence(made, x, one_hot_codes(2, CATEGORIES))
    assert ((scores.log_evidence - truth) / scores.log_evidence_se).abs().max() < 4.5
    assert scores.rate_per_dimension is None
    assert torch.allclose(scores.mean, made.inference(x).mean.flatten(1))
    metrics = validate(made, x, k=2000)
    assert metrics["log_evidence"] == pytest.approx(truth.mean().item(), abs=0.02)
    assert metrics["rate"] == pytest.approx(scores.rate.mean().item(), abs=1e-9)


def test_a_bernoulli_model_validates():
    exact = Enumeration.binary(8, 6, seed=0)
    x = torch.bernoulli(torch.full((200, 6), 0.5))
    metrics = validate(exact.model, x, k=500)
    assert metrics["log_evidence"] == pytest.approx(exact.log_evidence(x).mean().item(), abs=0.02)
    assert metrics["elbo"] == pytest.approx(exact.elbo(x).mean().item(), abs=0.02)
    assert 0 <= metrics["active_units"] <= 8


@pytest.mark.parametrize("family", [DiagonalNormal, FullNormal])
def test_a_learned_normal_has_an_exact_rate(family):
    prior = LearnedNormal((3,), DATA)
    start = prior(None).z
    assert torch.equal(start.mean, torch.zeros(3)) and torch.equal(start.stddev, torch.ones(3))
    p = shaken(prior, 0.5)(None).z
    head = family((3,))
    q = head(torch.randn(2, *head.feature_shape))
    assert has_closed_form(q, p)
    z = q.sample((20_000,))
    assert_mean(q.log_prob(z) - p.log_prob(z), rate(q, p, z), "the sampled rate")


def test_an_enumerated_model_keeps_its_identities():
    """log p = ELBO + KL(q || posterior); one draw is below two, and two below the evidence."""
    exact = Enumeration.binary(8, 6, seed=0)
    assert exact.z.shape == (256, 8)
    x = torch.bernoulli(torch.full((20, 6), 0.5))
    truth, log_q, posterior = exact.log_evidence(x), exact.log_q(x), exact.posterior(x)
    assert torch.allclose(truth, evidence(exact.model, x, exact.z))
    gap = (log_q.exp() * (log_q - posterior.log())).sum(0)
    assert (truth - exact.elbo(x) - gap).abs().max() <= 1e-10
    assert gap.min() > 0.1
    assert (exact.elbo(x) < exact.iwae_2(x)).all() and (exact.iwae_2(x) < truth).all()
    every = binary_codes(6)
    assert exact.log_evidence(every).exp().sum().item() == pytest.approx(1, abs=1e-10)


# Bits that depend on each other


def chained(latent=(2, 4), size=1.0):
    """A prior of dependent bits, away from its start, and every value of them."""
    prior = shaken(BernoulliPrior(latent, DATA, autoregressive=True), size)
    return prior(None).z, binary_codes(8).reshape(-1, *latent)


def test_dependent_bits_are_the_product_of_their_conditionals():
    """p(z_d | z_1 ... z_{d-1}) from sums over all 2^8 values is a sigmoid of what came before."""
    p, z = chained()
    mass, flat = p.log_prob(z).exp(), z.flatten(1)
    assert mass.sum().item() == pytest.approx(1, abs=1e-12)
    for d in range(8):
        for seen in binary_codes(d) if d else torch.empty(1, 0):
            given = (flat[:, :d] == seen).all(-1)
            share = mass[given & (flat[:, d] == 1)].sum() / mass[given].sum()
            expected = (p.logits.flatten()[d] + seen @ p.weight[d, :d]).sigmoid()
            assert torch.allclose(share, expected)


def test_dependent_bits_start_as_fair_coins():
    one = BernoulliPrior((3,), DATA, autoregressive=True)(None).z
    other = BernoulliPrior((3,), DATA)(None).z
    z = binary_codes(3)
    assert torch.equal(one.log_prob(z), other.log_prob(z))


def test_dependent_bits_can_say_what_independent_ones_cannot():
    """Eight equal bits carry log 2 nats; for independent bits they carry 8 log 2."""
    z = torch.bernoulli(torch.full((2000, 1), 0.5)).expand(-1, 8)
    nats = {}
    for dependent in (False, True):
        prior = BernoulliPrior((8,), DATA, learned=True, autoregressive=dependent)
        optimizer = torch.optim.Adam(prior.parameters(), 0.3)
        for _ in range(150):
            optimizer.zero_grad()
            loss = -prior(None).z.log_prob(z).mean()
            loss.backward()
            optimizer.step()
        nats[dependent] = loss.item()
    assert nats[False] == pytest.approx(8 * math.log(2), abs=0.01)
    assert nats[True] == pytest.approx(math.log(2), abs=0.02)


def test_the_sampled_rate_to_dependent_bits_is_the_divergence():
    """No closed form is claimed; the mean over draws is the sum over all values."""
    p, z = chained((8,), 0.5)
    q = BernoulliFamily((8,))(torch.randn(8))
    assert not has_closed_form(q, p)
    log_q, log_p = q.log_prob(z), p.log_prob(z)
    exact = (log_q.exp() * (log_q - log_p)).sum()
    assert_mean(rate(q, p, q.sample((20_000,))), exact, "the sampled rate")


@pytest.mark.parametrize("objective", [VIMCO(k=4), Reinforce()], ids=["vimco", "reinforce"])
def test_a_model_of_dependent_bits_learns_below_its_evidence(objective):
    """On average its bound is below log p(x), summed over all bits, and rises with training."""
    network = registry.part("networks", "mlp", {"hidden": [8]})
    made = build(
        (4,),
        DATA,
        encoder=network,
        family=registry.part("families", "bernoulli"),
        prior=registry.part("priors", "bernoulli", {"autoregressive": True}),
        decoder=network,
        likelihood=registry.part("likelihoods", "bernoulli"),
    )
    rehearse(made, objective, DATA)
    x, ctx = torch.bernoulli(torch.full((10, 6), 0.3)), StepContext(0, 0.0, 1000)
    (phase,) = objective.phases()
    optimizer = torch.optim.Adam([*made.parameters(), *objective.parameters()], 1e-2)
    levels = []
    for _ in range(2):
        with torch.no_grad():
            bounds = torch.stack([phase.estimate(made, x, ctx).bound for _ in range(400)])
            exact = evidence(made, x, binary_codes(4))
        assert ((bounds.mean(0) - exact) / (bounds.std(0) / 20)).max() < 4.5
        levels.append(bounds.mean())
        for _ in range(100):
            optimizer.zero_grad()
            phase.estimate(made, x, ctx).surrogate.backward()
            optimizer.step()
    assert levels[1] > levels[0]


class Circle(constraints.Constraint):
    """Points of the plane at distance one from the origin."""

    event_dim = 1

    def check(self, value):
        return (value.norm(dim=-1) - 1).abs() < 1e-4


class OnACircle(Distribution):
    """An angle, uniform, as a point of the circle; its density is one of angles."""

    arg_constraints, support = {}, Circle()

    def __init__(self, batch=()):
        super().__init__(torch.Size(batch), torch.Size((2,)), validate_args=False)

    def sample(self, sample_shape=()):
        angle = 2 * math.pi * torch.rand(self._extended_shape(torch.Size(sample_shape))[:-1])
        return torch.stack([angle.cos(), angle.sin()], -1)

    def log_prob(self, value):
        return (value * 0).sum(-1) - math.log(2 * math.pi)


def test_a_circle_is_not_compared_with_the_plane():
    """Every point of the circle is one of the plane, but lengths are not areas."""
    q, plane = OnACircle((2,)), Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
    with pytest.raises(CompatibilityError, match=r"a part of .*where p.z. lives: their dens"):
        check_places(q, plane)
    check_places(q, OnACircle())
    with pytest.raises(CompatibilityError, match="outside the support"):
        check_places(Independent(Normal(torch.zeros(3, 2), 1.0), 1), OnACircle())


class OwnOneHot(OneHotCategorical):
    """Under another name of its support."""

    class Unit(constraints.Constraint):
        is_discrete, event_dim = True, 1

        def check(self, value):
            return ((value == 0) | (value == 1)).all(-1) & (value.sum(-1) == 1)

    support = Unit()


def test_supports_are_compared_and_not_their_names():
    codes = torch.zeros(3, 4)
    check_places(OwnOneHot(logits=codes), OneHotCategorical(logits=codes[0]))
    check_places(OneHotCategorical(logits=codes), OwnOneHot(logits=codes[0]))
    bits = Independent(Bernoulli(torch.full((3, 4), 0.5)), 1)
    with pytest.raises(CompatibilityError, match="outside the support"):
        check_places(bits, OwnOneHot(logits=codes[0]))
    with pytest.raises(CompatibilityError, match="gives mass to values that q"):
        check_places(OwnOneHot(logits=codes), Independent(Bernoulli(torch.full((4,), 0.5)), 1))
    check_places(Dirichlet(torch.ones(3, 4)), Dirichlet(torch.ones(4)))
    positive = Independent(Gamma(torch.ones(3, 4), 1.0), 1)
    check_places(positive, Independent(Normal(torch.zeros(4), 1.0), 1))
    with pytest.raises(CompatibilityError, match="their densities"):
        check_places(Dirichlet(torch.ones(3, 4)), positive)
