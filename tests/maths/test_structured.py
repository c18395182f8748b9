"""Two stochastic layers: densities, gradients, and evidence against a model that is known."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal

from vaepipe import registry
from vaepipe.core import (
    SUPPORTS,
    Chain,
    Conditional,
    ConditionalNormal,
    DataSpec,
    LatentModel,
    StepContext,
    check,
    frozen,
    has_closed_form,
    log_mean_exp,
    log_weights,
    normal,
    raw_of,
    rehearse,
)
from vaepipe.errors import CompatibilityError
from vaepipe.evaluation import score
from vaepipe.evaluation.moments import has_moments
from vaepipe.families.hierarchical import Hierarchical, Ladder
from vaepipe.families.normal import DiagonalNormal
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO
from vaepipe.objectives.importance import IWAE, DReG
from vaepipe.objectives.landing import STL
from vaepipe.priors.hierarchical import HierarchicalPrior, LadderPrior
from vaepipe.testing.exact import grid
from vaepipe.testing.statistics import assert_mean, assert_same_mean, gradients, z_scores

CTX = StepContext(0, 0.0, 100)
NOISE = 0.7
FAMILIES = {"hierarchical": (Hierarchical, 1), "ladder": (Ladder, 3)}


class TwoLayers:
    """z2 ~ N(0, 1), z1 | z2 ~ N(A z2 + a, S^2), x | z1 ~ N(W z1 + b, s^2).

    So x ~ N(W a + b, W (A A^T + S^2) W^T + s^2). The columns of W are orthogonal.
    """

    def __init__(self, lower: int, dim: int = 4) -> None:
        torch.manual_seed(5)
        self.lower, self.dim = lower, dim
        self.weight = torch.linalg.qr(torch.randn(dim, lower)).Q * torch.arange(1, lower + 1)
        self.bias, self.up, self.shift = torch.randn(dim), torch.randn(lower), torch.randn(lower)
        self.spread = 0.5 + torch.rand(lower)
        self.data = DataSpec((dim,), SUPPORTS["real"], 100)

    @property
    def covariance(self):
        inner = torch.outer(self.up, self.up) + self.spread.square().diag()
        return self.weight @ inner @ self.weight.T + NOISE**2 * torch.eye(self.dim)

    @property
    def mean(self):
        return self.weight @ self.shift + self.bias

    def draw(self, n):
        return MultivariateNormal(self.mean, self.covariance).sample((n,))

    def log_evidence(self, x):
        return MultivariateNormal(self.mean, self.covariance).log_prob(x)

    def top_posterior(self):
        """p(z2 | x) = N(gain (x - mean), variance), a line in x."""
        cross = self.weight @ self.up
        gain = torch.linalg.solve(self.covariance, cross)
        return gain, 1 - gain @ cross

    def model(self, kind, tied=False):
        """The model with its exact posterior as q: `hierarchical` for one lower dimension only."""
        shape = (self.lower + 1,)
        family = FAMILIES[kind][0](shape, top=1, hidden=[])
        prior = HierarchicalPrior(shape, self.data, top=1, hidden=[])
        way_down = (self.up.unsqueeze(1), self.shift, self.spread)
        set_conditional(prior.top_down, *way_down)
        encoder = MLP((self.dim,), family.feature_shape, hidden=[])
        if kind == "ladder":
            set_conditional(family.top_down, *way_down)
            set_affine(encoder.layers[0], *self.messages())
        else:
            set_conditional(family.bottom_up, *self.given_lower())
            set_affine(encoder.layers[0], *self.lower_posterior())
        decoder = MLP(shape, (self.dim,), hidden=[], reads=[0, self.lower])
        set_affine(decoder.layers[0], self.weight, self.bias)
        return LatentModel(
            Conditional(encoder, family, (self.dim,)),
            LadderPrior(shape, self.data) if tied else prior,
            Conditional(decoder, GaussianLikelihood(self.data, scale=NOISE), shape),
        )

    def messages(self):
        """The likelihood of z1, and p(z2 | x), as the features of a ladder."""
        norms = self.weight.square().sum(0)
        to_lower = self.weight.T / norms.unsqueeze(1)
        gain, variance = self.top_posterior()
        maps = torch.cat([to_lower, gain.unsqueeze(0)])
        offsets = -torch.cat([to_lower @ self.bias, (gain @ self.mean).unsqueeze(0)])
        scales = torch.cat([NOISE / norms.sqrt(), variance.sqrt().unsqueeze(0)])
        return torch.cat([maps, 0 * maps]), torch.cat([offsets, raw_of(scales)])

    def lower_posterior(self):
        """p(z1 | x) of one lower dimension, as the features of a bottom-up family."""
        total = self.up.square() + self.spread.square()
        gain = torch.linalg.solve(self.covariance, self.weight * total)
        variance = total - gain.T @ (self.weight * total)
        offset = self.shift - gain.T @ self.mean
        return torch.cat([gain.T, 0 * gain.T]), torch.cat([offset, raw_of(variance.sqrt()[0])])

    def given_lower(self):
        """p(z2 | z1) of one lower dimension."""
        total = self.up.square() + self.spread.square()
        gain = (self.up / total).unsqueeze(1)
        return gain, -(gain @ self.shift), (1 - self.up.square() / total).sqrt()


def set_affine(layer, weight, bias):
    layer.load_state_dict({"weight": weight, "bias": bias})


def set_conditional(conditional, weight, bias, scale):
    (layer,) = conditional.network.layers
    set_affine(layer, torch.cat([weight, 0 * weight]), torch.cat([bias, raw_of(scale)]))


def wrong(model):
    """q shifted a little and wider than the posterior in both layers: weights are bounded."""
    heads = model.inference.head
    layers = [model.inference.network.layers[0]]
    layers += [heads.bottom_up.network.layers[0]] if isinstance(heads, Hierarchical) else []
    with torch.no_grad():
        for layer in layers:
            half = len(layer.bias) // 2
            layer.bias[:half] += 0.1 * torch.randn(half)
            layer.bias[half:] += 0.4
    return model


EXACT = [("hierarchical", False), ("ladder", False), ("ladder", True)]
NAMES = ["bottom-up", "ladder", "ladder, tied"]


@pytest.mark.parametrize(("kind", "tied"), EXACT, ids=NAMES)
def test_at_the_posterior_every_draw_has_the_evidence_for_its_weight(kind, tied):
    """The bottom-up family is exact with one lower dimension, the ladder with any number."""
    truth = TwoLayers(FAMILIES[kind][1])
    model, x = truth.model(kind, tied), truth.draw(6)
    q = model.inference(x)
    log_w = log_weights(model, x, q.rsample((20,)), model.p_z(), q)
    assert (log_w - truth.log_evidence(x)).abs().max() < 1e-9


@pytest.mark.parametrize(("kind", "tied"), EXACT, ids=NAMES)
def test_importance_sampling_finds_the_evidence_with_a_wrong_posterior(kind, tied):
    """Weights have mean p(x), so bounds rise with the number of draws, and not above log p(x)."""
    truth = TwoLayers(FAMILIES[kind][1])
    model, x = wrong(truth.model(kind, tied)), truth.draw(5)
    q, exact = model.inference(x), truth.log_evidence(x)
    log_w = log_weights(model, x, q.sample((20_000,)), model.p_z(), q).detach()
    assert_mean((log_w - exact).exp(), 1.0, "the mean weight")
    bounds = [log_mean_exp(log_w.reshape(k, -1, 5)) for k in (1, 5, 50)]  # [n, batch]
    assert all((z_scores(each, exact) < 4.5).all() for each in bounds)
    one, five, fifty = (each.mean(0) for each in bounds)
    assert (one < five - 0.01).all() and (five < fifty).all()
    assert ((fifty - exact).abs() < 0.05).all()


@pytest.mark.parametrize("family", [Hierarchical, Ladder])
def test_the_joint_density_integrates_to_one(family):
    head = family((2,), hidden=[5], activation="tanh")
    q = head(torch.randn(head.feature_shape))
    z, log_cell = grid(2, 9.0, 801)
    assert (q.log_prob(z).logsumexp(0) + log_cell).abs() < 1e-6


def test_the_prior_integrates_to_one_and_its_layers_are_what_it_says():
    prior = HierarchicalPrior((2,), DataSpec((4,), SUPPORTS["real"], 100), hidden=[5])
    p = prior(None).z
    z, log_cell = grid(2, 9.0, 801)
    assert (p.log_prob(z).logsumexp(0) + log_cell).abs() < 1e-6
    z1, z2 = z[:5, :1], z[:5, 1:]
    parts = prior.top_down(z2).log_prob(z1) - 0.5 * (z2.square() + math.log(2 * math.pi)).sum(1)
    assert torch.allclose(p.log_prob(z[:5]), parts)


def test_a_ladder_without_evidence_falls_back_on_the_way_down():
    """A message that says nothing leaves p(z1 | z2); one that is certain is all that counts."""
    head = Ladder((3,), top=1, hidden=[4])
    z2 = torch.randn(6, 1)
    down = head.top_down(z2)
    loc, wide, narrow = (
        torch.tensor([1.0, -2.0, 0.0]),
        torch.full((3,), 1e5),
        torch.full((3,), 1e-3),
    )
    vague = head(torch.stack([loc, wide])).leaf(z2)
    assert torch.allclose(vague.mean, down.mean, atol=1e-6)
    assert torch.allclose(vague.stddev, down.stddev, rtol=1e-6)
    certain = head(torch.stack([loc, raw_of(narrow)])).leaf(z2)
    assert torch.allclose(certain.mean, loc[:2].expand(6, 2), atol=1e-4)
    assert torch.allclose(certain.stddev, narrow[:2].expand(6, 2), rtol=1e-4)


@pytest.mark.parametrize("family", [Hierarchical, Ladder])
def test_a_frozen_head_gives_its_density_no_gradient_wherever_it_is_evaluated(family):
    """The network between the layers runs in `log_prob`, after the head has returned."""
    head = family((3,), top=1, hidden=[4])
    h = torch.randn(5, *head.feature_shape)
    z = head(h).rsample((2,))
    q = frozen(head)(h)
    leaf = z.detach().requires_grad_()
    q.log_prob(leaf).sum().backward()
    assert leaf.grad is not None and leaf.grad.any()
    assert all(parameter.grad is None for parameter in head.parameters())
    assert torch.equal(q.log_prob(z), head(h).log_prob(z))


@pytest.mark.parametrize(("kind", "tied"), EXACT, ids=NAMES)
def test_sticking_the_landing_lands(kind, tied):
    """At the posterior, the encoder's gradient vanishes for every draw; the total one does not.

    A shared way down has p(z1 | z2) among its parameters, whose gradient does not vanish.
    """
    truth = TwoLayers(FAMILIES[kind][1])
    model, x = truth.model(kind, tied), truth.draw(4)
    parts = model.inference.network if tied else model.inference
    moved = list(parts.parameters())
    calm = gradients(lambda: STL().estimate(model, x, CTX).surrogate, moved, 20)
    total = gradients(lambda: IWAE(k=1).estimate(model, x, CTX).surrogate, moved, 20)
    assert calm.std(0).max() < 1e-8
    assert total.std(0).max() > 0.05


@pytest.mark.parametrize(("kind", "tied"), EXACT, ids=NAMES)
@pytest.mark.parametrize(
    ("plain", "other"), [(IWAE(k=1), STL()), (IWAE(k=4), DReG(k=4))], ids=["stl", "dreg"]
)
def test_estimators_of_one_gradient_agree(kind, tied, plain, other):
    """Also where posterior and prior share parameters."""
    truth = TwoLayers(FAMILIES[kind][1])
    model, x = wrong(truth.model(kind, tied)), truth.draw(2)
    moved = [*model.inference.parameters(), *model.prior.parameters()]
    one = gradients(lambda: plain.estimate(model, x, CTX).surrogate, moved, 200)
    two = gradients(lambda: other.estimate(model, x, CTX).surrogate, moved, 200)
    assert_same_mean(one, two, "gradients")


def test_the_generator_reads_the_lower_layer_only():
    truth = TwoLayers(3)
    model = truth.model("ladder")
    z = torch.randn(6, 4)
    moved = z + torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert torch.equal(model.generator(z).mean, model.generator(moved).mean)
    assert not torch.equal(model.generator(z).mean, model.generator(z + 1).mean)


def test_moments_come_from_draws_and_the_rate_is_sampled():
    """Nothing pretends to be a closed form."""
    truth = TwoLayers(3)
    model, x = wrong(truth.model("ladder")), truth.draw(4)
    q, p = model.inference(x), model.p_z().z
    assert not has_moments(q) and not has_closed_form(q, p)
    with pytest.raises(NotImplementedError):
        _ = q.mean
    scores, z = score(model, x, range(4), k=2000), q.sample((20_000,))
    assert ((scores.mean - z.mean(0)).abs() < 5 * scores.scale * (1.1 / 256) ** 0.5).all()
    assert ((scores.scale / z.std(0) - 1).abs() < 5 * (1.1 / 512) ** 0.5).all()
    gap = (scores.log_evidence - truth.log_evidence(x)).abs()
    assert (gap < 4.5 * scores.log_evidence_se).all()
    assert ELBO().notes(q, p) == {"rate": "sampled"}


def test_a_batch_of_components_can_be_mixed():
    """A VampPrior over posteriors of two layers has the average of their densities."""
    truth = TwoLayers(3)
    inference = truth.model("ladder").inference
    vamp = registry.load("priors", "vamp")((4,), truth.data, components=5)
    z, q = torch.randn(6, 4), inference(vamp.pseudo_inputs())
    each = torch.stack([q.log_prob(row.expand(5, 4)) for row in z])
    p = vamp(inference).z
    assert torch.allclose(p.log_prob(z), each.logsumexp(1) - math.log(5))
    assert p.sample((7,)).shape == (7, 4)


def test_a_chain_expands():
    layer = ConditionalNormal(2, 3, [4])
    pair = Chain(normal(torch.zeros(2), torch.ones(2)), layer.pinned(), 3)
    assert pair.expand((6,)).sample((2,)).shape == (2, 6, 5)
    assert pair.expand((6,)).log_prob(torch.zeros(5)).shape == (6,)


def test_a_shared_way_down_needs_a_family_that_has_one():
    """Said from the classes alone, and again where somebody builds a model by hand."""
    gaussian = registry.load("likelihoods", "gaussian")
    data = DataSpec((4,), SUPPORTS["real"], 100)
    check(Ladder, LadderPrior, ELBO, gaussian, data)
    with pytest.raises(CompatibilityError, match=r"prior 'ladder' needs top_down.*hierarchical"):
        check(DiagonalNormal, LadderPrior, ELBO, gaussian, data)
    head = DiagonalNormal((2,))
    by_hand = Conditional(MLP((4,), head.feature_shape, hidden=[]), head, (4,))
    with pytest.raises(CompatibilityError, match="choose family 'ladder', or prior"):
        LadderPrior((2,), data)(by_hand)


def test_a_shared_way_down_is_trained_as_a_part_of_the_family():
    truth = TwoLayers(3)
    assembly = rehearse(truth.model("ladder", tied=True), ELBO(), truth.data)
    assert assembly.parameters["family"] > 0
    assert assembly.parameters["prior"] == 0


@pytest.mark.parametrize(("shape", "top"), [((1,), None), ((4,), 4), ((2, 3), 1)])
def test_a_latent_that_has_no_two_layers_is_refused(shape, top):
    for family in (Hierarchical, Ladder):
        with pytest.raises(CompatibilityError, match="two layers side by side"):
            family(shape, top=top)
