"""What every prior promises."""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions.kl import kl_divergence

from vaepipe.core import Conditional, DataSpec, Prior, PriorDraw, Shape, has_closed_form
from vaepipe.testing import masses, partners
from vaepipe.testing.contracts import base, storage
from vaepipe.testing.contracts.base import NotAsked
from vaepipe.testing.setting import LATENT_SHAPES
from vaepipe.testing.statistics import assert_mean, z_scores


class PriorContract(base.Contract):
    """Write `make`; declare shapes or a family only where the kit guesses wrong."""

    group: ClassVar[str] = "priors"

    @abstractmethod
    def make(self, latent_shape: Shape, data: DataSpec) -> Prior:
        """A fresh prior."""

    @functools.cached_property
    def data(self) -> DataSpec:
        """What x is."""
        return self.setting.data or partners.REAL

    @functools.cached_property
    def latent_shape(self) -> Shape:
        """The shape of z that it is asked with."""
        return self._partner[0]

    def inference(self) -> Conditional:
        """Some q(z | x) that fits, for priors that are built from it."""
        return self._partner[1]

    def build(self) -> Prior:
        """A prior for `latent_shape`."""
        return self.make(self.latent_shape, self.data)

    def first(self) -> Prior:
        """A prior of any shape."""
        for shape in self._shapes(self.conformance.get("latent_shape")):
            if base.accepts(lambda s=shape: self.make(s, partners.REAL), f"latent shape {shape}"):
                return self.make(shape, partners.REAL)
        raise AssertionError(f"it accepts none of {LATENT_SHAPES}: declare `latent_shape`")

    def test_it_builds_or_refuses_any_latent_shape(self) -> None:
        """A latent shape that it cannot have is refused with a CompatibilityError."""
        for shape in LATENT_SHAPES:
            base.accepts(lambda s=shape: self.make(s, self.data), f"latent shape {shape}")

    def test_an_event_is_one_latent(self) -> None:
        """Event shape = latent shape, no batch shape, log p(z) of shape `[k, batch]`."""
        p = self._draw().z
        assert tuple(p.event_shape) == tuple(self.latent_shape)
        assert tuple(p.batch_shape) == ()
        z = p.sample((3, 5))
        assert tuple(z.shape) == (3, 5, *self.latent_shape)
        assert tuple(p.log_prob(z).shape) == (3, 5)

    def test_draws_lie_in_its_support(self) -> None:
        """Every draw has a finite log density."""
        p = self._draw().z
        z = p.sample((1000,))
        masses.assert_inside(p, z)
        assert p.log_prob(z).isfinite().all()

    def test_its_mass_is_one(self) -> None:
        """Its masses add up to one, its density integrates to one."""
        p = self._draw().z
        if self._of_codes:
            masses.assert_visited_masses(p, self.draws)
        else:
            masses.assert_normalised(p, self.draws)

    def test_draws_follow_the_density(self) -> None:
        """Frequencies (or means of waves) over draws are what log p(z) says."""
        p = self._draw().z
        if self._of_codes:
            masses.assert_frequencies(p, p.sample((self.draws,)))
        else:
            masses.assert_draws_follow(p, self.draws)

    def test_every_parameter_is_trained(self) -> None:
        """log p(z) and the global divergence reach every parameter."""
        prior = self.build()
        draw = prior(self.inference())
        value = draw.z.log_prob(draw.z.sample((5,))).sum() + draw.global_kl
        if any(p.requires_grad for p in prior.parameters()):
            base.assert_all_trained(prior, value)

    def test_closed_form_divergences_are_the_mean_of_draws(self) -> None:
        """KL(q || p), for installed families where torch knows it, is E log q(z) - log p(z)."""
        prior, asked = base.shaken(self.build()), 0
        for head in partners.families(prior.needs, self.latent_shape, self.owners):
            torch.manual_seed(0)
            inference = partners.inference(head, self.data)
            p = prior(inference).z
            q = inference(torch.randn(self.data.shape))
            if partners.comparable(q, p) and has_closed_form(q, p):
                z = q.sample((self.draws,))
                rates = q.log_prob(z) - p.log_prob(z)
                what = f"the sampled rate of {type(head).__name__}"
                assert_mean(rates, kl_divergence(q, p), what)
                asked += 1
        if not asked:
            raise NotAsked("there is no closed form with an installed family")

    def test_the_same_seed_gives_the_same_prior(self) -> None:
        """All its randomness is torch's."""
        prior, inference = self.build(), self.inference()
        base.assert_seeded(lambda: prior(inference).z.sample((3,)))

    def test_its_state_can_be_stored(self) -> None:
        """State dict, deep copy and pickle carry the whole prior."""
        inference, z = self.inference(), self._draw().z.sample((5,))

        def read(prior: Prior) -> Tensor:
            torch.manual_seed(0)
            return prior(inference).z.log_prob(z)

        base.assert_same_after_state_dict(self.build, read)

    def test_a_saved_model_computes_the_same(self) -> None:
        """A model with it, saved as a bundle and opened again, gives the same numbers."""
        storage.assert_bundle_survives(
            self.latent_shape, self.data, prior=base.named(self), setting=self.setting
        )

    def test_the_global_divergence_is_not_negative(self) -> None:
        """KL(q(g) || p(g)) is one number, at least zero in expectation."""
        prior, inference = self.build(), self.inference()
        draws = torch.stack(
            [torch.as_tensor(prior(inference).global_kl).detach() for _ in range(50)]
        )
        assert draws.shape == (50,) and draws.isfinite().all()
        assert draws.mean() >= 0 or z_scores(draws, 0.0) > -4.5

    def test_it_follows_the_type_of_its_parameters(self) -> None:
        """float32 in, float32 out; the same in float64."""
        for dtype in (torch.float32, torch.float64):
            prior, inference = self.build().to(dtype), self.inference().to(dtype)
            p = prior(inference).z
            assert p.log_prob(p.sample((3,))).dtype == dtype

    def test_it_follows_the_device_of_its_parameters(self) -> None:
        """On a GPU, draws and densities are there."""
        for device in base.devices():
            p = self.build().to(device)(self.inference().to(device)).z
            z = p.sample((3,))
            assert z.device.type == p.log_prob(z).device.type == device

    @functools.cached_property
    def _partner(self) -> tuple[Shape, Conditional]:
        """A latent shape and a q(z | x) beside which this prior can stand."""
        for shape in self._shapes(self.setting.latent_shape):
            if not base.accepts(lambda s=shape: self.make(s, self.data), f"latent shape {shape}"):
                continue
            prior = self.make(shape, self.data)
            for head in self._families(prior, shape):
                inference = partners.inference(head, self.data)
                q = inference(torch.zeros(1, *self.data.shape))
                if partners.comparable(q, prior(inference).z):
                    return shape, inference
        raise AssertionError(
            "no installed family fits beside it: declare `latent_shape` and `family`"
        )

    def _families(self, prior: Prior, shape: Shape) -> list:
        if self.setting.family:
            return [self.setting.family.build(shape)]
        return list(partners.families(prior.needs, shape))

    @property
    def _of_codes(self) -> bool:
        """Is z the vectors of a code book, with masses though its numbers are real?"""
        return bool(self.inference().head.provides & partners.Cap.CODES)  # type: ignore[operator]

    def _draw(self) -> PriorDraw:
        return self.build()(self.inference())

    @staticmethod
    def _shapes(declared: Shape | None) -> tuple[Shape, ...]:
        return (tuple(declared),) if declared else LATENT_SHAPES
