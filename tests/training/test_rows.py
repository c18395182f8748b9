"""Which rows a fit is judged by: chosen by a hash of their ids, whatever order they stand in."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fits import fit_task, model_spec, own, part
from runs import killed

from vaepipe import files
from vaepipe.compute import jobs
from vaepipe.compute.base import DataRef
from vaepipe.core import SUPPORTS, DataSpec, Stream, build, seeded
from vaepipe.data import schema, shards
from vaepipe.evaluation import validate
from vaepipe.pipeline.stages import data as data_stage
from vaepipe.pipeline.stages.report import sample_of
from vaepipe.training import bundle


def written(folder, ids, x, group=64, rows_per_file=200) -> shards.Split:
    """A split of several files, each of several row groups."""
    names = []
    for start in range(0, len(ids), rows_per_file):
        rows = slice(start, start + rows_per_file)
        batch = schema.record(ids[rows], x[rows], {"label": pa.array(x[rows, 0] > 0)})
        names.append(f"part-{start:05d}.parquet")
        folder.mkdir(exist_ok=True)
        shards.write_table(folder / names[-1], pa.Table.from_batches([batch]), group)
    return shards.Split(folder, tuple(names))


def test_rows_are_chosen_by_their_ids_and_not_by_where_they_stand(tmp_path):
    ids = np.random.default_rng(0).choice(10**12, 1000, replace=False)
    x = np.sort(ids)[:, None].repeat(3, 1).astype(np.float32)
    forth = written(tmp_path / "forth", np.sort(ids), x).sample(150)
    back = written(tmp_path / "back", np.sort(ids)[::-1].copy(), x[::-1].copy()).sample(150)
    assert set(forth["id"].to_pylist()) == set(back["id"].to_pylist())
    assert forth["id"].to_pylist() == sorted(forth["id"].to_pylist())  # in the split's order
    _, found = shards.arrays(forth, (3,))
    assert (found[:, 0] == np.array(forth["id"].to_pylist(), np.float32)).all()


def test_a_sample_of_sorted_rows_is_of_all_of_them(tmp_path):
    """Four standard errors of a share of one half; the first 400 rows would be of one class."""
    x = np.r_[np.ones((5000, 1)), -np.ones((5000, 1))].astype(np.float32)
    split = written(tmp_path / "split", np.arange(10_000), x, 1024, 4096)
    share = np.mean(split.sample(400)["label"].to_pylist())
    assert abs(share - 0.5) < 4 * math.sqrt(0.25 / 400)


def test_all_rows_keep_their_order_where_all_are_wanted(tmp_path):
    ids = np.random.default_rng(1).permutation(300)
    split = written(tmp_path / "split", ids, np.zeros((300, 1), np.float32))
    for rows in (300, 301):
        assert split.sample(rows)["id"].to_pylist() == ids.tolist()
    assert split.sample(0).num_rows == 0


def test_only_row_groups_with_a_chosen_row_are_read_and_each_by_itself(tmp_path, monkeypatch):
    split = written(tmp_path / "split", np.arange(10_000), np.zeros((10_000, 1), np.float32))
    read, original = [], shards.read_unit
    monkeypatch.setattr(shards, "read_unit", lambda *a, **k: read.append(a) or original(*a, **k))
    split.sample(5)
    assert 1 <= len(read) <= 5


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    """Rows sorted by class, as `sorted.npy` of the field's cases: narrow ones, then broad ones."""
    folder, rng, n = tmp_path_factory.mktemp("sorted"), np.random.default_rng(0), 3000
    narrow = 0.2 * rng.normal(size=(n, 8))
    broad = 3 * rng.normal(size=(n, 2)) @ rng.normal(size=(2, 8)) + 0.2 * rng.normal(size=(n, 8))
    np.save(folder / "x.npy", np.r_[narrow, broad].astype("float32"))
    np.save(folder / "labels.npy", np.repeat([0, 1], n))
    options = {"path": str(folder / "x.npy"), "label_path": str(folder / "labels.npy")}
    dataset = part("datasets", "npy", {**options, "support": "real"})
    manifest = data_stage.write(dataset, folder / "data")
    files.write_json(folder / "data" / "manifest.json", manifest)
    return DataRef(str(folder / "data"), dataset, manifest["spec"], manifest["digest"])


@pytest.fixture(scope="module")
def fitted(by_class, tmp_path_factory):
    model = replace(model_spec(), likelihood=part("likelihoods", "gaussian"))
    options = {"validation": {"examples": 250, "k": 8, "every": 1}, "patience": 3, "epochs": 6}
    task = fit_task(by_class, tmp_path_factory.mktemp("fit"), model=model, **options)
    jobs.train_job(task)
    return task


def test_validation_of_sorted_rows_agrees_with_all_of_them(by_class, fitted):
    """Within four of their standard errors; of the first 250 rows it is another class' number."""
    loaded = bundle.load(Path(fitted.output) / "model")
    split = shards.open_split(by_class.path, "val")
    assert split.num_rows > 2 * 250
    ids, x = split.take(split.units)
    view = by_class.dataset.build().frozen(torch.tensor(x), torch.tensor(ids))
    whole, quick = validate(loaded.model, view, k=8), loaded.card["metrics"]
    error = math.hypot(whole["log_evidence_se"], quick["val/log_evidence_se"])
    assert abs(whole["log_evidence"] - quick["val/log_evidence"]) < 4 * error


def test_snapshots_of_sorted_rows_show_all_classes(by_class, fitted, tmp_path):
    table = pq.read_table(Path(fitted.output) / "snapshots" / "epoch-00001.parquet")
    chosen = shards.open_split(by_class.path, "val").sample(500)
    assert table["id"].to_pylist() == chosen["id"].to_pylist()
    assert abs(np.mean(table["label"].to_pylist()) - 0.5) < 4 * math.sqrt(0.25 / 500)


def test_a_report_of_sorted_rows_shows_all_classes(by_class):
    """Among the 48 that are drawn, too."""
    data = sample_of(Path(by_class.path))
    assert abs(np.mean(data.labels[:48]) - 0.5) < 4 * math.sqrt(0.25 / 48)
    ids, x = shards.open_split(by_class.path, "test").take(
        shards.open_split(by_class.path, "test").units
    )
    at = {int(number): row for number, row in zip(ids, x, strict=True)}
    assert all((at[int(number)] == row).all() for number, row in zip(data.ids, data.x, strict=True))


def test_active_units_of_a_flow_are_counted_over_sorted_rows_of_all_kinds():
    """Where means need draws, 500 rows are looked at: here the first 500 are all the same."""
    spec = replace(model_spec(), family=part("families", "iaf"))
    data = DataSpec((8,), SUPPORTS["real"], 100)
    with seeded(Stream(0)):
        parts = {**spec.parts(), "likelihood": part("likelihoods", "gaussian")}
        model = build(spec.latent_shape, data, **parts)
        x = torch.cat([torch.zeros(500, 8), 10 * torch.randn(500, 8)])
    assert validate(model, x[:500], k=2)["active_units"] == 0
    assert validate(model, x, k=2)["active_units"] == 2


@pytest.mark.parametrize("kept", [2, 4], ids=["best", "last"])
def test_rows_of_the_kept_epoch_are_those_behind_its_metrics(by_class, tmp_path, kept):
    """Of the best epoch, or of the last where none counts; a fit that was killed has the same."""
    model = replace(model_spec(), likelihood=part("likelihoods", "gaussian"))
    options = {"model": model, "epochs": 4, "validation": {"examples": 50, "k": 4, "every": 1}}
    steps = math.ceil(shards.open_split(by_class.path, "train").num_rows / 128)
    turning, warming = own("Turning", step=2 * steps), {"warmup_epochs": 9}
    options["objective"] = turning if kept == 2 else part("objectives", "elbo", warming)
    tables = []
    for name in ("plain", "cut"):
        task = fit_task(by_class, tmp_path / name, **options)
        if name == "cut" and kept == 2:
            assert killed(task, 2 * steps + 3)
        jobs.train_job(task)
        tables.append(pq.read_table(tmp_path / name / "validation.parquet"))
    assert tables[0].equals(tables[1])
    chosen = shards.open_split(by_class.path, "val").sample(50)
    assert tables[0]["id"].to_pylist() == chosen["id"].to_pylist()
    card = bundle.load(tmp_path / "plain" / "model").card
    assert card["epoch"] == kept
    for name in ("log_evidence", "elbo", "log_lik", "rate"):
        found = np.mean(tables[0][name].to_numpy())
        assert found == pytest.approx(card["metrics"][f"val/{name}"])
