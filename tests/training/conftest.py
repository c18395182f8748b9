import sys
from pathlib import Path

import pytest

HELPERS = str(Path(__file__).parent / "helpers")
if HELPERS not in sys.path:
    sys.path.insert(0, HELPERS)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    from fits import digits

    return digits(tmp_path_factory.mktemp("digits"))
