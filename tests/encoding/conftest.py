"""Models that nobody fitted, and the encoder in this process: what is asked is not statistics."""

import sys
from pathlib import Path

import pytest

HELPERS = str(Path(__file__).parent / "helpers")
if HELPERS not in sys.path:
    sys.path.insert(0, HELPERS)

from untrained import Run, save_model  # noqa: E402


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """It sees uint8 images through a threshold at one half."""
    return save_model(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def run(model):
    return Run(model)
