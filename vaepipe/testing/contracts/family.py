"""What every family promises."""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import kl_divergence

from vaepipe.core import Cap, Family, Shape, frozen, has_closed_form
from vaepipe.testing import masses, noise, partners
from vaepipe.testing.contracts import base, storage
from vaepipe.testing.contracts.base import NotAsked
from vaepipe.testing.setting import LATENT_SHAPES
from vaepipe.testing.statistics import assert_mean, assert_same_mean, note

_ANY_DRAWS = Cap.SAMPLE | Cap.DENSITY


class FamilyContract(base.Contract):
    """Write `make`. What is not in `provides` is not asked."""

    group: ClassVar[str] = "families"

    @abstractmethod
    def make(self, latent_shape: Shape) -> Family:
        """A fresh family."""

    @functools.cached_property
    def latent_shape(self) -> Shape:
        """The declared latent shape, or the first one that it accepts."""
        return self.setting.latent_shape or self._accepted()

    def build(self) -> Family:
        """A family for `latent_shape`."""
        return self.make(self.latent_shape)

    def first(self) -> Family:
        """A family of any shape."""
        shape = self.conformance.get("latent_shape") or self._accepted()
        return self.make(tuple(shape))

    def test_it_builds_or_refuses_any_latent_shape(self) -> None:
        """A latent shape that it cannot have is refused with a CompatibilityError."""
        fitting = [s for s in LATENT_SHAPES if base.accepts(lambda s=s: self.make(s), f"{s}")]
        for shape in fitting:
            head = self.make(shape)
            q = head(torch.zeros(3, *head.feature_shape))
            assert tuple(q.event_shape) == shape, f"z of shape {shape}"

    def test_features_of_any_batch_become_a_distribution(self) -> None:
        """Batch shape follows the features, event shape is the latent shape."""
        head = self.build()
        for shape in base.batches(head.feature_shape):
            q = head(torch.randn(shape))
            assert isinstance(q, Distribution)
            assert tuple(q.batch_shape) == shape[: len(shape) - len(head.feature_shape)]
            assert tuple(q.event_shape) == tuple(self.latent_shape)

    def test_densities_have_one_number_for_each_draw(self) -> None:
        """log q(z) of draws `[k, batch, *latent]` is `[k, batch]`."""
        head = self._providing(_ANY_DRAWS)
        q = head(torch.randn(5, *head.feature_shape))
        z = q.sample((3,))
        assert tuple(z.shape) == (3, 5, *self.latent_shape)
        assert tuple(q.log_prob(z).shape) == (3, 5)

    def test_examples_do_not_see_each_other(self) -> None:
        """log q(z | h) of one example does not depend on the rest of the batch."""
        head = self._providing(_ANY_DRAWS)
        h = torch.randn(5, *head.feature_shape)
        z = head(h).sample()
        alone = torch.cat([head(h[i : i + 1]).log_prob(z[i : i + 1]) for i in range(5)])
        assert torch.allclose(head(h).log_prob(z), alone)

    def test_draws_carry_gradients_exactly_if_promised(self) -> None:
        """`RSAMPLE` is provided if and only if `rsample` works."""
        head = self.build()
        h = torch.randn(5, *head.feature_shape, requires_grad=True)
        q = head(h)
        assert bool(head.provides & Cap.RSAMPLE) == q.has_rsample
        if q.has_rsample:
            (gradient,) = torch.autograd.grad(q.rsample((3,)).square().sum(), h)
            assert gradient.isfinite().all() and gradient.any()

    def test_draws_lie_in_its_support(self) -> None:
        """In the support that the distribution declares."""
        head = self._providing(Cap.SAMPLE)
        q = head(self._features(head))
        masses.assert_inside(q, q.sample((1000,)))

    def test_its_mass_is_one(self) -> None:
        """Its masses add up to one, its density integrates to one."""
        head = self._own_density()
        masses.assert_normalised(head(self._features(head)), self.draws)

    def test_draws_follow_the_density(self) -> None:
        """Frequencies (or means of waves) over draws are what log q(z) says."""
        head = self._own_density()
        masses.assert_draws_follow(head(self._features(head)), self.draws)

    def test_draws_and_density_are_of_one_distribution(self) -> None:
        """The score d log q(z) / dh of its own draws has mean zero."""
        head = self._own_density()
        base.assert_score_is_centred(frozen(head), self._features(head), self.draws // 4)

    def test_path_and_score_gradients_agree(self) -> None:
        """d/dh E f(z) is the same by the path and by the score."""
        head = self._own_density(Cap.RSAMPLE | Cap.DENSITY)
        h = self._features(head)
        if masses.is_discrete(head(h)):
            raise NotAsked("draws are discrete: gradients by their path are biased on purpose")
        n = self.draws // 4
        path, score = base.scalar_heads(h, n), base.scalar_heads(h, n)
        _bowl(head(path).rsample()).sum().backward()
        q = head(score)
        z = q.sample()
        ((_bowl(z) - _bowl(z).mean()) * q.log_prob(z)).sum().backward()
        assert path.grad is not None and score.grad is not None
        assert_same_mean(path.grad, score.grad, "gradients by path and by score")

    def test_every_feature_counts(self) -> None:
        """Draws, and log q(z), depend on each of the features."""
        head = base.shaken(self.build())
        h = torch.randn(32, *head.feature_shape, requires_grad=True)
        q = head(h)
        if head.provides & Cap.RSAMPLE:
            base.assert_every_feature_counts(_bowl(q.rsample((4,))).sum(), h, "draws")
        if head.provides & Cap.DENSITY and not head.provides & Cap.CODES:
            base.assert_every_feature_counts(q.log_prob(q.sample((4,))).sum(), h, "log q(z)")

    def test_every_parameter_is_trained(self) -> None:
        """Draws or log q(z) reach every parameter of its own."""
        head = self._own_density()
        q = head(torch.randn(5, *head.feature_shape))
        value = q.log_prob(q.sample((4,))).sum()
        if head.provides & Cap.RSAMPLE:
            value = value + _bowl(q.rsample((4,))).sum()
        base.assert_all_trained(head, value)

    def test_the_log_determinant_is_that_of_the_map(self) -> None:
        """log q(z) = log p(e) - log |det dz/de| with autograd's Jacobian, e being the noise."""
        head = base.shaken(self._own_density(Cap.RSAMPLE | Cap.DENSITY))
        h, worst = self._features(head), 0.0
        for seed in range(8):
            z, expected = noise.change_of_variables(lambda: head(h), seed)
            worst = max(worst, (head(h).log_prob(z) - expected).abs().item())
        note(f"log q(z) differs by up to {worst:.1e} nats")
        assert worst < 1e-6, f"log q(z) is off by {worst:.3g} nats"

    def test_a_draw_and_its_copy_have_one_density(self) -> None:
        """What is kept of a draw (its log-determinant) is what is computed for any z."""
        head = base.shaken(self._providing(_ANY_DRAWS))
        q = head(torch.randn(5, *head.feature_shape))
        for z in (q.sample((3,)), q.rsample((3,)) if q.has_rsample else q.sample((3,))):
            assert torch.allclose(q.log_prob(z), q.log_prob(z.detach().clone()))

    def test_closed_form_divergences_are_the_mean_of_draws(self) -> None:
        """KL(q || p), for installed priors where torch knows it, is E log q(z) - log p(z)."""
        head = self._providing(_ANY_DRAWS)
        q, asked = head(self._features(head)), 0
        for name, p in self._priors():
            if has_closed_form(q, p):
                z = q.sample((self.draws,))
                rates = q.log_prob(z) - p.log_prob(z)
                assert_mean(rates, kl_divergence(q, p), f"the sampled rate to '{name}'")
                asked += 1
        if not asked:
            raise NotAsked("there is no closed form with an installed prior")

    def test_codes_are_indices(self) -> None:
        """`q.codes` are integers `[*batch, …]`, and equal codes have equal draws."""
        head = self._providing(Cap.CODES)
        q = head(torch.randn(64, *head.feature_shape))
        codes, z = q.codes, q.sample()  # type: ignore[attr-defined]
        assert not codes.is_floating_point() and len(codes) == 64 and (codes >= 0).all()
        flat, z = codes.reshape(64, -1), z.reshape(64, -1)
        same_code = (flat[:, None] == flat[None]).all(-1)
        same_draw = (z[:, None] == z[None]).all(-1)
        assert torch.equal(same_code, same_draw), "codes and draws do not go together"

    def test_wild_features_stay_finite(self) -> None:
        """Features of +-100 in float32 give finite draws and densities."""
        head = self._providing(_ANY_DRAWS)
        h = 100 * torch.randn(50, *head.feature_shape).sign().float()
        q = head.float()(h)
        z = q.sample((20,))
        assert z.isfinite().all(), "draws that are not finite"
        assert q.log_prob(z).isfinite().all(), "log q(z) that is not finite"

    def test_the_same_seed_gives_the_same_draws(self) -> None:
        """All its randomness is torch's."""
        head = self.build()
        h = self._features(head)
        base.assert_seeded(lambda: head(h).sample((3,)))

    def test_its_state_can_be_stored(self) -> None:
        """State dict, deep copy and pickle carry the whole head."""
        h = self._features(self.build())

        def read(head: Family) -> Tensor:
            torch.manual_seed(0)
            return head(h).sample((3,))

        base.assert_same_after_state_dict(self.build, read)

    def test_a_saved_model_computes_the_same(self) -> None:
        """A model with it, saved as a bundle and opened again, gives the same numbers."""
        storage.assert_bundle_survives(
            self.latent_shape, partners.REAL, family=base.named(self), setting=self.setting
        )

    def test_it_follows_the_type_of_its_features(self) -> None:
        """float32 in, float32 out; the same in float64."""
        for dtype in (torch.float32, torch.float64):
            head = self.build().to(dtype)
            assert head(torch.randn(5, *head.feature_shape).to(dtype)).sample().dtype == dtype

    def test_it_follows_the_device_of_its_features(self) -> None:
        """On a GPU, draws and densities are there."""
        for device in base.devices():
            head = self.build().to(device)
            q = head(torch.randn(5, *head.feature_shape).to(device))
            z = q.sample((3,))
            assert z.device.type == device
            if head.provides & Cap.DENSITY:
                assert q.log_prob(z).device.type == device

    def _accepted(self) -> Shape:
        for shape in LATENT_SHAPES:
            if base.accepts(lambda shape=shape: self.make(shape), f"latent shape {shape}"):
                return shape
        raise AssertionError(f"it accepts none of {LATENT_SHAPES}: declare `latent_shape`")

    def _providing(self, caps: Cap) -> Family:
        head = self.build()
        missing = [str(cap.name) for cap in caps & ~head.provides]
        if missing:
            raise NotAsked(f"it does not provide {', '.join(missing)}")
        return head

    def _own_density(self, caps: Cap = _ANY_DRAWS) -> Family:
        """Draws with a density of their own: a code is a point, whose density is one."""
        head = self._providing(caps)
        if head.provides & Cap.CODES:
            raise NotAsked("q(z | x) is a point mass at its code")
        return head

    def _features(self, head: Family) -> Tensor:
        return 0.5 * torch.randn(head.feature_shape)

    def _priors(self) -> list[tuple[str, Distribution]]:
        q = partners.inference(self.build(), partners.REAL)
        found = partners.priors(q, self.latent_shape, partners.REAL, self.owners)
        return [(name, prior(q).z) for name, prior in found]


def _bowl(z: Tensor) -> Tensor:
    return (z + 1).square().reshape(*z.shape[:1], -1).sum(-1)
