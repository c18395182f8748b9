"""Mixtures as posteriors: densities of batches, and draws whose gradients are exact."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from vaepipe.core import Conditional, Mixture, through_mixture
from vaepipe.families.mixture import MixtureFamily
from vaepipe.networks.mlp import MLP
from vaepipe.priors.vamp import VampPrior
from vaepipe.testing import PPCA, assert_mean


def mixture(batch, k, event):
    parts = Normal(torch.randn(*batch, k, *event), torch.rand(*batch, k, *event) + 0.2)
    return Categorical(logits=torch.randn(*batch, k)), Independent(parts, len(event))


@pytest.mark.parametrize("lead", [(), (3,), (2, 3)])
@pytest.mark.parametrize("batch", [(), (5,), (4, 5)])
@pytest.mark.parametrize("event", [(6,), (2, 3)])
def test_the_density_is_that_of_torch_for_every_batch(lead, batch, event):
    weights, parts = mixture(batch, 4, event)
    z = torch.randn(*lead, *batch, *event)
    exact = MixtureSameFamily(weights, parts).log_prob(z)
    assert torch.allclose(Mixture(weights, parts).log_prob(z), exact, atol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 4])
def test_implicit_gradients_are_those_of_the_inverse_distribution_function(d):
    """Hold the uniform vector that z stands for, move a parameter, solve for z again."""
    weights, parts = mixture((), 3, (d,))
    normals = parts.base_dist
    values = [v.clone() for v in (weights.logits, normals.loc, normals.scale)]
    z = Mixture(weights, parts).sample((20,))
    fixed = conditional_cdfs(z, *values)
    for which, value in enumerate(values):
        way = torch.randn_like(value)
        moved = [_solved(fixed, _with(values, which, value + s * way)) for s in (1e-5, -1e-5)]
        _, found = torch.autograd.functional.jvp(
            lambda v, i=which: _through(z, _with(values, i, v)), value, way
        )
        assert torch.allclose(found, (moved[0] - moved[1]) / 2e-5, atol=1e-6, rtol=1e-5)


def _through(z, values):
    logits, loc, scale = values
    return through_mixture(z, logits, Normal(loc, scale))


def _with(values, which, value):
    return [*values[:which], value, *values[which + 1 :]]


def conditional_cdfs(z, logits, loc, scale):
    """P(Z_d <= z_d | z_1 ... z_{d-1}) one dimension after the other, `[n, d]`."""
    log_r, out = logits.expand(len(z), -1), []
    for d in range(z.shape[-1]):
        part, column = Normal(loc[:, d], scale[:, d]), z[:, d : d + 1]
        out.append((log_r.softmax(-1) * part.cdf(column)).sum(-1))
        log_r = log_r + part.log_prob(column)
    return torch.stack(out, -1)


def _solved(fixed, values):
    """z with these conditional distribution functions, by halving."""
    low, high = torch.full_like(fixed, -20.0), torch.full_like(fixed, 20.0)
    for d in range(fixed.shape[-1]):
        for _ in range(60):
            middle = 0.5 * (low + high)
            above = conditional_cdfs(middle, *values)[:, d] > fixed[:, d]
            high[:, d] = torch.where(above, middle[:, d], high[:, d])
            low[:, d] = torch.where(above, low[:, d], middle[:, d])
    return 0.5 * (low + high)


def test_the_gradient_of_the_mean_is_that_of_its_formula():
    """d E[z] / d logits = w_k (mu_k - E[z]), d E[z] / d mu_k = w_k, d E[z] / d sigma_k = 0."""
    weights, parts = mixture((), 3, (2,))
    n = 20_000
    leaves = [v.expand(n, *v.shape).clone().requires_grad_() for v in _values(weights, parts)]
    q = Mixture(Categorical(logits=leaves[0]), Independent(Normal(*leaves[1:]), 1))
    q.rsample()[:, 1].sum().backward()
    w, loc = weights.probs, parts.base_dist.loc[:, 1]
    assert_mean(leaves[0].grad, w * (loc - (w * loc).sum()), "the gradient of the logits")
    assert_mean(leaves[1].grad, torch.stack([0 * w, w], -1), "the gradient of the means")
    assert_mean(leaves[2].grad, 0.0, "the gradient of the scales")


def _values(weights, parts):
    return weights.logits, parts.base_dist.loc, parts.base_dist.scale


def test_one_component_is_a_normal_to_the_last_gradient():
    h = torch.randn(7, 6, requires_grad=True)
    q = MixtureFamily((2, 1), components=1)(torch.cat([h[:, :1], h[:, 1:5]], -1))
    z = q.rsample((3,))
    normal = q.component_distribution.base_dist
    noise = (z.detach() - normal.loc[:, 0]) / normal.scale[:, 0]
    twin = normal.loc[:, 0] + noise.detach() * normal.scale[:, 0]
    weight = torch.randn_like(z)
    one, other = (torch.autograd.grad((v * weight).sum(), h, retain_graph=True) for v in (z, twin))
    assert torch.allclose(one[0], other[0], atol=1e-10)


def test_gradients_are_finite_in_single_precision_when_components_are_far_apart():
    h = (100 * torch.randn(50, MixtureFamily((3,)).feature_shape[0]).sign()).float()
    q = MixtureFamily((3,))(h.requires_grad_())
    q.rsample((20,)).square().sum().backward()
    assert h.grad.isfinite().all()


def test_components_that_are_no_normals_have_no_such_draws():
    parts = Independent(torch.distributions.Laplace(torch.zeros(3, 2), torch.ones(3, 2)), 1)
    q = Mixture(Categorical(logits=torch.zeros(3)), parts)
    assert not q.has_rsample
    with pytest.raises(NotImplementedError):
        q.rsample()


def test_a_vamp_prior_of_mixtures_is_a_mixture_of_mixtures():
    head, data = MixtureFamily((2,), components=3), PPCA.random(3, 2, seed=0).data
    inference = Conditional(MLP((3,), head.feature_shape, hidden=[4]), head, (3,))
    prior = VampPrior((2,), data, components=4)
    z, parts = torch.randn(6, 5, 2), inference(prior.pseudo_inputs())
    each = torch.stack([parts.log_prob(row.expand(4, 2)) for row in z.reshape(-1, 2)])
    exact = (each.logsumexp(-1) - torch.tensor(4.0).log()).reshape(6, 5)
    assert torch.allclose(prior(inference).z.log_prob(z), exact, atol=1e-10)
