"""Fits on a cluster: the same numbers, whoever does the work and however often it dies."""

from pathlib import Path

import pytest
import torch
from fits import fit_task, own
from safetensors.torch import load_file

from vaepipe.compute import outputs
from vaepipe.compute.local import LocalCompute
from vaepipe.errors import TrainingError
from vaepipe.journal import Journal
from vaepipe.training import bundle

pytestmark = pytest.mark.cluster


def events(task):
    return Journal(Path(task.output) / outputs.JOURNAL).read()


def curve(task):
    clock = "examples_per_second"
    rows = [e["metrics"] for e in events(task) if e["event"] == "epoch"]
    return [{k: v for k, v in row.items() if k != clock} for row in rows]


def weights(task):
    return load_file(Path(task.output) / "model/weights.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def here(digits, tmp_path_factory):
    """The fit as this process does it."""
    task = fit_task(digits, tmp_path_factory.mktemp("here") / "fit")
    LocalCompute(gpus_per_worker=0).train(task)
    return task


def test_one_worker_gives_the_numbers_of_this_process_bit_for_bit(cluster, here, digits, tmp_path):
    task = fit_task(digits, tmp_path / "fit")
    cluster.train(task)
    assert curve(task) == curve(here)
    assert same(weights(task), weights(here))


def test_a_worker_that_dies_is_replaced_and_the_fit_goes_on(cluster, here, digits, tmp_path):
    dies_once = own("Mortal", step=25, marker=str(tmp_path / "died"))
    task = fit_task(digits, tmp_path / "fit", objective=dies_once)
    cluster.train(task)
    assert [e["resumed_from"] for e in events(task) if e["event"] == "start"] == [None, 2]
    assert same(weights(task), weights(here))


def test_a_fit_that_diverges_fails_once_with_its_own_error(cluster, digits, tmp_path):
    task = fit_task(digits, tmp_path / "fit", objective=own("Diverging", step=15))
    with pytest.raises(TrainingError, match="'log_lik' became nan at step 15"):
        cluster.train(task)
    assert [e["event"] for e in events(task)] == ["start", "epoch", "failed"]


def test_two_workers_share_a_fit_that_goes_on_when_one_of_them_dies(cluster, digits, tmp_path):
    dies_once = own("Mortal", step=15, marker=str(tmp_path / "died"), rank=1)
    task = fit_task(digits, tmp_path / "fit", objective=dies_once, workers=2)
    cluster.train(task)
    starts = [e for e in events(task) if e["event"] == "start"]
    assert [(e["world_size"], e["resumed_from"]) for e in starts] == [(2, None), (2, 1)]
    assert curve(task)[-1]["val/log_evidence"] > curve(task)[0]["val/log_evidence"]
    bundle.load(Path(task.output) / "model")
    assert not (Path(task.output) / ".ray").exists()


def test_two_workers_diverge_together_and_are_not_started_again(cluster, digits, tmp_path):
    diverges = own("Diverging", step=3)
    task = fit_task(digits, tmp_path / "fit", objective=diverges, workers=2)
    with pytest.raises(TrainingError, match="'log_lik' became nan at step 3"):
        cluster.train(task)
    assert [e["event"] for e in events(task)] == ["start", "failed"]
