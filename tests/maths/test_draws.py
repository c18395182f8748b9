"""Distributions that know the density of what they drew: the same numbers, without the inverse."""

import pytest
import torch
from torch.distributions import Independent, LogNormal

from vaepipe.core import Cap, Conditional, Family, LatentModel, OwnDraws, join_draws, positive
from vaepipe.evaluation import proposals, score, validate
from vaepipe.networks.mlp import MLP
from vaepipe.testing import PPCA


class Exponentiated(OwnDraws):
    """z = exp(loc + scale e): a LogNormal that counts how often its inverse is asked for."""

    def __init__(self, loc, scale):
        self.loc, self.scale, self.asked = loc, scale, 0
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def draw(self, sample_shape):
        e = torch.randn(*sample_shape, *self.loc.shape)
        z = (self.loc + self.scale * e).exp()
        density = -0.5 * e.square() - self.scale.log() - z.log()
        return z, (density - 0.5 * torch.tensor(2 * torch.pi).log()).sum(-1)

    def density(self, value):
        self.asked += 1
        return Independent(LogNormal(self.loc, self.scale), 1).log_prob(value)


class Head(Family):
    provides = Cap.SAMPLE | Cap.RSAMPLE | Cap.DENSITY

    def __init__(self):
        super().__init__()
        self.feature_shape, self.made = (4,), []

    def forward(self, h):
        self.made.append(Exponentiated(0.1 * h[..., :2], 0.3 * positive(h[..., 2:])))
        return self.made[-1]


@pytest.fixture
def q():
    return Head()(torch.randn(5, 4, requires_grad=True))


def test_the_latest_draw_is_known_and_anything_else_is_computed(q):
    old, z = q.rsample((3,)), q.rsample((3,))
    kept = q.log_prob(z)
    assert q.asked == 0
    for other in (z.clone(), z.detach(), z[:], old):
        q.log_prob(other)
    assert q.asked == 4
    assert torch.allclose(kept, q.density(z), atol=1e-12)


def test_what_is_kept_has_the_gradient_of_the_density_along_the_path():
    h = torch.randn(5, 4, requires_grad=True)
    q = Head()(h)
    z = q.rsample((3,))
    (kept,) = torch.autograd.grad(q.log_prob(z).sum(), h, retain_graph=True)
    (asked,) = torch.autograd.grad(q.density(z).sum(), h)
    assert torch.allclose(kept, asked, atol=1e-12)


def test_a_draw_without_gradients_has_the_score_for_a_gradient():
    h = torch.randn(5, 4, requires_grad=True)
    q = Head()(h)
    z = q.sample((3,))
    with torch.no_grad():
        assert torch.allclose(q.log_prob(z), q.density(z.clone()), atol=1e-12)
    (kept,) = torch.autograd.grad(q.log_prob(z).sum(), h, retain_graph=True)
    (asked,) = torch.autograd.grad(q.density(z.clone()).sum(), h)
    assert torch.equal(kept, asked) and kept.any()


def test_what_was_kept_with_gradients_loses_them_where_none_are_wanted(q):
    z = q.rsample((3,))
    with torch.no_grad():
        assert not q.log_prob(z).requires_grad
    assert q.log_prob(z).requires_grad


def test_joined_draws_are_known_to_the_whole():
    head, h = Head(), torch.randn(6, 4)
    whole = head(h)
    with torch.no_grad():
        parts = [(q, q.sample((3,))) for q in map(head, h.split(2))]
        z = join_draws(whole, parts, dim=1)
        assert torch.allclose(whole.log_prob(z), whole.density(z), atol=1e-12)
    assert whole.asked == 1 and all(q.asked == 0 for q, _ in parts)


def test_evaluation_and_validation_never_ask_for_the_inverse(monkeypatch):
    ppca = PPCA.random(3, 2, seed=0)
    gaussian, head = ppca.model(), Head()
    inference = Conditional(MLP((3,), (4,), hidden=[]), head, (3,))
    model, x = LatentModel(inference, gaussian.prior, gaussian.generator), ppca.draw(20)
    scores, quick = score(model, x, range(20), k=7), validate(model, x, k=7)
    assert sum(q.asked for q in head.made) == 0
    monkeypatch.setattr(proposals, "join_draws", _forgetful)
    monkeypatch.setattr(OwnDraws, "remember", lambda *_: None)
    slow, plain = score(model, x, range(20), k=7), validate(model, x, k=7)
    assert sum(q.asked for q in head.made) > 0
    for name in ("log_evidence", "elbo", "rate", "ess"):
        assert torch.allclose(getattr(scores, name), getattr(slow, name), atol=1e-10)
    assert all(abs(quick[name] - plain[name]) < 1e-9 for name in quick)


def _forgetful(q, parts, dim):
    return torch.cat([draws for _, draws in parts], dim)
