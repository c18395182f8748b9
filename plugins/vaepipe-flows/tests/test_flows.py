"""Flows as posteriors: determinants, inverses, densities, and gradients that stay on the path."""

import math

import pytest
import torch
from vaepipe_flows.iaf import InverseAutoregressive
from vaepipe_flows.planar import Planar
from vaepipe_flows.spline import SplineCoupling
from vaepipe_flows.sylvester import Sylvester

from vaepipe.core import Conditional, LatentModel, StepContext, Stream, frozen
from vaepipe.evaluation.evidence import row_draws
from vaepipe.families.normal import FullNormal
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import SampledELBO
from vaepipe.objectives.importance import IWAE, DReG
from vaepipe.objectives.landing import STL
from vaepipe.priors.vamp import VampPrior
from vaepipe.testing import PPCA, assert_mean, grid

FAMILIES = {
    "iaf": lambda d: InverseAutoregressive((d,), hidden=[16, 16], context=3),
    "planar": lambda d: Planar((d,), steps=3),
    "sylvester": lambda d: Sylvester((d,), steps=2, reflections=2),
    "spline": lambda d: SplineCoupling((d,), hidden=[16], context=3),
}
each_family = pytest.mark.parametrize("name", FAMILIES)


def made(name, d, batch=()):
    """A family with networks that do something, and features for it."""
    torch.manual_seed(0)
    head = FAMILIES[name](d)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return head, 0.7 * torch.randn(*batch, *head.feature_shape)


def onward(q, e):
    """z and the sum of the log-determinants that the steps report."""
    total = 0.0
    for step in q.steps:
        e, log_det = step.forward(e)
        total = total + log_det
    return e, total


@each_family
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_reported_log_determinants_are_those_of_the_jacobian(name, dtype, limit):
    head, h = made(name, 6)
    q = head.to(dtype)(h.to(dtype))
    for e in torch.randn(10, 6).to(dtype):
        jacobian = torch.autograd.functional.jacobian(lambda e: onward(q, e)[0], e)
        exact = torch.linalg.slogdet(jacobian.double()).logabsdet
        assert abs(onward(q, e)[1].double() - exact) <= limit


@each_family
def test_the_density_integrates_to_one_over_the_plane(name):
    head, h = made(name, 2)
    z, log_cell = grid(2, 8.0, 301)
    with torch.no_grad():
        mass = (head(0.5 * h).density(z) + log_cell).exp().sum()
    assert abs(mass - 1) < 1e-3


@each_family
def test_the_density_of_a_draw_is_the_density_by_the_inverse(name):
    head, h = made(name, 7, (4, 3))
    q = head(h)
    z = q.rsample((5,))
    assert torch.allclose(q.log_prob(z), q.density(z), atol=1e-9, rtol=0)
    assert torch.allclose(q.log_prob(z), q.log_prob(z.clone()), atol=1e-9, rtol=0)


@each_family
def test_the_inverse_undoes_the_flow_at_the_size_of_a_real_model(name):
    """50 dimensions in single precision."""
    head, h = made(name, 50, (8,))
    q = head.float()(h.float())
    e = torch.randn(3, 8, 50, dtype=torch.float32)
    back = onward(q, e)[0]
    for step in reversed(q.steps):
        back, _ = step.inverse(back)
    assert (back - e).abs().max() < 1e-3


@each_family
def test_densities_in_single_precision_are_those_of_double_precision(name):
    """Wide features bring values together a thousandfold, and inverses undo that."""
    head, h = made(name, 32, (20,))
    h = (4 * h).float()
    with torch.no_grad():
        z = head.float()(h).sample((20,))
        single = head(h).log_prob(z)
        double = head.double()(h.double()).log_prob(z.double())
    assert single.dtype == torch.float32
    assert (single - double).abs().max() <= 0.01


@each_family
def test_gradients_through_the_inverse_are_exact(name):
    """Of the density at a fixed z, with respect to z and to the features."""
    head, h = made(name, 3, (2,))
    z = torch.randn(2, 3)
    inputs = (h.requires_grad_(), z.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda h, z: head(h).log_prob(z), inputs, fast_mode=True, check_undefined_grad=False
    )


@each_family
def test_gradients_of_the_networks_through_the_inverse_are_exact(name):
    head, h = made(name, 2)
    parameters = dict(head.named_parameters())
    if not parameters:
        pytest.skip("all of it comes from the features")
    z = torch.randn(4, 2)
    exact = torch.autograd.grad(head(h).log_prob(z).sum(), list(parameters.values()))
    torch.manual_seed(1)
    ways = [torch.randn_like(p) for p in parameters.values()]
    found = sum((g * w).sum() for g, w in zip(exact, ways, strict=True))

    def moved(size):
        values = {n: p + size * w for (n, p), w in zip(parameters.items(), ways, strict=True)}
        return torch.func.functional_call(head, values, (h,)).steps

    with torch.no_grad():
        rise = [_density(moved(size), z).sum() for size in (1e-6, -1e-6)]
    assert torch.allclose((rise[0] - rise[1]) / 2e-6, found, rtol=1e-4)


def _density(steps, z):
    total = 0.0
    for step in reversed(steps):
        z, log_det = step.inverse(z)
        total = total - log_det
    return total - 0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


@each_family
def test_a_density_held_constant_moves_with_the_draw_only(name):
    """T11: a frozen head stays frozen when its density is asked after the call has ended."""
    head, h = made(name, 3)
    h.requires_grad_()
    z = torch.randn(5, 3, requires_grad=True)
    frozen(head)(h.detach()).log_prob(z).sum().backward()
    assert h.grad is None
    assert all(p.grad is None for p in head.parameters())
    constant = z.grad.clone()
    z.grad = None
    head(h).log_prob(z).sum().backward()
    assert torch.allclose(z.grad, constant, atol=1e-10)
    assert h.grad.any() and all(p.grad.any() for p in head.parameters())


@each_family
def test_sticking_the_landing_has_the_gradient_of_the_bound_in_the_mean(name):
    """T11: draw by draw, path gradient minus finite difference is noise around zero."""
    head, h = made(name, 2)
    n = 3000
    noise = torch.randn(n, 2)
    leaves = h.expand(n, -1).clone().requires_grad_()
    z = onward(head(leaves), noise)[0]
    (_log_joint(z) - frozen(head)(leaves.detach()).log_prob(z)).sum().backward()
    finite = torch.stack([_finite_difference(head, h, noise, j) for j in range(len(h))], -1)
    assert_mean(leaves.grad - finite, 0.0, "path gradient and finite difference")


def _finite_difference(head, h, noise, j, size=1e-5):
    bump = size * torch.eye(len(h))[j]
    with torch.no_grad():
        up, down = (_bound(head(h + sign * bump), noise) for sign in (1, -1))
    return (up - down) / (2 * size)


def _bound(q, noise):
    z, log_det = onward(q, noise)
    return _log_joint(z) + log_det + 0.5 * noise.square().sum(-1)


def _log_joint(z):
    """A banana: y is x^2 and Normal noise of variance 1/4, x is standard Normal."""
    return -2 * (z[..., 1] - z[..., 0].square()).square() - 0.5 * z[..., 0].square()


LOG_NORMALISER = 0.5 * math.log(2 * math.pi) + 0.5 * math.log(math.pi / 2)


@each_family
@pytest.mark.parametrize(("one", "other"), [(STL(), SampledELBO()), (DReG(k=3), IWAE(k=3))])
def test_objectives_that_hold_q_constant_climb_the_same_bound(name, one, other):
    """Same draws, same bound; the gradients of encoder and flow differ by noise around zero."""
    head, _ = made(name, 2)
    ppca = PPCA.random(3, 2, seed=0)
    gaussian = ppca.model()
    encoder = MLP((3,), head.feature_shape, hidden=[])
    model = LatentModel(Conditional(encoder, head, (3,)), gaussian.prior, gaussian.generator)
    parameters, x = list(model.inference.parameters()), ppca.draw(1).expand(100, -1)
    gaps = []
    for seed in range(20):
        gradients = []
        for objective in (one, other):
            torch.manual_seed(seed)
            estimate = objective.estimate(model, x, StepContext(0, 0.0, 100))
            parts = torch.autograd.grad(estimate.surrogate, parameters)
            gradients.append((estimate.bound, torch.cat([part.flatten() for part in parts])))
        assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-9)
        gaps.append(gradients[0][1] - gradients[1][1])
    gaps = torch.stack(gaps)
    torch.manual_seed(7)
    ways = torch.randn(gaps.shape[1], 5) / gaps.std(0).clamp(min=1e-12)[:, None]
    assert_mean(gaps @ ways, 0.0, "gradients of one bound")


@each_family
def test_evaluation_asks_no_inverse_for_what_it_drew(name, monkeypatch):
    head, _ = made(name, 2)
    ppca = PPCA.random(3, 2, seed=0)
    gaussian = ppca.model()
    encoder = MLP((3,), head.feature_shape, hidden=[])
    model = LatentModel(Conditional(encoder, head, (3,)), gaussian.prior, gaussian.generator)
    h = model.inference.features(ppca.draw(5))
    q, z = row_draws(model, h, range(5), 4, Stream(0))
    with torch.no_grad():
        by_inverse = q.density(z)
        monkeypatch.setattr(type(q), "density", None)
        assert torch.allclose(q.log_prob(z), by_inverse, atol=1e-9, rtol=0)


@each_family
def test_a_mixture_of_flows_is_a_prior(name):
    """VampPrior: batch shape [K] against draws of any shape."""
    head, _ = made(name, 2)
    ppca = PPCA.random(3, 2, seed=0)
    inference = Conditional(MLP((3,), head.feature_shape, hidden=[]), head, (3,))
    prior = VampPrior((2,), ppca.data, components=3)
    p, parts = prior(inference).z, inference(prior.pseudo_inputs())
    z = torch.randn(4, 5, 2)
    each = torch.stack([parts.log_prob(row[None]) for row in z.reshape(-1, 2)])
    exact = (each.logsumexp(-1) - torch.tensor(3.0).log()).reshape(4, 5)
    assert torch.allclose(p.log_prob(z), exact, atol=1e-9)
    assert p.sample((4,)).shape == (4, 2)


FITTED = FAMILIES | {
    "planar": lambda d: Planar((d,), steps=6),
    "sylvester": lambda d: Sylvester((d,), steps=4, reflections=2),
}


@pytest.fixture(scope="module")
def normal_gap():
    """How far the best Normal stays from the banana: 0.56 nats."""
    torch.set_default_dtype(torch.float64)
    return _fitted_gap(FullNormal((2,)))


@each_family
def test_a_flow_comes_nearer_to_a_banana_than_any_normal(name, normal_gap):
    assert _fitted_gap(FITTED[name](2)) < 0.75 * normal_gap


def _fitted_gap(head):
    """KL to the normalised banana after some steps, nats."""
    torch.manual_seed(3)
    h = torch.nn.Parameter(0.5 * torch.randn(head.feature_shape))
    optimizer = torch.optim.Adam([h, *head.parameters()], 3e-2)
    for _ in range(250):
        _gap(head(h), 200).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return _gap(head(h), 20_000).item()


def _gap(q, n):
    z = q.rsample((n,))
    return (q.log_prob(z) - _log_joint(z)).mean() + LOG_NORMALISER
