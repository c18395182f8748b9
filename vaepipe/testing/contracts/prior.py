"""What every prior promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from vaepipe.core import SUPPORTS, Conditional, DataSpec, Prior, Shape
from vaepipe.families.normal import DiagonalNormal
from vaepipe.networks.mlp import MLP
from vaepipe.testing.contracts import base
from vaepipe.testing.statistics import z_scores


class PriorContract(base.Contract, ABC):
    """Write `make`; set the shapes where the prior needs others."""

    latent_shape: ClassVar[Shape] = (2,)
    data: ClassVar[DataSpec] = DataSpec((4,), SUPPORTS["boolean"], 100)

    @abstractmethod
    def make(self, latent_shape: Shape, data: DataSpec) -> Prior:
        """A fresh prior."""

    def inference(self) -> Conditional:
        """Some q(z | x), for priors that are built from it."""
        head = DiagonalNormal(self.latent_shape)
        network = MLP(self.data.shape, head.feature_shape, hidden=[8])
        return Conditional(network, head, self.data.shape)

    def test_an_event_is_one_latent(self) -> None:
        """Event shape = latent shape, no batch shape, log p(z) of shape `[k, batch]`."""
        p = self._made().forward(self.inference()).z
        assert tuple(p.event_shape) == tuple(self.latent_shape)
        assert tuple(p.batch_shape) == ()
        z = p.sample((3, 5))
        assert tuple(z.shape) == (3, 5, *self.latent_shape)
        assert tuple(p.log_prob(z).shape) == (3, 5)

    def test_draws_lie_in_its_support(self) -> None:
        """Every draw has a finite log density."""
        p = self._made().forward(self.inference()).z
        z = p.sample((1000,))
        base.assert_inside(p, z)
        assert p.log_prob(z).isfinite().all()

    def test_its_mass_is_one(self) -> None:
        """It integrates to one."""
        base.assert_normalised(self._made().forward(self.inference()).z, self.draws)

    def test_every_parameter_is_trained(self) -> None:
        """log p(z) and the global divergence reach every parameter."""
        prior = self._made()
        draw = prior(self.inference())
        value = draw.z.log_prob(draw.z.sample((5,))).sum() + draw.global_kl
        if any(p.requires_grad for p in prior.parameters()):
            base.assert_all_trained(prior, value)

    def test_its_state_can_be_stored(self) -> None:
        """State dict, deep copy and pickle carry the whole prior."""
        inference, z = self.inference(), self._made().forward(self.inference()).z.sample((5,))

        def read(prior: Prior) -> Tensor:
            torch.manual_seed(0)
            return prior(inference).z.log_prob(z)

        base.assert_same_after_state_dict(self._made, read)

    def test_the_global_divergence_is_not_negative(self) -> None:
        """KL(q(g) || p(g)) is one number, at least zero in expectation."""
        prior, inference = self._made(), self.inference()
        draws = torch.stack(
            [torch.as_tensor(prior(inference).global_kl).detach() for _ in range(50)]
        )
        assert draws.shape == (50,) and draws.isfinite().all()
        assert draws.mean() >= 0 or z_scores(draws, 0.0) > -4.5

    def test_it_follows_the_type_of_its_parameters(self) -> None:
        """float32 in, float32 out; the same in float64."""
        for dtype in (torch.float32, torch.float64):
            prior, inference = self._made().to(dtype), self.inference().to(dtype)
            p = prior(inference).z
            assert p.log_prob(p.sample((3,))).dtype == dtype

    def _made(self) -> Prior:
        return self.make(self.latent_shape, self.data)
