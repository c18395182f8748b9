"""Flows as priors: densities that integrate to one, draws that follow them, maps that learn."""

import pytest
import torch
from vaepipe_flows.priors import AutoregressivePrior, FlowPrior

from vaepipe.core import SUPPORTS, DataSpec
from vaepipe.errors import CompatibilityError
from vaepipe.testing import PriorContract, assert_mean, grid

DATA = DataSpec((4,), SUPPORTS["boolean"], 100)
PRIORS = {
    "nsf": lambda shape: FlowPrior(shape, DATA, kind="nsf", transforms=2, hidden=[16]),
    "maf": lambda shape: FlowPrior(shape, DATA, kind="maf", transforms=2, hidden=[16]),
    "realnvp": lambda shape: FlowPrior(shape, DATA, kind="realnvp", transforms=2, hidden=[16]),
    "autoregressive": lambda shape: AutoregressivePrior(shape, DATA, hidden=[16]),
}
each_prior = pytest.mark.parametrize("kind", PRIORS)


def made(kind, shape=(2,)):
    torch.manual_seed(0)
    prior = PRIORS[kind](shape)
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return prior


@each_prior
def test_the_density_integrates_to_one_over_the_plane(kind):
    z, log_cell = grid(2, 8.0, 301)
    with torch.no_grad():
        assert abs((made(kind)(None).z.log_prob(z) + log_cell).exp().sum() - 1) < 1e-3


@each_prior
def test_draws_follow_the_density(kind):
    """Means of functions over draws are their integrals against the density."""
    p = made(kind)(None).z
    z, log_cell = grid(2, 8.0, 301)
    with torch.no_grad():
        draws, weight = p.sample((20_000,)), (p.log_prob(z) + log_cell).exp()
        exact = (weight[:, None] * _features(z)).sum(0)
        assert_mean(_features(draws), exact, "functions of draws")
        assert torch.allclose(p.log_prob(draws), p.density(draws), atol=1e-9)


def _features(z):
    return torch.cat([z.sin(), (2 * z).cos(), (z.prod(-1, keepdim=True)).tanh()], -1)


@each_prior
def test_latents_of_several_dimensions_are_read_in_order(kind):
    one, other = made(kind, (2, 3)), made(kind, (6,))
    z = torch.randn(5, 2, 3)
    assert torch.equal(one(None).z.log_prob(z), other(None).z.log_prob(z.flatten(1)))


@each_prior
def test_a_prior_learns_a_banana(kind):
    """Cross-entropy of a banana approaches its entropy, 2.49 nats; a Normal's stays 0.55 above."""
    prior = PRIORS[kind]((2,))
    torch.manual_seed(1)
    first = torch.randn(2000)
    z = torch.stack([first, first.square() + torch.randn(2000) / 2**0.5], -1)
    optimizer = torch.optim.Adam(prior.parameters(), 2e-2)
    for step in range(120):
        optimizer.zero_grad()
        rows = torch.randint(1500, (256,), generator=torch.Generator().manual_seed(step))
        (-prior(None).z.log_prob(z[rows]).mean()).backward()
        optimizer.step()
    with torch.no_grad():
        assert -prior(None).z.log_prob(z[1500:]).mean() < 2.49 + 0.2


def test_halves_need_two_dimensions():
    with pytest.raises(CompatibilityError, match="'nsf' or 'maf'"):
        FlowPrior((1,), DATA, kind="realnvp")


class TestRealNVP(PriorContract):
    def make(self, latent_shape, data):
        return FlowPrior(latent_shape, data, kind="realnvp", hidden=[8])
