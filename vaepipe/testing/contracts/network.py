"""What every network promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from vaepipe.core import Network, Shape
from vaepipe.testing.contracts import base


class NetworkContract(base.Contract, ABC):
    """Write `make`; set the pairs of shapes where the network needs others."""

    shapes: ClassVar[tuple[tuple[Shape, Shape], ...]] = (((6,), (2, 3)), ((1, 8, 8), (5,)))

    @abstractmethod
    def make(self, in_shape: Shape, out_shape: Shape) -> Network:
        """A fresh network."""

    def test_features_come_flat(self) -> None:
        """`[n, *in_shape] -> [n, prod(out_shape)]`."""
        for in_shape, out_shape in self.shapes:
            h = self.make(in_shape, out_shape)(torch.randn(7, *in_shape))
            assert tuple(h.shape) == (7, torch.Size(out_shape).numel())

    def test_examples_do_not_see_each_other(self) -> None:
        """In evaluation, the features of an example do not depend on its batch."""
        in_shape, out_shape = self.shapes[0]
        network, v = self.make(in_shape, out_shape).eval(), torch.randn(7, *in_shape)
        assert torch.allclose(network(v)[2:4], network(v[2:4]))

    def test_every_parameter_is_trained(self) -> None:
        """The features reach every parameter."""
        for in_shape, out_shape in self.shapes:
            network = self.make(in_shape, out_shape)
            base.assert_all_trained(network, network(torch.randn(7, *in_shape)).square())

    def test_its_state_can_be_stored(self) -> None:
        """State dict, deep copy and pickle carry the whole network."""
        in_shape, out_shape = self.shapes[0]
        v = torch.randn(7, *in_shape)

        def read(network: Network) -> Tensor:
            return network.eval()(v)

        base.assert_same_after_state_dict(lambda: self.make(in_shape, out_shape), read)

    def test_it_follows_the_type_of_its_input(self) -> None:
        """float32 in, float32 out; the same in float64."""
        in_shape, out_shape = self.shapes[0]
        for dtype in (torch.float32, torch.float64):
            network = self.make(in_shape, out_shape).to(dtype)
            assert network(torch.randn(7, *in_shape).to(dtype)).dtype == dtype
