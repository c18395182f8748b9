"""Draws of a batch at once are of the distribution, and each row's are its own."""

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, Poisson

from vaepipe.core import Stream, row_noise
from vaepipe.core.row_noise import NoRowNoiseError, row_sample
from vaepipe.registry import available, part

SHAPES = {"categorical": (3, 4), "concrete": (3, 4), "hierarchical": (5,), "ladder": (5,)}
OPTIONS = {"hierarchical": {"top": 2}, "ladder": {"top": 2}}
FAMILIES = sorted(name for name in available("families") if name != "vq")
IDS = torch.tensor([5, 0, 2**40, 7, 11, 3])


def head_of(name):
    shape = SHAPES.get(name, (3,))
    head = part("families", name, OPTIONS.get(name, {})).load()(shape, **OPTIONS.get(name, {}))
    return head, torch.randn(len(IDS), *head.feature_shape)


@pytest.mark.parametrize("name", FAMILIES)
def test_any_batching_gives_the_same_draws(name):
    head, h = head_of(name)
    whole = row_sample(head(h), IDS, 7, Stream(3))
    assert whole.shape[:2] == (7, 6) and not torch.equal(whole[0], whole[1])
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        part_of_it = row_sample(head(h[rows]), IDS[rows], 7, Stream(3))
        torch.testing.assert_close(part_of_it, whole[:, rows], rtol=1e-9, atol=1e-9)
    assert not torch.equal(row_sample(head(h), IDS, 7, Stream(4)), whole)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_draws_are_of_the_distribution(name):
    """First and second moments and the entropy are those of torch's own draws, within 4.5 SE."""
    head, h = head_of(name)
    n, found = 40_000, []
    for draw in (lambda q: row_sample(q, IDS[:2], n, Stream(1)), lambda q: q.sample((n,))):
        q = head(h[:2])
        with torch.no_grad():
            z = draw(q)
            flat = z.flatten(2)
            found.append(torch.cat([flat, flat**2, q.log_prob(z)[..., None]], -1))
    one, other = found
    se = ((one.var(0) + other.var(0)) / n).sqrt()
    gap = (one.mean(0) - other.mean(0)).abs()
    assert (gap <= 4.5 * se + 1e-12).all(), (gap / se).max()


def test_draws_of_a_row_and_rows_are_independent():
    z = row_sample(
        Independent(Normal(torch.zeros(6, 4), torch.ones(6, 4)), 1), IDS, 20_000, Stream(0)
    )
    correlation = torch.corrcoef(z.flatten(1).T) - torch.eye(24)
    assert correlation.abs().max() < 4.5 / 20_000**0.5
    assert torch.corrcoef(torch.stack([z[:-1, 0, 0], z[1:, 0, 0]]))[0, 1].abs() < 0.03


def test_a_mixture_chooses_components_by_their_weights():
    weights = torch.tensor([0.1, 0.0, 0.9]).expand(6, 3)
    parts = Normal(torch.tensor([0.0, 50.0, 100.0]).expand(6, 3), torch.ones(6, 3))
    z = row_sample(MixtureSameFamily(Categorical(weights), parts), IDS, 40_000, Stream(0))
    assert not ((z > 25) & (z < 75)).any()
    share = (z > 75).double().mean(0)
    assert ((share - 0.9).abs() < 4.5 * (0.09 / 40_000) ** 0.5).all()


def test_noise_that_is_not_known_by_rows_is_refused():
    with pytest.raises(NoRowNoiseError, match="poisson"):
        row_sample(Poisson(torch.ones(6)), IDS, 3, Stream(0))
    with pytest.raises(NoRowNoiseError, match="for 6 rows"):
        row_sample(Normal(torch.zeros(5), torch.ones(5)), IDS, 3, Stream(0))


def test_every_known_kind_of_noise_is_one_that_torch_seeds():
    for operation in row_noise._MAKERS:
        assert torch.Tag.nondeterministic_seeded in operation.tags, operation
