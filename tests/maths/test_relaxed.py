"""Relaxed bits and codes: densities that integrate to one, and what the relaxation costs."""

import math

import pytest
import torch
from torch.distributions import RelaxedBernoulli, RelaxedOneHotCategorical

from vaepipe import registry
from vaepipe.core import SUPPORTS, BinaryConcrete, Concrete, DataSpec, build
from vaepipe.families.relaxed import BinaryConcreteFamily, ConcreteFamily
from vaepipe.priors.discrete import BinaryConcretePrior, ConcretePrior
from vaepipe.testing import Enumeration, assert_mean, z_scores

DATA = DataSpec((6,), SUPPORTS["boolean"], 1000)
TEMPERATURES = (0.1, 0.5, 2 / 3, 2.0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("logit", [-100.0, 0.0, 0.7, 100.0])
def test_a_relaxed_bit_integrates_to_one(logit, temperature):
    """By the trapezium rule over the logit, the coordinate of the density."""
    y = (logit + torch.linspace(-60, 60, 20_001)) / temperature
    density = BinaryConcrete(torch.tensor(logit), temperature).log_prob(y).exp()
    assert torch.trapezoid(density, y).item() == pytest.approx(1, abs=1e-9)


def test_a_relaxed_bit_integrates_to_one_over_the_unit_interval_too():
    """With the derivative of the sigmoid, over s in (0, 1); t > 1 keeps the ends finite."""
    s = torch.linspace(0, 1, 200_001)[1:-1]
    y = s.logit()
    log_density = BinaryConcrete(torch.tensor(0.7), 2.0).log_prob(y) - (s * (1 - s)).log()
    assert torch.trapezoid(log_density.exp(), s).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_relaxed_code_integrates_to_one(temperature):
    """Over the plane of the log ratios of three categories."""
    axis = torch.linspace(-70, 70, 1401) / temperature
    w = torch.cartesian_prod(axis, axis)
    y = torch.cat([w, torch.zeros(len(w), 1)], 1).log_softmax(-1)
    density = Concrete(torch.tensor([0.3, -1.0, 0.8]), temperature).log_prob(y).exp()
    assert (density.sum() * (axis[1] - axis[0]) ** 2).item() == pytest.approx(1, abs=1e-6)


def test_a_relaxed_code_integrates_to_one_over_the_simplex_too():
    """With the density of s itself, over the triangle; t > 1 keeps its edges finite."""
    n = 1500
    axis = (torch.arange(n) + 0.5) / n
    first, share = torch.meshgrid(axis, axis, indexing="ij")
    s = torch.stack([first, (1 - first) * share, (1 - first) * (1 - share)], -1)
    y = s.log()
    log_density = Concrete(torch.tensor([0.3, -1.0, 0.8]), 2.0).log_prob(y) - y.sum(-1)
    assert (log_density.exp() * (1 - first)).mean().item() == pytest.approx(1, abs=1e-4)


def test_densities_are_those_of_the_papers():
    """torch's relaxations hold s itself; the change of coordinates is the whole difference."""
    logits, t = torch.randn(5, 3), torch.tensor(0.6)
    y = BinaryConcrete(logits, 0.6).sample((7,))
    s = y.sigmoid()
    ours = BinaryConcrete(logits, 0.6).log_prob(y) - (s * (1 - s)).log()
    assert torch.allclose(ours, RelaxedBernoulli(t, logits=logits).log_prob(s))
    y = Concrete(logits, 0.6).sample((7,))
    ours = Concrete(logits, 0.6).log_prob(y) - y.sum(-1)
    theirs = RelaxedOneHotCategorical(t, logits=logits, validate_args=False).log_prob(y.exp())
    assert torch.allclose(ours, theirs)


def test_two_categories_are_a_bit():
    logits = torch.randn(5, 2)
    code = Concrete(logits, 0.4)
    y = code.sample((7,))
    bit = BinaryConcrete(logits[:, 0] - logits[:, 1], 0.4)
    assert torch.allclose(code.log_prob(y), bit.log_prob(y[..., 0] - y[..., 1]))


def scores(kind, drawn_at, judged_at):
    """d log p / d logits at draws, whose mean is zero exactly if the temperatures agree."""
    logits = torch.tensor([0.7, -0.4, 0.1]).expand(20_000, 3).clone().requires_grad_()
    y = kind(logits.detach(), drawn_at).sample()
    (score,) = torch.autograd.grad(kind(logits, judged_at).log_prob(y).sum(), logits)
    return score


@pytest.mark.parametrize("kind", [BinaryConcrete, Concrete])
@pytest.mark.parametrize(("right", "wrong"), [(0.5, 0.6), (2 / 3, 0.5), (0.1, 1.0)])
def test_a_density_at_another_temperature_than_the_draws_is_noticed(kind, right, wrong):
    assert_mean(scores(kind, right, right), 0.0, "the score", limit=4)
    assert z_scores(scores(kind, right, wrong)).abs().max() > 8


@pytest.mark.parametrize(
    ("family", "prior"),
    [(BinaryConcreteFamily, BinaryConcretePrior), (ConcreteFamily, ConcretePrior)],
)
@pytest.mark.parametrize("temperature", [0.1, 2 / 3])
def test_saturated_features_lose_no_digit_in_single_precision(family, prior, temperature):
    """log q - log p at features of +-100, where s itself is 0 or 1 in float32."""
    head = family((4, 3), temperature=temperature)
    h = (100 * torch.randn(200, 4, 3).sign()).float()
    z = head(h).rsample((5,))
    assert z.dtype == torch.float32 and z.isfinite().all()
    assert ((head.read(z) == 0) | (head.read(z) == 1)).any()

    def log_ratio(dtype):
        p = prior((4, 3), DATA).to(dtype)(None).z
        return head(h.to(dtype)).log_prob(z.to(dtype)) - p.log_prob(z.to(dtype))

    single, double = log_ratio(torch.float32), log_ratio(torch.float64)
    assert single.isfinite().all() and double.abs().max() > 100
    assert ((single - double) / (1 + double.abs())).abs().max() <= 2e-6


@pytest.mark.parametrize("family", [BinaryConcreteFamily, ConcreteFamily])
def test_gradients_of_saturated_features_are_finite(family):
    head = family((4, 3))
    h = (100 * torch.randn(200, 4, 3).sign()).float().requires_grad_()
    q = head(h)
    z = q.rsample((5,))
    (q.log_prob(z).sum() + head.read(z).sum()).backward()
    assert h.grad is not None and h.grad.isfinite().all()


@pytest.mark.parametrize("name", ["binary_concrete", "concrete"])
def test_the_decoder_reads_what_is_relaxed_and_not_its_logarithm(name):
    network = registry.part("networks", "mlp", {"hidden": []})
    model = build(
        (2, 3),
        DATA,
        encoder=network,
        family=registry.part("families", name),
        prior=registry.part("priors", name),
        decoder=network,
        likelihood=registry.part("likelihoods", "bernoulli"),
    )
    seen = []
    model.generator.network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    z = model.inference(torch.zeros(7, 6)).rsample((5,))
    assert model.generator(z).batch_shape == (5, 7)
    (read,) = seen
    assert read.shape == (35, 2, 3) and (read >= 0).all() and (read <= 1).all()
    if name == "concrete":
        assert torch.allclose(read.sum(-1), torch.ones(35, 2))


@pytest.mark.parametrize("family", [BinaryConcreteFamily, ConcreteFamily])
def test_a_cold_relaxation_is_the_discrete_variable(family):
    """Nearly every draw is a corner, and corners come with their probabilities."""
    head, h = family((3,), temperature=1e-3), torch.tensor([0.7, -0.4, 0.1])
    s = head.read(head(h).rsample((20_000,)))
    assert ((s < 1e-3) | (s > 1 - 1e-3)).double().mean() > 0.98
    chances = h.softmax(-1) if family is ConcreteFamily else h.sigmoid()
    assert_mean((s > 0.5).to(h), chances, "corners")


def relaxed_gradients(exact, x, temperature, n):
    """`n` draws of the gradient of E log p(x | s) in the logits of q, s relaxed: `[n, latent]`."""
    logits = exact.model.inference.features(x).detach().expand(n, -1).clone().requires_grad_()
    head = BinaryConcreteFamily((8,), temperature=temperature)
    bits = head.read(head(logits).rsample())
    log_lik = exact.model.generator(bits).log_prob(x)
    (gradient,) = torch.autograd.grad(log_lik.sum(), logits)
    return gradient


def test_the_bias_of_the_relaxation_falls_with_its_temperature():
    """Gradients of the reconstruction, against enumeration of the 256 codes.

    Squared bias: the mean's square without what is left of the noise in it.
    """
    exact, x = Enumeration.binary(8, 6, seed=0), torch.bernoulli(torch.full((1, 6), 0.5))
    h = exact.model.inference.features(x).detach().requires_grad_()
    q = exact.model.inference.head(h).log_prob(exact.z.unsqueeze(1)).exp()
    log_lik = exact.model.generator(exact.z.unsqueeze(1)).log_prob(x)
    (truth,) = torch.autograd.grad((q * log_lik).sum(), h)
    n, bias = 200_000, []
    for temperature in (2.0, 1.0, 0.5, 0.25, 0.1):
        draws = relaxed_gradients(exact, x, temperature, n)
        square = (draws.mean(0) - truth).square() - draws.var(0) / n
        bias.append(square.sum().clamp(min=0).sqrt().item())
    print("bias", [f"{b:.4f}" for b in bias], "of", truth.norm().item())
    assert bias == sorted(bias, reverse=True)
    assert bias[-1] < 0.1 * bias[0]
    assert bias[0] > 0.1 * truth.norm()
    assert math.isfinite(bias[0])
