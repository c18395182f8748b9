"""Moments of the training split, and numbers that float32 does not hold."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vaepipe import files, registry
from vaepipe.data import shards
from vaepipe.data.moments import Running
from vaepipe.errors import DataError
from vaepipe.pipeline.stages import data

RNG = np.random.default_rng(5)
NORMAL = RNG.normal(size=400)


def stored(tmp_path, array, support="real", **options):
    """The specification and the rows of `train` of a data artifact of an array."""
    np.save(tmp_path / "x.npy", array)
    part = registry.part(
        "datasets", "npy", {"path": str(tmp_path / "x.npy"), "support": support, **options}
    )
    (tmp_path / "out").mkdir()
    files.write_json(tmp_path / "out" / "manifest.json", data.write(part, tmp_path / "out"))
    split = shards.open_split(tmp_path / "out", "train")
    ids, x = split.take(split.units)
    return shards.load_spec(tmp_path / "out"), ids, x


@pytest.mark.parametrize("sizes", [(400,), (1, 399), (100, 100, 200)])
def test_moments_do_not_depend_on_batches(sizes):
    x = 1.7e9 + 1e3 * RNG.normal(size=(400, 3))
    running = Running((3,))
    for batch in np.split(x, np.cumsum(sizes)[:-1]):
        running.add(batch)
    assert np.allclose(running.mean, x.mean(0), rtol=1e-14)
    assert np.allclose(running.scale, (x - x.mean(0)).std(0), rtol=1e-9)


def test_constant_values_have_scale_one():
    running = Running((2,))
    for _ in range(10):
        running.add(np.array([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]]))
    assert running.scale.tolist()[0] == 1.0 and not running.varies[0]


def test_a_data_stage_writes_the_moments_of_its_training_rows(tmp_path):
    x = np.c_[1.7e9 + 1e7 * NORMAL, 1e-30 * NORMAL, 1e30 * NORMAL, np.full(400, 0.1)]
    spec, ids, _ = stored(tmp_path, x)
    rows = x[ids].astype("float32").astype(float)
    assert spec.mean.dtype == spec.scale.dtype == torch.float64
    assert np.allclose(spec.mean.numpy(), rows.mean(0), rtol=1e-12)
    assert np.allclose(spec.scale[:3].numpy(), rows.std(0)[:3], rtol=1e-9)
    assert spec.scale[3] == 1 and spec.logs is None


def test_counts_have_the_moments_of_their_logarithms(tmp_path):
    x = RNG.integers(0, 10**9, (400, 2))
    spec, ids, stored_x = stored(tmp_path, x, "integer")
    rows = stored_x.astype(float)
    assert np.abs(rows / np.maximum(x[ids], 1) - 1).max() < 6e-8
    assert np.allclose(spec.logs.mean.numpy(), np.log1p(rows).mean(0), rtol=1e-12)
    assert np.allclose(spec.logs.scale.numpy(), np.log1p(rows).std(0), rtol=1e-12)


def test_levels_have_none(tmp_path):
    spec, _, _ = stored(tmp_path, RNG.integers(0, 7, (400, 2)), "integer", levels=7)
    assert spec.logs is None and spec.mean.dtype == torch.float32


def test_artifacts_without_moments_open(tmp_path):
    stored(tmp_path, NORMAL[:, None])
    for name in (shards.MEAN, shards.SCALE):
        (tmp_path / "out" / name).unlink()
    spec = shards.load_spec(tmp_path / "out")
    assert spec.mean is None and spec.scale is None and spec.logs is None


LOST = {
    "nanoseconds": (1_700_000_000 * 10**9 + (1e12 * NORMAL)).astype("int64"),
    "ids": 9 * 10**17 + np.arange(400),
    "far from zero": 1e6 + 1e-3 * NORMAL,
    "below float32": 1e-300 * NORMAL,
}


@pytest.mark.parametrize("name", LOST)
def test_real_values_that_float32_does_not_hold_are_refused(name, tmp_path):
    column = LOST[name]
    x = np.stack([np.arange(400), column], 1).astype(column.dtype)
    with pytest.raises(DataError, match=r"'train' of npy: value 1 .* Subtract an origin"):
        stored(tmp_path, x)


def test_so_are_those_of_a_parquet_column(tmp_path):
    x = pa.array(np.c_[NORMAL, LOST["far from zero"]].tolist())
    pq.write_table(pa.table({"x": x}), tmp_path / "x.parquet")
    options = {"path": str(tmp_path / "x.parquet"), "support": "real"}
    with pytest.raises(DataError, match="value 1 of the examples runs from"):
        data.write(registry.part("datasets", "parquet", options), tmp_path)


def test_columns_are_named(tmp_path):
    pq.write_table(pa.table({"f_a": NORMAL, "f_b": LOST["ids"]}), tmp_path / "x.parquet")
    options = {"path": str(tmp_path / "x.parquet"), "column": "f_*", "support": "real"}
    with pytest.raises(DataError, match="column 'f_b' runs from"):
        data.write(registry.part("datasets", "parquet", options), tmp_path)


HELD = {
    "seconds": 1.7e9 + 1e7 * NORMAL,
    "whole numbers": 15_000_000 + np.arange(400),
    "an inexact constant": np.full(400, 1e9 + 1e-4),
    "large": 1e30 * NORMAL,
    "small": 1e-30 * NORMAL,
}


@pytest.mark.parametrize("name", HELD)
def test_real_values_that_float32_holds_are_kept(name, tmp_path):
    _, ids, x = stored(tmp_path, HELD[name][:, None])
    assert np.allclose(x[:, 0], HELD[name][ids], rtol=1e-7)


@pytest.mark.parametrize("size", [1e-37, 1e37])
def test_scales_that_float32_cannot_compute_with_are_refused(size, tmp_path):
    with pytest.raises(DataError, match=r"value 0 .* in another unit"):
        stored(tmp_path, size * NORMAL[:, None])
