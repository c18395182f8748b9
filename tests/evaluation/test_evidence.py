"""The evaluator against truth: exact evidence, order of rows, chunks, standard errors."""

import math

import pytest
import torch

from vaepipe.core import SUPPORTS, DataSpec, Stream, build, seeded
from vaepipe.errors import DataError
from vaepipe.evaluation import decoding, score, summarise_weights, validate
from vaepipe.evaluation.validation import ACTIVE
from vaepipe.registry import part
from vaepipe.testing.exact import PPCA

K = 400


@pytest.fixture
def ppca():
    return PPCA.random(6, 2, seed=3)


def examples(ppca, n=32):
    torch.manual_seed(1)
    return ppca.draw(n)


def test_at_the_exact_posterior_every_weight_is_the_evidence(ppca):
    x = examples(ppca)
    scores = score(ppca.model(), x, range(len(x)), k=7)
    assert torch.allclose(scores.log_evidence, ppca.log_evidence(x), atol=1e-10, rtol=0)
    assert torch.allclose(scores.elbo, ppca.log_evidence(x), atol=3, rtol=0)
    assert scores.log_evidence_se.max() < 1e-6
    assert torch.allclose(scores.ess, torch.full_like(scores.ess, 7.0), atol=1e-6)


def test_scores_do_not_depend_on_order_or_company(ppca):
    x, model = examples(ppca), ppca.model()
    ids = list(range(100, 100 + len(x)))
    whole = score(model, x, ids, k=K, seed=5)
    back = score(model, x.flip(0), ids[::-1], k=K, seed=5)
    one = score(model, x[4:5], ids[4:5], k=K, seed=5)
    for name in ("log_evidence", "elbo", "log_lik", "rate", "ess"):
        assert torch.allclose(getattr(whole, name), getattr(back, name).flip(0), atol=1e-10)
        assert torch.allclose(getattr(whole, name)[4:5], getattr(one, name), atol=1e-10)


@pytest.mark.parametrize("values", [1, 7 * 32 * 6, 10**9])
def test_the_number_of_samples_decoded_at_a_time_changes_nothing(ppca, values, monkeypatch):
    x, model = examples(ppca), ppca.model()
    before = score(model, x, range(len(x)), k=50)
    monkeypatch.setattr(decoding, "VALUES_AT_ONCE", values)
    after = score(model, x, range(len(x)), k=50)
    assert torch.allclose(before.log_evidence, after.log_evidence, atol=1e-10, rtol=0)


def test_the_log_mean_of_weights_is_exact_and_survives_large_numbers():
    log_w = torch.tensor([[-900.0, 1000.0], [-901.0, 1001.0], [-902.0, 999.0]])
    value, _, ess = summarise_weights(log_w)
    shifted = log_w.double() + torch.tensor([900.0, -1000.0])
    exact = shifted.exp().mean(0).log() + torch.tensor([-900.0, 1000.0])
    assert torch.allclose(value, exact, atol=1e-12, rtol=0)
    w = shifted.exp()
    assert torch.allclose(ess, w.sum(0) ** 2 / (w**2).sum(0), rtol=1e-12)


def test_equal_weights_have_no_error_and_full_size():
    value, se, ess = summarise_weights(torch.full((10, 3), -5.0))
    assert torch.allclose(value, torch.full((3,), -5.0).double())
    assert se.abs().max() < 1e-7
    assert torch.allclose(ess, torch.full((3,), 10.0).double())


def test_the_standard_error_is_the_spread_over_repetitions():
    """log-normal weights of known mean: the reported error matches the observed one."""
    torch.manual_seed(0)
    log_w = 0.5 * torch.randn(1000, 2000, dtype=torch.float64) - 0.125
    value, se, _ = summarise_weights(log_w)
    z = value / se
    assert abs(z.mean()) < 4 / math.sqrt(2000)
    assert abs(value.std() / se.mean() - 1) < 0.1


def test_validation_is_the_mean_of_the_scores(ppca):
    x = examples(ppca, 2000)
    found = validate(ppca.model(), x, k=16)
    exact = ppca.log_evidence(x)
    assert abs(found["log_evidence"] - exact.mean().item()) < 1e-9
    assert abs(found["log_evidence_se"] - exact.std().item() / math.sqrt(len(x))) < 1e-9
    assert abs(found["elbo"] - (found["log_lik"] - found["rate"])) < 1e-9
    assert found["active_units"] == 2


def flow(latent=2):
    """Planar flow: a posterior whose moments are known from draws alone."""
    data = DataSpec((6,), SUPPORTS["real"], 100)
    parts = {
        "encoder": part("networks", "mlp", {"hidden": []}),
        "family": part("families", "planar"),
        "prior": part("priors", "standard_normal"),
        "decoder": part("networks", "mlp", {"hidden": []}),
        "likelihood": part("likelihoods", "gaussian"),
    }
    with seeded(Stream(0)):
        model = build((latent,), data, **parts)
    with torch.no_grad():
        for parameter in model.inference.network.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize("k", [1, 2, 16])
@pytest.mark.parametrize("n", [20, 600])
def test_a_collapsed_flow_validates_without_active_units(n, k):
    """Means of few draws vary over examples by sigma^2 / draws, and what that is, is uncertain."""
    model = flow(latent=20)
    assert validate(model, torch.randn(n, 6), k=k)["active_units"] == 0


def test_validation_and_evaluation_count_the_same_active_units():
    """Var_x E_q[z] from 0.0016 to 0.36 around the 0.01 from which a dimension is active."""
    model, x = flow(latent=4), torch.randn(400, 6)
    weight = next(p for p in model.inference.network.parameters() if p.ndim == 2)
    with torch.no_grad():
        weight[:4, 0] = torch.tensor([0.04, 0.06, 0.2, 0.6])  # location of z, sigma stays 1
    scores = score(model, x, range(len(x)), k=2)
    variance = scores.mean.var(0) - (scores.mean_se**2).mean(0)
    assert validate(model, x, k=2)["active_units"] == (variance > ACTIVE).sum() == 2


def test_one_example_has_no_spread_and_none_is_an_error(ppca):
    found = validate(ppca.model(), examples(ppca, 1), k=4)
    assert "active_units" not in found and "log_evidence_se" not in found
    assert math.isfinite(found["log_evidence"])
    with pytest.raises(DataError, match="no examples to validate on"):
        validate(ppca.model(), torch.zeros(0, 6), k=4)


def test_validation_repeats_itself_and_leaves_the_generator_alone(ppca):
    x, model = examples(ppca), ppca.model()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first = validate(model, x, k=4)
    assert torch.equal(torch.rand(1), expected)
    assert first == validate(model, x, k=4)
