"""One Ray of this machine for the whole suite."""

import os
import sys
from pathlib import Path

import pytest

HELPERS = str(Path(__file__).parents[1] / "training" / "helpers")
if HELPERS not in sys.path:
    sys.path.insert(0, HELPERS)


@pytest.fixture(scope="session")
def cluster():
    """A compute whose workers can import the tests' components."""
    from vaepipe.compute.ray_cluster import RayCompute

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = HELPERS if before is None else f"{HELPERS}{os.pathsep}{before}"
    compute = RayCompute(workers=2, gpus_per_worker=0, address="local")
    yield compute
    compute.close()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    from fits import digits

    return digits(tmp_path_factory.mktemp("digits"))


def pytest_collection_modifyitems(items):
    """Ray deprecates its own insides; that is between Ray and Ray."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::DeprecationWarning"))
