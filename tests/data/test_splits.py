"""Splits by a hash of the id: the same for every order; no split without a row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vaepipe.core import Purpose, row_uniform, stream
from vaepipe.data import schema
from vaepipe.datasets import parquet
from vaepipe.datasets.image_folder import ImageFolder
from vaepipe.datasets.npy import Npy
from vaepipe.datasets.parquet import ParquetDataset
from vaepipe.datasets.splits import by_id, cut, largest_remainder
from vaepipe.datasets.text import Text
from vaepipe.errors import DataError

SHARES = {"train": 0.9, "val": 0.05, "test": 0.05}
EMPTY = (3, 4, 6, 12, 20)
"""Numbers of rows 0, 1, … of which the hash alone leaves a split empty."""


def by_threshold(ids):
    """The rule of before, which looks at each row alone."""
    noise = (
        row_uniform(stream(0, Purpose.SPLITS), torch.from_numpy(ids), (1,))[:, 0].double().numpy()
    )
    low, high = np.cumsum(list(SHARES.values()))[:2] / sum(SHARES.values())
    return {
        "train": noise < low,
        "val": (noise >= low) & (noise < high),
        "test": noise >= high,
    }


@pytest.mark.parametrize("count", [*range(3, 64), 1000, 30_000])
def test_every_split_has_a_row_and_only_data_with_an_empty_one_change(count):
    ids = np.arange(count)
    masks, before = by_id(ids, SHARES), by_threshold(ids)
    assert np.array_equal(sum(mask.astype(int) for mask in masks.values()), np.ones(count))
    if all(mask.any() for mask in before.values()):
        assert all(np.array_equal(masks[name], before[name]) for name in SHARES)
    else:
        counts = [masks[name].sum() for name in SHARES]
        assert counts == largest_remainder(count, list(SHARES.values())).tolist()
        assert min(counts) >= 1


@pytest.mark.parametrize("count", EMPTY)
def test_the_hash_alone_leaves_a_split_empty(count):
    assert not all(mask.any() for mask in by_threshold(np.arange(count)).values())


@pytest.mark.parametrize("count", EMPTY)
def test_splits_do_not_depend_on_order_or_pieces(count):
    ids = np.random.default_rng(count).permutation(10**6)[:count]
    masks = by_id(ids, SHARES)
    for order in (np.arange(count)[::-1], np.random.default_rng(1).permutation(count)):
        pieces = np.array_split(ids[order], 3)
        moved = cut("x", iter(pieces), SHARES).masks(ids)
        assert all(np.array_equal(moved[name], masks[name]) for name in SHARES)


def test_ids_are_read_only_until_every_split_has_a_row():
    def pieces():
        yield np.arange(1000)
        raise AssertionError("enough is known")

    assert cut("x", pieces(), SHARES).masks(np.arange(5))["train"].any()


@pytest.mark.parametrize(
    ("count", "shares", "right"),
    [
        (6, [0.8, 0.1, 0.1], [4, 1, 1]),
        (12, [8, 1, 1], [10, 1, 1]),
        (20, [0.8, 0.1, 0.1], [16, 2, 2]),
        (10, [1 / 3, 1 / 3, 1 / 3], [4, 3, 3]),
        (4, [0.97, 0.01, 0.01, 0.01], [1, 1, 1, 1]),
        (7, [0.5, 0.49, 0.01], [3, 3, 1]),
    ],
)
def test_largest_remainders(count, shares, right):
    assert largest_remainder(count, shares).tolist() == right


def npy(folder, count):
    np.save(folder / "x.npy", np.ones((count, 2), np.float32))
    return Npy(path=folder / "x.npy", support="real", splits=SHARES)


def numbered(folder, count):
    for part, ids in enumerate(np.array_split(np.arange(100, 100 + count), 2)):
        x = schema.to_vectors(np.ones((len(ids), 2), np.float32))
        pq.write_table(pa.table({"key": ids, "x": x}), folder / f"{part}.parquet")
    return ParquetDataset(path=folder, support="real", id_column="key", splits=SHARES)


def pictures(folder, count):
    for number in range(count):
        Image.new("L", (2, 2), number).save(folder / f"{number}.png")
    return ImageFolder(path=folder, mode="L", splits=SHARES)


def sentences(folder, count):
    (folder / "a.txt").write_text("".join(f"word {i}\n" for i in range(count)))
    return Text(path=folder / "a.txt", splits=SHARES)


SOURCES = [npy, numbered, pictures, sentences]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("count", EMPTY)
def test_few_rows_fill_every_split_of_every_dataset(source, count, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "BATCH", 2)
    dataset = source(tmp_path, count)
    dataset.prepare()
    ids = {
        name: [i for b in dataset.examples(name) for i in b["id"].to_pylist()] for name in SHARES
    }
    assert all(ids.values())
    every = [i for found in ids.values() for i in found]
    assert len(set(every)) == len(every) == count


@pytest.mark.parametrize("source", SOURCES)
def test_fewer_rows_than_splits_are_refused_before_anything_is_written(source, tmp_path):
    with pytest.raises(DataError, match=r"2 rows for 3 splits .*need at least 3.*fewer `splits`"):
        source(tmp_path, 2).prepare()
