"""Proposals against exact evidence: valid bounds, modes that q misses, families that cannot."""

import math

import pytest
import torch

from vaepipe.core import SUPPORTS, Conditional, DataSpec, LatentModel
from vaepipe.errors import CompatibilityError
from vaepipe.evaluation import adaptive, score
from vaepipe.evaluation.adaptive import evaluations
from vaepipe.evaluation.proposals import defensive, is_real
from vaepipe.families.normal import DiagonalNormal
from vaepipe.likelihoods.gaussian import GaussianLikelihood
from vaepipe.priors.normal import StandardNormal
from vaepipe.testing.exact import PPCA, Enumeration, evidence, grid

NAMES = ("posterior", "defensive", "refined")


def mislead(model):
    """An encoder that is wrong: means shifted, scales halved."""
    with torch.no_grad():
        for parameter in model.inference.parameters():
            parameter.add_(0.15)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_no_proposal_exceeds_the_evidence(name, monkeypatch):
    """E p_hat = p for one sample, however q is: mean of weights over the truth is one."""
    monkeypatch.setattr(adaptive, "ROUNDS", (100, 50, 50))
    ppca = PPCA.random(6, 2, seed=3)
    torch.manual_seed(1)
    x = ppca.draw(1)
    copies, k = 48, 100
    found = score(
        mislead(ppca.model()), x.expand(copies, -1), range(copies), k=k, proposal=name,
        refine_steps=5,
    )  # fmt: skip
    ratio = (found.log_evidence - ppca.log_evidence(x)).exp()
    z = (ratio.mean() - 1) / (ratio.std() / math.sqrt(copies))
    assert abs(z) < 4


class Square(torch.nn.Module):
    """x = z^2: two modes, one on either side of zero."""

    def forward(self, z):
        return z**2


def two_modes():
    """p(z | x) has modes at +-sqrt(x); q sees one of them."""
    data = DataSpec((2,), SUPPORTS["real"], 100)
    family = DiagonalNormal((2,))
    encoder = torch.nn.Linear(2, 4)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.copy_(torch.tensor([1.0, 1.0, -2.0, -2.0]))
    return LatentModel(
        Conditional(encoder, family, (2,)),
        StandardNormal((2,), data),
        Conditional(Square(), GaussianLikelihood(data, scale=0.15), (2,)),
    )


def test_refined_finds_four_modes_where_q_has_one():
    model = two_modes()
    torch.manual_seed(0)
    x = torch.rand(8, 2) + 0.5
    with torch.no_grad():
        truth = evidence(model, x, *grid(2, 4.0, 801))
    errors = {}
    for name in NAMES:
        k = 5000 - (evaluations(50, 2) if name == "refined" else 0)
        errors[name] = score(model, x, range(8), k=k, proposal=name).log_evidence - truth
    assert errors["posterior"].mean() < -1.0  # log 4 of the mass is elsewhere
    assert errors["refined"].mean() > -0.02 and errors["refined"].min() > -0.5
    assert errors["refined"].abs().mean() < errors["defensive"].abs().mean()


def test_rows_do_not_depend_on_company():
    model, ids = two_modes(), [5, 9, 11]
    torch.manual_seed(0)
    x = torch.rand(3, 2) + 0.5
    whole = score(model, x, ids, k=30, proposal="refined", refine_steps=5)
    one = score(model, x[1:2], ids[1:2], k=30, proposal="refined", refine_steps=5)
    assert torch.allclose(whole.log_evidence[1:2], one.log_evidence, atol=1e-8, rtol=0)
    assert torch.allclose(whole.elbo[1:2], one.elbo, atol=1e-8, rtol=0)


def test_the_density_of_a_mixture_integrates_to_one():
    model, h = two_modes(), torch.randn(3, 2, 2)
    z, log_cell = grid(2, 20.0, 401)
    with torch.no_grad():
        log_r = defensive(model, h, range(3), 0).log_prob(z.unsqueeze(1).expand(-1, 3, -1))
    total = (log_r.logsumexp(0) + log_cell).exp()
    assert torch.allclose(total, torch.ones(3), atol=1e-3)


def test_bits_have_no_wider_component_but_the_bound_holds():
    exact = Enumeration.binary(6, 5, seed=0)
    torch.manual_seed(0)
    x = torch.bernoulli(torch.full((4, 5), 0.5))
    found = score(exact.model, x, range(4), k=4000, proposal="defensive")
    z = (found.log_evidence - exact.log_evidence(x)) / found.log_evidence_se
    assert z.abs().max() < 4
    with pytest.raises(CompatibilityError, match="RSAMPLE"):
        score(exact.model, x, range(4), k=10, proposal="refined")


def test_refined_in_many_dimensions_is_the_defensive_mixture_around_the_best_posterior():
    ppca = PPCA.random(20, 10, seed=0, orthogonal=True)
    torch.manual_seed(2)
    x = ppca.draw(6)
    found = score(
        mislead(ppca.model(diagonal=True)), x, range(6), k=400, proposal="refined",
        refine_steps=150,
    )  # fmt: skip
    plain = score(mislead(ppca.model(diagonal=True)), x, range(6), k=400)
    assert found.ess.mean() > 5 * plain.ess.mean()
    z = (found.log_evidence - ppca.log_evidence(x)) / found.log_evidence_se
    assert z.max() < 4


def test_mixtures_of_real_numbers_are_real_and_mixtures_of_bits_are_not():
    """Else a VampPrior's model is refused by annealing, and its proposal has no wide component."""
    weights = torch.distributions.Categorical(torch.ones(3))
    normal = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(3, 2), 1.0), 1)
    assert is_real(torch.distributions.MixtureSameFamily(weights, normal))
    bits = torch.distributions.Bernoulli(torch.full((3,), 0.5))
    assert not is_real(torch.distributions.MixtureSameFamily(weights, bits))
    assert not is_real(torch.distributions.Beta(torch.ones(2), torch.ones(2)))


def test_the_documented_share_of_draws_comes_from_the_kernels():
    """.7 from the kernels; .3 from q, q widened and the prior as .5 : .3 : .2."""
    torch.manual_seed(0)
    ppca = PPCA.random(5, 2, seed=1)
    model, x = ppca.model(), ppca.draw(2)
    h = model.inference.features(x)
    proposal = adaptive.refined(model, x, h, range(2), 0, steps=2)
    assert torch.allclose(proposal.shares, torch.tensor([0.15, 0.09, 0.06, 0.7]))
