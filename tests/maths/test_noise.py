"""Noise that belongs to a row, and randomness that is put back."""

import subprocess
import sys

import pytest
import torch
from scipy import stats

from vaepipe.core import Stream, row_seed, row_uniform, seeded
from vaepipe.testing import z_scores

PINNED = [[11840778, 7328348], [15999963, 7956982]]
PINNED_SEED = 3044362460579775


def test_the_noise_of_a_row_does_not_depend_on_its_batch():
    ids = torch.randperm(1000)
    whole = row_uniform(Stream(3), ids, (5, 2))
    for size in (1, 7, 333):
        parts = torch.cat([row_uniform(Stream(3), part, (5, 2)) for part in ids.split(size)])
        assert torch.equal(parts, whole)


def test_the_noise_is_uniform():
    u = row_uniform(Stream(11), torch.arange(1000), (784,)).double().cpu().flatten()
    assert u.min() >= 0 and u.max() < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-3
    assert stats.chisquare(torch.histc(u, 256, 0, 1).numpy()).pvalue > 1e-3


def test_every_bit_is_fair():
    bits = (row_uniform(Stream(2), torch.arange(2000), (100,)).double() * 2**24).long().flatten()
    for place in range(24):
        assert abs(z_scores(((bits >> place) & 1).double(), 0.5)) < 4.5, place


def test_neighbours_in_a_row_in_a_column_and_of_two_seeds_are_uncorrelated():
    u = row_uniform(Stream(5), torch.arange(2000), (200,)).double() - 0.5
    other = row_uniform(Stream(6), torch.arange(2000), (200,)).double() - 0.5
    for pairs in (u[:, 1:] * u[:, :-1], u[1:] * u[:-1], u * other, u[:, :100] * u[:, 100:]):
        assert abs(z_scores(pairs.flatten())) < 4.5


def test_no_two_rows_share_their_noise():
    u = row_uniform(Stream(5), torch.arange(20_000), (2,))
    assert len(u.unique(dim=0)) > 19_990


def test_large_and_negative_ids_and_seeds_are_as_good():
    ids = torch.tensor([0, 1, -1, 2**62, -(2**62), 2**63 - 1])
    for seed in (0, -1, 2**63, 2**64 - 1):
        u = row_uniform(Stream(seed), ids, (1000,)).double()
        assert (z_scores(u.T, 0.5).abs() < 4.5).all()
        assert len(u[:, 0].unique()) == len(ids)


def test_the_values_are_pinned():
    """They decide frozen binarisations: a change of these numbers changes published results."""
    u = row_uniform(Stream(7), torch.tensor([0, 12345]), (2,))
    assert (u * 2**24).long().tolist() == PINNED
    assert row_seed(7, 12345) == PINNED_SEED


def test_row_seeds_are_the_same_in_another_process():
    code = "from vaepipe.core import row_seed; print(row_seed(3, 17))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) == row_seed(3, 17)


def test_row_seeds_fit_into_torch_and_differ():
    seeds = {row_seed(s, i) for s in range(50) for i in range(50)}
    assert len(seeds) == 2500
    assert all(0 <= s < 2**63 for s in seeds)


def test_seeded_gives_the_same_draws_and_puts_the_generator_back():
    before = torch.get_rng_state()
    with seeded(Stream(4)):
        a = torch.randn(3)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(KeyError), seeded(Stream(4)):
        assert torch.equal(torch.randn(3), a)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
