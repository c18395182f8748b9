"""Averages and mixtures of importance-weighted bounds (Rainforth et al., 2018)."""

import pytest
import torch

from vaepipe.core import SUPPORTS, Conditional, DataSpec, LatentModel, Part, StepContext
from vaepipe.families.normal import DiagonalNormal
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.objectives.elbo import SampledELBO
from vaepipe.objectives.importance import CIWAE, IWAE, MIWAE, PIWAE
from vaepipe.priors.mixture import MixturePrior
from vaepipe.testing import PPCA
from vaepipe.testing.contracts.base import shaken

CONTEXT = StepContext(0, 0.0, 1000)
DATA = DataSpec((3,), SUPPORTS["real"], 100)


@pytest.fixture
def model():
    head = DiagonalNormal((2,))
    return LatentModel(
        Conditional(MLP((3,), head.feature_shape, hidden=[]), head, (3,)),
        MixturePrior((2,), DATA, components=2),
        Conditional(MLP((2,), (3,), hidden=[]), GaussianLikelihood(DATA), (2,)),
    )


@pytest.fixture
def x():
    return torch.randn(4, 3)


def seeded_gradient(function, model, x, part, seed=5):
    torch.manual_seed(seed)
    surrogate = function(model, x, CONTEXT).surrogate
    wanted = list(part.parameters())
    return torch.autograd.grad(surrogate, wanted, allow_unused=True, materialize_grads=True)


def test_miwae_is_the_mean_of_bounds_of_its_own_draws(model, x):
    torch.manual_seed(1)
    e = MIWAE(m=3, k=4).estimate(model, x, CONTEXT)
    torch.manual_seed(1)
    q = model.inference(x)
    z = q.rsample((12,))
    log_w = model.generator(z).log_prob(x) + model.p_z().z.log_prob(z) - q.log_prob(z)
    each = torch.stack([log_w[4 * j : 4 * j + 4].exp().mean(0).log() for j in range(3)])
    assert torch.allclose(e.bound, each.mean(0))
    assert torch.allclose(e.surrogate, -e.bound.mean())


def test_the_two_gradients_of_piwae_are_those_of_miwae_and_of_iwae(model, x):
    """To the last bit of the same noise."""
    piwae = PIWAE(m=3, k=4)
    inference, generation = piwae.phases()
    assert (inference.updates, generation.updates) == (
        Part.INFERENCE,
        Part.GENERATOR | Part.PRIOR,
    )
    ours = seeded_gradient(inference.estimate, model, x, model.inference)
    theirs = seeded_gradient(MIWAE(m=3, k=4).estimate, model, x, model.inference)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    for part in (model.generator, model.prior):
        ours = seeded_gradient(generation.estimate, model, x, part)
        theirs = seeded_gradient(IWAE(k=12).estimate, model, x, part)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))
        assert any(g.any() for g in ours)
    idle = seeded_gradient(generation.estimate, model, x, model.inference)
    assert not any(g.any() for g in idle)


@pytest.mark.parametrize(
    ("beta", "other"), [(0.0, IWAE(k=6)), (1.0, SampledELBO(samples=6))], ids=["iwae", "elbo"]
)
def test_ciwae_lies_between_its_ends(beta, other, model, x):
    ours = seeded_gradient(CIWAE(beta=beta, k=6).estimate, model, x, model)
    theirs = seeded_gradient(other.estimate, model, x, model)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_ciwae_mixes_and_reports_the_tighter_bound(model, x):
    def at(objective):
        torch.manual_seed(2)
        return objective.estimate(model, x, CONTEXT)

    mixed, tight, loose = (at(o) for o in (CIWAE(beta=0.3, k=6), IWAE(k=6), SampledELBO(samples=6)))
    assert torch.equal(mixed.bound, tight.bound)
    expected = 0.3 * loose.surrogate + 0.7 * tight.surrogate
    assert torch.allclose(mixed.surrogate, expected)


def test_resampled_draws_come_closer_to_the_posterior_with_more_of_them():
    """q^(k) by sampling-importance-resampling: its distance from p(z | x) falls with k.

    Total variation of histograms in one dimension; that of n exact draws is the noise floor.
    """
    ppca, n = PPCA.random(3, 1, seed=1), 40_000
    model, x = ppca.model(), ppca.draw(1)
    shaken(model.inference)
    with torch.no_grad():
        (layer,) = model.inference.network.layers
        layer.bias[0] += 0.3
        q, p = model.inference(x), model.p_z().z
        posterior = ppca.posterior(x)

        def resampled(k):
            z = q.sample((k * n,)).reshape(k, n, 1)
            log_w = model.generator(z).log_prob(x) + p.log_prob(z) - q.log_prob(z)
            chosen = torch.distributions.Categorical(logits=log_w.T).sample()
            return z[chosen, torch.arange(n), 0]

        width = posterior.stddev.item()
        edges = torch.linspace(-6, 6, 61) * width + posterior.mean.item()
        cells = torch.distributions.Normal(posterior.mean, posterior.stddev).cdf(edges).diff()

        def distance(draws):
            counts = torch.histogram(draws.cpu(), edges.cpu())[0].to(cells) / n
            return 0.5 * (counts - cells).abs().sum().item()

        floor = distance(posterior.sample((n,)).flatten())
        falling = [distance(resampled(k)) for k in (1, 5, 50)]
    assert falling[0] > falling[1] > falling[2]
    assert falling[0] > 0.2 and falling[2] < 0.05 and floor < 0.02
