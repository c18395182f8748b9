"""What every family promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import kl_divergence

from vaepipe.core import SUPPORTS, Cap, DataSpec, Family, Shape, frozen, has_closed_form
from vaepipe.priors.normal import StandardNormal
from vaepipe.testing.contracts import base
from vaepipe.testing.statistics import assert_mean, assert_same_mean


class FamilyContract(base.Contract, ABC):
    """Write `make`. What is not in `provides` is not asked."""

    latent_shape: ClassVar[Shape] = (2,)

    @abstractmethod
    def make(self, latent_shape: Shape) -> Family:
        """A fresh family."""

    def test_features_of_any_batch_become_a_distribution(self) -> None:
        """Batch shape follows the features, event shape is the latent shape."""
        head = self._made()
        for shape in base.batches(head.feature_shape):
            q = head(torch.randn(shape))
            assert isinstance(q, Distribution)
            assert tuple(q.batch_shape) == shape[: len(shape) - len(head.feature_shape)]
            assert tuple(q.event_shape) == tuple(self.latent_shape)

    def test_densities_have_one_number_for_each_draw(self) -> None:
        """log q(z) of draws `[k, batch, *latent]` is `[k, batch]`."""
        head = self._needing(Cap.SAMPLE | Cap.DENSITY)
        if head is not None:
            q = head(torch.randn(5, *head.feature_shape))
            z = q.sample((3,))
            assert tuple(z.shape) == (3, 5, *self.latent_shape)
            assert tuple(q.log_prob(z).shape) == (3, 5)

    def test_draws_carry_gradients_exactly_if_promised(self) -> None:
        """`RSAMPLE` is provided if and only if `rsample` works."""
        head = self._made()
        h = torch.randn(5, *head.feature_shape, requires_grad=True)
        q = head(h)
        assert bool(head.provides & Cap.RSAMPLE) == q.has_rsample
        if q.has_rsample:
            (gradient,) = torch.autograd.grad(q.rsample((3,)).square().sum(), h)
            assert gradient.isfinite().all() and gradient.any()

    def test_its_mass_is_one(self) -> None:
        """It integrates to one."""
        head = self._needing(Cap.SAMPLE | Cap.DENSITY)
        if head is not None:
            base.assert_normalised(head(self._features(head)), self.draws)

    def test_draws_and_density_are_of_one_distribution(self) -> None:
        """The score has mean zero."""
        head = self._needing(Cap.SAMPLE | Cap.DENSITY)
        if head is not None:
            base.assert_score_is_centred(frozen(head), self._features(head), self.draws)

    def test_path_and_score_gradients_agree(self) -> None:
        """d/dh E f(z) is the same by the path and by the score."""
        head = self._needing(Cap.RSAMPLE | Cap.DENSITY)
        if head is None:
            return
        h = self._features(head)
        path, score = base.scalar_heads(h, self.draws), base.scalar_heads(h, self.draws)
        _bowl(head(path).rsample()).sum().backward()
        q = head(score)
        z = q.sample()
        (_bowl(z) * q.log_prob(z)).sum().backward()
        assert path.grad is not None and score.grad is not None
        assert_same_mean(path.grad, score.grad, "gradients by path and by score")

    def test_closed_form_divergence_is_the_mean_of_draws(self) -> None:
        """KL(q || standard Normal), where torch knows it, is E log q(z) - log p(z)."""
        head = self._needing(Cap.SAMPLE | Cap.DENSITY)
        if head is None:
            return
        q = head(self._features(head))
        p = StandardNormal(self.latent_shape, DataSpec((1,), SUPPORTS["real"], 1))(None).z
        if has_closed_form(q, p):
            z = q.sample((self.draws,))
            assert_mean(q.log_prob(z) - p.log_prob(z), kl_divergence(q, p), "the sampled rate")

    def test_wild_features_stay_finite(self) -> None:
        """Features of +-100 in float32 give finite draws and densities."""
        head = self._needing(Cap.SAMPLE | Cap.DENSITY)
        if head is None:
            return
        h = 100 * torch.randn(50, *head.feature_shape).sign().float()
        q = head.float()(h)
        z = q.sample((20,))
        assert z.isfinite().all() and q.log_prob(z).isfinite().all()

    def test_its_state_can_be_stored(self) -> None:
        """State dict, deep copy and pickle carry the whole head."""
        h = self._features(self._made())

        def read(head: Family) -> Tensor:
            torch.manual_seed(0)
            return head(h).sample((3,))

        base.assert_same_after_state_dict(self._made, read)

    def test_it_follows_the_type_of_its_features(self) -> None:
        """float32 in, float32 out; the same in float64."""
        for dtype in (torch.float32, torch.float64):
            head = self._made().to(dtype)
            assert head(torch.randn(5, *head.feature_shape).to(dtype)).sample().dtype == dtype

    def _made(self) -> Family:
        return self.make(self.latent_shape)

    def _needing(self, caps: Cap) -> Family | None:
        head = self._made()
        return None if caps & ~head.provides else head

    def _features(self, head: Family) -> Tensor:
        return 0.5 * torch.randn(head.feature_shape)


def _bowl(z: Tensor) -> Tensor:
    return (z + 1).square().reshape(len(z), -1).sum(-1)
