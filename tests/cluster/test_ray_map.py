"""Maps over a pool of actors."""

import pytest

from vaepipe.compute import ray_map
from vaepipe.errors import DataError, TrainingError

pytestmark = pytest.mark.cluster


def units(count, **changes):
    return [{"x": x, **changes.get(f"x{x}", {})} for x in range(count)]


def test_every_unit_is_done_once_by_as_many_processes_as_there_are_workers(cluster):
    results = list(cluster.map("fits:Square", units(40), {"add": 1}))
    assert sorted(r["x"] for r in results) == list(range(40))
    assert all(r["y"] == r["x"] ** 2 + 1 for r in results)
    assert len({r["pid"] for r in results}) == 2


def test_units_of_a_worker_that_dies_are_done_by_another(cluster, tmp_path):
    common = {"add": 0, "folder": str(tmp_path)}
    results = list(cluster.map("fits:Killer", units(8, x2={"deaths": 2}), common))
    assert sorted(r["x"] for r in results) == list(range(8))


def test_a_unit_that_always_kills_its_worker_ends_the_map(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_map, "RETRIES", 0)
    common = {"add": 0, "folder": str(tmp_path)}
    with pytest.raises(TrainingError, match=r"'x': 1.* died 1 times"):
        list(cluster.map("fits:Killer", units(2, x1={"deaths": 9}), common))


def test_an_error_of_ours_arrives_as_it_was_raised(cluster):
    with pytest.raises(DataError, match="row group 3 cannot be read"):
        list(cluster.map("fits:Refuses", units(5), {"add": 0}))


def test_results_can_be_left_unread(cluster):
    results = cluster.map("fits:Square", units(6), {"add": 0})
    next(results)
    results.close()
    assert len(list(cluster.map("fits:Square", units(6), {"add": 0}))) == 6
