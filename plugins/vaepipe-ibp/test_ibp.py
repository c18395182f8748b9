from vaepipe_ibp import IBPPrior

from vaepipe.testing import PriorContract


class TestIBP(PriorContract):
    def make(self, latent_shape, data):
        return IBPPrior(latent_shape, data, alpha=2.0)


class TestRelaxedIBP(PriorContract):
    def make(self, latent_shape, data):
        return IBPPrior(latent_shape, data, alpha=2.0, temperature=0.5)
