"""What every network promises."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Iterator
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from vaepipe.core import SUPPORTS, DataSpec, Network, Shape
from vaepipe.errors import CompatibilityError
from vaepipe.registry import PartSpec
from vaepipe.testing.contracts import base, storage
from vaepipe.testing.contracts.base import NotAsked

_SHAPES: tuple[tuple[Shape, Shape], ...] = (
    ((6,), (2, 3)),
    ((1, 8, 8), (5,)),
    ((5,), (1, 8, 8)),
    ((3, 16, 16), (2, 4)),
    ((4, 2), (1, 8, 8)),
    ((2,), (6, 5)),
)


class NetworkContract(base.Contract):
    """Write `make`; declare `shapes` only where the kit tries none that fits."""

    group: ClassVar[str] = "networks"

    @abstractmethod
    def make(self, in_shape: Shape, out_shape: Shape) -> Network:
        """A fresh network."""

    @functools.cached_property
    def shapes(self) -> tuple[tuple[Shape, Shape], ...]:
        """Pairs of shapes that it is asked with: declared, or those that it accepts."""
        return self.setting.shapes or self._accepted()

    def build(self) -> Network:
        """A network of the first pair of shapes."""
        return self.make(*self.shapes[0])

    def first(self) -> Network:
        """A network of any shapes."""
        declared = self.conformance.get("shapes")
        return self.make(*(declared or self._accepted())[0])

    def test_it_builds_or_refuses_any_shapes(self) -> None:
        """Shapes that it cannot have are refused with a CompatibilityError."""
        for pair in _SHAPES:
            base.accepts(lambda p=pair: self.make(*p), f"shapes {pair}")

    def test_features_come_flat(self) -> None:
        """`[n, *in_shape] -> [n, prod(out_shape)]`."""
        for network, v, out_shape in self._made():
            h = network(v)
            assert tuple(h.shape) == (len(v), prod(out_shape))
            assert h.isfinite().all(), "features that are not finite"

    def test_examples_do_not_see_each_other(self) -> None:
        """In evaluation, the features of an example do not depend on its batch."""
        for network, v, _ in self._made():
            network.eval()
            assert torch.allclose(network(v)[2:4], network(v[2:4]))
            assert torch.allclose(network(v)[:1], network(v[:1]))

    def test_evaluation_is_not_random(self) -> None:
        """Twice the same input gives twice the same features, and changes nothing inside."""
        for network, v, _ in self._made():
            network.eval()
            before = {name: value.clone() for name, value in network.state_dict().items()}
            assert torch.equal(network(v), network(v))
            assert all(torch.equal(before[k], value) for k, value in network.state_dict().items())

    def test_the_same_seed_gives_the_same_features(self) -> None:
        """In training too, all its randomness is torch's; it starts from torch's seed alone."""
        in_shape, out_shape = self.shapes[0]
        v = self._inputs(in_shape)
        base.assert_seeded(lambda: self.make(in_shape, out_shape).train()(v))

    def test_every_parameter_is_trained(self) -> None:
        """The features reach every parameter."""
        for network, v, _ in self._made():
            if any(p.requires_grad for p in network.parameters()):
                base.assert_all_trained(network, network(v).square())

    def test_its_state_can_be_stored(self) -> None:
        """State dict, deep copy and pickle carry the whole network."""
        in_shape, out_shape = self.shapes[0]
        v = self._inputs(in_shape)

        def read(network: Network) -> Tensor:
            return network.eval()(v)

        base.assert_same_after_state_dict(lambda: self.make(in_shape, out_shape), read)

    def test_a_saved_model_computes_the_same(self) -> None:
        """A model with it, saved as a bundle and opened again, gives the same numbers."""
        part = base.named(self)
        for role in ("encoder", "decoder"):
            for in_shape, out_shape in self.shapes:
                if self._saved(role, part, in_shape if role == "encoder" else out_shape):
                    return
        raise NotAsked("no small model takes it as an encoder or as a decoder")

    def test_it_follows_the_type_of_its_input(self) -> None:
        """float32 in, float32 out; the same in float64."""
        in_shape, out_shape = self.shapes[0]
        for dtype in (torch.float32, torch.float64):
            network = self.make(in_shape, out_shape).to(dtype)
            assert network(self._inputs(in_shape).to(dtype)).dtype == dtype

    def test_it_follows_the_device_of_its_input(self) -> None:
        """On a GPU, features are there."""
        in_shape, out_shape = self.shapes[0]
        for device in base.devices():
            network = self.make(in_shape, out_shape).to(device)
            assert network(self._inputs(in_shape).to(device)).device.type == device

    @property
    def _levels(self) -> int | None:
        """How many values its input has, where it was told to read integers."""
        chosen = dict(self.part.options).get("levels") if self.part else None
        return None if chosen is None else int(chosen)

    def _inputs(self, in_shape: Shape, n: int = 7) -> Tensor:
        if self._levels is None:
            return torch.randn(n, *in_shape)
        return torch.randint(self._levels, (n, *in_shape)).to(torch.get_default_dtype())

    def _made(self) -> Iterator[tuple[Network, Tensor, Shape]]:
        for in_shape, out_shape in self.shapes:
            yield self.make(in_shape, out_shape), self._inputs(in_shape), out_shape

    def _accepted(self) -> tuple[tuple[Shape, Shape], ...]:
        fitting = [p for p in _SHAPES if base.accepts(lambda p=p: self.make(*p), f"shapes {p}")]
        assert fitting, "it accepts no shapes that the kit tries: declare `shapes`"
        return tuple(fitting)

    def _saved(self, role: str, part: PartSpec, shape: Shape) -> bool:
        """Did a model of data of this shape with the network in this role survive?"""
        levels = self._levels if role == "encoder" else None
        support = SUPPORTS["integer" if levels else "real"]
        data = DataSpec(shape, support, 100, levels=levels)
        try:
            storage.assert_bundle_survives((5,), data, setting=self.setting, **{role: part})
        except (CompatibilityError, NotAsked):
            return False
        return True
