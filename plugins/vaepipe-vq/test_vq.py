import pytest
import torch
from vaepipe_vq.family import VQ
from vaepipe_vq.objective import VQObjective
from vaepipe_vq.priors import AutoregressiveCodesPrior, UniformCodesPrior

from vaepipe.testing import FamilyContract, ObjectiveContract, PriorContract


@pytest.fixture(autouse=True)
def _double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


class TestVQ(FamilyContract):
    def make(self, latent_shape):
        return VQ(latent_shape, codes=4)


class TestUniformCodes(PriorContract):
    def make(self, latent_shape, data):
        return UniformCodesPrior(latent_shape, data)


class TestAutoregressiveCodes(PriorContract):
    def make(self, latent_shape, data):
        return AutoregressiveCodesPrior(latent_shape, data, codes=4, hidden=8)


class TestVQObjective(ObjectiveContract):
    def make(self):
        return VQObjective()
