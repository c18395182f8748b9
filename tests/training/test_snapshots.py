"""Snapshots of a fit: where posteriors were, at the same epochs whatever interrupted it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from fits import fit_task, model_spec
from runs import fit, killed

from vaepipe.compute import snapshots
from vaepipe.data import shards
from vaepipe.training import bundle


def taken(task) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (Path(task.output) / "snapshots").iterdir()}


@pytest.mark.parametrize("epochs", [1, 2, 7, 16, 40, 1000])
def test_the_epochs_that_are_kept(epochs):
    """The first and the last among them, never too many, and every epoch of a short fit."""
    kept = snapshots.frames(epochs)
    assert kept[0] == 1
    assert kept[-1] == epochs
    assert len(kept) <= snapshots.FRAMES
    assert kept == list(range(1, epochs + 1)) or epochs > 7


def test_a_snapshot_is_the_posterior_mean_of_validation_rows(digits, tmp_path):
    """Of the last epoch: what the bundle's encoder says of the val split, ids and labels beside."""
    task = fit(digits, tmp_path / "fit", epochs=2)
    table = pq.read_table(tmp_path / "fit" / "snapshots" / "epoch-00002.parquet")
    rows = shards.open_split(digits.path, "val").sample(500)
    assert table.column("id").equals(rows.column("id"))
    assert table.column("label").equals(rows.column("label"))
    loaded = bundle.load(Path(task.output) / "model")
    ids, x = shards.arrays(rows, (1, 8, 8))
    view = digits.dataset.build().frozen(torch.tensor(x), torch.tensor(ids))
    with torch.no_grad():
        mean = loaded.model.inference(view).mean
    found = np.array(table.column("mean").to_pylist())
    np.testing.assert_allclose(found, mean.numpy(), rtol=1e-5, atol=1e-6)


def test_a_killed_fit_leaves_the_snapshots_of_one_that_was_not(digits, tmp_path):
    """Resumed, it writes the same bytes; another fit in the same folder keeps none of them."""
    plain = fit(digits, tmp_path / "plain", epochs=4)
    task = fit_task(digits, tmp_path / "cut", epochs=4)
    killed(task, 25)
    assert taken(fit(digits, tmp_path / "cut", epochs=4)) == taken(plain)
    again = fit(digits, tmp_path / "cut", epochs=1, fingerprint="b")
    assert set(taken(again)) == {"epoch-00001.parquet"}


def test_huge_latents_leave_nothing(digits, tmp_path, monkeypatch):
    """Where few rows would fill a file there are no snapshots, and the fit is the same."""
    monkeypatch.setattr(snapshots, "VALUES", 100)
    task = fit(digits, tmp_path / "fit", epochs=1, model=model_spec(latent=4))
    assert not (Path(task.output) / "snapshots").exists()


def test_without_validation_rows_there_are_no_snapshots(digits, tmp_path):
    task = fit(digits, tmp_path / "fit", epochs=1, validation={"examples": 0, "k": 4, "every": 1})
    assert not (Path(task.output) / "snapshots").exists()
