"""Local variational parameters: optimised row by row, and never for the worse."""

import copy

import pytest
import torch
from torch.distributions import Distribution
from torch.distributions.kl import kl_divergence

from vaepipe.core import Cap, Conditional, Family, LatentModel, Stream, rate, refine, seeded
from vaepipe.families.normal import DiagonalNormal, raw_of
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.networks.mlp import MLP
from vaepipe.priors.mixture import MixturePrior
from vaepipe.testing import PPCA, z_scores
from vaepipe.testing.contracts.base import shaken


def misjudged(diagonal=False, rows=12):
    """A model whose encoder is a little off, examples, and the encoder's features."""
    ppca = PPCA.random(5, 2, seed=3)
    model, x = ppca.model(), ppca.draw(rows)
    if diagonal:
        head = DiagonalNormal((2,))
        encoder = Conditional(MLP((5,), head.feature_shape, hidden=[]), head, (5,))
        model = LatentModel(encoder, model.prior, model.generator)
    shaken(model.inference)
    return ppca, model, x, model.inference.features(x).detach()


@torch.no_grad()
def elbo(model, x, h, k=4000):
    """`[k, batch]` values of the ELBO's integrand, on noise that is the same for every h."""
    with seeded(Stream(9)):
        q = model.inference.head(h)
        z = q.sample((k,))
        return model.generator(z).log_prob(x) - rate(q, model.p_z().z, z)


@torch.no_grad()
def exact_elbo(ppca, model, x, h):
    """log p(x) - KL(q || p(z | x)), in closed form for Normals."""
    q = model.inference.head(h)
    if not isinstance(q, torch.distributions.MultivariateNormal):
        q = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    return ppca.log_evidence(x) - kl_divergence(q, ppca.posterior(x))


@pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])
@pytest.mark.parametrize("steps", [1, 20, 100])
def test_it_never_lowers_the_elbo(diagonal, steps):
    """Not for one example, from the encoder's features."""
    ppca, model, x, h0 = misjudged(diagonal)
    h = refine(model, x, h0, steps=steps, noise=Stream(0))
    gain = exact_elbo(ppca, model, x, h) - exact_elbo(ppca, model, x, h0)
    assert gain.min() > -1e-3
    assert z_scores(elbo(model, x, h) - elbo(model, x, h0)).min() > -2


def test_at_the_posterior_it_stays_there():
    """What cannot be improved is not made worse by noise."""
    ppca = PPCA.random(5, 2, seed=3)
    model, x = ppca.model(), ppca.draw(20)
    h0 = model.inference.features(x).detach()
    h = refine(model, x, h0, steps=50, lr=0.1)
    loss = ppca.log_evidence(x) - exact_elbo(ppca, model, x, h)
    assert loss.max() < 0.01
    assert torch.equal(h, h0)


def test_it_reaches_the_posterior_where_the_family_holds_it():
    ppca, model, x, h0 = misjudged()
    h = refine(model, x, h0, steps=300, lr=0.1, samples=4)
    gap = ppca.log_evidence(x) - exact_elbo(ppca, model, x, h)
    before = ppca.log_evidence(x) - exact_elbo(ppca, model, x, h0)
    assert before.mean() > 1 and gap.mean() < 0.02 and gap.min() > 0


def test_gaps_add_up_and_the_mean_field_optimum_is_reached():
    """Cremer et al. (2018): log p = ELBO(q) + amortization gap + approximation gap.

    The best mean-field q of a Normal posterior has its mean and the diagonal of its precision.
    """
    ppca, model, x, _ = misjudged(diagonal=True)
    posterior = ppca.posterior(x)
    spread = posterior.precision_matrix.diagonal(dim1=-2, dim2=-1).rsqrt()
    best = torch.distributions.MultivariateNormal(posterior.loc, torch.diag_embed(spread**2))
    approximation = kl_divergence(best, posterior)
    h0 = torch.stack([posterior.loc, raw_of(spread)], 1) + 0.3 * torch.randn(len(x), 2, 2)
    h = refine(model, x, h0, steps=150, samples=4)
    refined, start = exact_elbo(ppca, model, x, h), exact_elbo(ppca, model, x, h0)
    amortization = refined - start
    assert amortization.mean() > 0.5
    assert amortization.min() >= 0
    rest = ppca.log_evidence(x) - start - amortization - approximation
    assert approximation.min() > 0.01 and rest.min() > -1e-9 and rest.max() < 0.02


@pytest.mark.parametrize("diagonal", [False, True], ids=["full", "diagonal"])
def test_a_row_does_not_know_its_neighbours(diagonal):
    _, model, x, h0 = misjudged(diagonal)
    whole = refine(model, x, h0, steps=30)
    order = torch.randperm(len(x))
    shuffled = refine(model, x[order], h0[order], steps=30)
    alone = torch.cat([refine(model, x[i : i + 1], h0[i : i + 1], steps=30) for i in range(3)])
    assert torch.allclose(shuffled, whole[order], atol=1e-10)
    assert torch.allclose(alone, whole[:3], atol=1e-10)


class Checked(Family):
    """A diagonal Normal that looks at its numbers, which vmap does not allow."""

    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(self, latent_shape):
        super().__init__()
        self.head = DiagonalNormal(latent_shape)
        self.feature_shape = self.head.feature_shape

    def forward(self, h):
        assert bool(h.isfinite().all())
        return self.head(h)


def test_rows_that_cannot_be_vectorised_give_the_same_numbers():
    _, model, x, h0 = misjudged(diagonal=True)
    slow = copy.deepcopy(model)
    slow.inference.head = Checked((2,))
    assert torch.allclose(refine(slow, x, h0, steps=5), refine(model, x, h0, steps=5))


def test_it_works_without_gradients_and_leaves_everything_alone():
    _, model, x, h0 = misjudged()
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    noise = torch.get_rng_state()
    plain = refine(model, x, h0, steps=5)
    with torch.no_grad():
        assert torch.equal(refine(model, x, h0, steps=5), plain)
    with torch.inference_mode():
        inside = refine(model, x.clone(), model.inference.features(x), steps=5)
    assert torch.equal(inside, plain)
    assert not plain.requires_grad
    assert torch.equal(torch.get_rng_state(), noise)
    assert all(p.grad is None for p in model.parameters())
    assert asked == {name: p.requires_grad for name, p in model.named_parameters()}


def test_it_works_on_frozen_models_and_with_any_prior():
    """Also where neither the rate nor the prior has a closed form."""
    _, model, x, h0 = misjudged()
    mixture = LatentModel(model.inference, MixturePrior((2,), None, components=3), model.generator)
    mixture.requires_grad_(False)
    h = refine(mixture, x, h0, steps=50)
    assert z_scores(elbo(mixture, x, h) - elbo(mixture, x, h0)).min() > -2
    assert (elbo(mixture, x, h).mean() - elbo(mixture, x, h0).mean()) > 1


def test_the_seed_decides():
    _, model, x, h0 = misjudged()
    same = [refine(model, x, h0, steps=5, noise=Stream(3)) for _ in range(2)]
    assert torch.equal(*same)
    assert not torch.equal(same[0], refine(model, x, h0, steps=5, noise=Stream(4)))


def test_a_row_that_diverges_keeps_its_start():
    """An example whose ELBO is not finite does not spoil the others."""
    _, model, x, h0 = misjudged()
    broken = x.clone()
    broken[1] = float("nan")
    model.generator.head = GaussianLikelihood(PPCA.random(5, 2, seed=3).data, scale=0.5)
    h = refine(model, broken, h0, steps=5)
    assert torch.equal(h[1], h0[1])
    assert torch.equal(h[0], refine(model, x, h0, steps=5)[0])


class Mute(Family):
    """Draws carry no gradient."""

    provides = Cap.SAMPLE

    def __init__(self):
        super().__init__()
        self.feature_shape = (2,)

    def forward(self, h):
        return Distribution(h.shape[:-1], h.shape[-1:], validate_args=False)


def test_a_family_without_reparameterized_draws_is_refused():
    _, model, x, h0 = misjudged()
    model.inference.head = Mute()
    with pytest.raises(NotImplementedError):
        refine(model, x, h0[:, :2], steps=1)
