"""Options of the whole suite; double precision and a fixed seed where mathematics is tested."""

from pathlib import Path

import pytest
import torch

MATHEMATICS = {"maths", "contracts", "composition"}


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where mathematical tests run: cpu, cuda")
    parser.addoption("--dtype", default="float64", help="precision of mathematical tests")


def pytest_collection_modifyitems(items):
    """Tests that start Ray take turns, in one of the processes that share the tests."""
    for item in items:
        if item.get_closest_marker("cluster"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture(autouse=True)
def _numbers(request):
    """Same seed for every test; the default type and device for the mathematical ones."""
    torch.manual_seed(0)
    if not MATHEMATICS & set(Path(request.node.path).parts):
        yield
        return
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(getattr(torch, request.config.getoption("--dtype")))
    if request.config.getoption("--device") != device.type:
        torch.set_default_device(request.config.getoption("--device"))
    yield
    torch.set_default_dtype(dtype)
    if torch.get_default_device() != device:
        torch.set_default_device(device)
