"""What must hold of a model with a latent plane, by a grid; and what inactive units are worth."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

from vaepipe.core import SUPPORTS, Conditional, DataSpec, LatentModel, StepContext, Stream, seeded
from vaepipe.datasets.digits import Digits
from vaepipe.evaluation import score
from vaepipe.families.normal import DiagonalNormal
from vaepipe.likelihoods.bernoulli import BernoulliLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import ELBO
from vaepipe.priors.normal import StandardNormal

GRID = torch.linspace(-6, 6, 401, dtype=torch.float64)
PIXELS = DataSpec((1, 8, 8), SUPPORTS["boolean"], 1400)


def vae(latent):
    head, likelihood = DiagonalNormal((latent,)), BernoulliLikelihood(PIXELS)
    encoder = MLP(PIXELS.shape, head.feature_shape, hidden=[64])
    decoder = MLP((latent,), likelihood.feature_shape, hidden=[64])
    inference = Conditional(encoder, head, PIXELS.shape)
    return LatentModel(
        inference, StandardNormal((latent,), PIXELS), Conditional(decoder, likelihood, (latent,))
    )


def binary_digits(split):
    dataset = Digits(binarize="threshold")
    rows = [torch.tensor(b.column("x").flatten().to_numpy()) for b in dataset.examples(split)]
    return dataset.tensor(torch.cat(rows).reshape(-1, *PIXELS.shape), lambda: None)


def trained(latent, steps):
    x = binary_digits("train")
    with seeded(Stream(0)):
        model, objective = vae(latent), ELBO()
        optimizer = torch.optim.Adam(model.parameters(), 5e-3)
        for step in range(steps):
            rows = x[torch.randint(len(x), (128,))]
            optimizer.zero_grad()
            objective.estimate(model, rows, StepContext(step, 1.0, len(x))).surrogate.backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def plane():
    """A model, some examples, the grid, log p(x, z) and log q(z | x) there, and log of a cell."""
    model, x = trained(2, 300).double(), binary_digits("test")[:8].double()
    points, joint, cell = log_joint(model, x)
    return model, x, joint, model.inference(x).log_prob(points[:, None]), cell


def log_joint(model, x):
    """log p(x, z) on the grid, `[points, batch]`, and the area of a cell."""
    points = torch.cartesian_prod(GRID, GRID)
    prior = model.p_z().z.log_prob(points)
    parts = [model.generator(z[:, None]).log_prob(x) for z in points.split(2**14)]
    return points, torch.cat(parts) + prior[:, None], 2 * math.log((GRID[1] - GRID[0]).item())


def test_the_evidence_is_the_elbo_and_the_distance_from_the_posterior(plane):
    """log p(x) = ELBO + KL(q(z | x) || p(z | x)), both sides by quadrature."""
    _, _, joint, log_q, cell = plane
    evidence = joint.logsumexp(0) + cell
    mass = (log_q + cell).exp()
    elbo = (mass * (joint - log_q)).sum(0)
    distance = (mass * (log_q - (joint - evidence))).sum(0)
    assert (distance > 0).all()
    assert ((elbo + distance - evidence).abs() <= 2e-3).all()


def test_the_elbo_by_quadrature_is_the_reported_one(plane):
    model, x, joint, log_q, cell = plane
    elbo = ((log_q + cell).exp() * (joint - log_q)).sum(0)
    draws = torch.stack([score(model, x, range(len(x)), k=500, seed=s).elbo for s in range(8)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - elbo).abs() < 6 * error + 1e-3).all()


class Pruned(torch.nn.Module):
    """A Normal head whose units outside `kept` have the prior for a posterior."""

    def __init__(self, head, kept):
        super().__init__()
        self.head, self.kept, self.feature_shape = head, kept, head.feature_shape

    def forward(self, h):
        base = self.head(h).base_dist
        loc = torch.where(self.kept, base.loc, 0.0)
        return Independent(Normal(loc, torch.where(self.kept, base.scale, 1.0)), 1)


def test_inactive_units_are_worth_nothing():
    """Without them the evidence moves by less than 0.06 nats (Burda et al., 2016, section 5.2)."""
    model, x = trained(24, 800), binary_digits("test")
    means = model.inference(x).mean
    active = means.var(0) > 1e-2
    assert 4 <= active.sum() <= 20
    whole = score(model, x, range(len(x)), k=2000).log_evidence
    model.inference.head = Pruned(model.inference.head, active)
    pruned = score(model, x, range(len(x)), k=2000).log_evidence
    assert (whole.mean() - pruned.mean()).abs() < 0.06
