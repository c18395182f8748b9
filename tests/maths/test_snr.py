"""Signal and noise of the encoder's gradient, on the Gaussian example of Rainforth et al. (2018).

x | z ~ N(z, I), z ~ N(0, I) in twenty dimensions, q(z | x) = N(x / 2 + b, 2/3 I) with b a little
off: its gradient with respect to b. The slopes of IWAE and DReG alone are in test_gradients.py.
"""

import pytest
import torch

from vaepipe.core import Conditional, LatentModel, Network, StepContext
from vaepipe.families.normal import DiagonalNormal, raw_of
from vaepipe.objectives.importance import IWAE, MIWAE, PIWAE
from vaepipe.testing import PPCA

CONTEXT = StepContext(0, 0.0, 1000)
D = 20


class Own(Network):
    """Features of its own for every row: their gradients are independent draws of one gradient."""

    def __init__(self, features, n):
        super().__init__()
        self.h = torch.nn.Parameter(features.expand(n, *features.shape).clone())

    def forward(self, v):
        return self.h.flatten(1)


@pytest.fixture(scope="module")
def signal():
    """rms signal-to-noise of the gradient of q's mean, from n draws in batches."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    ppca = PPCA(torch.eye(D), torch.zeros(D), scale=1.0)
    model, x = ppca.model(diagonal=True), ppca.draw(1)
    raw = raw_of(torch.full((D,), (2 / 3) ** 0.5))
    features = torch.stack([x[0] / 2 + 0.3 * torch.randn(D), raw])
    torch.set_default_dtype(dtype)

    def measured(estimate, n, rows=500):
        draws = []
        for _ in range(n // rows):
            encoder = Conditional(Own(features, rows), DiagonalNormal((D,)), (D,))
            own = LatentModel(encoder, model.prior, model.generator)
            surrogate = estimate(own, x.expand(rows, -1), CONTEXT).surrogate
            (g,) = torch.autograd.grad(surrogate * rows, [encoder.network.h])
            draws.append(g[:, 0])
        g = torch.cat(draws)
        noise = g.var(0)
        snr = ((g.mean(0).square() - noise / n) / noise).mean().sqrt().item()
        assert n >= 25 / snr**2, f"{n} replicates are too few for a ratio of {snr:.3f}"
        return snr

    return measured


def test_means_of_bounds_lift_the_signal_that_tight_bounds_drown(signal):
    """Of 32 draws MIWAE(4, 8) makes sqrt(m / k), IWAE(32) sqrt(1 / (m k)): a ratio of m."""
    drowned, lifted = signal(IWAE(k=32).estimate, 6000), signal(MIWAE(m=4, k=8).estimate, 2000)
    assert lifted / drowned == pytest.approx(4.0, rel=0.3)


def test_the_encoder_of_piwae_has_the_signal_of_miwae(signal):
    inference, _ = PIWAE(m=8, k=8).phases()
    ours, theirs = signal(inference.estimate, 1000), signal(MIWAE(m=8, k=8).estimate, 1000)
    assert ours == pytest.approx(theirs, rel=0.15)


def test_the_signal_of_miwae_rises_with_the_square_root_of_m(signal):
    one, many = signal(MIWAE(m=1, k=4).estimate, 4000), signal(MIWAE(m=16, k=4).estimate, 1000)
    assert many / one == pytest.approx(4.0, rel=0.2)
