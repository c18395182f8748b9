"""Weights that stream by: prefixes, chunks, tails."""

import math

import pytest
import torch

from vaepipe.evaluation import Weights, decoding, score, summarise_weights
from vaepipe.evaluation.tail import pareto_k, reliable_below, tail_size
from vaepipe.evaluation.weights import ladder
from vaepipe.testing.exact import PPCA

KS = (1, 5, 50, 700)


def log_weights(k=700, batch=9):
    torch.manual_seed(0)
    return 3 * torch.randn(k, batch) - 900


@pytest.mark.parametrize("chunk", [1, 7, 333, 700])
def test_any_parts_give_what_all_at_once_gives(chunk):
    log_w, weights = log_weights(), Weights(KS)
    for part in log_w.split(chunk):
        weights.add(part)
    for k in KS:
        for found, exact in zip(weights.at()[k], summarise_weights(log_w[:k]), strict=True):
            assert torch.allclose(found, exact, atol=1e-9, rtol=1e-9, equal_nan=True)
    tail = log_w.topk(tail_size(700) + 1, 0).values
    assert torch.allclose(weights.khat(), pareto_k(tail), equal_nan=True)


def test_what_is_held_does_not_grow_with_the_number_of_weights():
    weights = Weights([100_000])
    for _ in range(100):
        weights.add(torch.randn(1000, 3))
    held = [v for v in vars(weights).values() if isinstance(v, torch.Tensor)]
    assert sum(v.numel() for v in held) <= 3 * (tail_size(100_000) + 1)


@pytest.mark.parametrize("values", [1, 7 * 6, 5000 * 6 * 64])
def test_evidence_is_the_same_for_every_chunk_of_samples(values, monkeypatch):
    ppca = PPCA.random(6, 2, seed=3)
    torch.manual_seed(1)
    model, x = off(ppca), ppca.draw(4)
    before = score(model, x, range(4), k=[1, 40, 1100])
    monkeypatch.setattr(decoding, "VALUES_AT_ONCE", values)
    after = score(model, x, range(4), k=[1, 40, 1100])
    for k in (1, 40, 1100):
        assert torch.allclose(before.at[k], after.at[k], atol=1e-6, rtol=0)
    assert torch.equal(before.at[1100], before.log_evidence)


def off(ppca):
    """The same model with a posterior that is not the exact one."""
    model = ppca.model(diagonal=True)
    with torch.no_grad():
        for parameter in model.inference.parameters():
            parameter.add_(0.1)
    return model


def test_single_precision_is_enough():
    """SCIENCE of it: max is subtracted before exponentials, so float32 loses no more than 1e-3."""
    ppca = PPCA.random(6, 2, seed=3)
    torch.manual_seed(1)
    log_w = 40 * torch.randn(2000, 5) - 900
    single, double = summarise_weights(log_w.float()), summarise_weights(log_w)
    assert (single.value - double.value).abs().max() < 1e-3
    assert ppca.weight.dtype == torch.float64


def test_the_curve_rises_in_the_mean():
    ppca = PPCA.random(6, 2, seed=3)
    torch.manual_seed(1)
    x = ppca.draw(500)
    found = score(off(ppca), x, range(500), k=[1, 5, 50])
    for less, more in ((1, 5), (5, 50)):
        gain = found.at[more] - found.at[less]
        assert gain.mean() > -4 * gain.std() / 500**0.5


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.5, 0.9])
def test_the_shape_of_a_pareto_tail_is_found(shape):
    torch.manual_seed(0)
    u = torch.rand(5000, 200)
    log_w = ((u**-shape - 1) / shape + 1).log()
    found = pareto_k(log_w.topk(tail_size(5000) + 1, 0).values)
    assert abs(found.mean().item() - shape) < 0.06  # drawn towards 1/2 by 5 of 223


def test_tails_without_a_shape_are_nan_and_one_giant_is_alarming():
    assert pareto_k(torch.zeros(40, 2)).isnan().all()
    assert pareto_k(torch.randn(4, 2)).isnan().all()
    giant = torch.full((41, 1), -1e4)
    giant[0] = 0.0
    assert pareto_k(giant).item() == torch.inf


def test_ties_at_the_cutoff_are_not_the_tail():
    """Weights of 3-bit latents: at most eight values, bounded, so the tail is light."""
    torch.manual_seed(0)
    values = torch.randn(8, 200)
    state = torch.multinomial(torch.tensor([0.9, 0.07] + [0.005] * 6), 5000, replacement=True)
    found = pareto_k(values[state].topk(tail_size(5000) + 1, 0).values)
    known = found[~found.isnan()]
    assert len(known) > 20
    assert known.max() < 10 and (known > 0.7).double().mean() < 0.1


def test_each_column_is_fitted_to_its_own_exceedances():
    """Ties in one column change nothing in another, and the fit is that of the exceedances."""
    torch.manual_seed(0)
    smooth = torch.randn(60)
    tied = torch.cat([smooth.topk(40).values, smooth.topk(40).values[-1:].expand(20)])
    both = pareto_k(torch.stack([smooth, tied], 1))
    alone = pareto_k(smooth.topk(40).values)
    assert torch.allclose(both, torch.stack([pareto_k(smooth), alone]))


def test_the_standard_error_of_heavy_tails_is_too_small():
    """What the documentation says of k-hat above 1/2: two standard errors cover less than 90 %."""
    torch.manual_seed(0)
    shape, n = 0.6, 2000
    w = torch.rand(500, n) ** -shape
    found = summarise_weights(w.log())
    covered = (found.value + math.log(1 - shape)).abs() < 2 * found.se
    assert covered.double().mean() < 0.9


@pytest.mark.parametrize(("k", "limit"), [(1, -math.inf), (10, 0), (100, 0.5), (10**4, 0.7)])
def test_fewer_weights_need_a_lighter_tail(k, limit):
    assert reliable_below(k) == limit


def test_ladders():
    assert ladder(7) == (7,) and ladder([50, 1, 50]) == (1, 50)
    for wrong in ([], [0, 5], -1):
        with pytest.raises(ValueError, match="positive"):
            ladder(wrong)
