"""Annealed bounds against probabilistic PCA, whose evidence is known."""

import pytest
import torch

from vaepipe.errors import CompatibilityError
from vaepipe.evaluation import Annealing, ais, bdmc
from vaepipe.evaluation.annealing import simulated
from vaepipe.testing.exact import PPCA, Enumeration

PATH = Annealing(temperatures=20, chains=16, leapfrog=4)


@pytest.fixture
def ppca():
    return PPCA.random(6, 2, seed=3)


def misled(ppca):
    model = ppca.model(diagonal=True)
    with torch.no_grad():
        for parameter in model.inference.parameters():
            parameter.add_(0.2)
    return model


def test_it_is_never_above_the_evidence_by_more_than_its_error(ppca):
    torch.manual_seed(0)
    x = ppca.draw(12)
    found = ais(misled(ppca), x, range(12), path=PATH)
    error = found.value - ppca.log_evidence(x)
    assert (error / found.se).max() < 4
    assert error.mean() > -0.1


def test_weights_have_the_evidence_as_their_mean(ppca):
    torch.manual_seed(0)
    x = ppca.draw(1)
    path = Annealing(temperatures=8, chains=1, leapfrog=2)
    found = ais(misled(ppca), x.expand(600, -1), range(600), path=path)
    ratio = (found.value - ppca.log_evidence(x)).exp()
    assert abs((ratio.mean() - 1) / (ratio.std() / 600**0.5)) < 4


def test_both_sides_hold_the_truth_and_are_close_on_simulated_data(ppca):
    model = ppca.model(diagonal=True)
    found = bdmc(model, 12, path=PATH, seed=4)
    _, x = simulated(model, range(12), 4)
    truth = ppca.log_evidence(x)
    for side, sign in ((found.lower, 1), (found.upper, -1)):
        error = sign * (side - truth)
        assert error.mean() / (error.std() / 12**0.5) < 4
    assert (found.upper - found.lower).mean() <= 0.2
    again = bdmc(model, 5, path=PATH, seed=4, first=5)
    assert torch.allclose(again.lower, found.lower[5:10], atol=1e-8)


def test_examples_do_not_depend_on_company(ppca):
    torch.manual_seed(0)
    x = ppca.draw(4)
    whole = ais(ppca.model(), x, [3, 1, 7, 9], path=PATH)
    one = ais(ppca.model(), x[2:3], [7], path=PATH)
    assert torch.allclose(whole.value[2:3], one.value, atol=1e-8)


def test_bits_are_refused_with_the_way_out():
    exact = Enumeration.binary(4, 5, seed=0)
    with pytest.raises(CompatibilityError, match=r"real numbers.*Leave out `ais`"):
        ais(exact.model, torch.zeros(1, 5), [0], path=PATH)
