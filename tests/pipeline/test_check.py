"""What a file gets wrong about its data, found before anything is written, at its line."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from vaepipe import cli

MLP = {"type": "mlp", "hidden": [4]}


def fit(**changes):
    model = {
        "latent_shape": [2],
        "encoder": MLP,
        "family": {"type": "diagonal_normal"},
        "prior": {"type": "standard_normal"},
        "decoder": MLP,
        "likelihood": {"type": "bernoulli"},
    }
    settings = {"kind": "train", "data": "d", "model": model, "objective": {"type": "elbo"}}
    return {**settings, "epochs": 1, **changes}


def own(path, **options):
    return {"kind": "data", "dataset": {"type": "npy", "path": str(path), **options}}


def score(**changes):
    return {"kind": "evaluate", "model": "fit", "data": "d", **changes}


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """What `vaepipe run` says about stages, each message without the file's name."""
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "bits.npy", np.eye(8, 6))
    pq.write_table(pa.table({"features": [[1.0, 0.0]] * 3}), tmp_path / "rows.parquet")

    def run(**stages):
        start = {"d": {"kind": "data", "dataset": {"type": "digits"}}, "fit": fit()}
        settings = {"version": 1, "name": "p", "tracking": {"type": "memory"}}
        tree = {**settings, "stages": {**start, **stages}}
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        before = {path.name for path in tmp_path.iterdir()}
        assert cli.call(["run", "p.yaml"]) == 2
        assert {path.name for path in tmp_path.iterdir()} == before
        return capsys.readouterr().err.splitlines()

    return run


def test_a_missing_column_is_told_with_those_there_are(told):
    rows = {"type": "parquet", "path": "rows.parquet", "support": "boolean"}
    (line,) = told(d={"kind": "data", "dataset": rows})
    assert "stages.d.dataset: " in line and "no column 'x'. Columns: features." in line


def test_sources_and_parts_are_told_together_each_at_its_line(told):
    cycles = {"type": "elbo", "cycles": 3}
    lines = told(
        other=own("none.npy", support="boolean"),
        bars={"kind": "data", "dataset": {"type": "bars", "size": 2, "features": 9}},
        fit=fit(objective=cycles),
    )
    assert [line.split(": ")[1] for line in lines] == [
        "stages.fit",
        "stages.other.dataset",
        "stages.bars.dataset",
    ]


def test_a_split_that_is_not_there_is_told_before_a_model_is_trained(told):
    (line,) = told(score=score(splits=["tset"]))
    assert "stages.score.splits: data 'd': no split 'tset'. Did you mean 'test'?" in line


def test_a_model_is_not_asked_about_other_data_than_its_own(told):
    (line,) = told(bits=own("bits.npy", support="boolean"), score=score(data="bits"))
    assert "stages.score: model 'fit' and data 'bits'" in line and "(6,)" in line


def test_one_process_is_not_asked_for_two_workers(told):
    (line,) = told(fit=fit(workers=2))
    assert "stages.fit: 2 workers" in line and "type: ray" in line


@pytest.mark.parametrize(
    ("splits", "reason"),
    [
        ({"train": 1, "val": -0.2}, "splits.val: must be greater than 0"),
        ({"train": 0}, "splits.train: must be greater than 0"),
        ({}, "splits: needs at least 1 item"),
        ({"a": 1}, "stages.fit: data 'd': no split 'train'"),
    ],
)
def test_splits_are_shares_of_the_rows(told, splits, reason):
    (line,) = told(d=own("bits.npy", support="boolean", splits=splits))
    assert reason in line


def test_supports_are_told_in_words(told):
    settings = fit()
    settings["model"]["prior"] = {"type": "bernoulli"}
    (line,) = told(fit=settings)
    assert "q(z|x) lives on real numbers but p(z) on bits" in line and "Choose" in line


def test_a_list_of_a_wrong_item_is_not_called_too_short(told):
    settings = fit()
    settings["model"]["latent_shape"] = [0]
    (line,) = told(fit=settings)
    assert "stages.fit.model.latent_shape.0: must be at least 1, got 0" in line


@pytest.mark.parametrize("objective", ["wae_mmd", "info_vae", "beta_tc"])
def test_a_batch_without_pairs_of_examples_is_refused(told, objective):
    (line,) = told(fit=fit(objective={"type": objective}, batch_size=1))
    assert "stages.fit: " in line and "got 1). Raise `batch_size`" in line


SLOW = {"type": "elbo", "warmup_epochs": 10}


def sweep(**changes):
    space = {"optimizer.lr": {"grid": [0.1, 0.2]}}
    return {"kind": "sweep", "over": "fit", "search": {"type": "grid"}, "space": space, **changes}


@pytest.mark.parametrize(
    "objective",
    [
        SLOW,
        {"type": "elbo_sampled", "warmup_epochs": 12.5},
        {"type": "elbo", "warmup_epochs": 3, "cycles": 3},
        {"type": "capacity", "warmup_epochs": 11},
        {"type": "beta_tc", "warmup_epochs": 10},
    ],
)
def test_patience_is_not_left_to_wait_for_a_schedule_that_never_ends(told, objective):
    (line,) = told(fit=fit(objective=objective, epochs=10, patience=2))
    assert "stages.fit: `patience: 2` would never judge this fit: the schedule of " in line
    assert f"'{objective['type']}' does not end within 10 epochs (" in line
    assert "raise `epochs`" in line


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_scheduler_is_not_left_to_wait_for_a_schedule_that_never_ends(told, scheduler):
    (line,) = told(
        fit=fit(objective=SLOW, epochs=10),
        tune=sweep(scheduler={"type": scheduler, "grace_epochs": 1}),
    )
    assert f"stages.tune.space: 2 of 2 proposals do not compose: scheduler '{scheduler}'" in line


def test_a_schedule_of_one_proposal_that_never_ends_is_told_or_skipped(told, tmp_path, capsys):
    space = {"objective.warmup_epochs": {"grid": [2, 10]}}
    tune = sweep(space=space, scheduler={"type": "asha", "grace_epochs": 1})
    (line,) = told(fit=fit(epochs=10), tune=tune)
    assert "1 of 2 proposals do not compose" in line and "`invalid: skip`" in line
    found = yaml.safe_load((tmp_path / "p.yaml").read_text())
    found["stages"]["tune"]["invalid"] = "skip"
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(found))
    assert cli.call(["check", "p.yaml"]) == 0
    assert "2 trials, 1 of them skipped" in capsys.readouterr().out


def test_a_schedule_that_never_ends_is_warned_of_where_nothing_waits_for_it(told, tmp_path, capsys):
    told(fit=fit(objective=SLOW, epochs=10, patience=2), tune=sweep())
    found = yaml.safe_load((tmp_path / "p.yaml").read_text())
    del found["stages"]["fit"]["patience"]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(found))
    what = "warning: the schedule of objective 'elbo' does not end within 10 epochs (beta is "
    for command in ("check", "plan"):
        assert cli.call([command, "p.yaml"]) == 0
        out = capsys.readouterr().out
        assert out.replace("; warning", " warning").count(what) == 2, out
    found["stages"]["fit"]["epochs"] = 11
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(found))
    assert cli.call(["check", "p.yaml"]) == 0
    assert "warning" not in capsys.readouterr().out


@pytest.mark.parametrize("stages", [{"fit": fit(patience=1)}, {"tune": sweep()}])
def test_fits_are_not_judged_on_a_split_that_is_not_there(told, stages):
    bits = own("bits.npy", support="boolean", splits={"train": 1, "test": 1})
    (line,) = told(d=bits, **stages)
    assert f"stages.{next(iter(stages))}: " in line
    assert "on the split 'val', which data 'd' lacks (splits: train, test)" in line


def test_validation_has_examples(told):
    (line,) = told(fit=fit(validation={"examples": 0}))
    assert "stages.fit.validation.examples: must be at least 1, got 0" in line
