"""What an encoder sees of integers: numbers of the order of one, or the integers themselves."""

import copy
import pickle

import pytest
import torch

from vaepipe import registry
from vaepipe.core import SUPPORTS, DataSpec, build

GREY = DataSpec((4,), SUPPORTS["integer"], 100, levels=256)
COUNTS = DataSpec((4,), SUPPORTS["integer"], 100)
REALS = DataSpec((4,), SUPPORTS["real"], 100)


def made(data, encoder, likelihood):
    parts = {
        "encoder": registry.part("networks", encoder),
        "family": registry.part("families", "diagonal_normal"),
        "prior": registry.part("priors", "standard_normal"),
        "decoder": registry.part("networks", "mlp"),
        "likelihood": registry.part("likelihoods", likelihood),
    }
    return build((2,), data, **parts)


@pytest.mark.parametrize(
    ("data", "likelihood", "x", "seen"),
    [
        (GREY, "categorical", [0.0, 51.0, 127.5, 255.0], [-1.0, -0.6, 0.0, 1.0]),
        (COUNTS, "poisson", [0.0, 1.0, 10.0, 1e6], [0.0, 0.6931, 2.3979, 13.8155]),
        (REALS, "gaussian", [0.0, -1.0, 10.0, 1e6], [0.0, -1.0, 10.0, 1e6]),
    ],
    ids=["levels", "counts", "reals"],
)
def test_a_network_sees_numbers_of_the_order_of_one(data, likelihood, x, seen):
    inference = made(data, "mlp", likelihood).inference
    x, seen = torch.tensor([x]), torch.tensor([seen])
    for twin in (inference, copy.deepcopy(inference), pickle.loads(pickle.dumps(inference))):
        expected = twin.network(seen).reshape(1, *twin.head.feature_shape)
        assert torch.allclose(twin.features(x), expected, atol=1e-4)


def test_a_network_that_knows_integers_sees_them_as_they_are():
    inference = made(GREY, "recurrent", "categorical").inference
    x = torch.tensor([[0.0, 51.0, 127.0, 255.0]])
    assert torch.equal(inference.features(x).flatten(), inference.network(x).flatten())
