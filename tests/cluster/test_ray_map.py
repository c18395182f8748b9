"""Maps over a pool of actors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fits import fit_task

from vaepipe import files
from vaepipe.compute import jobs, outputs, ray_map
from vaepipe.compute.local import LocalCompute
from vaepipe.compute.ray_connect import Share
from vaepipe.errors import DataError, TrainingError

pytestmark = pytest.mark.cluster


def units(count, **changes):
    return [{"x": x, **changes.get(f"x{x}", {})} for x in range(count)]


def test_every_unit_is_done_once_by_as_many_processes_as_there_are_workers(cluster):
    common = {"add": 1, "seconds": 0.1}  # long enough for the second worker to be there
    results = list(cluster.map("fits:Square", units(40), common))
    assert sorted(r["x"] for r in results) == list(range(40))
    assert all(r["y"] == r["x"] ** 2 + 1 for r in results)
    assert len({r["pid"] for r in results}) == 2


def test_units_of_a_worker_that_dies_are_done_by_another(cluster, tmp_path):
    common = {"add": 0, "folder": str(tmp_path)}
    results = list(cluster.map("fits:Killer", units(8, x2={"deaths": 2}), common))
    assert sorted(r["x"] for r in results) == list(range(8))


def test_a_unit_that_always_kills_its_worker_ends_the_map(cluster, tmp_path, monkeypatch):
    """That unit is the one accused, although its neighbour's result can be lost with it once."""
    monkeypatch.setattr(ray_map, "RETRIES", 1)
    common = {"add": 0, "folder": str(tmp_path)}
    with pytest.raises(TrainingError, match=r"'x': 1.* died 2 times"):
        list(cluster.map("fits:Killer", units(2, x1={"deaths": 9}), common))


def test_an_error_of_ours_arrives_as_it_was_raised(cluster):
    with pytest.raises(DataError, match="row group 3 cannot be read"):
        list(cluster.map("fits:Refuses", units(5), {"add": 0}))


def test_results_can_be_left_unread(cluster):
    results = cluster.map("fits:Square", units(6), {"add": 0})
    next(results)
    results.close()
    assert len(list(cluster.map("fits:Square", units(6), {"add": 0}))) == 6


def test_workers_that_find_no_place_hold_nothing_up(cluster):
    """As when a node is gone: of three workers two are there."""
    list(cluster.map("fits:Square", units(1), {"add": 0}))  # the cluster is up
    results = ray_map.run("fits:Square", units(12), {"add": 0, "seconds": 0.05}, Share(1), 3)
    assert sorted(r["x"] for r in results) == list(range(12))


def test_a_map_without_any_worker_ends(cluster, monkeypatch):
    list(cluster.map("fits:Square", units(1), {"add": 0}))
    monkeypatch.setattr(ray_map, "PATIENCE", 2.0)
    with pytest.raises(TrainingError, match=r"no worker could be started .* 64 CPUs"):
        list(ray_map.run("fits:Square", units(2), {"add": 0}, Share(64), 1))


def test_a_model_that_cannot_be_loaded_is_told_as_it_was_raised(cluster):
    with pytest.raises(DataError, match="no such model"):
        list(cluster.map("fits:Unbuilt", units(2), {"add": 0}))


LOST = """
import ray
from ray.cluster_utils import Cluster
from vaepipe.compute import ray_map
from vaepipe.compute.ray_connect import Share

nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = nodes.add_node(num_cpus=1)
ray.init(address=nodes.address, log_to_driver=False)
units = [{"x": x} for x in range(40)]
done = []
for result in ray_map.run("fits:Square", units, {"add": 0, "seconds": 0.2}, Share(1), 2):
    done.append(result["x"])
    if len(done) == 12:
        nodes.remove_node(second, allow_graceful=False)
assert sorted(done) == list(range(40)), done
print("all once")
ray.shutdown()
nodes.shutdown()
"""


def test_a_node_that_is_killed_loses_no_unit():
    """Its worker finds no place any more; the other node does what is left."""
    helpers = str(Path(__file__).parents[1] / "training" / "helpers")
    env = {**os.environ, "PYTHONPATH": helpers, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-W", "ignore", "-c", LOST]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "all once" in done.stdout, done.stderr[-3000:]


def test_finalists_of_a_sweep_are_worth_the_same_on_a_cluster(cluster, digits, tmp_path):
    """To the last bit, whoever of the workers scores which rows."""
    trials = [tmp_path / f"{number:05d}" for number in range(2)]
    for number, folder in enumerate(trials):
        task = fit_task(digits, folder, epochs=1, seed=number)
        jobs.train_job(task)
        files.write_json(folder / outputs.TASK, task.to_dict())
    pieces = [(0, 25), (25, 35)]
    units = [
        {"trial": t, "folder": str(folder), "first": first, "rows": rows}
        for t, folder in enumerate(trials)
        for first, rows in pieces
    ]
    common = {"k": 40, "seed": 3, "device": "cpu"}
    target = "vaepipe.compute.finalists:Finalist"
    here = list(LocalCompute(gpus_per_worker=0).map(target, units, common))
    there = sorted(cluster.map(target, units, common), key=lambda r: (r["trial"], r["first"]))
    assert there == here
    assert [len(r["log_evidence"]) for r in here] == [25, 35, 25, 35]
    assert here[0]["log_evidence"] != here[2]["log_evidence"]
