"""Sweeps and maps in one process."""

from pathlib import Path

from fits import model_spec, own, part, sweep_task

from vaepipe.compute import outputs
from vaepipe.compute.local import LocalCompute
from vaepipe.journal import Journal

COMPUTE = LocalCompute(gpus_per_worker=0)


def last_event(folder, index):
    return Journal(Path(folder) / "trials" / f"{index:05d}" / outputs.JOURNAL).read()[-1]


def evidence(folder, index):
    """By epoch."""
    events = Journal(Path(folder) / "trials" / f"{index:05d}" / outputs.JOURNAL).read()
    return {e["epoch"]: e["metrics"]["val/log_evidence"] for e in events if e["event"] == "epoch"}


def rate(lr):
    return {"optimizer": {"type": "adam", "lr": lr}}


def test_every_trial_is_observed_with_the_evidence_of_its_kept_weights(digits, tmp_path):
    task, seen = sweep_task(digits, tmp_path, [rate(3e-3), None, rate(1e-6)])
    COMPUTE.sweep(task)
    assert [index for index, _ in seen] == [0, 2]
    assert seen[0][1] > seen[1][1]


def test_a_trial_that_fails_is_recorded_and_the_others_go_on(digits, tmp_path):
    bad = {"objective": own("Diverging", step=3)}
    worse = {"objective": own("Broken")}
    task, seen = sweep_task(digits, tmp_path, [bad, worse, {}])
    COMPUTE.sweep(task)
    assert [value is None for _, value in seen] == [True, True, False]
    events = [last_event(tmp_path, index)["event"] for index in range(3)]
    assert events == ["failed", "failed", "done"]


def test_a_hopeless_trial_is_stopped_and_still_leaves_a_model(digits, tmp_path):
    scheduler = {"type": "asha", "grace_epochs": 1, "reduction": 2}
    task, seen = sweep_task(digits, tmp_path, [rate(3e-3), rate(1e-6)], scheduler)
    COMPUTE.sweep(task)
    last = last_event(tmp_path, 1)
    assert (last["event"], last["epoch"], last["reason"]) == ("stopped", 1, "asha")
    assert (tmp_path / "trials/00001/model/model.json").exists()
    assert seen[1][1] is not None


def test_trials_that_ended_before_an_interruption_are_not_run_again(digits, tmp_path):
    task, seen = sweep_task(digits, tmp_path, [rate(3e-3), rate(1e-3)])
    COMPUTE.sweep(task)
    before = [last_event(tmp_path, index) for index in range(2)]
    COMPUTE.sweep(task)
    assert [last_event(tmp_path, index) for index in range(2)] == before
    assert seen[:2] == seen[2:]


def test_units_are_mapped_in_order():
    units = [{"x": x} for x in range(4)]
    results = COMPUTE.map("fits:Square", units, {"add": 1})
    assert [r["y"] for r in results] == [1, 2, 5, 10]
    assert list(COMPUTE.map("fits:Missing", [], {})) == []


def test_a_trial_is_not_stopped_in_its_warm_up_and_wins_where_nobody_is_stopped(digits, tmp_path):
    """At epoch 4, with a fourth of its weight, its evidence is far below the other's."""
    base = {
        "epochs": 30,
        "model": model_spec(hidden=32, latent=8),
        **rate(5e-3),
        "validation": {"examples": 200, "k": 8, "every": 1},
    }
    warm = {"objective": part("objectives", "elbo", {"warmup_epochs": 15})}
    scheduler = {"type": "asha", "grace_epochs": 4, "reduction": 2}
    task, seen = sweep_task(digits, tmp_path, [base, {**base, **warm}], scheduler)
    COMPUTE.sweep(task)
    assert last_event(tmp_path, 1)["event"] == "done"
    assert seen[1][1] > seen[0][1]
    curves = [evidence(tmp_path, index) for index in range(2)]
    assert curves[1][4] < curves[0][4] - 1
    assert last_event(tmp_path, 1)["best_epoch"] >= 15
