"""Sweeps by Ray Tune."""

from pathlib import Path

import pytest
from fits import own, sweep_task

from vaepipe.compute import outputs, policy, ray_train
from vaepipe.journal import Journal

pytestmark = pytest.mark.cluster


def events(folder, index):
    return Journal(Path(folder) / "trials" / f"{index:05d}" / outputs.JOURNAL).read()


def rate(lr, **changes):
    return {"optimizer": {"type": "adam", "lr": lr}, **changes}


def test_trials_end_are_stopped_die_or_fail_and_all_of_it_is_known(cluster, digits, tmp_path):
    good, hopeless = rate(3e-3, epochs=6), rate(1e-7, epochs=40)
    dies_once = rate(3e-3, objective=own("Mortal", step=15, marker=str(tmp_path / "died")))
    changes = [good, None, {"objective": own("Diverging", step=3)}, dies_once, hopeless]
    scheduler = {"type": "asha", "grace_epochs": 1, "reduction": 2}
    task, seen = sweep_task(digits, tmp_path, changes, scheduler, concurrency=1)
    cluster.sweep(task)

    values = dict(seen)
    assert list(values) == [0, 2, 3, 4]
    assert values[2] is None
    assert values[0] > values[4]
    last = {index: events(tmp_path, index)[-1] for index in values}
    assert [last[i]["event"] for i in (0, 2, 4)] == ["done", "failed", "stopped"]
    assert last[4]["reason"] == "asha"
    assert [e["resumed_from"] for e in events(tmp_path, 3) if e["event"] == "start"] == [None, 1]
    for index in (0, 3, 4):
        assert (tmp_path / f"trials/{index:05d}/model/model.json").exists()
    assert not (tmp_path / ".ray").exists()


class Hasty(policy.Policy):
    """Stops every trial after its second epoch."""

    def stops(self, trial, epoch, value, warm=None):
        return epoch >= 2


def test_a_trial_with_several_workers_starts_on_a_full_cluster_and_stops_when_asked(
    cluster, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(policy, "make", lambda settings: Hasty())
    changes = [rate(3e-3, workers=2, epochs=4000)]
    task, seen = sweep_task(digits, tmp_path, changes, {"type": "median"})
    cluster.sweep(task)
    first, *_, last = events(tmp_path, 0)
    assert first["world_size"] == 2
    assert (last["event"], last["reason"]) == ("stopped", "median")
    assert 2 <= last["epoch"] < 4000
    assert (tmp_path / "trials/00000/model/model.json").exists()
    assert seen[0][1] is not None


def test_a_trial_that_always_dies_is_a_failed_trial(cluster, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_train, "RETRIES", 0)
    task, seen = sweep_task(digits, tmp_path, [{"objective": own("Mortal", step=3)}])
    cluster.sweep(task)
    assert seen == [(0, None)]
    assert "died 1 times" in events(tmp_path, 0)[-1]["error"]


def test_an_error_of_the_proposals_is_raised_as_it_is(cluster, digits, tmp_path):
    task, _ = sweep_task(digits, tmp_path, [{}, {"no_such_setting": 1}])
    with pytest.raises(TypeError, match="no_such_setting"):
        cluster.sweep(task)
