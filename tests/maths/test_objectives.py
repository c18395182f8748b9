"""Weights of the rate change the surrogate and never the bound."""

import pytest
import torch

from vaepipe.core import StepContext, rate_per_dimension
from vaepipe.errors import CompatibilityError
from vaepipe.objectives.elbo import ELBO, SampledELBO
from vaepipe.objectives.importance import IWAE
from vaepipe.testing import PPCA
from vaepipe.testing.contracts.base import shaken


def at(epoch):
    return StepContext(0, epoch, 1000)


@pytest.fixture
def model():
    made = PPCA.random(6, 3, seed=3, orthogonal=True).model(diagonal=True)
    shaken(made.inference)
    return made


@pytest.fixture
def x():
    return PPCA.random(6, 3, seed=3, orthogonal=True).draw(20)


def estimate(objective, model, x, epoch=0.0):
    torch.manual_seed(5)
    return objective.estimate(model, x, at(epoch))


WEIGHTED = [
    ELBO(beta=4.0),
    ELBO(beta=0.0),
    ELBO(warmup_epochs=10),
    ELBO(free_bits=5.0),
    ELBO(beta=2.0, warmup_epochs=3, free_bits=0.1),
]


@pytest.mark.parametrize(
    "objective", WEIGHTED, ids=lambda o: f"{o.beta}-{o.warmup_epochs}-{o.free_bits}"
)
def test_the_bound_is_the_elbo_whatever_the_weights(objective, model, x):
    plain, weighted = estimate(ELBO(), model, x), estimate(objective, model, x)
    assert torch.equal(plain.bound, weighted.bound)
    assert all(torch.equal(plain.terms[name], weighted.terms[name]) for name in plain.terms)
    assert plain.surrogate != weighted.surrogate


def test_the_bound_is_the_sum_of_its_terms(model, x):
    for objective in (ELBO(samples=3), SampledELBO(samples=3)):
        e = estimate(objective, model, x)
        assert torch.allclose(e.bound, e.terms["log_lik"] - e.terms["rate"])
        assert torch.allclose(e.surrogate, -e.bound.mean())


@pytest.mark.parametrize("objective", [ELBO, SampledELBO])
def test_beta_weighs_the_rate(objective, model, x):
    e = estimate(objective(beta=4.0), model, x)
    expected = (4 * e.terms["rate"] - e.terms["log_lik"]).mean()
    assert torch.allclose(e.surrogate, expected)


@pytest.mark.parametrize("objective", [ELBO, SampledELBO])
def test_the_weight_rises_linearly_and_then_stays(objective, model, x):
    warming, final = objective(warmup_epochs=10, beta=3.0), objective(beta=3.0)
    for epoch, share in ((0.0, 0.0), (2.5, 0.25), (9.0, 0.9), (10.0, 1.0), (30.0, 1.0)):
        partial = objective(beta=3.0 * share)
        assert torch.equal(
            estimate(warming, model, x, epoch).surrogate, estimate(partial, model, x).surrogate
        )
        assert warming.warm(at(epoch)) == (epoch >= 10)
    assert final.warm(at(0.0))


def test_free_bits_clamp_the_mean_rate_of_each_dimension(model, x):
    """Averaged over the batch first, clamped then (Kingma et al., 2016, eq. 16)."""
    q, p = model.inference(x), model.p_z().z
    mean_rates = rate_per_dimension(q, p, torch.empty(0)).mean(0)
    floor = mean_rates.median().item()
    e = estimate(ELBO(free_bits=floor), model, x)
    expected = mean_rates.clamp(min=floor).sum() - e.terms["log_lik"].mean()
    assert torch.allclose(e.surrogate, expected)


def test_free_bits_free_the_encoder_of_the_rate(model, x):
    """Below the floor the rate has no gradient at all."""
    surrogate = estimate(ELBO(free_bits=1e6), model, x).surrogate
    torch.manual_seed(5)
    q = model.inference(x)
    log_lik = model.generator(q.rsample((1,))).log_prob(x).mean()
    parameters = list(model.inference.parameters())
    ours = torch.autograd.grad(surrogate, parameters)
    reconstruction = torch.autograd.grad(-log_lik, parameters)
    assert all(torch.allclose(a, b) for a, b in zip(ours, reconstruction, strict=True))


def test_free_bits_need_dimensions_that_factorise():
    ppca = PPCA.random(6, 3, seed=3)
    with pytest.raises(CompatibilityError, match="factorise"):
        ELBO(free_bits=0.1).estimate(ppca.model(), ppca.draw(2), at(0.0))


def test_the_importance_weighted_bound_is_not_its_average_weight(model, x):
    """sum_i v_i log w_i overstates the bound; the bound is the log of the mean weight."""
    e = estimate(IWAE(k=10), model, x)
    torch.manual_seed(5)
    q = model.inference(x)
    z = q.rsample((10,))
    log_w = model.generator(z).log_prob(x) + model.p_z().z.log_prob(z) - q.log_prob(z)
    assert torch.allclose(e.bound, log_w.exp().mean(0).log())
    assert (e.bound < (log_w.softmax(0) * log_w).sum(0)).all()
