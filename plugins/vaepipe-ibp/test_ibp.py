from vaepipe_ibp import IBPPrior

from vaepipe.testing import PriorContract


class TestIBP(PriorContract):
    def make(self, latent_shape, data):
        return IBPPrior(latent_shape, data, alpha=2.0)


class TestRelaxedIBP(PriorContract):
    def make(self, latent_shape, data):
        return IBPPrior(latent_shape, data, alpha=2.0, temperature=0.5)


class TestPredictiveIBP(PriorContract):
    """In evaluation mode the prior is the predictive mixture: the same promises."""

    def make(self, latent_shape, data):
        return IBPPrior(latent_shape, data, alpha=2.0).eval()


class TestPredictiveRelaxedIBP(PriorContract):
    def make(self, latent_shape, data):
        return IBPPrior(latent_shape, data, alpha=2.0, temperature=0.5).eval()
