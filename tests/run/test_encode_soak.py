"""Killed at random and started again, latents are those of a run that nobody disturbed.

A few kills; `benchmarks/soak_encode.py` does fifty.
"""

import sys
from pathlib import Path

import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(scope="module")
def soaking(tmp_path_factory):
    """The soak with a model and rows of its own."""
    sys.path.insert(0, BENCHMARKS)
    try:
        import soak_encode

        made = soak_encode.make(tmp_path_factory.mktemp("soak"))
    finally:
        sys.path.remove(BENCHMARKS)

    def soak(place, **options):
        found = soak_encode.soak(*made, place, **options)
        assert found["rows"] == soak_encode.ROWS
        assert not any(found[name] for name in ("lost", "doubled", "different", "temporary"))
        return found

    return soak


def test_a_process_that_is_killed_loses_no_row_and_doubles_none(soaking, tmp_path):
    assert soaking(tmp_path, kills=2, workers=1, seed=0)["driver"] == 2


@pytest.mark.cluster
@pytest.mark.slow
def test_workers_and_drivers_of_a_cluster_may_be_killed(soaking, tmp_path):
    found = soaking(tmp_path, kills=2, workers=2, seed=1)
    assert found["worker"] + found["driver"] == 2
