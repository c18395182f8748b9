"""The rate and the gaps, taken apart: identities that hold to rounding."""

import math

import numpy as np
import pytest
import torch

from vaepipe.evaluation import diagnose, gaps, score, surgery
from vaepipe.evaluation.aggregate import bits_per_dimension, code_perplexity, neighbours_agree
from vaepipe.testing.exact import PPCA, Enumeration


@pytest.mark.parametrize("family", ["diagonal", "full", "bits"])
def test_the_rate_is_information_plus_divergence(family):
    torch.manual_seed(0)
    if family == "bits":
        model, x = Enumeration.binary(6, 5, seed=0).model, torch.bernoulli(torch.rand(60, 5))
    else:
        ppca = PPCA.random(6, 3, seed=3)
        model, x = ppca.model(diagonal=family == "diagonal"), ppca.draw(60)
    with torch.no_grad():
        h = model.inference.features(x)
    parts = surgery(model, h, range(60))
    total = parts.mutual_information.mean() + parts.marginal_kl.mean()
    assert abs(parts.rate.mean() - total) < 1e-10
    assert (parts.mutual_information <= math.log(60) + 1e-12).all()
    assert (parts.total_correlation is None) == (family == "full")


def test_a_posterior_that_ignores_x_carries_no_information():
    ppca = PPCA.random(6, 2, seed=3)
    model = ppca.model(diagonal=True)
    with torch.no_grad():
        h = torch.randn(1, *model.inference.head.feature_shape).expand(40, -1, -1)
        parts = surgery(model, h, range(40))
    assert parts.mutual_information.abs().max() < 1e-10
    assert parts.total_correlation.abs().max() < 1e-10


def test_far_apart_posteriors_say_which_example_it_is():
    model = PPCA.random(6, 2, seed=3).model(diagonal=True)
    h = torch.zeros(30, *model.inference.head.feature_shape)
    h[:, 0] = 1000 * torch.arange(30).unsqueeze(1)
    parts = surgery(model, h, range(30))
    assert torch.allclose(parts.mutual_information, torch.full((30,), math.log(30)), atol=1e-9)


def test_gaps_add_up_and_an_exact_family_has_none():
    ppca = PPCA.random(6, 2, seed=3, orthogonal=True)
    torch.manual_seed(0)
    model, x = ppca.model(diagonal=True), ppca.draw(8)
    with torch.no_grad():
        for parameter in model.inference.parameters():
            parameter.add_(0.1)
    found = score(model, x, range(8), k=2000, proposal="defensive")
    parts = gaps(
        model, x, range(8), log_evidence=found.log_evidence, elbo=found.elbo, steps=300
    )  # fmt: skip
    total = found.log_evidence - found.elbo
    assert torch.allclose(parts.approximation + parts.amortization, total, atol=1e-12)
    assert parts.amortization.min() > 0 and parts.amortization.mean() > 0.5
    assert parts.approximation.mean().abs() < 0.2


def test_neighbours_and_permuted_labels():
    torch.manual_seed(0)
    means = torch.cat([torch.randn(40, 2), torch.randn(40, 2) + 20])
    labels = np.array([0] * 40 + [1] * 40)
    assert neighbours_agree(means, labels).mean() == 1
    assert neighbours_agree(means, np.random.default_rng(0).permutation(labels)).mean() < 0.7


@pytest.mark.parametrize("offset", [0.0, 1e4, 1e6])
def test_neighbours_far_from_zero_are_told_apart(offset):
    """Two lines of points an eighth apart; float32 keeps them exactly, products of them do not."""
    places = torch.arange(200, dtype=torch.float32) % 100 / 8
    means = torch.stack([places, (torch.arange(200) // 100 * 2).float()], 1) + offset
    assert neighbours_agree(means, [0] * 100 + [1] * 100, k=5).mean() == 1


def test_units_of_information():
    assert bits_per_dimension(-3072 * math.log(256), 3072) == pytest.approx(8, abs=1e-12)
    assert code_perplexity(torch.arange(64).reshape(8, 8)) == pytest.approx(64)
    assert code_perplexity(torch.zeros(8, 8)) == 1


def test_the_doctor_names_dimensions_and_remedies():
    assert diagnose([1.0, 2.0], [0.5, 0.5], "test", 3.0) == ([], [])
    (one,) = diagnose([1.0, 0.001], [0.5, 0.001], "test", 1.0).notes
    assert "1 of 2" in one and "dimension 1: 0.0010 nats" in one
    assert all(word in one for word in ("free_bits", "warmup_epochs", "vamp"))
    (many,) = diagnose([None] * 20, [0.5] + [0.0] * 19, "test", 9.0).notes
    assert "19 of 20" in many and "and 11 more" in many
    (all_gone,) = diagnose([0.0, 0.0], [0.0, 0.0], "test", 0.0).alarms
    assert all_gone.startswith("posterior collapse")
