"""What every likelihood promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import SUPPORTS, DataSpec, Likelihood, Shape, examples, frozen, within
from vaepipe.testing.contracts import base
from vaepipe.testing.statistics import assert_mean


class LikelihoodContract(base.Contract, ABC):
    """Write `make`."""

    shape: ClassVar[Shape] = (2,)

    @abstractmethod
    def make(self, data: DataSpec) -> Likelihood:
        """A fresh likelihood."""

    def data(self) -> DataSpec:
        """Data that it is of."""
        support = self.make(self._data("real")).support
        return next(self._data(name) for name, s in SUPPORTS.items() if within(s, support))

    def test_features_of_any_batch_become_a_distribution(self) -> None:
        """Batch shape follows the features, event shape is that of an example."""
        head = self._made()
        for shape in base.batches(head.feature_shape):
            p = head(torch.randn(shape))
            assert isinstance(p, Distribution)
            assert tuple(p.batch_shape) == shape[: len(shape) - len(head.feature_shape)]
            assert tuple(p.event_shape) == self.shape

    def test_draws_of_z_share_one_batch_of_examples(self) -> None:
        """log p(x | z) for features `[k, batch, ...]` and x `[batch, ...]` is `[k, batch]`."""
        head = self._made()
        h, x = torch.randn(3, 5, *head.feature_shape), examples(self.data(), 5)
        log_lik = head(h).log_prob(x)
        assert tuple(log_lik.shape) == (3, 5)
        one_by_one = torch.stack([head(h[i]).log_prob(x) for i in range(3)])
        assert torch.allclose(log_lik, one_by_one)

    def test_it_is_in_nats_per_example(self) -> None:
        """An example is worth the same alone and in a batch."""
        head = self._made()
        h, x = torch.randn(5, *head.feature_shape), examples(self.data(), 5)
        alone = torch.cat([head(h[i : i + 1]).log_prob(x[i : i + 1]) for i in range(5)])
        assert torch.allclose(head(h).log_prob(x), alone)

    def test_draws_lie_in_its_support(self) -> None:
        """In the support of the distribution, and in the one that the class declares."""
        head = self._made()
        p = head(torch.randn(head.feature_shape))
        x = p.sample((1000,))
        base.assert_inside(p, x)
        assert head.support.check(x).all()

    def test_its_mass_is_one(self) -> None:
        """It integrates to one."""
        head = self._made()
        base.assert_normalised(head(torch.randn(head.feature_shape)), self.draws)

    def test_draws_and_density_are_of_one_distribution(self) -> None:
        """The score has mean zero."""
        head = self._made()
        base.assert_score_is_centred(frozen(head), torch.randn(head.feature_shape), self.draws)

    def test_its_mean_is_the_mean_of_its_draws(self) -> None:
        """`mean` is what reports show."""
        head = self._made()
        p = head(torch.randn(head.feature_shape))
        assert_mean(p.sample((self.draws,)), p.mean, "the mean")

    def test_wild_features_stay_finite(self) -> None:
        """Features of +-100 in float32 give finite numbers."""
        head = self._made().float()
        h = 100 * torch.randn(50, *head.feature_shape).sign().float()
        assert head(h).log_prob(examples(self.data(), 50).float()).isfinite().all()

    def test_values_outside_its_support_give_no_number(self) -> None:
        """A half raises where only integers have mass; the message is not a traceback's."""
        head = self._made()
        p = head(torch.randn(head.feature_shape))
        if not base.is_discrete(p):
            return
        try:
            number = p.log_prob(torch.full(self.shape, 0.5))
        except ValueError:
            return
        raise AssertionError(f"x = 0.5 is impossible, yet it was given {number.tolist()} nats")

    def test_every_parameter_is_trained(self) -> None:
        """log p(x | z) reaches the features and every parameter."""
        head = self._made()
        h = torch.randn(5, *head.feature_shape, requires_grad=True)
        base.assert_all_trained(head, head(h).log_prob(examples(self.data(), 5)))
        assert h.grad is not None and h.grad.isfinite().all() and h.grad.any()

    def test_its_state_can_be_stored(self) -> None:
        """State dict, deep copy and pickle carry the whole head."""
        h, x = torch.randn(5, *self._made().feature_shape), examples(self.data(), 5)

        def read(head: Likelihood) -> Tensor:
            return head(h).log_prob(x)

        base.assert_same_after_state_dict(self._made, read)

    def test_it_follows_the_type_of_its_features(self) -> None:
        """float32 in, float32 out; the same in float64."""
        for dtype in (torch.float32, torch.float64):
            head = self._made().to(dtype)
            p = head(torch.randn(5, *head.feature_shape).to(dtype))
            assert p.log_prob(examples(self.data(), 5).to(dtype)).dtype == dtype

    def _made(self) -> Likelihood:
        return self.make(self.data())

    def _data(self, support: str) -> DataSpec:
        return DataSpec(self.shape, SUPPORTS[support], 100)
