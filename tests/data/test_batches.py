"""Training batches: one order, whether from memory, from the shards, or shared by ranks."""

import numpy as np
import pytest
import torch

from vaepipe.core import Stream
from vaepipe.data import batches, schema, shards
from vaepipe.errors import DataError


@pytest.fixture
def split(tmp_path):
    """2,500 rows in 3 row groups; the value of a row is its id."""
    ids = np.arange(2500)
    x = np.repeat(ids.astype(np.float32)[:, None], 3, axis=1)
    entries = shards.write_split(tmp_path / "train", [schema.record(ids, x)])
    return shards.Split(tmp_path / "train", tuple(e["name"] for e in entries))


def epoch(source, number=0):
    return [(ids.clone(), x.clone()) for ids, x in source.epoch(number)]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(i, j) and torch.equal(x, y) for (i, x), (j, y) in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("window", [batches.WINDOW_BYTES, 12_000, 1])
def test_memory_and_shards_give_the_same_batches(split, window, monkeypatch):
    monkeypatch.setattr(batches, "WINDOW_BYTES", window)
    held = batches.Batches(split, 64, order=Stream(5))
    streamed = batches.Batches(split, 64, order=Stream(5), memory_budget=0)
    assert same(epoch(held), epoch(streamed))
    assert same(epoch(held, 3), epoch(streamed, 3))


@pytest.mark.parametrize("size", [1, 64, 128, 1249, 1250, 1251, 2499, 2500, 9000])
def test_an_epoch_visits_every_row_once_in_batches_of_nearly_one_size(split, size):
    source = batches.Batches(split, size, order=Stream(5))
    sizes = [len(ids) for ids, _ in epoch(source)]
    seen = torch.cat([ids for ids, _ in source.epoch(0)])
    assert sorted(seen.tolist()) == list(range(2500))
    assert len(sizes) == source.steps == -(-2500 // size)
    assert max(sizes) <= size and max(sizes) - min(sizes) <= 1


def test_a_size_that_divides_the_rows_gives_the_batches_it_always_gave(split):
    """The shuffled order, cut every 125 rows."""
    source = batches.Batches(split, 125, order=Stream(5))
    order = torch.cat([ids for ids, _ in epoch(batches.Batches(split, 2500, order=Stream(5)))])
    assert all(map(torch.equal, [ids for ids, _ in epoch(source)], order.split(125)))


@pytest.mark.parametrize(("world", "size"), [(2, 64), (3, 64), (3, 60), (7, 99), (8, 2500)])
@pytest.mark.parametrize("budget", [batches.MEMORY_BUDGET, 0], ids=["memory", "stream"])
def test_ranks_have_equal_shares_and_leave_out_other_rows_in_other_epochs(
    split, world, size, budget, monkeypatch
):
    monkeypatch.setattr(batches, "WINDOW_BYTES", 12_000)
    sources = [
        batches.Batches(
            split, size, order=Stream(5), rank=r, world_size=world, memory_budget=budget
        )
        for r in range(world)
    ]
    left_out = []
    for number in range(8):
        ranks = [epoch(source, number) for source in sources]
        shares = [[len(ids) for ids, _ in rank] for rank in ranks]
        assert all(share == shares[0] for share in shares)
        assert max(shares[0]) - min(shares[0]) <= 1 and max(shares[0]) * world <= size
        seen = [i for rank in ranks for ids, _ in rank for i in ids.tolist()]
        assert len(seen) == len(set(seen)) == 2500 // world * world
        left_out.append(set(range(2500)) - set(seen))
    assert 2500 % world == 0 or len(set.union(*left_out)) > 2500 % world


def test_rows_keep_their_values(split):
    for ids, x in batches.Batches(split, 64, order=Stream(5)).epoch(1):
        assert torch.equal(x[:, 0].long(), ids)


def test_epochs_and_seeds_differ_and_repeat(split):
    source = batches.Batches(split, 64, order=Stream(5))
    assert same(epoch(source, 0), epoch(source, 0))
    assert not same(epoch(source, 0), epoch(source, 1))
    assert not same(epoch(source, 0), epoch(batches.Batches(split, 64, order=Stream(6)), 0))


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("size", [60, 250, 2500])
def test_ranks_share_the_order_of_one_worker_row_by_row(split, world, size):
    alone = torch.cat([ids for ids, _ in epoch(batches.Batches(split, size, order=Stream(5)))])
    ranks = [
        epoch(batches.Batches(split, size, order=Stream(5), rank=r, world_size=world))
        for r in range(world)
    ]
    steps = zip(*ranks, strict=True)
    together = torch.cat([torch.stack([ids for ids, _ in step], 1).flatten() for step in steps])
    assert torch.equal(together, alone[: 2500 // world * world])


def test_a_split_smaller_than_the_batch_is_one_batch(split):
    source = batches.Batches(split, 10_000, order=Stream(1))
    assert source.steps == 1
    assert len(next(source.epoch(0))[0]) == 2500


def test_fewer_rows_than_workers_is_an_error(tmp_path):
    entries = shards.write_split(
        tmp_path / "t", [schema.record(np.arange(2), np.ones((2, 1), "f"))]
    )
    small = shards.Split(tmp_path / "t", (entries[0]["name"],))
    with pytest.raises(DataError, match="too few for 3 workers"):
        batches.Batches(small, 8, order=Stream(0), world_size=3)


def test_a_shuffle_is_uniform_over_positions(split):
    """The mean position of a row over epochs is near the middle."""
    source = batches.Batches(split, 2500, order=Stream(9))
    epochs = 60
    positions = np.stack([np.argsort(next(source.epoch(e))[0].numpy()) for e in range(epochs)])
    z = (positions.mean(0) - 1249.5) / (np.sqrt((2500**2 - 1) / 12) / np.sqrt(epochs))
    assert abs(z.mean()) < 1e-9
    assert 0.9 < z.std() < 1.1
