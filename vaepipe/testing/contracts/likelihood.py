"""What every likelihood promises."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaepipe.core import SUPPORTS, DataSpec, Likelihood, Shape, examples, frozen, within
from vaepipe.testing import masses
from vaepipe.testing.contracts import base, storage
from vaepipe.testing.contracts.base import NotAsked
from vaepipe.testing.statistics import assert_mean

_SHAPES: tuple[Shape, ...] = ((2,), (1, 2, 2), (3,), (3, 4, 4))
_LEVELS = {"integer": (None, 6, 2, 256)}
_OUTSIDE = {
    "boolean": (0.5, -1.0, 2.0),
    "integer": (0.5, -1.0),
    "unit_interval": (1.5, -0.5),
    "real": (),
}


class LikelihoodContract(base.Contract):
    """Write `make`; declare `data` only where the kit guesses wrong."""

    group: ClassVar[str] = "likelihoods"

    @abstractmethod
    def make(self, data: DataSpec) -> Likelihood:
        """A fresh likelihood."""

    @functools.cached_property
    def data(self) -> DataSpec:
        """Data that it is of: declared, or the first that it accepts."""
        return self.setting.data or self._accepted(_of(self.component.support))

    @property
    def shape(self) -> Shape:
        """The shape of an example."""
        return self.data.shape

    def build(self) -> Likelihood:
        """A likelihood of `data`."""
        return self.make(self.data)

    def first(self) -> Likelihood:
        """A likelihood of any data."""
        declared = self.conformance.get("data")
        if declared:
            return self.make(DataSpec.from_dict({"num_examples": 100, **declared}))
        return self.make(self._accepted(tuple(SUPPORTS)))

    def test_it_builds_or_refuses_any_data(self) -> None:
        """Data that it cannot be of are refused with a CompatibilityError or a DataError."""
        for data in _candidates(_of(self.component.support)):
            base.accepts(lambda d=data: self.make(d), f"{data.support_name} data {data.shape}")

    def test_features_of_any_batch_become_a_distribution(self) -> None:
        """Batch shape follows the features, event shape is that of an example."""
        head = self.build()
        for shape in base.batches(head.feature_shape):
            p = head(torch.randn(shape))
            assert isinstance(p, Distribution)
            assert tuple(p.batch_shape) == shape[: len(shape) - len(head.feature_shape)]
            assert tuple(p.event_shape) == self.shape

    def test_draws_of_z_share_one_batch_of_examples(self) -> None:
        """log p(x | z) for features `[k, batch, ...]` and x `[batch, ...]` is `[k, batch]`."""
        head = self.build()
        h, x = torch.randn(3, 5, *head.feature_shape), examples(self.data, 5)
        log_lik = head(h).log_prob(x)
        assert tuple(log_lik.shape) == (3, 5)
        one_by_one = torch.stack([head(h[i]).log_prob(x) for i in range(3)])
        assert torch.allclose(log_lik, one_by_one)

    def test_it_is_in_nats_per_example(self) -> None:
        """An example is worth the same alone and in a batch."""
        head = self.build()
        h, x = torch.randn(5, *head.feature_shape), examples(self.data, 5)
        alone = torch.cat([head(h[i : i + 1]).log_prob(x[i : i + 1]) for i in range(5)])
        assert torch.allclose(head(h).log_prob(x), alone)

    def test_draws_lie_in_its_support(self) -> None:
        """In the support of the distribution, and in the one that the class declares."""
        head = self.build()
        p = head(torch.randn(head.feature_shape))
        x = p.sample((1000,))
        masses.assert_inside(p, x)
        assert head.support.check(x).all(), "draws outside the support that the class declares"
        if self.data.levels:
            assert (x < self.data.levels).all(), "draws that the data have no level for"

    def test_its_mass_is_one(self) -> None:
        """Its masses add up to one, its density integrates to one."""
        head = self.build()
        p = head(torch.randn(head.feature_shape))
        masses.assert_normalised(p, self.draws, self.data.levels)

    def test_draws_follow_the_density(self) -> None:
        """Frequencies (or means of waves) over draws are what log p(x | z) says."""
        head = self.build()
        p = head(torch.randn(head.feature_shape))
        masses.assert_draws_follow(p, self.draws, self.data.levels)

    def test_draws_and_density_are_of_one_distribution(self) -> None:
        """The score d log p(x) / dh of its own draws has mean zero."""
        head = self.build()
        base.assert_score_is_centred(frozen(head), torch.randn(head.feature_shape), self.draws)

    def test_its_mean_is_the_mean_of_its_draws(self) -> None:
        """`mean` is what reports show; words and other names of things have none."""
        head = self.build()
        p = head(torch.randn(head.feature_shape))
        try:
            mean = p.mean
        except NotImplementedError:
            raise NotAsked("its distribution has no mean") from None
        if mean.isnan().any():
            raise NotAsked("its distribution has no mean")
        assert_mean(p.sample((self.draws,)), mean, "the mean")

    def test_wild_features_stay_finite(self) -> None:
        """Features of +-100 in float32 give finite numbers."""
        head = self.build().float()
        h = 100 * torch.randn(50, *head.feature_shape).sign().float()
        assert head(h).log_prob(examples(self.data, 50).float()).isfinite().all()

    def test_values_outside_its_support_are_refused(self) -> None:
        """A grey pixel, a count below zero, a level too high: a ValueError, or no mass at all."""
        head = self.build()
        p = head(torch.randn(head.feature_shape))
        for value in (*_OUTSIDE[self.data.support_name], *self._too_high()):
            x = examples(self.data, 1)[0]
            x.view(-1)[0] = value
            try:
                nats = p.log_prob(x)
            except ValueError as error:
                assert str(error).strip(), f"x = {value:g} is refused without a word"
                continue
            assert nats == -torch.inf, f"x = {value:g} is impossible, yet worth {nats:.4g} nats"

    def test_every_feature_counts(self) -> None:
        """log p(x | z) depends on each of the features."""
        head = base.shaken(self.build())
        h = torch.randn(64, *head.feature_shape, requires_grad=True)
        value = head(h).log_prob(examples(self.data, 64)).sum()
        base.assert_every_feature_counts(value, h, "log p(x | z)")

    def test_every_parameter_is_trained(self) -> None:
        """log p(x | z) reaches the features and every parameter."""
        head = self.build()
        h = torch.randn(5, *head.feature_shape, requires_grad=True)
        base.assert_all_trained(head, head(h).log_prob(examples(self.data, 5)))

    def test_the_same_seed_gives_the_same_draws(self) -> None:
        """All its randomness is torch's."""
        head = self.build()
        h = torch.randn(5, *head.feature_shape)
        base.assert_seeded(lambda: head(h).sample((3,)))

    def test_its_state_can_be_stored(self) -> None:
        """State dict, deep copy and pickle carry the whole head."""
        h, x = torch.randn(5, *self.build().feature_shape), examples(self.data, 5)

        def read(head: Likelihood) -> Tensor:
            return head(h).log_prob(x)

        base.assert_same_after_state_dict(self.build, read)

    def test_a_saved_model_computes_the_same(self) -> None:
        """A model with it, saved as a bundle and opened again, gives the same numbers."""
        storage.assert_bundle_survives(
            (2,), self.data, likelihood=base.named(self), setting=self.setting
        )

    def test_it_follows_the_type_of_its_features(self) -> None:
        """float32 in, float32 out; the same in float64."""
        for dtype in (torch.float32, torch.float64):
            head = self.build().to(dtype)
            p = head(torch.randn(5, *head.feature_shape).to(dtype))
            assert p.log_prob(examples(self.data, 5).to(dtype)).dtype == dtype

    def test_it_follows_the_device_of_its_features(self) -> None:
        """On a GPU, draws and densities are there."""
        for device in base.devices():
            head = self.build().to(device)
            p = head(torch.randn(5, *head.feature_shape).to(device))
            x = p.sample()
            assert x.device.type == p.log_prob(x).device.type == device

    def _too_high(self) -> tuple[float, ...]:
        levels = self.data.levels if self.data.support_name == "integer" else None
        return () if levels is None else (float(levels), 1e6)

    def _accepted(self, supports: tuple[str, ...]) -> DataSpec:
        for data in _candidates(supports):
            try:
                self.make(data)
            except ValueError:
                continue
            return data
        raise AssertionError("it is of no data that the kit tries: declare `data`")


def _of(support: object) -> tuple[str, ...]:
    """Supports of data that a likelihood of this support may be given, its own first."""
    fitting = [name for name, values in SUPPORTS.items() if within(values, support)]  # type: ignore[arg-type]
    return tuple(sorted(fitting, key=lambda name: type(SUPPORTS[name]) is not type(support)))


def _candidates(supports: tuple[str, ...]) -> Iterator[DataSpec]:
    for support in supports:
        for shape in _SHAPES:
            for levels in _LEVELS.get(support, (None,)):
                yield DataSpec(shape, SUPPORTS[support], 100, levels=levels)
